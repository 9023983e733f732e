"""What an account of publications and subscriptions consists of: publications, what a subscription was sent, logs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from realizehit.common.position import Position
from tests.support import model_pattern

Filters = Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Entry:
    """A publication.

    Attributes:
        serial: its payload; no other has the same.
        publisher: who published it, one message after the other.
        began, ended: when it was first sent, and when its outcome was known.
        taken: whether it was published; None if that is unclear.
        at: its position in the log of its pattern.
        attempts: how often it was sent, with the same idempotency key.
    """

    serial: int
    publisher: str
    filters: Filters
    channel: str
    began: float
    ended: float = 0.0
    taken: bool | None = None
    at: Position | None = None
    attempts: int = 0


@dataclass(slots=True)
class Came:
    """A message came."""

    when: float
    serial: int
    at: Position | None


@dataclass(slots=True)
class Told:
    """The client was told that messages may be missing.

    Attributes:
        when: it was told.
        since: nothing is missing that was published before this time.
        at: the position after which it goes on, if it was told.
    """

    when: float
    since: float
    at: Position | None


@dataclass(slots=True)
class Back:
    """The subscription is in force again, and everything that was missed follows."""

    when: float
    at: Position | None


Event = Came | Told | Back


@dataclass(slots=True, eq=False)
class Life:
    """A subscription, over all connections for which its client says what was missed between them.

    Attributes:
        transport: how its client is connected.
        begun: when it was in force for the first time; None if it never was.
        at: the position from which it began; None if it has no positions.
        queued: whether gaps are told as soon as they are known, before messages that came earlier are handed out.
        measured: whether its client also tells gaps by itself, which begin at the last sign of its node.
        final: whether it was in force in the end, after everything was published.
    """

    transport: str
    filters: Filters
    begun: float | None = None
    at: Position | None = None
    queued: bool = False
    measured: bool = False
    final: bool = False
    events: list[Event] = field(default_factory=list)

    @property
    def channel(self) -> str:
        return model_pattern.channel(dict(self.filters), wildcards=True)

    @property
    def is_wildcard(self) -> bool:
        return "*" in self.filters.values()

    @property
    def came(self) -> Iterator[Came]:
        return (event for event in self.events if isinstance(event, Came))

    @property
    def told(self) -> Iterator[Told]:
        return (event for event in self.events if isinstance(event, Told))


@dataclass
class Hole:
    """Offsets that a subscription was told to be lost, and when.

    Attributes:
        after: the last position that came before.
        upto: the first position that came after it, or was told, without it; None for the end of the subscription.
        began, ended: the times of the events at both ends.
    """

    after: Position
    upto: Position | None
    began: float
    ended: float

    def includes(self, at: Position) -> bool:
        if at.epoch == self.after.epoch and at.offset <= self.after.offset:
            return False
        return self.upto is None or at.epoch != self.upto.epoch or at.offset <= self.upto.offset


@dataclass
class Lineage:
    """The epochs of one log that lead to the present one, as the broker tells them: a failover may drop others.

    Attributes:
        ends: each epoch, the oldest first, and its last offset that is valid; None for the present one.
    """

    ends: dict[str, int | None] = field(default_factory=dict)

    def note(self, epoch: str, before: Iterable[Position]) -> None:
        """Enter what the head of a log says: its epoch, and where earlier ones ended, the newest first."""
        told: dict[str, int | None] = {each.epoch: each.offset for each in reversed(list(before))}
        told[epoch] = None
        older: dict[str, int | None] = {}
        for known, end in self.ends.items():
            if known in told:
                break
            older[known] = end
        else:
            older = {}  # they have no epoch in common: the log began anew
        self.ends = older | told

    def has(self, at: Position) -> bool:
        """Whether a position is one of the log."""
        if at.epoch not in self.ends:
            return False
        end = self.ends[at.epoch]
        return end is None or at.offset <= end
