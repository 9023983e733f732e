"""What `/metrics` shows of history on the side of publishers: logged publications, and requests for messages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds


class HistoryMetrics(Collector):
    """Counts what publishers and backends do with history.

    Attributes:
        logged: messages of the publish API that got a position, without duplicates.
        requests: requests for messages of a log, by outcome.
        seconds: what all reads for these requests took together.
        buckets: the requests by how long their reads took.
    """

    def __init__(self) -> None:
        self.logged = 0
        self.requests = dict.fromkeys(("answered", "no_history", "invalid", "denied", "refused", "unavailable"), 0)
        self.seconds = 0.0
        self.buckets = [0] * (len(_BUCKETS) + 1)  # each request in one bucket

    def took(self, seconds: float) -> None:
        """Note how long the reads for one request took."""
        self.seconds += seconds
        self.buckets[bisect_left(_BUCKETS, seconds)] += 1

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "realizehit_logged_publications", "Messages of the publish API that were added to a log.", self.logged
        )
        counter = CounterMetricFamily(
            "realizehit_history_requests", "Requests for the messages of a log, by outcome.", labels=["outcome"]
        )
        for outcome, count in self.requests.items():
            counter.add_metric([outcome], count)
        yield counter
        bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            "realizehit_history_read_seconds",
            "Seconds that the broker took to read what one request for messages of a log asked for.",
            buckets=list(zip(bounds, accumulate(self.buckets), strict=True)),
            sum_value=self.seconds,
        )
