"""What `/metrics` shows: read from the engine and the bus at each scrape, and counted here for publications.

Nothing on the way of a message to its subscribers touches this file: the engine keeps plain C counters, and they are
read when asked for. Publications are counted in plain integers, since the library's counters take a lock for each.

Source: the Prometheus text format and its naming rules (seconds, bytes, ``_total``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from realizehit import __version__
from realizehit.access.gate import Gate
from realizehit.broker.base import Bus, BusState
from realizehit.common.durations import Durations
from realizehit.common.traceparent import Traceparents
from realizehit.node.history_metrics import HistoryMetrics
from realizehit.node.log_metrics import LogMetrics
from realizehit.node.logs import Logs
from realizehit.node.metric_families import counter, histogram
from realizehit.node.metric_sums import Family, families_of
from realizehit.node.presence_metrics import PresenceMetrics

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

_GAUGES: Final = {
    "connections": "Clients that are connected now.",
    "subscriptions": "Subscriptions that these clients hold.",
    "channels": "Channels that have at least one subscriber here.",
}
_HISTORY_GAUGES: Final = {  # name: the engine's own name, text
    "history_messages": ("ring_messages", "Recent messages of logs that this node keeps for replays."),
    "history_bytes": ("ring_bytes", "Memory that these messages take."),
    "history_replays": ("replays", "Subscriptions that are being sent messages that they missed."),
    "history_kept_back": ("kept_back", "Publications that wait until the node has read what is missing before them."),
}
_COUNTERS: Final = {  # name: the engine's own name, text
    "connects": ("connections_total", "Clients that connected since the start."),
    "messages": ("messages", "Publications that arrived from the broker."),
    "deliveries": ("deliveries", "Publications put into a client's queue, counted once for each client."),
    "sent_bytes": ("bytes_out", "Bytes written to clients."),
    "sends": ("sends", "System calls that wrote to clients."),
    "blocked": ("blocked", "Times that a client's socket took no more, and the rest had to wait."),
    "conflated": ("conflated", "Messages that a newer one replaced, for subscriptions with a time between messages."),
    "history_duplicates": ("log_duplicates", "Publications that arrived although their log had delivered them before."),
    "history_unpositioned": ("unpositioned", "Publications without a position on a channel that has a log."),
}
_DROPPED: Final = {
    "invalid_utf8": "dropped_invalid_utf8",
    "malformed": "malformed",
    "no_subscriber": "dropped_unclaimed",
}
_DISCONNECTS: Final = {
    "slow_consumer": "slow_disconnects",
    "heartbeat_missed": "heartbeat_disconnects",
    "protocol_error": "protocol_errors",
}


class Metrics:
    """The figures of one process.

    Args:
        bus: the broker, whose state is shown.
        engine_stats: returns the engine's counters; ``None`` for a process without WebSocket clients.
        gate: has counted whom it refused.
        logs: of the channels with history; ``None`` for a process without WebSocket clients.
        gap_events: returns how many events told a client of a gap; ``None`` for a process without WebSocket clients.
        presence: what is shown of presence; ``None`` where there are no rules of it.

    Attributes:
        outcomes: publications by what became of them.
        traceparents: reads and counts those that publishers give.
        requests: how long each publish request took, from its whole body to the broker's answer or to giving up.
        history: what publishers and backends do with history.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        engine_stats: Callable[[], dict[str, int]] | None = None,
        gate: Gate | None = None,
        logs: Logs | None = None,
        gap_events: Callable[[], int] | None = None,
        presence: PresenceMetrics | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(_NodeCollector(bus, engine_stats, gap_events))
        self._registry.register(_PublishCollector(self))
        self._registry.register(_ProjectionCollector(bus))
        self.history = HistoryMetrics(bus)
        self._registry.register(self.history)
        if logs is not None:
            self._registry.register(LogMetrics(logs))
        if presence is not None:
            self._registry.register(presence)
        if gate is not None:
            self._registry.register(_GateCollector(gate, engine_stats))
        self.outcomes = dict.fromkeys(("queued", "duplicate", "invalid", "denied", "refused", "unavailable"), 0)
        self.traceparents = Traceparents()
        self.requests = Durations()

    def count(self, outcome: str, messages: int = 1) -> None:
        """Count messages.

        Args:
            outcome: ``queued``, ``invalid``, ``denied`` (the key may not do that, or not now), ``refused`` (by the
                broker) or ``unavailable`` (it is away).
            messages: how many.
        """
        self.outcomes[outcome] += messages

    def render(self) -> bytes:
        """Return everything in the text format, whose media type is `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def families(self) -> list[Family]:
        """Return everything as plain lists, to be added up with the metrics of other processes."""
        return families_of(self._registry.collect())


class _PublishCollector(Collector):
    """Shows what was counted here."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield counter(
            "publications", "Messages handed to the publish API, by outcome.", self._metrics.outcomes, "outcome"
        )
        traces = self._metrics.traceparents
        yield counter(
            "traceparents",
            "Traceparents that publishers gave; invalid ones were ignored.",
            {"kept": traces.kept, "invalid": traces.invalid},
            "outcome",
        )
        yield histogram(
            "publish_seconds",
            "Seconds from a publish request's whole body to the broker's answer, or until that was given up.",
            self._metrics.requests,
        )


