"""Whether what came is what a case expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def difference(expected: Any, found: Any) -> str:
    """Say how a value differs from what a case expects; an empty text where it does not.

    A table expects these keys, and lets others be; ``{ from = …, to = … }`` expects a number between the two, and
    ``{ any = true }`` any value that is there, ``{ holds = … }`` a text that holds another one, and
    ``{ absent = true }`` that the key is missing.
    """
    if isinstance(expected, Mapping):
        return _table_difference(expected, found)
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return f"{found!r} is not {expected!r}"
        return next((text for pair in zip(expected, found, strict=True) if (text := difference(*pair))), "")
    same = expected == found and isinstance(expected, bool) == isinstance(found, bool)
    return "" if same else f"{found!r} is not {expected!r}"


def _table_difference(expected: Mapping[str, Any], found: Any) -> str:
    if set(expected) <= {"from", "to"} and expected:
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if is_number and expected.get("from", found) <= found <= expected.get("to", found):
            return ""
        return f"{found!r} is not from {expected.get('from')} to {expected.get('to')}"
    if expected == {"any": True}:
        return "" if found is not None else "nothing is there"
    if set(expected) == {"holds"}:
        return "" if expected["holds"] in str(found) else f"{found!r} does not hold {expected['holds']!r}"
    if not isinstance(found, Mapping):
        return f"{found!r} is not {dict(expected)!r}"
    for key, value in expected.items():
        if value == {"absent": True}:
            if key in found:
                return f"{key} is there: {found[key]!r}"
            continue
        if key not in found:
            return f"{key} is missing in {dict(found)!r}"
        if text := difference(value, found[key]):
            return f"{key}: {text}"
    return ""


def error_name(name: str) -> str:
    """Return an error's name without what languages add to it: ``BadPatternError`` and ``ErrBadPattern`` are one."""
    name = name.removeprefix("Err")
    for suffix in ("Error", "Exception"):
        name = name.removesuffix(suffix) or name
    return name
