"""The functions of patterns in plain Python, for installations without the compiled `_fanout`.

They have the names, results and errors of the compiled functions; `realizehit.pattern` chooses between the two. The
definition is ``docs/patterns.md``. Tests compare both with the vectors and with generated patterns.
"""

from __future__ import annotations

import hashlib
from math import isfinite
from typing import Any, Final
from urllib.parse import quote_from_bytes

MAX_FILTERS: Final = 16
MAX_KEY: Final = 64  # bytes, percent-encoded
MAX_VALUE: Final = 256  # bytes, percent-encoded
MAX_CHANNEL: Final = 1024  # bytes

_RESERVED_KEY: Final = b"realizehit"
_KINDS: Final = {"NoneType": "null", "list": "a list", "tuple": "a list", "dict": "an object"}

_Filters = list[tuple[bytes, bytes]]


class InvalidPattern(ValueError):
    """A pattern breaks a rule; `wildcard` is true if the rule is that ``*`` is not allowed here."""

    wildcard = False


class InvalidWildcard(InvalidPattern):
    """A pattern has a wildcard where none is allowed."""

    wildcard = True


def canonical(filters: dict[str, Any], wildcards: bool = False) -> bytes:
    """Turn filters into their channel.

    Args:
        filters: keys and values as the author of the pattern wrote them; at most `MAX_FILTERS`.
        wildcards: whether the value ``*`` is allowed, as in a subscription.

    Returns:
        The channel: ``key:value`` pairs joined by ``|``, percent-encoded, sorted by encoded key. ASCII only.

    Raises:
        InvalidPattern: a rule is broken; the text names the filter.
    """
    if not filters:
        raise InvalidPattern("a pattern needs at least one filter")
    if len(filters) > MAX_FILTERS:
        raise InvalidPattern(f"a pattern has at most {MAX_FILTERS} filters, not {len(filters)}")
    encoded = [_encode_filter(key, value, wildcards) for key, value in dict.items(filters)]
    encoded.sort(key=_key_of)
    channel = "|".join([f"{key}:{value}" for key, value in encoded]).encode("ascii")
    if len(channel) > MAX_CHANNEL:
        raise InvalidPattern(f"the pattern is longer than {MAX_CHANNEL} bytes as a channel")
    return channel


def channel_id(channel: bytes) -> str:
    """Return the id of a channel: the first 8 hex digits of its MD5, a label and never a key."""
    return hashlib.md5(channel, usedforsecurity=False).hexdigest()[:8]


def shape_of(channel: bytes) -> bytes:
    """Return the shape of a subscription: its channel with ``=`` in place of each fixed value.

    Raises:
        ValueError: it is not a channel.
    """
    filters = _split(channel)
    if filters is not None:
        shape = _join([(key, b"*" if value == b"*" else b"=") for key, value in filters])
        if shape is not None:
            return shape
    raise ValueError(f"{channel[:80]!r} is not a channel")


def project(channel: bytes, shape: bytes) -> bytes | None:
    """Return the channel of the one wildcard subscription of a shape that a publication matches.

    Args:
        channel: the canonical text of the publication's pattern, without a star.
        shape: the result of `shape_of`.

    Returns:
        None if there is no such subscription: a key of the shape is missing, the shape is closed and there are further
        keys, the publication has the reserved key, or the result would be longer than a channel may be.
    """
    filters = _split_publication(channel)
    return None if filters is None else _project(filters, shape)


def projections(channel: bytes, shapes: tuple[bytes, ...]) -> list[bytes]:
    """Return the results of `project` for several shapes, without None."""
    filters = _split_publication(channel)
    if filters is None:
        return []
    found = (_project(filters, shape) for shape in shapes)
    return [projection for projection in found if projection is not None]


def _key_of(pair: tuple[str, str]) -> str:
    return pair[0]


