"""Conflation: a subscription that is sent at most one message in a time, the newest."""

from __future__ import annotations

from typing import Any

from realizehit.client.log_cursor import LogCursor
from realizehit.errors import RequestError


def check_every(every: object, cursor: LogCursor) -> None:
    """Check the time of a subscription; ``None`` for one that gets every message.

    Args:
        every: milliseconds. The server has the upper bound.
        cursor: what the subscription asks for of the pattern's history.

    Raises:
        RequestError: it is not a number of milliseconds, or the subscription asks for positions too.
    """
    if every is None:
        return
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise RequestError(f"every is {every!r}; it must be an integer of at least 1, in milliseconds")
    if cursor.has_positions:
        raise RequestError("every was given together with since, last or offsets; a subscription has one of these")


def sub_keys(cursor: LogCursor, every: int | None, *, trace: bool) -> dict[str, Any]:
    """Return the keys of the next ``sub`` of a subscription besides its pattern."""
    keys = cursor.history_keys() if every is None else {"every": every}
    return {**keys, "trace": True} if trace else keys
