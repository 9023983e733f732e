"""The metrics of a server with workers, as the parent collects them: any worker's `/metrics` shows all of these.

The parent asks each worker, also between scrapes, and keeps the last answers. What a worker had counted when it ended
stays in the sums, as far as it was collected: so no counter that was shown once falls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from realizehit.common.exchange import NoAnswerError
from realizehit.node.metric_sums import Family, added_up, counted, families_of

METRICS: Final = "metrics"
"""A question: to the parent for the metrics of the whole server, to a worker for its own."""

INTERVAL: Final = 5.0  # seconds between two collections without a scrape
PATIENCE: Final = 1.0  # seconds for a worker to answer; of one that does not, the last answer counts


class Asked(Protocol):
    """A worker."""

    async def ask(self, kind: str, data: Any = None, *, patience: float = PATIENCE) -> Any:
        """Ask the worker; `NoAnswerError` where it does not answer."""


class ServerMetrics(Collector):
    """Collects the metrics of the parent and its workers."""

    def __init__(self) -> None:
        self._last: dict[Asked, list[Family]] = {}  # of each worker that serves
        self._ended: list[Family] = []  # the sums of all that ended
        self._ends = 0
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._own.register(self)
        self._collecting = asyncio.Lock()  # a scrape must not be answered with less than one before

    def collect(self) -> Iterator[Metric]:
        """Yield what the parent itself has to show."""
        yield GaugeMetricFamily("realizehit_workers", "Worker processes that serve now.", len(self._last))
        yield CounterMetricFamily(
            "realizehit_worker_ends", "Worker processes that ended, each of which was replaced.", self._ends
        )

    def serves(self, worker: Asked) -> None:
        """Learn of a worker."""
        self._last[worker] = []

    def ended(self, worker: Asked) -> None:
        """Learn that a worker is gone; one that never served is ignored."""
        last = self._last.pop(worker, None)
        if last is not None:
            self._ends += 1
            self._ended = added_up([self._ended, counted(last)])

    async def run(self) -> None:
        """Collect until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            await self.of_server()

    async def of_server(self) -> list[Family]:
        """Ask all workers, and return the metrics of the server."""
        async with self._collecting:
            await asyncio.gather(*map(self._ask, list(self._last)))
            return added_up([families_of(self._own.collect()), *self._last.values(), self._ended])

    async def _ask(self, worker: Asked) -> None:
        with contextlib.suppress(NoAnswerError):
            families = await worker.ask(METRICS, patience=PATIENCE)
            if worker in self._last:  # it may have ended meanwhile
                self._last[worker] = families