def _encode_filter(key: object, value: object, wildcards: bool) -> tuple[str, str]:
    if not isinstance(key, str):
        raise InvalidPattern(f"the key {_shown(key)} is not a string")
    if isinstance(value, str) and value == "*":
        if not wildcards:
            raise InvalidWildcard(f"the value of {_shown(key)} is the wildcard '*'")
        return ("*" if key == "*" else _encode_key(key)), "*"
    if key == "*":
        raise InvalidPattern("the key '*' takes only the value '*'")
    encoded = _encode_value(key, value)
    return _encode_key(key), encoded


def _encode_key(key: str) -> str:
    if not key:
        raise InvalidPattern("a key is empty")
    return _encode_text(key, MAX_KEY, "the key", key)


def _encode_value(key: str, value: object) -> str:
    if isinstance(value, str):
        if not value:
            raise InvalidPattern(f"the value of {_shown(key)} is empty")
        return _encode_text(value, MAX_VALUE, "the value of", key)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 64:
            return int.__repr__(value)
        try:  # further integers are taken as the nearest double, as JSON parsers take them
            value = int.__float__(value)
        except OverflowError:
            raise InvalidPattern(f"the value of {_shown(key)} is not a finite number") from None
    if isinstance(value, float):
        if not isfinite(value):
            raise InvalidPattern(f"the value of {_shown(key)} is not a finite number")
        return _number(value).replace("+", "%2B")
    name = type(value).__name__
    kind = _KINDS.get(name, f"a {name}")
    raise InvalidPattern(f"the value of {_shown(key)} is {kind}; use a string, a number, true or false")


def _encode_text(text: str, limit: int, where: str, key: str) -> str:
    try:
        utf8 = str.encode(text, "utf-8")
    except UnicodeEncodeError:
        raise InvalidPattern(f"{where} {_shown(key)} holds a lone surrogate") from None
    if len(utf8) <= limit:
        encoded = quote_from_bytes(utf8, safe="")
        if len(encoded) <= limit:
            return encoded
    raise InvalidPattern(f"{where} {_shown(key)} is longer than {limit} bytes when percent-encoded")


def _number(value: float) -> str:
    """Write a finite double as ECMAScript does (ECMA-262, Number::toString), from the digits of Python's ``repr``."""
    mantissa, _, exponent = float.__repr__(value).partition("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    significant = (whole + fraction).lstrip("0")
    # The place of the decimal point, counted in digits from the first significant one.
    point = len(significant) - len(fraction) + int(exponent or 0)
    digits = significant.rstrip("0")
    if not digits:
        return "0"
    if len(digits) <= point <= 21:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def _shown(key: object) -> str:
    """Return a key as error texts show it: short and printable."""
    text = ascii(key)
    return text if len(text) <= 80 else text[:77] + "..."


def _split(channel: bytes) -> _Filters | None:
    """Return the filters of a channel, or None if it is not one."""
    if len(channel) > MAX_CHANNEL:
        return None
    parts = [part.partition(b":") for part in channel.split(b"|")]
    if len(parts) > MAX_FILTERS or not all(colon for _, colon, _ in parts):
        return None
    return [(key, value) for key, _, value in parts]


def _split_publication(channel: bytes) -> _Filters | None:
    """Return the filters of a publication's channel, or None if no wildcard can match it."""
    filters = _split(channel)
    return None if filters is None or any(key == _RESERVED_KEY for key, _ in filters) else filters


def _join(filters: _Filters) -> bytes | None:
    channel = b"|".join([key + b":" + value for key, value in filters])
    return channel if len(channel) <= MAX_CHANNEL else None


def _project(filters: _Filters, shape: bytes) -> bytes | None:
    """Walk through the filters of a publication and of a shape, which have the same order."""
    parts = _split(shape)
    if parts is None:
        return None
    projected: _Filters = []
    at = 0
    further = is_open = False
    for key, kind in parts:
        if kind == b"*" and key == b"*":
            is_open = True
            projected.append((b"*", b"*"))
            continue
        while at < len(filters) and filters[at][0] < key:
            further = True
            at += 1
        if at == len(filters) or filters[at][0] != key:
            return None
        projected.append((key, b"*" if kind == b"*" else filters[at][1]))
        at += 1
    if (further or at < len(filters)) and not is_open:
        return None
    return _join(projected)