class _ProjectionCollector(Collector):
    """Shows what reaches wildcard subscriptions."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "realizehit_publisher_shapes",
            "Shapes of wildcard subscriptions that are in use, as this publisher knows them.",
            len(self._bus.followed_shapes),
        )
        counts = self._bus.projected
        yield CounterMetricFamily(
            "realizehit_projected_publications",
            "Publications to which at least one shape applied.",
            counts.publications,
        )
        yield counter(
            "projections",
            "Projections published to wildcard subscriptions, by shape; shapes past the first 64 are 'other'.",
            {shape.decode("ascii"): count for shape, count in counts.by_shape.items()},
            "shape",
        )
        yield CounterMetricFamily(
            "realizehit_malformed_shapes",
            "Members of the registry of shapes, and messages about it, that are no shapes.",
            counts.malformed,
        )


class _GateCollector(Collector):
    """Shows refusals."""

    def __init__(self, gate: Gate, engine_stats: Callable[[], dict[str, int]] | None) -> None:
        self._gate = gate
        self._engine_stats = engine_stats

    def collect(self) -> Iterator[Metric]:
        refusals = dict(self._gate.refusals.counts)
        if self._engine_stats is not None:
            refusals["too_many_actions"] += self._engine_stats()["refused_frames"]
        yield counter(
            "refusals",
            "Connections, actions and publications that were refused, and those that were ended later, by reason.",
            refusals,
        )
        yield CounterMetricFamily(
            "realizehit_ignored_identity_headers",
            "Opening requests with identity headers from peers that are no trusted proxies.",
            self._gate.clients.ignored_headers,
        )


class _NodeCollector(Collector):
    """Reads the engine and the bus when a scrape comes."""

    def __init__(
        self,
        bus: Bus,
        engine_stats: Callable[[], dict[str, int]] | None,
        gap_events: Callable[[], int] | None,
    ) -> None:
        self._bus = bus
        self._engine_stats = engine_stats
        self._gap_events = gap_events

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily(
            "realizehit_build", "The version that runs; the value is always 1.", {"version": __version__}
        )
        yield GaugeMetricFamily(
            "realizehit_broker_up", "Whether the broker can be reached: 1 or 0.", int(self._bus.state is BusState.UP)
        )
        yield CounterMetricFamily(
            "realizehit_broker_reconnects",
            "Times that a lost connection to the broker was made again.",
            self._bus.reconnects,
        )
        yield CounterMetricFamily(
            "realizehit_broker_received_bytes", "Bytes read from the broker.", self._bus.bytes_received
        )
        yield GaugeMetricFamily(
            "realizehit_bridge",
            "Whether this process publishes the projections for all publishers: 1 or 0.",
            int(self._bus.is_bridge),
        )
        if self._engine_stats is None:
            return
        stats = self._engine_stats()
        yield GaugeMetricFamily(
            "realizehit_shapes", "Shapes of wildcard subscriptions that this node has registered.", self._bus.shapes
        )
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"realizehit_{name}", text, stats[name])
        for name, (key, text) in _HISTORY_GAUGES.items():
            yield GaugeMetricFamily(f"realizehit_{name}", text, stats[key])
        for name, (key, text) in _COUNTERS.items():
            yield CounterMetricFamily(f"realizehit_{name}", text, stats[key])
        yield counter(
            "history_replayed",
            "Messages sent again to clients that missed them, by where they came from.",
            {"memory": stats["replayed"] - stats["replayed_read"], "broker": stats["replayed_read"]},
            "source",
        )
        yield counter(
            "dropped",
            "Publications from the broker that reached no client, by reason.",
            {reason: stats[key] for reason, key in _DROPPED.items()},
        )
        yield counter(
            "disconnects",
            "Clients that the server disconnected, by reason.",
            {reason: stats[key] for reason, key in _DISCONNECTS.items()},
        )
        if self._gap_events is not None:
            yield CounterMetricFamily(
                "realizehit_gap_events", "Events that told a client of a gap.", self._gap_events()
            )
