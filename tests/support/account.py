"""The account of publications and subscriptions with history: each message came once and in order, or was told lost.

A subscription is a list of events in the order in which they came. The rules that it must follow:

- with positions: each offset follows the one before. Where an offset is left out, a gap or ``recovered: false`` came
  between. Nothing comes twice, also after any number of connections.
- without positions: what each publisher sent comes in its order, once for each connection. What is missing lies in the
  time of a gap.
- everything that a publisher was told is queued has come, or was told lost. What it was told is refused has not come.
- a position is one message, for all subscriptions and for the publisher.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from realizehit.common.position import Position
from tests.support import model_pattern

SLACK = 0.1  # seconds of rounding, and of a loop's clock that is read before an event is handled
IN_FLIGHT = 1.0  # seconds that a message may be under way to a subscription without positions

Filters = Mapping[str, Any]


class AccountError(AssertionError):
    """Something is missing, came twice, or came in the wrong order."""


class Untold(AccountError):
    """A subscription misses a message, and was not told."""


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
        final: whether it was in force in the end, after everything was published.
    """

    transport: str
    filters: Filters
    begun: float | None = None
    at: Position | None = None
    queued: bool = False
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


class Account:
    """All publications and subscriptions.

    Attributes:
        lossy: times in which the broker may lose what it has answered: a failover to a replica that was cut off.
        counts: for each transport what was delivered, recovered and told; filled by `check`.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lives: list[Life] = []
        self.lossy: list[tuple[float, float]] = []
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._serials: dict[tuple[str, Position], int] = {}  # by the subscription's channel
        self._by_offset: dict[tuple[str, int], set[int]] = defaultdict(set)
        self._positions: dict[tuple[str, int], Position] = {}
        self._matching: dict[str, list[Entry]] = {}

    def enter(self, publisher: str, filters: Filters, began: float) -> Entry:
        """Enter the next publication."""
        entry = Entry(len(self.entries), publisher, filters, model_pattern.channel(dict(filters)), began)
        self.entries.append(entry)
        return entry

    def begin(self, life: Life) -> Life:
        """Enter a subscription."""
        self.lives.append(life)
        return life

    def is_for(self, life: Life, entry: Entry) -> bool:
        """Whether a subscription receives a publication."""
        return model_pattern.matches(dict(life.filters), dict(entry.filters))

    def check(self) -> None:
        """Check everything.

        Raises:
            AccountError: the first thing that is wrong.
        """
        for entry in self.entries:
            if entry.at is not None:
                self._bind(entry.channel, entry.at, entry.serial, "its publisher")
        for life in self.lives:
            for came in life.came:
                if came.at is not None:
                    self._bind(life.channel, came.at, came.serial, life.transport)
        for life in self.lives:
            self._check_life(life)

    def table(self) -> str:
        """Return what was counted, a line for each transport."""
        names = ["subscriptions", "delivered", "recovered", "resumed", "told", "missed", "lost"]
        width = max(9, *(len(name) + 1 for name in self.counts)) if self.counts else 9
        taken = Counter(entry.taken for entry in self.entries)
        lines = [
            f"published {taken[True]}, refused {taken[False]}, unclear {taken[None]}",
            "transport".ljust(width) + "".join(name.rjust(14) for name in names),
        ]
        for transport, counts in sorted(self.counts.items()):
            lines.append(transport.ljust(width) + "".join(str(counts[name]).rjust(14) for name in names))
        return "\n".join(lines)

    def _bind(self, channel: str, at: Position, serial: int, by: str) -> None:
        known = self._serials.setdefault((channel, at), serial)
        if known != serial:
            raise AccountError(f"{channel} {at} is message {known}, and for {by} message {serial}")
        self._positions.setdefault((channel, serial), at)
        self._by_offset[channel, at.offset].add(serial)

    def _entries_of(self, life: Life) -> list[Entry]:
        found = self._matching.get(life.channel)
        if found is None:
            filters = dict(life.filters)
            matches = {
                channel: model_pattern.matches(filters, dict(sample.filters))
                for channel, sample in {entry.channel: entry for entry in self.entries}.items()
            }
            found = self._matching[life.channel] = [entry for entry in self.entries if matches[entry.channel]]
        return found

    def _check_life(self, life: Life) -> None:
        counts = self.counts[life.transport]
        counts["subscriptions"] += 1
        if life.begun is None:
            if any(life.came):
                raise AccountError(f"{_name(life)} received before the reply to its sub")
            return
        seen: set[int] = set()
        recovered_at = 0.0
        for event in life.events:
            if isinstance(event, Back):
                counts["resumed"] += 1
                recovered_at = event.when
            elif isinstance(event, Told):
                counts["told"] += 1
            else:
                self._check_message(life, event, seen)
                counts["delivered"] += 1
                counts["recovered"] += self.entries[event.serial].ended < recovered_at
        if life.at is None:
            self._check_plain(life, seen)
        else:
            self._check_positions(life, seen)

    def _check_message(self, life: Life, came: Came, seen: set[int]) -> None:
        if not 0 <= came.serial < len(self.entries):
            raise AccountError(f"{_name(life)} received {came.serial}, which nobody published")
        entry = self.entries[came.serial]
        if came.serial in seen and not self._may_repeat(entry):
            raise AccountError(f"{_name(life)} received {entry} twice")
        if entry.taken is False:
            raise AccountError(f"{_name(life)} received {entry}, which was refused")
        if not model_pattern.matches(dict(life.filters), dict(entry.filters)):
            raise AccountError(f"{_name(life)} received {entry}, which does not match")
        seen.add(came.serial)

    # ---- with positions

    def _check_positions(self, life: Life, seen: set[int]) -> None:
        assert life.at is not None
        assert life.begun is not None
        holes = list(self._holes(life))
        ended = max((event.when for event in life.events), default=life.begun)
        last = next((came.at for came in reversed(list(life.came))), life.at)
        for entry in self._entries_of(life):
            if entry.serial in seen or not entry.taken or entry.ended <= life.begun:
                continue
            at = self._positions.get((life.channel, entry.serial))
            if at is None or at.epoch not in (life.at.epoch, *(came.at.epoch for came in life.came if came.at)):
                self._check_by_time(life, entry, holes, ended)
                continue
            if at.epoch == life.at.epoch and at.offset <= life.at.offset:
                continue
            if not life.final and last is not None and (at.epoch != last.epoch or at.offset > last.offset):
                continue  # it was still under way, or its client away, when the subscription ended
            self._missing(life, entry, any(hole.includes(at) for hole in holes))

    def _check_by_time(self, life: Life, entry: Entry, holes: Iterable[Hole], ended: float) -> None:
        """Judge a publication whose position in the log of the subscription nobody knows."""
        if life.final or entry.ended < ended - IN_FLIGHT:
            covered = any(hole.began - SLACK <= entry.ended and entry.began <= hole.ended + SLACK for hole in holes)
            covered |= any(each.since - SLACK <= entry.ended and entry.began <= each.when + SLACK for each in life.told)
            self._missing(life, entry, covered)

    def _holes(self, life: Life) -> Iterator[Hole]:
        """Check that each offset follows the one before, and yield where one need not."""
        assert life.at is not None
        assert life.begun is not None
        last, when, open_since, credit = life.at, life.begun, None, 0
        for event in life.events:
            if isinstance(event, Told):
                credit += 1
                if life.queued or event.at is None:
                    open_since = when if open_since is None else open_since
                else:
                    yield Hole(last, event.at, when if open_since is None else open_since, event.when)
                    last, when, open_since = event.at, event.when, None
            elif isinstance(event, Back):
                if event.at is not None and open_since is None and event.at.offset != last.offset:
                    raise AccountError(f"{_name(life)} was at {last}, and resumes at {event.at} as if nothing missed")
            elif event.at is None:
                if open_since is not None:
                    continue  # the server cannot read the log now, and has said so
                raise AccountError(f"{_name(life)} received {self.entries[event.serial]} without a position")
            else:
                if event.at.offset != last.offset + 1 or (open_since is not None and not life.queued):
                    if open_since is None and not (life.queued and credit):
                        raise AccountError(f"{_name(life)}: {event.at} came after {last}, and no gap was told between")
                    yield Hole(last, event.at, when if open_since is None else open_since, event.when)
                    open_since, credit = None, credit - 1
                last, when = event.at, event.when
        if open_since is not None:
            yield Hole(last, None, open_since, max(event.when for event in life.events))

    # ---- without positions

    def _check_plain(self, life: Life, seen: set[int]) -> None:
        assert life.begun is not None
        newest: dict[str, int] = {}
        for came in life.came:
            entry = self.entries[came.serial]
            if entry.taken is None:
                continue  # it may have been carried out after the next one
            if came.serial < newest.get(entry.publisher, -1):
                raise AccountError(f"{_name(life)} received {entry} after {newest[entry.publisher]}")
            newest[entry.publisher] = came.serial
        told = list(life.told)
        for entry in self._entries_of(life):
            if entry.serial in seen or not entry.taken or entry.began <= life.begun:
                continue
            if not life.final and entry.serial > newest.get(entry.publisher, -1):
                continue
            covered = any(each.since - SLACK <= entry.ended and entry.began <= each.when + SLACK for each in told)
            self._missing(life, entry, covered)

    def _missing(self, life: Life, entry: Entry, covered: bool) -> None:
        if covered:
            self.counts[life.transport]["missed"] += 1
        elif self._is_lost(entry):
            self.counts[life.transport]["lost"] += 1
        else:
            raise Untold(f"{_name(life)} misses {entry}, and was not told; it was told {list(life.told)}")

    def _may_repeat(self, entry: Entry) -> bool:
        """Whether the broker may have lost the key of what was sent again."""
        return entry.attempts > 1 and any(began <= entry.ended and entry.began <= ended for began, ended in self.lossy)

    def _is_lost(self, entry: Entry) -> bool:
        """Whether the broker has lost what it had answered: its offset, if it has one, is that of another message."""
        if not any(began <= entry.ended and entry.began <= ended for began, ended in self.lossy):
            return False
        return entry.at is None or len(self._by_offset[entry.channel, entry.at.offset]) > 1


def _name(life: Life) -> str:
    return f"{life.transport} {dict(life.filters)} (from {life.begun}, {life.at})"
