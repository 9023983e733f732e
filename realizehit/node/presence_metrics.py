"""What `/metrics` shows of presence."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from realizehit.node.metric_families import counter
from realizehit.node.presence_members import Members
from realizehit.node.presence_registrar import Counts


class PresenceMetrics(Collector):
    """Reads what presence has counted when a scrape comes.

    Args:
        members: of the node.
        counts: what this process published.
    """

    def __init__(self, members: Members, counts: Counts) -> None:
        self._members = members
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "realizehit_presence_channels", "Channels with presence that have subscribers here.", len(self._members)
        )
        yield GaugeMetricFamily(
            "realizehit_presence_members",
            "Members that are present on this node, counted once for each channel.",
            self._members.present,
        )
        yield counter(
            "presence_events",
            "Joins and leaves that this process published, also for nodes that died.",
            {"join": self._counts.joins, "leave": self._counts.leaves},
            "event",
        )
        yield CounterMetricFamily(
            "realizehit_presence_registrations",
            "Times that this process registered all its members, the first time included.",
            self._counts.registrations,
        )
