"""What a node knows of one log besides what the engine knows, and where a subscription begins in it."""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import Final, NamedTuple

from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import Rule
from realizehit.common.position import Position
from realizehit.node.history_request import HistoryRequest, Started
from realizehit.node.recent_gaps import Reason

MOST_EPOCHS: Final = 16
"""Epochs of a log that a node remembers."""


class State(Enum):
    """What the node knows of a log."""

    OPENING = "opening"  # nothing: its position has not been read; subscriptions without positions need no more
    LIVE = "live"  # its position, and each message comes with the next one
    LOST = "lost"  # its position, and messages may be missing after it
    UNREADABLE = "unreadable"  # nothing, and the broker does not tell; the channel is served like one without history


class Epochs:
    """The newest epochs of a log, each once."""

    def __init__(self) -> None:
        self._known: deque[str] = deque(maxlen=MOST_EPOCHS)

    def __contains__(self, epoch: str) -> bool:
        return epoch in self._known

    def append(self, epoch: str) -> None:
        """Note an epoch as the newest; the oldest one is forgotten past `MOST_EPOCHS`."""
        if epoch in self._known:
            self._known.remove(epoch)
        self._known.append(epoch)


class InMemory(NamedTuple):
    """What the engine has of a log.

    Attributes:
        epoch, last: its position.
        first: offset of the oldest message in the ring; ``last + 1`` if there is none.
    """

    epoch: str
    last: int
    first: int


class Beginning(NamedTuple):
    """Where a subscription begins.

    Attributes:
        started: what it is told.
        after: offset after which messages are replayed; None to go on live. Not used without positions.
        from_ring: whether the ring holds all that is replayed.
        reason: why the messages after a ``since`` are not replayed, one of `log_counts.REASONS`; None if they are.
    """

    started: Started
    after: int | None = None
    from_ring: bool = False
    reason: Reason | None = None


class LogRecord:
    """One log, and what is to be done for it.

    Attributes:
        rule: keeps its messages.
        state: what is known of it.
        confirmed: whether the channel is in force at the broker.
        hole: whether a publication came that does not follow.
        disturbed: since when messages may be missing, by the hub's clock.
        opened: when its position was read first.
        blocked: since when the broker could have been read.
        losses: how often its position was lost; what was read before is then of no use.
        first: no message before this offset is kept at the broker; it may have grown since.
        epochs: the newest of those that it has had here. If one of them comes back, a failover brought back another
            copy of the log, and its messages are not new.
        before: earlier epochs of which offsets are valid yet, with the last one of each.
        starved: replays that wait for a read: the connection, and after which offset.
        asking: whether a subscription waits whose beginning needs a read.
        logged: whether the log at the broker has what was published while messages may be missing here.
        incomplete: whether subscriptions with positions may have missed something while it was unreadable.
        running: whether a read is under way.
        telling: whether its subscribers are being told of a gap, after which it goes on.
        retry_at: when a read that failed is tried again.
        expires: when the log at the broker expires if nothing came after the last read, by the hub's clock.
    """

    def __init__(self, rule: Rule, now: float) -> None:
        self.rule = rule
        self.state = State.OPENING
        self.confirmed = False
        self.hole = False
        self.disturbed = now
        self.opened = now
        self.blocked = now
        self.losses = 0
        self.first = 1
        self.epochs = Epochs()
        self.before: tuple[Position, ...] = ()
        self.starved: dict[int, int] = {}
        self.asking = False
        self.logged = True
        self.incomplete = False
        self.running = False
        self.telling = False
        self.retry_at = 0.0
        self.expires = math.inf

    @property
    def is_behind(self) -> bool:
        """Whether messages after its position are missing, or may be."""
        return self.state is State.LOST or (self.state is State.LIVE and self.hole)

    def note(self, part: LogPart, now: float) -> None:
        """Remember what was read."""
        self.first, self.before, self.expires = part.first, tuple(part.before), now + part.expires_in

    def has_expired(self, now: float, touched: float) -> bool:
        """Whether the log at the broker has expired; ``touched`` says when its last message came here."""
        return now >= self.expires and now >= touched + self.rule.ttl

    def begin(
        self,
        request: HistoryRequest,
        here: InMemory | None,
        part: LogPart | None,
        *,
        final: bool,
        expired: bool = False,
    ) -> Beginning | None:
        """Decide where a subscription begins.

        Args:
            request: what it asks for.
            here: what the engine has of this log; None if it does not know the position.
            part: what was just read for it.
            final: decide by what is known.
            expired: whether the log at the broker has expired, so that what is in memory is not kept any more.

        Returns:
            None if the log must be read first.
        """
        if here is None or self.state is not State.LIVE:
            return None
        if expired and not final and (request.since is not None or request.last):
            return None
        if request.since is not None:
            return self._begin_since(request.since, here, part, final=final)
        if request.last == 0:
            return Beginning(Started(Position(here.epoch, here.last)), from_ring=True)
        after = max(here.last - min(request.last, self.rule.size), self.first - 1)
        in_ring = after + 1 >= here.first
        return Beginning(Started(Position(here.epoch, after)), after, in_ring) if in_ring or final else None

    def _begin_since(self, since: Position, here: InMemory, part: LogPart | None, *, final: bool) -> Beginning | None:
        missed = Beginning(Started(Position(here.epoch, here.last), recovered=False), reason="unknown_position")
        offset = self._offset_of(since, here.epoch)
        if offset is None:
            return missed if final else None  # it may be of an epoch whose first message is on its way here
        if offset > here.last:  # its client has seen what is on its way here
            if not final:
                return None
            seen = part is not None and part.epoch == here.epoch and offset <= part.last
            return Beginning(Started(since, recovered=True), offset) if seen else missed
        if offset + 1 < self.first:
            return missed._replace(reason="not_kept")
        in_ring = offset + 1 >= here.first
        if not (in_ring or final):
            return None
        return Beginning(Started(Position(here.epoch, offset), recovered=True), offset, in_ring)

    def _offset_of(self, position: Position, epoch: str) -> int | None:
        """Return the offset of a position in the present epoch; None if its epoch is not known."""
        if position.epoch == epoch:
            return position.offset
        known = any(old.epoch == position.epoch and position.offset <= old.offset for old in self.before)
        return position.offset if known else None
