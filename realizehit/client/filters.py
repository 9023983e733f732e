"""A pattern as a client sends it, and the key by which a client tells patterns apart, in plain Python.

Clients work where the extension was not built, so this module does not use it, except in `computed_id`.

Source: the canonical form in ``docs/patterns.md``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import orjson

from realizehit.errors import PatternError


def filters_of(pattern: object) -> dict[str, Any]:
    """Return a pattern's filters as a plain dict that can be written as JSON. The server checks the rules of patterns.

    Raises:
        PatternError: it is not a mapping, or holds a value that JSON cannot represent.
    """
    if not isinstance(pattern, Mapping):
        raise PatternError(f"a pattern is a mapping of filters, not {type(pattern).__name__}")
    filters = dict(pattern)
    try:
        orjson.dumps(filters)
    except TypeError as error:
        raise PatternError(f"the pattern {filters!r} cannot be written as JSON: {error}") from None
    return filters


def is_wildcard(filters: Mapping[str, Any]) -> bool:
    """Tell whether a pattern leaves something open: a value is ``*``."""
    return "*" in filters.values()


def computed_id(filters: Mapping[str, Any]) -> str:
    """Return a pattern's id, for servers that do not send it. Only this function needs the extension."""
    from realizehit.pattern import Pattern

    return Pattern(filters).id


def pattern_key(filters: Mapping[str, Any]) -> Hashable:
    """Return a key that is equal for all spellings of one pattern, such as ``3``, ``3.0`` and ``"3"``, and no others.

    A client shares one wire subscription for equal keys. If two channels had equal keys, one would get the other's
    messages; if one channel had two keys, its second subscription would look like a collision of ids.

    Args:
        filters: what `filters_of` has returned. A value that the server refuses, such as ``null``, gives
            a key that no valid pattern has.
    """
    values: dict[str, Any] = orjson.loads(orjson.dumps(filters))  # as the server sees them: an enum is its value
    return frozenset((key, _text(value)) for key, value in values.items())


def _text(value: object) -> Hashable:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):  # of 64 bits: orjson writes no others
        return str(value)
    if isinstance(value, float):
        return _number(value)
    return (orjson.dumps(value),)


def _number(value: float) -> str:
    """Write a double as ECMA-262's Number::toString does; `repr` gives the same digits in another layout."""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)  # how many digits stand before it
    digits = digits.rstrip("0")
    if not digits:
        return "0"
    if len(digits) <= point <= 21:
        text = digits.ljust(point, "0")
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1:+d}"
    return "-" + text if value < 0 else text
