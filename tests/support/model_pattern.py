"""Patterns in plain Python, written from the definition only: the oracle for the compiled functions.

Slow and obvious on purpose; it shares no line and no constant with the product.
"""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal
from typing import Any

UNRESERVED = set(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~")


class Refused(Exception):
    """The definition refuses this pattern."""


class RefusedWildcard(Refused):
    """A star is not allowed here."""


def number_to_string(x: float) -> str:
    """ECMA-262, Number::toString, step by step; `x` is finite."""
    if x == 0:
        return "0"
    if x < 0:
        return "-" + number_to_string(-x)
    # "Let n, k, and s be integers such that k >= 1, 10^(k-1) <= s < 10^k, s * 10^(n-k) is x, and k is as small as
    # possible": Python's repr finds the same digits.
    _, digits, exponent = Decimal(repr(x)).normalize().as_tuple()
    assert isinstance(exponent, int)
    s = "".join(map(str, digits))
    k = len(s)
    n = exponent + k
    if k <= n <= 21:
        return s + "0" * (n - k)
    if 0 < n <= 21:
        return s[:n] + "." + s[n:]
    if -6 < n <= 0:
        return "0." + "0" * -n + s
    e = n - 1
    sign = "-" if e < 0 else "+"
    mantissa = s if k == 1 else s[0] + "." + s[1:]
    return f"{mantissa}e{sign}{abs(e)}"


def percent_encode(text: str) -> str:
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused("lone surrogate") from None
    return "".join(chr(byte) if byte in UNRESERVED else f"%{byte:02X}" for byte in data)


def value_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return str(value)
        try:
            value = float(value)
        except OverflowError:
            raise Refused("not finite") from None
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Refused("not finite")
        return number_to_string(value)
    raise Refused("no value")


def channel(filters: Any, *, wildcards: bool = False) -> str:
    """The canonical channel, or `Refused`."""
    if not isinstance(filters, dict):
        raise Refused("no object")
    if not 1 <= len(filters) <= 16:
        raise Refused("1 to 16 filters")
    pairs: list[tuple[bytes, str]] = []
    starred = False
    for key, value in filters.items():
        if not isinstance(key, str):
            raise Refused("a key is text")
        star = isinstance(value, str) and value == "*"
        starred |= star
        if key == "*":
            if not star:
                raise Refused("the key * takes only the value *")
            pairs.append((b"*", "*"))
            continue
        left, right = percent_encode(key), "*" if star else percent_encode(value_text(value))
        if not 1 <= len(left) <= 64 or not 1 <= len(right) <= 256:
            raise Refused("a bound")
        pairs.append((left.encode(), right))
    text = "|".join(f"{key.decode()}:{value}" for key, value in sorted(pairs))
    if len(text) > 1024:
        raise Refused("channel too long")
    if starred and not wildcards:
        raise RefusedWildcard("wildcard")
    return text


def normal(filters: dict[str, Any]) -> frozenset[tuple[str, str]]:
    """The meaning of a pattern, independent of its form: its keys with their values as text."""
    return frozenset((key, value_text(value)) for key, value in filters.items())


def matches(subscription: dict[str, Any], publication: dict[str, Any]) -> bool:
    """Whether a subscription receives a publication: filter by filter, without channels."""
    for key, value in subscription.items():
        if key == "*":
            continue
        if key not in publication or (value != "*" and value_text(value) != value_text(publication[key])):
            return False
    further = set(publication) - set(subscription)
    starred = any(value == "*" for value in subscription.values() if isinstance(value, str))
    if starred and "realizehit" in publication:
        return False
    return "*" in subscription or not further


def shape(filters: dict[str, Any]) -> str:
    """The channel with ``=`` for each fixed value."""
    parts = [part.split(":") for part in channel(filters, wildcards=True).split("|")]
    return "|".join(f"{key}:{'*' if value == '*' else '='}" for key, value in parts)


def projection(subscription: dict[str, Any], publication: dict[str, Any]) -> str | None:
    """The channel of the subscription that differs from this one only in fixed values and receives the publication."""
    fixed = {key: publication.get(key) for key, value in subscription.items() if value != "*"}
    if None in fixed.values():
        return None
    other = {**subscription, **fixed}
    try:
        return channel(other, wildcards=True) if matches(other, publication) else None
    except Refused:  # it would be too long
        return None


def pattern_id(channel: str) -> str:
    return hashlib.md5(channel.encode()).hexdigest()[:8]
