"""Which channels of a cluster are not in force any more, and since when.

A shard that fails, or a slot that moves, interrupts some channels and not the others. Channels that one machine loses
within a short time form one lapse. It is over when all of them are in force again. While slots move one after the
other, the clients are thus told a few times a second, and not for each slot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from realizehit.broker.base import BROKER, BusListener, Interest, Source

JOIN: Final = 0.25  # seconds within which further channels join a lapse


class _Lapse:
    """Channels that lapsed together.

    Attributes:
        source: names it.
        cause: what was lost.
        began: the loop's time at which it was noticed.
        since: the loop's time from which on publications may be missing.
        logged: whether logs have these.
        channels: all of them.
        missing: those that are not in force again.
    """

    __slots__ = ("began", "cause", "channels", "logged", "missing", "since", "source")

    def __init__(self, source: Source, now: float, cause: object) -> None:
        self.source = source
        self.cause = cause
        self.began = self.since = now
        self.logged = True
        self.channels: dict[Interest, None] = {}
        self.missing: set[Interest] = set()


class Lapses:
    """The lapses that are not over; a channel is in one of them at most.

    Args:
        listener: told of each beginning and end.
        clock: returns the loop's time.
    """

    def __init__(self, listener: BusListener, clock: Callable[[], float]) -> None:
        self.since: float | None = None
        """While the listener is told of a beginning: the loop's time from which on publications may be missing."""
        self._listener = listener
        self._clock = clock
        self._of: dict[Interest, _Lapse] = {}
        self._latest: dict[object, _Lapse] = {}  # by what was lost
        self._count = 0

    def source_of(self, channel: Interest) -> Source:
        """Return the lapse that a channel is in; `BROKER` for all others."""
        lapse = self._of.get(channel)
        return BROKER if lapse is None else lapse.source

    def is_in_one(self, channel: Interest) -> bool:
        """Whether a channel is in a lapse."""
        return channel in self._of

    def lapse(self, channels: Iterable[Interest], since: float, cause: object, *, logged: bool = True) -> None:
        """Learn that channels are not in force any more.

        Args:
            channels: those that were.
            since: the loop's time from which on publications may be missing.
            cause: what was lost, such as a machine. Channels with different causes never form one lapse.
            logged: whether logs have these.
        """
        now = self._clock()
        found: dict[int, tuple[_Lapse, list[Interest]]] = {}
        for channel in channels:
            lapse = self._of.get(channel)
            if lapse is None:
                lapse = self._of[channel] = self._open(now, cause)
            lapse.channels[channel] = None
            lapse.missing.add(channel)
            found.setdefault(id(lapse), (lapse, []))[1].append(channel)
        for lapse, added in found.values():
            lapse.since = min(since, lapse.since)
            lapse.logged = lapse.logged and logged
            self.since = lapse.since
            try:
                self._listener.lapsed(lapse.source, added)
            finally:
                self.since = None

    def _open(self, now: float, cause: object) -> _Lapse:
        latest = self._latest.get(cause)
        if latest is None or now - latest.began > JOIN:
            self._count += 1
            latest = self._latest[cause] = _Lapse(Source(f"lapse {self._count}"), now, cause)
        return latest

    def back(self, channel: Interest) -> None:
        """Learn that a channel is in force; those that are in no lapse are ignored."""
        lapse = self._of.get(channel)
        if lapse is not None:
            lapse.missing.discard(channel)
            self._end_if_over(lapse)

    def forget(self, channel: Interest, *, refused: bool = False) -> None:
        """Forget a channel that is not wanted any more or, if it is refused, have it told with the others."""
        lapse = self._of.get(channel)
        if lapse is None:
            return
        if not refused:
            del self._of[channel]
            del lapse.channels[channel]
        lapse.missing.discard(channel)
        self._end_if_over(lapse)

    def _end_if_over(self, lapse: _Lapse) -> None:
        if lapse.missing:
            return
        if self._latest.get(lapse.cause) is lapse:
            del self._latest[lapse.cause]
        self._listener.regained(lapse.source, lapse.channels, self._clock() - lapse.since, logged=lapse.logged)
        for channel in lapse.channels:
            if self._of.get(channel) is lapse:
                del self._of[channel]
