"""What `/metrics` shows of history on the side of publishers: logged publications, and requests for messages."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from realizehit.broker.base import Bus
from realizehit.common.durations import Durations
from realizehit.node.metric_families import counter, histogram


class HistoryMetrics(Collector):
    """Counts what publishers and backends do with history.

    Args:
        bus: publishes.

    Attributes:
        logged: messages of the publish API that got a position, without duplicates.
        requests: requests for messages of a log, by outcome.
        reads: how long the reads for each of these requests took.
    """

    def __init__(self, bus: Bus) -> None:
        self.logged = 0
        self.requests = dict.fromkeys(("answered", "no_history", "invalid", "denied", "refused", "unavailable"), 0)
        self.reads = Durations()
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "realizehit_logged_publications", "Messages of the publish API that were added to a log.", self.logged
        )
        yield counter(
            "history_requests", "Requests for the messages of a log, by outcome.", self.requests, label="outcome"
        )
        yield histogram(
            "history_request_seconds",
            "Seconds that the broker took to read what one request for messages of a log asked for.",
            self.reads,
        )
        yield histogram(
            "publish_script_seconds",
            "Seconds from sending publications to the broker's script, which writes logs and idempotency keys, to the "
            "answer.",
            self._bus.script_durations,
        )
