"""Traceparents from publishers to subscribers, over a real Valkey: who keeps, sends and ignores them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest
import redis.asyncio as redis

from realizehit import APIClient, Publisher, sync
from realizehit.broker.history.rules import Rules
from realizehit.broker.history.scripts import log_key
from realizehit.client.messages import PublishResult
from realizehit.errors import RequestError
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_client_ws import connect
from tests.integration.test_sse import http, streaming
from tests.support.cluster import Cluster
from tests.support.history import CHAT, SECONDS, Client, label, numbering, room, set_rules
from tests.support.valkey import Valkey

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
OTHER = f"00-{TRACE}-1111111111111111-00"
INVALID = PARENT.upper()


@asynccontextmanager
async def node_at(url: str, **settings: Any) -> AsyncIterator[tuple[Node, httpx2.AsyncClient]]:
    async with (
        asyncio.timeout(60),
        serve(Settings(port=0, redis=url, **{"tracing": True, **settings})) as node,
        http(node.api_url) as api,
    ):
        yield node, api


def unique() -> dict[str, Any]:
    return {"traced": next(numbering)}


async def post(api: httpx2.AsyncClient, pattern: Any, payload: Any, **headers: str) -> None:
    answer = await api.post("", json={"pattern": pattern, "payload": payload}, headers=headers)
    assert answer.status_code == 200, answer.text


async def clients_of(node: Node, pattern: Any, **keys: Any) -> tuple[Client, Client]:
    """A client that asks for traceparents, and one that does not."""
    traced, plain = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
    assert (await traced.ask(pattern, trace=True, **keys))["ret"] == label(pattern)
    assert (await plain.ask(pattern, **keys))["ret"] == label(pattern)
    return traced, plain


async def _first_of(values: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    for _ in range(count):
        yield await anext(values)


def leave(*clients: Client) -> None:
    for client in clients:
        client.transport.abort()


def counts(node: Node) -> tuple[int, int]:
    return node.metrics.traceparents.kept, node.metrics.traceparents.invalid


@pytest.mark.parametrize("way", ["directly", "through ASGI"])
async def test_the_header_reaches_only_those_that_asked(shared_valkey: Valkey, way: str) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (node, api):
        traced, plain = await clients_of(node, pattern)
        # A request that names its encoding does not take the fast path.
        more = {} if way == "directly" else {"TE": "trailers"}
        await post(api, pattern, 1, traceparent=PARENT, **more)
        await post(api, pattern, 2, traceparent=INVALID, **more)
        await post(api, pattern, 3, **more)
        name = label(pattern)
        assert await traced.take(3) == [f"{name}@t={PARENT}?1".encode(), f"{name}?2".encode(), f"{name}?3".encode()]
        assert await plain.take(3) == [f"{name}?{number}".encode() for number in (1, 2, 3)]
        assert counts(node) == (1, 1)
        text = (await api.get(httpx2.URL(node.api_url).join("/metrics"))).text
        assert 'realizehit_traceparents_total{outcome="kept"} 1.0' in text
        assert 'realizehit_traceparents_total{outcome="invalid"} 1.0' in text
        leave(traced, plain)


async def test_two_headers_are_invalid(shared_valkey: Valkey) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (node, api):
        traced, plain = await clients_of(node, pattern)
        headers = [("traceparent", PARENT), ("traceparent", PARENT)]
        answer = await api.post("", json={"pattern": pattern, "payload": 1}, headers=headers)
        assert answer.status_code == 200
        assert await traced.take(1) == [f"{label(pattern)}?1".encode()]
        assert counts(node) == (0, 1)
        leave(traced, plain)


@pytest.mark.parametrize("lines", [False, True], ids=["batch", "lines"])
async def test_each_message_of_a_batch_has_its_own_traceparent_or_that_of_the_request(
    shared_valkey: Valkey, lines: bool
) -> None:
    pattern = unique()
    messages: list[dict[str, Any]] = [
        {"pattern": pattern, "payload": 1, "traceparent": OTHER},
        {"pattern": pattern, "payload": 2},
        {"pattern": pattern, "payload": 3, "traceparent": 17},
        {"pattern": {}, "payload": 4, "traceparent": "x"},
        {"pattern": pattern, "payload": "?@t=", "traceparent": INVALID, "key": "k"},
    ]
    async with node_at(shared_valkey.url) as (node, api):
        traced, plain = await clients_of(node, pattern)
        body = b"\n".join(map(orjson.dumps, messages)) if lines else orjson.dumps({"messages": messages})
        kind = "application/x-ndjson" if lines else "application/json"
        answer = await api.post("batch", content=body, headers={"Content-Type": kind, "traceparent": PARENT})
        assert (answer.json()["queued"], answer.json()["failed"]) == (4, 1)
        name = label(pattern)
        assert await traced.take(4) == [
            f"{name}@t={OTHER}?1".encode(),
            *(f"{name}@t={PARENT}?{text}".encode() for text in ("2", "3", '"?@t="')),
        ]
        assert await plain.take(4) == [f"{name}?{text}".encode() for text in ("1", "2", "3", '"?@t="')]
        assert counts(node)[0] == 2
        leave(traced, plain)


async def test_without_the_setting_messages_are_published_as_ever(shared_valkey: Valkey) -> None:
    pattern = unique()
    channel = Pattern(pattern).channel
    async with node_at(shared_valkey.url, tracing=False) as (node, api):
        traced, plain = await clients_of(node, pattern)
        async with redis.from_url(shared_valkey.url) as broker, broker.pubsub() as raw:
            await raw.subscribe(channel)
            await post(api, pattern, 1, traceparent=PARENT)
            body = {"messages": [{"pattern": pattern, "payload": 2, "traceparent": PARENT}]}
            assert (await api.post("batch", json=body, headers={"traceparent": PARENT})).json()["queued"] == 1
            found = [message["data"] async for message in _first_of(raw.listen(), 3)]
            assert found == [1, b"1", b"2"]  # the first one confirms the subscription
        assert await traced.take(2) == await plain.take(2) == [f"{label(pattern)}?{n}".encode() for n in (1, 2)]
        assert counts(node) == (0, 0)
        leave(traced, plain)


async def test_the_bound_of_a_payload_does_not_count_the_label(shared_valkey: Valkey) -> None:
    async with node_at(shared_valkey.url, max_payload_bytes=100) as (_, api):
        for size, status in ((98, 200), (99, 413)):
            body = {"pattern": unique(), "payload": "x" * size, "traceparent": PARENT}
            assert (await api.post("", json=body)).status_code == status


async def test_wildcards_name_the_channel_behind_the_traceparent(shared_valkey: Valkey) -> None:
    pattern = {**unique(), "channel": "CNN"}
    wildcard = {**pattern, "channel": "*"}
    channel = Pattern(pattern).channel
    async with node_at(shared_valkey.url) as (node, api):
        traced, plain = await clients_of(node, wildcard)
        await post(api, pattern, 1, traceparent=PARENT)
        await post(api, pattern, 2, traceparent=PARENT, **{"Idempotency-Key": "k"})  # through a script
        assert await traced.take(2) == [f"{label(wildcard)}@t={PARENT}&c={channel}?{n}".encode() for n in (1, 2)]
        assert await plain.take(2) == [f"{label(wildcard)}@c={channel}?{n}".encode() for n in (1, 2)]
        leave(traced, plain)


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "k"}], ids=["plain", "keyed"])
async def test_history_keeps_no_traceparents(valkey: Valkey, key: dict[str, str]) -> None:
    set_rules(valkey, CHAT)
    pattern = room()
    wildcard = {**pattern, "room": "*"}
    channel = Pattern(pattern).channel
    async with node_at(valkey.url) as (node, api):
        traced, plain = await clients_of(node, pattern, offsets=True)
        wild, _ = await clients_of(node, wildcard, offsets=True)
        for number in (1, 2):
            await post(api, pattern, number, traceparent=PARENT, **dict.fromkeys(key, f"k{number}"))
        name = label(pattern)
        assert await traced.take(2) == [f"{name}@o={n}&t={PARENT}?{n}".encode() for n in (1, 2)]
        assert await plain.take(2) == [f"{name}@o={n}?{n}".encode() for n in (1, 2)]
        assert await wild.take(2) == [f"{label(wildcard)}@o={n}&t={PARENT}&c={channel}?{n}".encode() for n in (1, 2)]
        late = await Client.connect(node.ws_url)
        await late.ask(pattern, last=2, trace=True)
        assert await late.take(2) == [f"{name}@o={n}?{n}".encode() for n in (1, 2)]
        for asked, kept in ((pattern, "1"), (wildcard, "2")):
            answer = await api.get("history", params={"pat": orjson.dumps(asked).decode(), "last": "2"})
            assert [message["payload"] for message in answer.json()["messages"]] == [1, 2], kept
            assert PARENT not in answer.text
    async with node_at(valkey.url) as (other, _):  # which reads the log at the broker
        reader = await Client.connect(other.ws_url)
        await reader.ask(wildcard, last=2, trace=True)
        assert await reader.take(2) == [f"{label(wildcard)}@o={n}&c={channel}?{n}".encode() for n in (1, 2)]
        leave(reader)
    leave(traced, plain, wild, late)


async def test_a_log_without_wildcards_keeps_no_traceparents(valkey: Valkey) -> None:
    """The script has a shorter way for these."""
    set_rules(valkey, CHAT)
    pattern = room()
    async with node_at(valkey.url) as (node, api):
        traced, plain = await clients_of(node, pattern, offsets=True)
        for number in (1, 2, 3):
            await post(api, pattern, number, traceparent=PARENT)
        assert await traced.take(3) == [f"{label(pattern)}@o={n}&t={PARENT}?{n}".encode() for n in (1, 2, 3)]
        assert await plain.take(3) == [f"{label(pattern)}@o={n}?{n}".encode() for n in (1, 2, 3)]
        kept = valkey.command("LRANGE", log_key(Pattern(pattern).channel.encode()), "0", "-2")
        assert kept == [b"1", b"2", b"3"]
        leave(traced, plain)


async def test_a_bridge_projects_traced_messages(valkey: Valkey) -> None:
    pattern = {**unique(), "channel": "CNN"}
    wildcard = {**pattern, "channel": "*"}
    channel = Pattern(pattern).channel
    async with node_at(valkey.url, bridge=True) as (node, _):
        async with asyncio.timeout(SECONDS):
            while not node.bus.is_bridge:
                await asyncio.sleep(0.01)
        traced, plain = await clients_of(node, wildcard)
        valkey.command("PUBLISH", channel, f"@t={PARENT}?1")
        assert await traced.take(1) == [f"{label(wildcard)}@t={PARENT}&c={channel}?1".encode()]
        assert await plain.take(1) == [f"{label(wildcard)}@c={channel}?1".encode()]
        leave(traced, plain)


async def test_a_cluster_carries_traceparents(shared_cluster: Cluster) -> None:
    pattern = {**unique(), "channel": "CNN"}
    wildcard = {**pattern, "channel": "*"}
    channel = Pattern(pattern).channel
    async with node_at(shared_cluster.url) as (node, api):
        traced, plain = await clients_of(node, pattern)
        wild, _ = await clients_of(node, wildcard)
        await post(api, pattern, 1, traceparent=PARENT)
        await post(api, pattern, 2, traceparent=PARENT, **{"Idempotency-Key": "k"})
        assert await traced.take(2) == [f"{label(pattern)}@t={PARENT}?{n}".encode() for n in (1, 2)]
        assert await plain.take(2) == [f"{label(pattern)}?{n}".encode() for n in (1, 2)]
        assert await wild.take(2) == [f"{label(wildcard)}@t={PARENT}&c={channel}?{n}".encode() for n in (1, 2)]
        leave(traced, plain, wild)


async def test_memory_does_as_a_broker_does() -> None:
    pattern = {**unique(), "channel": "CNN"}
    wildcard = {**pattern, "channel": "*"}
    channel = Pattern(pattern).channel
    async with node_at("memory://tracing") as (node, api):
        wild, _ = await clients_of(node, wildcard)
        await post(api, pattern, 1, traceparent=PARENT)
        assert await wild.take(1) == [f"{label(wildcard)}@t={PARENT}&c={channel}?1".encode()]
        leave(wild)
        await node.bus.write_rules(Rules((CHAT,)))
        kept = {**room(), "channel": "CNN"}
        await post(api, kept, 1, traceparent=PARENT)
        part = await node.bus.read_log(Pattern(kept).channel.encode(), last=1)
        assert part.messages == [(1, b"1")]


async def test_an_event_stream_that_asks_has_it_in_the_id(shared_valkey: Valkey) -> None:
    pattern = unique()
    query = f"?pat=traced={pattern['traced']}"
    async with node_at(shared_valkey.url) as (_, api):
        async with streaming(api, f"/sse{query}&trace=1") as traced, streaming(api, f"/sse{query}") as plain:
            for stream in (traced, plain):
                await stream.subscribed()
            await post(api, pattern, 1, traceparent=PARENT)
            assert await traced.event() == {"id": f"{label(pattern)}@t={PARENT}", "data": "1"}
            assert await plain.event() == {"id": label(pattern), "data": "1"}
        refused = await api.get(f"/sse{query}&trace=maybe")
        assert (refused.status_code, refused.json()["detail"]) == (400, "trace must be 1 or 0")


@pytest.mark.parametrize("trace", [1, "yes", []])
async def test_trace_is_true_or_false(shared_valkey: Valkey, trace: Any) -> None:
    async with node_at(shared_valkey.url) as (node, _):
        client = await Client.connect(node.ws_url)
        reply = await client.ask(unique(), trace=trace)
        assert (reply["code"], reply["err"]) == ("bad-request", "trace must be true or false")
        leave(client)


async def test_the_python_clients_hand_it_over(shared_valkey: Valkey) -> None:
    pattern = {**unique(), "channel": "CNN"}
    async with (
        node_at(shared_valkey.url) as (node, _),
        connect(node.ws_url) as client,
        connect(node.ws_url) as other,
        Publisher(shared_valkey.url, tracing=True) as publisher,
    ):
        exact = await client.subscribe(pattern, trace=True)
        wild = await client.subscribe({**pattern, "channel": "*"}, trace=True)
        plain = await other.subscribe(pattern)
        with pytest.raises(RequestError, match="without trace"):
            await other.subscribe(pattern, trace=True)
        blocking = sync.Subscriber(node.ws_url, pattern, trace=True)
        await asyncio.to_thread(blocking.connect)
        await publisher.publish(pattern, 1, traceparent=PARENT)
        await publisher.publish(pattern, 2, traceparent=INVALID)
        assert publisher.ignored_traceparents == 1
        results = await publisher.publish_many([(pattern, 3), (pattern, 4)], traceparent=OTHER)
        assert [type(result) for result in results] == [PublishResult] * 2
        expected = [(1, PARENT), (2, None), (3, OTHER), (4, OTHER)]
        for subscription, wanted in (
            (exact, expected),
            (wild, expected),
            (plain, [(number, None) for number, _ in expected]),
        ):
            messages = subscription.messages()
            async with asyncio.timeout(SECONDS):
                read = [await anext(messages) for _ in expected]
            assert [(message.payload, message.traceparent) for message in read] == wanted
            assert all(message.pattern["channel"] == "CNN" for message in read)

        blocking_read = await asyncio.to_thread(_first, blocking, len(expected))
        assert blocking_read == expected


def _first(subscriber: sync.Subscriber, count: int) -> list[tuple[Any, str | None]]:
    messages = subscriber.messages()
    try:
        return [(message.payload, message.traceparent) for message in (next(messages) for _ in range(count))]
    finally:
        subscriber.close()


async def test_the_blocking_publisher_sends_it_too(shared_valkey: Valkey) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (node, _):
        traced, plain = await clients_of(node, pattern)

        def work() -> None:
            with sync.Publisher(shared_valkey.url, tracing=True) as publisher:
                publisher.publish(pattern, 1, traceparent=PARENT)
                publisher.publish(pattern, 2)
                publisher.publish_many([(pattern, 3, "key")], traceparent=OTHER)

        await asyncio.to_thread(work)
        name = label(pattern)
        assert await traced.take(3) == [
            f"{name}@t={PARENT}?1".encode(),
            f"{name}?2".encode(),
            f"{name}@t={OTHER}?3".encode(),
        ]
        leave(traced, plain)


async def test_api_clients_send_the_header(shared_valkey: Valkey) -> None:
    pattern = unique()
    async with node_at(shared_valkey.url) as (node, _), APIClient(node.api_url, trust_env=False) as api:
        traced, plain = await clients_of(node, pattern)
        await api.publish(pattern, 1, traceparent=PARENT)
        await api.publish(pattern, 2, traceparent=INVALID)
        await api.publish_many([(pattern, 3)], traceparent=OTHER)

        def work() -> None:
            with sync.APIClient(node.api_url, trust_env=False) as blocking:
                blocking.publish(pattern, 4, traceparent=PARENT)
                blocking.publish_many([(pattern, 5)], traceparent=OTHER)

        await asyncio.to_thread(work)
        told = [(1, f"@t={PARENT}"), (2, ""), (3, f"@t={OTHER}"), (4, f"@t={PARENT}"), (5, f"@t={OTHER}")]
        assert await traced.take(5) == [f"{label(pattern)}{more}?{number}".encode() for number, more in told]
        assert counts(node) == (4, 0)
        leave(traced, plain)


async def test_a_publisher_without_tracing_refuses_a_traceparent(shared_valkey: Valkey) -> None:
    async with Publisher(shared_valkey.url) as publisher:
        with pytest.raises(RequestError, match="tracing=True"):
            await publisher.publish(unique(), 1, traceparent=PARENT)
        with pytest.raises(RequestError, match="tracing=True"):
            await publisher.publish_many([(unique(), 1)], traceparent=PARENT)
    with sync.Publisher(shared_valkey.url) as blocking, pytest.raises(RequestError, match="tracing=True"):
        blocking.publish(unique(), 1, traceparent=PARENT)
