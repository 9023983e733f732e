"""What `/metrics` shows of history on the side of subscribers: the logs that a node follows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from realizehit.node.logs import Logs
from realizehit.node.metric_families import counter, histogram


class LogMetrics(Collector):
    """Reads what the logs have counted when a scrape comes.

    Args:
        logs: of the node.
    """

    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    def collect(self) -> Iterator[Metric]:
        counts = self._logs.counts
        yield GaugeMetricFamily(
            "realizehit_history_logs", "Channels with history that have subscribers here.", len(self._logs)
        )
        yield counter(
            "history_recovered",
            "Subscriptions that began in the past, by where their messages came from.",
            {"memory": self._logs.recovered_from_ring, "broker": counts.recovered_from_broker},
            "source",
        )
        yield counter(
            "history_not_recovered",
            "Subscriptions that asked for missed messages and did not get all of them, by reason.",
            counts.not_recovered,
        )
        yield counter(
            "history_log_reads",
            "Reads of logs at the broker, by outcome.",
            {"answered": counts.reads - counts.failed_reads, "failed": counts.failed_reads},
            "outcome",
        )
        yield histogram(
            "history_log_read_seconds", "Seconds that a read of a log at the broker took.", counts.read_durations
        )
        yield counter(
            "history_log_repairs",
            "Times that messages of a log were missing here or might have been, by what became of it.",
            {"complete": counts.repaired, "gap": counts.unrepaired, "begun_anew": counts.renewed},
            "outcome",
        )
        yield CounterMetricFamily(
            "realizehit_history_ended_replays",
            "Clients so slow that the messages they had yet to receive were not kept any more.",
            counts.ended_replays,
        )
