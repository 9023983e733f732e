"""A bus listener that records its calls, and lets a test wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from realizehit.broker.base import Batch, BusState, Interest, Source
from realizehit.broker.link_settings import LinkSettings
from realizehit.errors import BrokerError

QUICK = LinkSettings(
    connect_timeout=0.5, probe_after=0.2, probe_timeout=0.3, backoff_first=0.01, backoff_most=0.05
)  # short times, so that the link detects and repairs everything quickly


class Recorder:
    def __init__(self) -> None:
        self.batches: list[list[tuple[bytes, bytes]]] = []
        self.confirmed: list[bytes] = []
        self.refusals: dict[bytes, BrokerError] = {}
        self.states: list[BusState] = []
        self.gaps: list[float] = []
        self.restorations: list[Source] = []
        self.lapses: list[tuple[Source, list[Interest]]] = []
        self.regains: list[tuple[Source, list[Interest]]] = []
        self._changed = asyncio.Event()

    @property
    def delivered(self) -> list[tuple[bytes, bytes]]:
        return [message for batch in self.batches for message in batch]

    def deliver(self, batch: Batch) -> None:
        self.batches.append([(channel, payload) for _, channel, payload in batch])
        self._changed.set()

    def subscribed(self, channel: Interest) -> None:
        self.confirmed.append(channel)
        self._changed.set()

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        for channel in channels:
            self.subscribed(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        self.refusals[channel] = error
        self._changed.set()

    def state_changed(self, source: Source, state: BusState) -> None:
        self.states.append(state)
        self._changed.set()

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        self.gaps.append(seconds)
        self.restorations.append(source)
        self._changed.set()

    def lapsed(self, source: Source, channels: Collection[Interest]) -> None:
        self.lapses.append((source, list(channels)))
        self._changed.set()

    def regained(self, source: Source, channels: Collection[Interest], seconds: float, *, logged: bool = True) -> None:
        self.regains.append((source, list(channels)))
        self.restored(source, seconds)

    async def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()
