"""Where a subscription stands in the history of its pattern, and what its next ``sub`` asks for."""

from __future__ import annotations

import re
from typing import Any, Final

from realizehit.client.protocol import Reply
from realizehit.errors import RequestError

# The field `o` of a label: an offset, perhaps with the epoch before it.
_OFFSET: Final = re.compile(rb"(?:\A|&)o=(?:([0-9A-Za-z_-]++)\.)?+([0-9]++)(?=&|\Z)")


class LogCursor:
    """The place of one subscription in the log of its pattern.

    Everything up to `position` has come. After a lost connection the next ``sub`` asks for what came after it.

    Args:
        since: a position, ``<epoch>.<offset>``: what came after it is sent first.
        last: how many of the last messages are sent first.
        offsets: whether to ask for positions; implied by the other two.

    Raises:
        RequestError: ``since`` or ``last`` has a value that cannot be used, or both were given.

    Attributes:
        has_positions: whether positions were asked for.
        position: the position, ``<epoch>.<offset>``; ``None`` while the server has told none.
    """

    __slots__ = ("_asked_since", "_epoch", "_last", "has_positions", "position")

    def __init__(self, since: str | None = None, last: int | None = None, offsets: bool = False) -> None:
        _check(since, last)
        self.has_positions: Final = offsets or since is not None or last is not None
        self.position = since
        self._epoch = _epoch_of(since)
        self._last = last
        self._asked_since = False

    @property
    def begins_earlier(self) -> bool:
        """Whether the subscription is to begin with messages that were published before it."""
        return self.position is not None or self._last is not None

    def history_keys(self) -> dict[str, Any]:
        """Return the keys of the next ``sub`` besides its pattern."""
        self._asked_since = self.position is not None
        if self.position is not None:
            return {"since": self.position}
        if self._last is not None:
            return {"last": self._last}
        return {"offsets": True} if self.has_positions else {}

    def confirmed(self, reply: Reply) -> bool | None:
        """Take the answer to ``sub``.

        Returns:
            If ``sub`` asked for what came after a position, whether all of that follows; otherwise ``None``. A server
            without history does not say, and nothing follows.
        """
        recovered = reply.recovered is True if self._asked_since else None
        if self.has_positions:
            self._last = None  # it has been sent
            if reply.at is not None or not recovered:
                self._epoch = _epoch_of(reply.at)
            if not recovered:
                self.position = reply.at
        return recovered

    def gap(self, at: str | None) -> None:
        """Take the position at which the server goes on after a gap; ``None`` if it tells none."""
        if at is not None and self.has_positions:
            self.position = at
            self._epoch = _epoch_of(at)

    def advance(self, label: bytes) -> str | None:
        """Note that a message came, and return its position.

        Args:
            label: what stands between the ``@`` and the ``?`` of the message.

        Returns:
            ``None`` if the label tells no position, as for a message that is in no history.
        """
        offset = label[2:]
        if not (label.startswith(b"o=") and offset.isdigit()):  # the usual label needs no expression
            match = _OFFSET.search(label)
            if match is None:
                return None
            epoch, offset = match.groups()
            if epoch is not None:
                self._epoch = epoch.decode("ascii")
        if not self._epoch:
            return None
        self.position = f"{self._epoch}.{offset.decode('ascii')}"
        return self.position


def _check(since: object, last: object) -> None:
    if since is not None and last is not None:
        raise RequestError("since and last were both given; give one of them")
    if since is not None and not (isinstance(since, str) and all(since.partition("."))):
        raise RequestError(f"since is {since!r}; a position is a text <epoch>.<offset>")
    if last is not None and not (isinstance(last, int) and not isinstance(last, bool) and last >= 1):
        raise RequestError(f"last is {last!r}; it must be an integer of at least 1")


def _epoch_of(position: str | None) -> str:
    return "" if position is None else position.partition(".")[0]
