"""Gaps: which subscriptions may have missed something while a source was away, and telling their clients.

A source is what can be lost by itself, such as the connection to the broker. Its gap is over for all of a node's
clients at once: when each of its channels is in force again. What is published after a client was told is therefore not
missed. What is kept of a gap is its exceptions, the subscriptions made since the source went: they are few, and their
clients have missed nothing that they were promised. All others are found by going through the connections, a slice at a
time, so that telling 100,000 of them delays nothing else.

A broker that came back with other rights may refuse what it allowed before. That ends the subscriptions, and the
clients that had them are told on the same occasion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from realizehit import _fanout
from realizehit.broker.base import Source
from realizehit.common.position import Position
from realizehit.common.upkeep import Failures
from realizehit.errors import ErrorCode
from realizehit.node.events import Events
from realizehit.node.goes_on import GoesOn
from realizehit.node.names import RegistryKey, label_of
from realizehit.node.recent_gaps import Reason, RecentGaps

SLICE: Final = 0.002  # seconds of telling in one turn of the loop

SubscriptionKey = tuple[int, RegistryKey]
"""A connection's handle and a channel's key."""


class _Gap:
    """What tells the subscriptions that a gap concerns from the others."""

    def __init__(
        self,
        exceptions: Iterable[SubscriptionKey],
        seconds: float,
        *,
        source: Source | None = None,
        apart: Iterable[RegistryKey] = (),
        keys: Collection[RegistryKey] | None = None,
        goes_on: Mapping[RegistryKey, GoesOn] = MappingProxyType({}),
    ) -> None:
        self.began = time.monotonic() - seconds
        self.source = source
        # The channels that the gap is of, but for those in `apart`; None for all of the source.
        self.keys = None if keys is None else set(keys)
        self.apart = set(apart)
        self.postponed: dict[RegistryKey, float] = {}  # of `apart`: to be told when the source is back, and since when
        self.goes_on = goes_on
        self.is_noted = False  # whether somebody was told of it
        self.exceptions = set(exceptions)  # subscriptions that lost nothing
        self.refused: dict[RegistryKey, tuple[ErrorCode, str]] = {}  # channels that did not come back, and why


class Gaps:
    """The gaps that are open, at most one for each source, and those that are being told.

    Args:
        engine: knows the subscriptions.
        events: tells it.
        call_soon: has a function called in the loop's next turn.
        source_of: returns the source of a channel, given its key.

    Attributes:
        told: how many gap events were sent.
        recent: the last gaps, and why.
        position_of: returns the position that a subscription has come to; ``None`` for one without positions.

    Reentrancy: for the event loop's thread.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        events: Events,
        call_soon: Callable[[Callable[[], None]], object],
        source_of: Callable[[RegistryKey], Source],
    ) -> None:
        self.told = 0
        self.recent: Final = RecentGaps()
        self.position_of: Callable[[int, RegistryKey], Position | None] = lambda conn, key: None
        self._engine = engine
        self._events = events
        self._call_soon = call_soon
        self._source_of = source_of
        self._failures = Failures("telling a client of a gap")
        self._open: dict[Source, _Gap] = {}
        self._ending: list[_Gap] = []  # those that are being told
        self._missed: dict[RegistryKey, float] | None = None  # channels that are told of in the next turn of the loop
        self._missed_exceptions: set[SubscriptionKey] = set()
        self._missed_goes_on: dict[RegistryKey, GoesOn] = {}

    def begin(
        self,
        source: Source,
        waiting: Iterable[SubscriptionKey],
        apart: Iterable[RegistryKey] = (),
        seconds: float = 0.0,
        keys: Collection[RegistryKey] | None = None,
    ) -> None:
        """Learn that a source is gone; where a gap is open already, it goes on.

        Args:
            source: what is gone.
            waiting: subscriptions that are not confirmed yet.
            apart: channels whose logs tell what was missed; `missed` follows for those that cannot.
            seconds: since the last certain sign of it.
            keys: the channels that are gone, if they are not all of the source. Further ones may follow.
        """
        # Subscriptions made during an open gap and confirmed before the source went again have lost something now.
        before = self._open.get(source)
        gap = self._open[source] = _Gap(waiting, seconds, source=source, apart=apart, keys=keys)
        if before is not None:
            gap.began = min(gap.began, before.began)
            if gap.keys is not None and before.keys is not None:
                gap.exceptions |= {one for one in before.exceptions if one[1] not in gap.keys}
                gap.apart |= before.apart - gap.keys
                gap.keys |= before.keys
            gap.refused = before.refused
            gap.postponed = before.postponed
            gap.apart.update(gap.postponed)

    @property
    def are_open(self) -> bool:
        """Whether a gap is open or being told, so that `on_subscribed` must learn of new subscriptions."""
        return bool(self._open or self._ending) or self._missed is not None

    def is_open(self, source: Source) -> bool:
        """Whether a source has gone and is not restored."""
        return source in self._open

    def on_subscribed(self, conn: int, key: RegistryKey) -> None:
        """Learn of a new subscription: no gap from before concerns it."""
        for gap in (*self._open.values(), *self._ending) if self._open or self._ending else ():
            gap.exceptions.add((conn, key))
        if self._missed is not None:
            self._missed_exceptions.add((conn, key))

    def left(self, conn: int, key: RegistryKey) -> None:
        """Forget a subscription."""
        for gap in self._open.values():
            gap.exceptions.discard((conn, key))

    def refused(self, key: RegistryKey, code: ErrorCode, reason: str) -> None:
        """Learn that a channel that was in force before the gap does not come back, and why."""
        gap = self._open.get(self._source_of(key))
        if gap is not None:
            gap.refused[key] = code, reason

    def allowed(self, key: RegistryKey) -> None:
        """Learn that a channel is in force: where it was refused before, its subscribers keep it after all."""
        for gap in self._open.values():
            gap.refused.pop(key, None)

    def end(self, source: Source, seconds: float) -> None:
        """Learn that all channels of a source are in force again, and tell all clients that its gap concerns.

        Args:
            source: what is back.
            seconds: how long the gap was.

        Cost: a list of the connections now; then a slice of `SLICE` seconds in each turn of the loop.
        """
        gap = self._open.pop(source, None)
        if gap is None:
            return
        now = time.monotonic()
        gap.began = now - seconds
        self._tell_all(gap)
        for key, began in gap.postponed.items():
            self._tell_soon(key, now - began, gap.exceptions)

    def missed(
        self,
        key: RegistryKey,
        seconds: float,
        reason: Reason,
        waiting: Iterable[SubscriptionKey],
        *,
        in_force: bool = True,
        goes_on: GoesOn | None = None,
    ) -> None:
        """Tell all subscribers of one channel of a gap.

        Args:
            key: the channel's.
            seconds: how long the gap was.
            reason: why messages are missing.
            waiting: subscriptions that are not answered yet.
            in_force: whether the broker sends the channel now. Otherwise its subscribers are told when its source is
                back: what is published after they are told must not be missing.
            goes_on: where the log of a channel in force goes on; None if its position does not change.

        Cost: as `end`, once for all channels that are reported in one turn of the loop.
        """
        self.recent.note(reason, key, seconds)
        gap = None if in_force else self._open.get(self._source_of(key))
        if gap is not None:
            began = time.monotonic() - seconds
            gap.postponed[key] = min(began, gap.postponed.get(key, began))
            gap.apart.add(key)
        else:
            self._tell_soon(key, seconds, waiting, goes_on)

    def _tell_soon(
        self,
        key: RegistryKey,
        seconds: float,
        waiting: Iterable[SubscriptionKey],
        goes_on: GoesOn | None = None,
    ) -> None:
        if self._missed is None:
            self._missed = {}
            self._call_soon(self._tell_missed)
        self._missed[key] = max(seconds, self._missed.get(key, 0.0))
        self._missed_exceptions.update(waiting)
        if goes_on is not None:
            self._missed_goes_on[key] = goes_on

    def _tell_missed(self) -> None:
        missed, self._missed = self._missed or {}, None
        exceptions, self._missed_exceptions = self._missed_exceptions, set()
        goes_on, self._missed_goes_on = self._missed_goes_on, {}
        self._tell_all(_Gap(exceptions, max(missed.values()), keys=missed, goes_on=goes_on))

    def _tell_all(self, gap: _Gap) -> None:
        self._ending.append(gap)
        left = iter(self._subscribers(gap))
        self._call_soon(lambda: self._tell(left, gap))

    def _subscribers(self, gap: _Gap) -> Iterable[int]:
        """Return connections among which are all subscribers of a gap's channels."""
        keys = gap.keys
        if keys is None or sum(map(self._engine.subscribers, keys)) > self._engine.stats()["connections"]:
            return self._engine.handles()
        return {conn: None for key in keys for conn in self._engine.subscriber_handles(key)}

    def close(self, source: Source) -> None:
        """Learn that a gap is over for a hub whose subscribers learn of it in another way: none is told."""
        self._open.pop(source, None)

    def _tell(self, left: Iterator[int], gap: _Gap) -> None:
        now = time.monotonic()  # a loop's own clock may stand still within one of its turns
        deadline = now + SLICE
        # Up to now and not to the gap's end: a client that is told late must not look back too little.
        seconds = math.ceil((now - gap.began) * 1000) / 1000
        for conn in left:
            try:
                self._tell_one(conn, gap, seconds)
            except Exception as error:  # noqa: BLE001 - the others are still to be told
                self._failures.note(error)
            if time.monotonic() > deadline:
                self._call_soon(lambda: self._tell(left, gap))
                return
        self._ending.remove(gap)
        for each in gap.goes_on.values():
            each.done()

    def _tell_one(self, conn: int, gap: _Gap, seconds: float) -> None:
        keys = [RegistryKey(key) for key in self._engine.subscriptions(conn)]
        lost = [key for key in keys if (conn, key) not in gap.exceptions and self._concerns(gap, key)]
        if gap.refused:
            for key in gap.refused.keys() & set(lost):
                self._events.end_subscription(conn, key, *gap.refused[key])
            lost = [key for key in lost if key not in gap.refused]
        if self.tell(conn, lost, seconds, gap.goes_on) and gap.source is not None and not gap.is_noted:
            gap.is_noted = True
            self.recent.note("connection", seconds=seconds)

    def _concerns(self, gap: _Gap, key: RegistryKey) -> bool:
        if gap.keys is not None:
            return key in gap.keys and key not in gap.apart
        return key not in gap.apart and self._source_of(key) == gap.source

    def tell_up_to_now(self, conn: int, behind: Callable[[RegistryKey], float | None]) -> None:
        """Tell a client that is sent away of the gaps that are not over: it will not learn here that they are.

        Its subscriptions with positions are left out: they go on where they are at any node.

        Args:
            conn: its handle.
            behind: returns for how many seconds messages of a channel's log are missing here; None if none are.
        """
        now, longest, keys = time.monotonic(), 0.0, []
        gaps = (*self._open.values(), *self._ending)
        for key in map(RegistryKey, self._engine.subscriptions(conn)):
            if self._engine.has_positions(conn, key):
                continue
            times = [now - gap.began for gap in gaps if (conn, key) not in gap.exceptions and self._concerns(gap, key)]
            if (seconds := behind(key)) is not None:
                times.append(seconds)
            if times:
                longest = max(longest, *times)
                keys.append(key)
        self.tell(conn, keys, math.ceil(longest * 1000) / 1000)

    def tell(
        self,
        conn: int,
        keys: Iterable[RegistryKey],
        seconds: float,
        goes_on: Mapping[RegistryKey, GoesOn] = MappingProxyType({}),
    ) -> bool:
        """Tell a client of a gap in some of its subscriptions, and where those with positions go on.

        Args:
            conn: its handle.
            keys: of the subscriptions.
            seconds: how long the gap was.
            goes_on: where the logs go on that do not go on where the client is.

        Returns:
            Whether there was something to tell, and the client is still there.
        """
        ids, at = [], {}
        for key in keys:
            label = label_of(key)
            ids.append(label)
            if (other := goes_on.get(key)) is not None:
                position = other.at if other.skip(conn) else None
            else:
                position = self.position_of(conn, key)
            if position is not None:
                at[label] = str(position)
        fields: dict[str, Any] = {"at": at} if at else {}
        if ids:
            self._engine.send_newest(conn)  # what is kept for it is older than the gap
        if ids and self._events.send(conn, "gap", ids=ids, seconds=seconds, **fields):
            self.told += 1
            return True
        return False
