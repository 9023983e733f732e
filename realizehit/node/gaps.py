"""Gaps: who may have missed something while the broker was away, and telling them.

A gap is over for all of a node's clients at once: when every channel is in force again. What is published after a
client was told is therefore not missed. What is kept of a gap is its exceptions, the subscriptions made since the
broker went: they are few, and their clients have missed nothing that they were promised. Everybody else is found by
going through the connections, a slice at a time, so that telling 100,000 of them holds nobody up.

A broker that came back with other rights may refuse what it allowed before. That ends the subscriptions, and whoever
had them is told on the same occasion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from realizehit import _fanout
from realizehit.common.upkeep import Failures
from realizehit.errors import ErrorCode
from realizehit.node.events import Events

SLICE: Final = 0.002  # seconds of telling in one turn of the loop
REFUSED: Final = "the broker does not allow this channel any more"

SubscriptionKey = tuple[int, bytes]
"""A connection's handle and a channel."""


class _Gap:
    """What tells those whom a gap concerns from the others."""

    began: float  # by the clock of `time.monotonic`

    def __init__(self, exceptions: Iterable[SubscriptionKey]) -> None:
        self.exceptions = set(exceptions)  # subscriptions that lost nothing
        self.refused: set[bytes] = set()  # channels that did not come back


class Gaps:
    """The gap that is open, and those that are being told.

    Args:
        engine: knows who is subscribed to what.
        events: tells it.
        call_soon: has a function called in the loop's next turn.

    Attributes:
        told: how many gap events were sent.

    Reentrancy: for the event loop's thread.
    """

    def __init__(
        self, engine: _fanout.Engine, events: Events, call_soon: Callable[[Callable[[], None]], object]
    ) -> None:
        self.told = 0
        self._engine = engine
        self._events = events
        self._call_soon = call_soon
        self._failures = Failures("telling a client of a gap")
        self._open: _Gap | None = None
        self._ending: list[_Gap] = []  # those that are being told

    def begin(self, waiting: Iterable[SubscriptionKey]) -> None:
        """Learn that the broker is gone; where a gap is open already, it goes on.

        Args:
            waiting: subscriptions that nobody has confirmed yet.
        """
        # Who came during an open gap and was confirmed before the broker went again has lost something now.
        refused = self._open.refused if self._open is not None else set()
        self._open = _Gap(waiting)
        self._open.refused = refused

    def on_subscribed(self, conn: int, channel: bytes) -> None:
        """Learn of a new subscription: no gap from before concerns it."""
        if self._open is not None:
            self._open.exceptions.add((conn, channel))
        for gap in self._ending:
            gap.exceptions.add((conn, channel))

    def left(self, conn: int, channel: bytes) -> None:
        """Forget a subscription."""
        if self._open is not None:
            self._open.exceptions.discard((conn, channel))

    def refused(self, channel: bytes) -> None:
        """Learn that the broker refuses a channel that was in force before the gap."""
        if self._open is not None:
            self._open.refused.add(channel)

    def allowed(self, channel: bytes) -> None:
        """Learn that a channel is in force: where it was refused before, whoever had it keeps it after all."""
        if self._open is not None:
            self._open.refused.discard(channel)

    def end(self, seconds: float) -> None:
        """Learn that all channels are in force again, and tell everybody whom the gap concerns.

        Args:
            seconds: how long it was.

        Cost: a list of the connections now; then a slice of `SLICE` seconds in each turn of the loop.
        """
        if self._open is None:
            return
        gap, self._open = self._open, None
        self._ending.append(gap)
        left = iter(self._engine.handles())
        gap.began = time.monotonic() - seconds
        self._call_soon(lambda: self._tell(left, gap))

    def close(self) -> None:
        """Learn that the gap is over for a hub whose subscribers find out by themselves: nobody is told."""
        self._open = None

    def _tell(self, left: Iterator[int], gap: _Gap) -> None:
        now = time.monotonic()  # a loop's own clock may stand still within one of its turns
        deadline = now + SLICE
        # Up to now and not to the gap's end: whoever is told late must not look back too little.
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

    def _tell_one(self, conn: int, gap: _Gap, seconds: float) -> None:
        lost = [channel for channel in self._engine.subscriptions(conn) if (conn, channel) not in gap.exceptions]
        if gap.refused:
            for channel in gap.refused.intersection(lost):
                self._events.end_subscription(conn, channel, ErrorCode.FORBIDDEN, REFUSED)
            lost = [channel for channel in lost if channel not in gap.refused]
        ids = [_fanout.channel_id(channel) for channel in lost]
        if ids and self._events.send(conn, "gap", ids=ids, seconds=seconds):
            self.told += 1
