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

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from realizehit.common.position import Position
from tests.support import model_pattern
from tests.support.account_records import Back, Came, Entry, Filters, Hole, Life, Lineage, Told

SLACK = 0.2  # seconds of rounding, and of a loop's clock that is read before an event is handled
NOTICED = 5.0  # seconds after a fault of the broker within which nodes have noticed it, and told their clients
IN_FLIGHT = 1.0  # seconds that a message may be under way to a subscription without positions


class AccountError(AssertionError):
    """Something is missing, came twice, or came in the wrong order."""


class Untold(AccountError):
    """A subscription misses a message, and was not told."""


class Account:
    """All publications and subscriptions.

    Attributes:
        lossy: times in which the broker may lose what it has answered: failovers, until all replicas follow again.
        outages: times in which nodes had no broker, until they had told their clients.
        faults: when each fault began and ended, and its name; for those who look for the cause of a mistake.
        sharded: whether the broker may lose a projection and not the publication itself, since another machine has it.
        lineages: what is known of the logs at the broker, by their channels.
        counts: for each transport what was delivered, recovered and told; filled by `check`.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.lives: list[Life] = []
        self.lossy: list[tuple[float, float]] = []
        self.outages: list[tuple[float, float]] = []
        self.sharded = False
        self.faults: list[tuple[float, float, str]] = []
        self.lineages: dict[str, Lineage] = defaultdict(Lineage)
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self._serials: dict[tuple[str, Position], int] = {}  # by the subscription's channel
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

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Note the time within as one in which nodes may have no broker."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.outages.append((began, time.monotonic() + NOTICED))

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
                elif open_since is not None and event.at.epoch != last.epoch:
                    # What came before may be lost, so that others have the same numbers in the epoch that goes on.
                    yield Hole(last, event.at, open_since, event.when)
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
        told = [(self._since(life, each) - SLACK, each.when + SLACK) for each in life.told]
        for entry in self._entries_of(life):
            if entry.serial in seen or not entry.taken or entry.began <= life.begun:
                continue
            if not life.final and entry.serial > newest.get(entry.publisher, -1):
                continue
            covered = any(since <= entry.ended and entry.began <= when for since, when in told)
            self._missing(life, entry, covered)

    def _since(self, life: Life, told: Told) -> float:
        """Return the time from which on something may be missing.

        A client that loses its node while the node has no broker cannot know since when the node had none.
        """
        within = [began for began, ended in self.outages if life.measured and began <= told.since <= ended]
        return min(within, default=told.since)

    def _missing(self, life: Life, entry: Entry, covered: bool) -> None:
        if covered:
            self.counts[life.transport]["missed"] += 1
        elif self._is_lost(life, entry):
            self.counts[life.transport]["lost"] += 1
        else:
            raise Untold(f"{_name(life)} misses {entry}, and was not told; it was told {list(life.told)}")

    def _may_repeat(self, entry: Entry) -> bool:
        """Whether the broker may have lost the key of what was sent again."""
        return entry.attempts > 1 and any(began <= entry.ended and entry.began <= ended for began, ended in self.lossy)

    def _is_lost(self, life: Life, entry: Entry) -> bool:
        """Whether the broker has lost what it had answered: its position, if it has one, is in no log any more."""
        if not any(began <= entry.ended and entry.began <= ended for began, ended in self.lossy):
            return False
        if self.sharded and life.is_wildcard:  # nobody may know the position in this log
            at = self._positions.get((life.channel, entry.serial))
            return at is None or not self.lineages[life.channel].has(at)
        return entry.at is None or not self.lineages[entry.channel].has(entry.at)


def _name(life: Life) -> str:
    return f"{life.transport} {dict(life.filters)} (from {life.begun}, {life.at})"
