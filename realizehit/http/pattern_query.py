"""The query of a request that asks about one pattern: ``?pat=kind=news,channel=CNN`` or ``?pat={"kind": "news"}``."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from realizehit.errors import ErrorCode, RequestError
from realizehit.pattern import Pattern

_MAX_FIELDS: Final = 16


def fields_of(query: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a query.

    Raises:
        RequestError: it cannot be read, or has too many fields.
    """
    try:
        return parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        raise RequestError(f"the query cannot be read: {error}") from None


def pattern_asked_for(fields: list[tuple[str, str]]) -> Any:
    """Return the filters of the pattern that a query names, as far as they can be read; they may break rules.

    Raises:
        RequestError: there is no pattern, or more than one, or it is not JSON.
        PatternError: the pattern in the form with ``=`` breaks a rule.
    """
    patterns = [text for name, text in fields if name == "pat"]
    if len(patterns) != 1:
        count = len(patterns) or "no"
        raise RequestError(f'the query names {count} patterns; write one: pat=key=value or pat={{"key": "value"}}')
    return parsed_pattern(patterns[0])


def parsed_pattern(text: str) -> Any:
    """Return the filters of a pattern in a query, in either form.

    Raises:
        RequestError: it is not JSON.
        PatternError: the pattern in the form with ``=`` breaks a rule.
    """
    if not text.lstrip().startswith("{"):
        return dict(Pattern.parse(text))
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the pattern is not JSON: {error}", ErrorCode.BAD_JSON) from None
