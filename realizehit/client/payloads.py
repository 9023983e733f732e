"""Decodes payloads from JSON text to Python values, also those that the fast parser refuses.

orjson refuses two things that RFC 8259 allows: lone surrogate escapes, and numbers that no double can hold. A server
passes both on as they were published.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from realizehit.common.surrogates import Hidden
from realizehit.errors import ClientError

# A string without its end is matched too, so that a text with many quotes is still read in one pass.
_STRING_OR_NUMBER: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?[0-9][0-9.eE+-]*+', re.DOTALL)
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")


def decode_payload(text: bytes) -> Any:
    """Return the value of a JSON text.

    A number beyond the range of a double comes as the ``str`` that it was written as. Integers of up to 64 bits are
    exact; longer ones, like all other numbers, come as the nearest double. Lone surrogates stay in their ``str``.

    Raises:
        ClientError: it is not JSON, or lists and objects are nested more than 1,024 deep.

    Cost: one call of orjson; if that fails, two more passes over the text.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        try:
            hidden = Hidden(_STRING_OR_NUMBER.sub(_quoted_if_huge, text))
            value = orjson.loads(hidden.text)
        except ValueError:
            raise ClientError(str(error)) from None
        return _with_surrogates(value, hidden) if hidden.found else value


def _quoted_if_huge(match: re.Match[bytes]) -> bytes:
    token = match[0]
    if not token.startswith(b'"') and _NUMBER.fullmatch(token) and float(token) in (float("inf"), float("-inf")):
        return b'"%b"' % token
    return token


def _with_surrogates(value: Any, hidden: Hidden) -> Any:
    """Restore the texts in a value, without recursion: it may be deep."""
    top = [value]
    waiting: list[list[Any] | dict[str, Any]] = [top]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            items = [(hidden.restore_text(key), item) for key, item in container.items()]
            container.clear()
            container.update(items)
        for place, item in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(item, str):
                container[place] = hidden.restore_text(item)  # type: ignore[index]  # a place of this container
            elif isinstance(item, list | dict):
                waiting.append(item)
    return top[0]
