"""What a subscription asks of the history of its pattern, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from realizehit.common.position import Position
from realizehit.errors import RequestError

MAX_LAST: Final = (1 << 53) - 1
"""The largest ``last``: the largest integer that every language's JSON library reads exactly."""


BOTH_GIVEN: Final = "since and last were both given; give one of them"


class HistoryRequest(NamedTuple):
    """What a subscription asks for. One that asks for nothing else is told the positions of its messages.

    Attributes:
        since: the position after which messages are replayed.
        last: how many of the newest messages are replayed; 0 for none.
    """

    since: Position | None = None
    last: int = 0


class Started(NamedTuple):
    """Where a subscription begins.

    Attributes:
        at: the position after which messages follow; None if the subscription is told no positions.
        recovered: whether all messages after the ``since`` of the request follow; None without a ``since``.
    """

    at: Position | None = None
    recovered: bool | None = None

    def fields(self) -> dict[str, Any]:
        """Return what a reply says of it, for JSON."""
        said: dict[str, Any] = {}
        if self.at is not None:
            said["at"] = str(self.at)
        if self.recovered is not None:
            said["recovered"] = self.recovered
        return said


PLAIN: Final = Started()
"""A subscription without positions."""


def history_request(action: Mapping[str, Any]) -> HistoryRequest | None:
    """Read ``since``, ``last`` and ``offsets`` of a ``sub`` action; a key that is null counts as left out.

    Returns:
        None if the action asks for no history.

    Raises:
        RequestError: ``bad-request``; the text names the key.
    """
    since, last, offsets = action.get("since"), action.get("last"), action.get("offsets")
    if since is None and last is None and offsets is None:
        return None
    if offsets is not None and not isinstance(offsets, bool):
        raise RequestError("offsets must be true or false")
    if since is not None and last is not None:
        raise RequestError(BOTH_GIVEN)
    if since is not None:
        return HistoryRequest(position_of(since))
    if last is not None:
        return HistoryRequest(last=count_of(last))
    return HistoryRequest() if offsets else None


def position_of(since: object) -> Position:
    """Read a ``since``.

    Raises:
        RequestError: ``bad-request``; it is not a position.
    """
    position = Position.parse(since)
    if position is None:
        raise RequestError('since must be a position such as "k3f09a2c.17"')
    return position


def count_of(last: object) -> int:
    """Check a ``last``.

    Raises:
        RequestError: ``bad-request``; it is not a number of messages.
    """
    if isinstance(last, bool) or not isinstance(last, int) or not 1 <= last <= MAX_LAST:
        raise RequestError("last must be an integer of at least 1")
    return last
