"""OpenTelemetry spans of publications and deliveries, with the real SDK and its exporter in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from realizehit import Publisher, sync
from realizehit.errors import BrokerUnavailable
from tests.integration.test_tracing import OTHER, PARENT, TRACE, clients_of, leave, node_at, post, unique
from tests.support.history import SECONDS, Client, label
from tests.support.valkey import Valkey


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    # Setting it for the process could not be undone, and other tests would have spans too.
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return exporter


async def finished(exporter: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """The spans, when so many have ended, by kind."""
    async with asyncio.timeout(SECONDS):
        while len(exporter.get_finished_spans()) < count:
            await asyncio.sleep(0.005)
    found = exporter.get_finished_spans()
    assert len(found) == count
    return sorted(found, key=lambda span: (span.kind.value, span.start_time or 0))


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """The trace, the span and its parent."""
    assert span.context is not None
    assert span.parent is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", f"{span.parent.span_id:016x}"


async def test_a_publication_has_a_span_and_each_node_one_for_its_delivery(
    shared_valkey: Valkey, spans: InMemorySpanExporter
) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (near, api), node_at(shared_valkey.url) as (far, _):
        clients = [*await clients_of(near, pattern), *await clients_of(near, pattern), *await clients_of(far, pattern)]
        await post(api, pattern, 1, traceparent=PARENT)
        publish, *delivers = await finished(spans, 3)
        assert (publish.name, publish.kind) == ("realizehit publish", SpanKind.PRODUCER)
        of_trace, own, parent = ids(publish)
        assert (of_trace, parent) == (TRACE, PARENT[36:52])
        assert attributes(publish) == {
            "messaging.system": "realizehit",
            "messaging.operation.type": "send",
            "messaging.operation.name": "publish",
            "messaging.destination.name": label(pattern),
            "realizehit.nodes": 2,
        }
        for deliver in delivers:
            assert (deliver.name, deliver.kind) == ("realizehit deliver", SpanKind.CONSUMER)
            assert (ids(deliver)[0], ids(deliver)[2]) == (TRACE, own)
            assert publish.start_time < deliver.start_time < deliver.end_time  # type: ignore[operator]
        assert {attributes(each)["realizehit.subscribers"] for each in delivers} == {4, 2}
        del (told := attributes(delivers[0]))["realizehit.subscribers"]
        assert told == {
            "messaging.system": "realizehit",
            "messaging.operation.type": "process",
            "messaging.operation.name": "deliver",
            "messaging.destination.name": label(pattern),
        }
        # Clients get the traceparent of the span of the publication.
        assert await clients[0].take(1) == [f"{label(pattern)}@t=00-{TRACE}-{own}-01?1".encode()]
        leave(*clients)


async def test_an_unsampled_trace_and_a_message_without_one_have_no_spans(
    shared_valkey: Valkey, spans: InMemorySpanExporter
) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (node, api):
        traced, plain = await clients_of(node, pattern)
        await post(api, pattern, 1, traceparent=OTHER)
        await post(api, pattern, 2)
        first, second = await traced.take(2)
        assert first.startswith(f"{label(pattern)}@t=00-{TRACE}-".encode())
        assert first.endswith(b"-00?1")
        assert second == f"{label(pattern)}?2".encode()
        await plain.settled()  # the turn of the loop in which a span of a delivery would end is over
        assert spans.get_finished_spans() == ()
        leave(traced, plain)


async def test_a_node_without_tracing_makes_no_spans(shared_valkey: Valkey, spans: InMemorySpanExporter) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (_, api), node_at(shared_valkey.url, tracing=False) as (node, _):
        traced, plain = await clients_of(node, pattern)
        await post(api, pattern, 1, traceparent=PARENT)
        assert b"@t=" in (await traced.take(1))[0]
        await plain.settled()
        (publish,) = await finished(spans, 1)
        assert publish.kind is SpanKind.PRODUCER
        leave(traced, plain)


async def test_each_message_of_a_batch_has_a_span(shared_valkey: Valkey, spans: InMemorySpanExporter) -> None:
    patterns = [unique() for _ in range(3)]
    messages: list[dict[str, Any]] = [{"pattern": pattern, "payload": 1} for pattern in patterns]
    messages[2]["traceparent"] = OTHER
    async with node_at(shared_valkey.url) as (_, api):
        answer = await api.post("batch", json={"messages": messages}, headers={"traceparent": PARENT})
        assert answer.json()["queued"] == 3
        found = await finished(spans, 2)
        names = [attributes(span)["messaging.destination.name"] for span in found]
        assert names == [label(pattern) for pattern in patterns[:2]]


async def test_a_failed_publication_has_an_error(valkey: Valkey, spans: InMemorySpanExporter) -> None:
    async with node_at(valkey.url, publish_timeout=0.5) as (_, api):
        valkey.kill()
        for path, body in (
            ("", {"pattern": unique(), "payload": 1}),
            ("batch", {"messages": [{"pattern": unique(), "payload": 1}]}),
        ):
            assert (await api.post(path, json=body, headers={"traceparent": PARENT})).status_code == 503
        for span in await finished(spans, 2):
            assert span.status.status_code is StatusCode.ERROR
            assert attributes(span)["error.type"] == "unavailable"
        spans.clear()
        async with Publisher(valkey.url, tracing=True, retries=0, timeout=0.5) as publisher:
            with pytest.raises(BrokerUnavailable):
                await publisher.publish(unique(), 1, traceparent=PARENT)
            await publisher.publish_many([(unique(), 1)], traceparent=PARENT)
        assert [attributes(span)["error.type"] for span in await finished(spans, 2)] == ["unavailable"] * 2
        valkey.start()


async def test_publishers_take_the_current_span(shared_valkey: Valkey, spans: InMemorySpanExporter) -> None:
    pattern = unique()
    tracer = trace.get_tracer("test")
    async with node_at(shared_valkey.url) as (node, _), Publisher(shared_valkey.url, tracing=True) as publisher:
        client = await Client.connect(node.ws_url)
        await client.ask(pattern, trace=True)

        def work() -> None:
            with sync.Publisher(shared_valkey.url, tracing=True) as blocking, tracer.start_as_current_span("blocking"):
                blocking.publish(pattern, 4)

        with tracer.start_as_current_span("outer") as outer:
            await publisher.publish(pattern, 1)
            await publisher.publish_many([(pattern, 2), (pattern, 3)])
        await asyncio.to_thread(work)
        await publisher.publish(pattern, 5)  # outside of a span
        texts = await client.take(5)
        assert texts[4] == f"{label(pattern)}?5".encode()
        found = await finished(spans, 2 + 3 + 4)
        publishes = [span for span in found if span.kind is SpanKind.PRODUCER]
        own = f"{outer.get_span_context().span_id:016x}"
        assert [ids(span)[2] == own for span in publishes] == [True, True, False]
        assert attributes(publishes[1])["messaging.batch.message_count"] == 2
        assert attributes(publishes[1])["realizehit.nodes"] == 2
        of_message = [text.decode().partition("@t=")[2][36:52] for text in texts[:4]]
        assert of_message == [ids(publishes[index])[1] for index in (0, 1, 1, 2)]
        leave(client)
