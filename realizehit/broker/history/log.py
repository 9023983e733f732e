"""What a read of a log returns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from realizehit.common.position import Position


class LogPart(msgspec.Struct, frozen=True, gc=False):
    """A part of the log of a channel, as it was at the broker in one moment.

    Attributes:
        epoch: of the log now. A log that did not exist begins with the read.
        first: offset of the oldest message that the log holds; ``last + 1`` if it holds none.
        last: offset of the newest message; 0 if there never was one.
        messages: offset and payload, consecutive, oldest first. The payload of a wildcard's log begins with
            ``@c=<channel>?``, as it was published, without a position.
        before: earlier epochs of the same log, the newest first, with the last offset that is valid in each. The
            messages up to it are still those of the log, and the offsets of the next epoch go on from there.
        expires_in: seconds until the log expires if nothing is published.
    """

    epoch: str
    first: int
    last: int
    messages: Sequence[tuple[int, bytes]] = ()
    before: Sequence[Position] = ()
    expires_in: float = math.inf

    def covers(self, position: Position) -> bool:
        """Whether the log holds, or held and nobody missed, everything after a position.

        It does if the position is of this log, in the part that is valid, and no message after it was trimmed.
        """
        if position.epoch == self.epoch:
            valid = position.offset <= self.last
        else:
            valid = any(old.epoch == position.epoch and position.offset <= old.offset for old in self.before)
        return valid and position.offset + 1 >= self.first
