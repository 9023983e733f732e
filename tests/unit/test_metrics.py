"""What `/metrics` shows: the text format, the engine's and the bus's figures, and publications."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from realizehit import __version__, _fanout
from realizehit.access.gate import Gate
from realizehit.broker.base import BusState
from realizehit.broker.memory import MemoryBus
from realizehit.http import api, publish_endpoint, publishing
from realizehit.node.hub import Hub
from realizehit.node.metric_sums import families_of, text_of
from realizehit.node.metrics import CONTENT_TYPE, Metrics
from realizehit.node.presence_members import Members
from realizehit.node.presence_metrics import PresenceMetrics
from realizehit.node.presence_registrar import Counts
from realizehit.process.server_metrics import ServerMetrics
from realizehit.settings import Settings

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "http-api.md"


def samples(metrics: Metrics) -> dict[str, float]:
    """Read the text as Prometheus does: every sample by its name and labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert family.documentation, f"{family.name} says nothing"
        assert family.type != "unknown", family.name
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}[{labels}]" if labels else sample.name
            assert key not in found, f"{key} stands twice"
            found[key] = sample.value
    return found


def engine() -> _fanout.Engine:
    def failed(error: Exception) -> None:
        raise error

    return _fanout.Engine(lambda call: call(), failed)


def test_every_figure_of_the_engine_has_a_name_and_starts_at_zero() -> None:
    node = engine()
    shown = samples(Metrics(bus=MemoryBus(), engine_stats=node.stats))
    for name in (
        "connections",
        "subscriptions",
        "channels",
        "connects_total",
        "messages_total",
        "deliveries_total",
        "sent_bytes_total",
        "sends_total",
        "blocked_total",
        "dropped_total[reason=invalid_utf8]",
        "dropped_total[reason=malformed]",
        "dropped_total[reason=no_subscriber]",
        "disconnects_total[reason=slow_consumer]",
        "disconnects_total[reason=heartbeat_missed]",
        "disconnects_total[reason=protocol_error]",
    ):
        assert shown[f"realizehit_{name}"] == 0, name
    assert shown[f"realizehit_build_info[version={__version__}]"] == 1
    assert shown["process_resident_memory_bytes"] > 0
    node.close()


def test_the_engine_is_read_at_each_scrape() -> None:
    node = engine()
    metrics = Metrics(bus=MemoryBus(), engine_stats=node.stats)
    node.dispatch([(b"message", b"nobody:here", b"1"), (b"message", b"nobody:here", b"2")])
    shown = samples(metrics)
    assert shown["realizehit_messages_total"] == 2
    assert shown["realizehit_dropped_total[reason=no_subscriber]"] == 2
    node.dispatch([(b"message", b"nobody:here", b"3")])
    assert samples(metrics)["realizehit_messages_total"] == 3
    node.close()


async def test_the_state_of_the_broker() -> None:
    bus = MemoryBus()
    metrics = Metrics(bus=bus)
    assert samples(metrics)["realizehit_broker_up"] == 0
    await bus.start(None)
    assert bus.state is BusState.UP
    assert samples(metrics)["realizehit_broker_up"] == 1
    bus.reconnects = 3
    assert samples(metrics)["realizehit_broker_reconnects_total"] == 3
    await bus.close()
    shown = samples(metrics)
    assert shown["realizehit_broker_up"] == 0
    # A process without clients shows no figures of clients, not zeros.
    assert not [name for name in shown if name.startswith(("realizehit_connections", "realizehit_dropped"))]


def test_publications_by_outcome_and_how_long_they_took() -> None:
    metrics = Metrics(bus=MemoryBus())
    shown = samples(metrics)
    assert shown["realizehit_publish_seconds_count"] == shown["realizehit_publish_seconds_sum"] == 0
    for outcome in ("queued", "invalid", "refused", "unavailable"):
        assert shown[f"realizehit_publications_total[outcome={outcome}]"] == 0
    metrics.count("queued")
    metrics.count("queued", 41)
    metrics.count("refused", 2)
    metrics.count("invalid", 0)
    for seconds in (0.0001, 0.0002, 0.0003, 0.25, 5.0, 60.0):
        metrics.requests.add(seconds)
    shown = samples(metrics)
    assert shown["realizehit_publications_total[outcome=queued]"] == 42
    assert shown["realizehit_publications_total[outcome=refused]"] == 2
    assert shown["realizehit_publications_total[outcome=invalid]"] == 0
    buckets = {
        float(name.partition("le=")[2].rstrip("]")): value
        for name, value in shown.items()
        if name.startswith("realizehit_publish_seconds_bucket")
    }
    # A bucket holds what took its bound or less, and everything that is in those before it.
    expected = {0.0002: 2, 0.0005: 3, 0.2: 3, 0.5: 4, 2.0: 4, 5.0: 5, float("inf"): 6}
    assert {bound: buckets[bound] for bound in expected} == expected
    assert list(buckets.values()) == sorted(buckets.values())
    assert shown["realizehit_publish_seconds_count"] == 6
    assert shown["realizehit_publish_seconds_sum"] == pytest.approx(65.2506)


def test_an_unknown_outcome_is_a_defect() -> None:
    with pytest.raises(KeyError, match="lost"):
        Metrics(bus=MemoryBus()).count("lost")


def test_the_media_type_is_prometheus_own() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=")


def test_the_documentation_names_every_metric() -> None:
    node = engine()
    gate = Gate(Settings(), clock=lambda: 0.0)
    bus = MemoryBus()
    hub = Hub(node, bus, clock=lambda: 0.0, call_soon=lambda call: call())
    metrics = Metrics(
        bus=bus,
        engine_stats=node.stats,
        gate=gate,
        logs=hub.logs,
        gap_events=lambda: 0,
        presence=PresenceMetrics(Members(), Counts()),
    )
    text = metrics.render().decode()
    node.close()
    page = DOCUMENTATION.read_text(encoding="utf-8")
    assert [reason for reason in gate.refusals.counts if f"`{reason}`" not in page] == []
    shown = {name for name in re.findall(r"^# TYPE (realizehit_\w+)", text, re.MULTILINE) if name}
    shown |= set(
        re.findall(r"^# TYPE (realizehit_\w+)", text_of(families_of(ServerMetrics().collect())).decode(), re.MULTILINE)
    )
    documented = re.findall(r"^\| `(realizehit_\w+)", page, re.MULTILINE)
    assert sorted(documented) == sorted(shown)


@pytest.mark.parametrize(("path", "body"), [("/", b"%b"), ("/batch", b'{"messages": [%b]}')])
async def test_the_time_of_a_request_begins_with_its_whole_body(
    path: str, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    def reads_for(seconds: float, parse: Callable[..., object], *arguments: object) -> object:
        nonlocal now
        now += seconds
        return parse(*arguments)

    for module in (publishing, publish_endpoint):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now))
    for name in ("parse_publication", "parse_batch"):
        monkeypatch.setattr(publishing, name, partial(reads_for, 3.0, getattr(publishing, name)))
    bus = MemoryBus()
    await bus.start(None)
    metrics = Metrics(bus=bus)
    app = api.create_app(bus, metrics=metrics)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as http:
        for message in (b'{"pattern": {"a": 1}, "payload": 1}', b'{"pattern": {}, "payload": 1}'):
            await http.post(path, content=body % message, headers={"Content-Type": "application/json"})
    await bus.close()
    assert (metrics.requests.seconds, metrics.requests.count) == (3.0, 1)
