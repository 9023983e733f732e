"""Wildcard subscriptions on whole nodes, over a real Valkey: registered, subscribed, lost, refused, ended."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection

from realizehit import Pattern
from realizehit.broker.base import BusState, Interest
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.registry import KEY
from realizehit.broker.url import Address
from realizehit.process.relay import Relay
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.valkey import Valkey
from tests.support.wire import act, client

NEWS: dict[str, Any] = {"kind": "news", "channel": "*"}
NEWS_SHAPE = b"channel:*|kind:="
OPEN: dict[str, Any] = {"user": 1, "*": "*"}
OPEN_SHAPE = b"*:*|user:="
SECONDS = 20


@asynccontextmanager
async def nodes(valkey: Valkey, *settings: dict[str, Any]) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(serve(Settings(port=0, redis=valkey.url, **options)))
            for options in settings
        ]


def shapes(valkey: Valkey) -> set[bytes]:
    return set(valkey.command("ZRANGE", KEY, "0", "-1"))


def listeners(valkey: Valkey, pattern: dict[str, Any]) -> int:
    return int(valkey.command("PUBSUB", "NUMSUB", Pattern(pattern).channel)[1])


def project(valkey: Valkey, publication: dict[str, Any], subscription: dict[str, Any], payload: bytes) -> int:
    """Publish as a publisher does that follows the registry, by one shape."""
    label = b"@c=" + Pattern(publication).channel.encode() + b"?"
    return int(valkey.command("PUBLISH", Pattern(subscription).channel, label + payload))


def renew_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=0.1))


async def eventually(holds: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


async def shown(node: Node) -> dict[str, float]:
    async with httpx2.AsyncClient() as session:
        text = (await session.get(node.api_url.rstrip("/") + "/metrics")).text
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


async def test_the_reply_waits_for_the_shape_and_the_channel(valkey: Valkey) -> None:
    async with nodes(valkey, {}, {}) as (one, two), client(one.ws_url) as ws, client(two.ws_url) as other:
        assert await act(ws, "sub", NEWS) == {"id": "a1", "ret": Pattern(NEWS).id}
        assert shapes(valkey) == {NEWS_SHAPE}
        assert listeners(valkey, NEWS) == 1
        assert (await act(other, "sub", {"channel": "*", "kind": "sport"}))["ret"]
        assert (await act(other, "sub", OPEN))["ret"] == Pattern(OPEN).id
        assert shapes(valkey) == {NEWS_SHAPE, OPEN_SHAPE}
        assert (await shown(one))["realizehit_shapes"] == 1
        assert (await shown(two))["realizehit_shapes"] == 2
        assert project(valkey, {"kind": "news", "channel": "CNN"}, NEWS, b"1") == 1
        assert await asyncio.wait_for(ws.recv(), SECONDS) == Pattern(NEWS).id + "@c=channel:CNN|kind:news?1"
        assert (await act(ws, "unsub", NEWS))["ret"] == Pattern(NEWS).id
        await eventually(lambda: listeners(valkey, NEWS) == 0)
        assert (await shown(one))["realizehit_shapes"] == 0


async def test_a_second_subscription_of_a_shape_sends_no_registration(valkey: Valkey) -> None:
    async with nodes(valkey, {}) as (node,), client(node.ws_url) as ws:
        await act(ws, "sub", NEWS)
        calls = valkey.calls("eval")
        for kind in range(10):
            assert "ret" in await act(ws, "sub", {"kind": kind, "channel": "*"})
        assert valkey.calls("eval") == calls


async def test_lost_shapes_are_registered_again_and_clients_get_one_gap(
    valkey: Valkey,
) -> None:
    exactly: dict[str, Any] = {"kind": "news"}
    async with nodes(valkey, {}) as (node,), client(node.ws_url) as ws, client(node.ws_url) as exact:
        await act(ws, "sub", NEWS)
        await act(exact, "sub", exactly)
        began = time.monotonic()
        valkey.kill()
        valkey.start()
        assert shapes(valkey) <= {NEWS_SHAPE}
        for one, pattern in ((ws, NEWS), (exact, exactly)):
            event = orjson.loads(await asyncio.wait_for(one.recv(), SECONDS))
            assert (event["evt"], event["ids"]) == ("gap", [Pattern(pattern).id])
            assert 0 < event["seconds"] < time.monotonic() - began + 12  # at most a renewal longer
        assert shapes(valkey) == {NEWS_SHAPE}
        assert project(valkey, {"kind": "news", "channel": "BBC"}, NEWS, b"2") == 1
        assert str(await asyncio.wait_for(ws.recv(), SECONDS)).endswith("?2")  # and no second gap before it


async def test_a_shape_that_lapsed_is_a_gap_for_its_subscriptions_alone(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew_often(monkeypatch)
    async with nodes(valkey, {}) as (node,), client(node.ws_url) as ws, client(node.ws_url) as other:
        await act(ws, "sub", NEWS)
        await act(other, "sub", OPEN)
        await act(other, "sub", {"kind": "news"})
        valkey.command("ZREM", KEY, NEWS_SHAPE)
        event = orjson.loads(await asyncio.wait_for(ws.recv(), SECONDS))
        assert (event["evt"], event["ids"]) == ("gap", [Pattern(NEWS).id])
        assert shapes(valkey) == {NEWS_SHAPE, OPEN_SHAPE}
        assert await act(other, "ping") == {"id": "a1", "ret": "pong"}  # it was told nothing
        assert node.bus.state is BusState.UP  # the broker was there all the time


async def test_a_full_registry_refuses_new_shapes_only(
    valkey: Valkey,
) -> None:
    async with nodes(valkey, {"max_shapes": 1}) as (node,), client(node.ws_url) as ws:
        assert "ret" in await act(ws, "sub", NEWS)
        refused = await act(ws, "sub", OPEN)
        assert (refused["code"], "shape" in refused["err"]) == ("too-many-shapes", True)
        assert (await act(ws, "unsub", OPEN))["code"] == "not-subscribed"
        assert "ret" in await act(ws, "sub", {"kind": "sport", "channel": "*"})
        assert shapes(valkey) == {NEWS_SHAPE}
        assert listeners(valkey, OPEN) == 0


async def test_a_shape_that_lost_its_place_to_others_ends_its_subscriptions(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew_often(monkeypatch)
    async with nodes(valkey, {"max_shapes": 1}) as (node,), client(node.ws_url) as ws:
        await act(ws, "sub", NEWS)
        await act(ws, "sub", {"kind": "news"})
        script = "redis.call('DEL', KEYS[1]); redis.call('ZADD', KEYS[1], '+inf', ARGV[1])"
        valkey.command("EVAL", script, "1", KEY, OPEN_SHAPE)
        ended = orjson.loads(await asyncio.wait_for(ws.recv(), SECONDS))
        assert (ended["evt"], ended["ids"], ended["code"]) == (
            "unsubscribed", [Pattern(NEWS).id], "too-many-shapes",
        )  # fmt: skip
        await eventually(lambda: listeners(valkey, NEWS) == 0)
        assert node.bus.shapes == 0
        assert await act(ws, "ping") == {"id": "a1", "ret": "pong"}  # no gap was told


async def test_without_wildcards_the_registry_stays_untouched(valkey: Valkey) -> None:
    async with nodes(valkey, {"wildcards": False}) as (node,), client(node.ws_url) as ws:
        assert (await act(ws, "sub", NEWS))["code"] == "wildcard-unsupported"
        assert "ret" in await act(ws, "sub", {"kind": "news"})
        assert not [one for one in valkey.clients() if one["name"].endswith("-registrar")]
        assert shapes(valkey) == set()


async def test_reserved_patterns_cannot_be_reached_by_a_wildcard(valkey: Valkey) -> None:
    async with nodes(valkey, {"console": True}) as (node,), client(node.ws_url) as ws:
        for pattern in ({"realizehit": "*"}, {"realizehit": "stats", "*": "*"}):
            assert (await act(ws, "sub", pattern))["code"] == "forbidden"
        assert "ret" in await act(ws, "sub", {"*": "*"})


async def test_nodes_get_only_what_they_need(valkey: Valkey) -> None:
    """Three nodes: one with a wildcard, one with an exact subscription, one with a wildcard that does not match.

    Counted in bytes. The third publishes.
    """
    payload = b'"' + b"x" * 1000 + b'"'
    count = 100
    async with (
        nodes(valkey, {}, {}, {}) as three,
        client(three[0].ws_url) as wild,
        client(three[1].ws_url) as exact,
        client(three[2].ws_url) as idle,
    ):
        await act(wild, "sub", NEWS)
        await act(exact, "sub", {"kind": "news", "channel": "CNN"})
        await act(idle, "sub", {"kind": "sport", "channel": "*"})  # of the same shape
        before = [node.bus.bytes_received for node in three]
        sent = {one["id"]: int(one["tot-net-out"]) for one in valkey.clients() if one["name"] == "realizehit"}
        assert len(sent) == 3
        patterns = [Pattern({"kind": "news", "channel": "CNN" if n % 2 else f"c{n}"}) for n in range(count)]
        outcomes = await three[2].bus.publish_many([Publication(one.channel.encode(), payload) for one in patterns])
        assert outcomes == [Published(2 if n % 2 else 1) for n in range(count)]
        await asyncio.gather(receive(wild, count), receive(exact, count // 2))
        got = [node.bus.bytes_received - earlier for node, earlier in zip(three, before, strict=True)]
        now = {one["id"]: int(one["tot-net-out"]) for one in valkey.clients() if one["name"] == "realizehit"}
        probes = 200  # answers to the PINGs in the meantime
        size = len(payload)
        assert count * size < got[0] < count * (size + 120) + probes
        assert count // 2 * size < got[1] < count // 2 * (size + 120) + probes
        assert got[2] < probes
        for node_got, broker_sent in zip(sorted(got), sorted(now[one] - sent[one] for one in sent), strict=True):
            assert abs(node_got - broker_sent) < probes


async def receive(ws: ClientConnection, count: int) -> None:
    async with asyncio.timeout(SECONDS):
        for _ in range(count):
            await ws.recv()


async def test_workers_register_by_themselves_and_subscribe_through_the_relay(valkey: Valkey) -> None:
    channel = Interest(Pattern(NEWS).channel.encode())
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-")))
        relay = await stack.enter_async_context(Relay(valkey.url, directory / "r.sock"))
        workers = []
        for _ in range(2):
            bus, recorder = open_bus(valkey.url, subscribe_url=relay.url, link=QUICK, max_shapes=64), Recorder()
            await bus.start(recorder)
            stack.push_async_callback(bus.close)
            workers.append((bus, recorder))
        for bus, recorder in workers:
            assert not bus.subscribe(channel)
            await recorder.until(lambda recorder=recorder: recorder.confirmed == [channel])  # type: ignore[misc]
        assert shapes(valkey) == {NEWS_SHAPE}
        assert listeners(valkey, NEWS) == 1  # the relay's
        project(valkey, {"kind": "news", "channel": "CNN"}, NEWS, b"1")
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: recorder.delivered)  # type: ignore[misc]
            assert recorder.delivered == [(channel, b"@c=channel:CNN|kind:news?1")]
        valkey.kill()
        valkey.start()
        source = workers[0][0].source_of(channel)
        for bus, recorder in workers:
            await recorder.until(lambda recorder=recorder: source in recorder.restorations)  # type: ignore[misc]
            assert recorder.restorations.count(source) == 1
            assert bus.shapes == 1
        assert shapes(valkey) == {NEWS_SHAPE}


async def test_a_registrar_leaves_a_broker_that_is_no_longer_the_master(valkey: Valkey) -> None:
    class Heard:
        def __init__(self) -> None:
            self.registered = asyncio.Event()

        def shape_registered(self, shape: bytes) -> None:
            self.registered.set()

        def bridge_had_gap(self, seconds: float) -> None:
            raise AssertionError(seconds)

        def shape_refused(self, shape: bytes, error: Exception) -> None:
            raise AssertionError(error)

        def shape_lapsed(self, shape: bytes, seconds: float) -> None:
            raise AssertionError(seconds)

    heard = Heard()
    registrar = Registrar(Address(valkey.url), heard)
    try:
        registrar.register(NEWS_SHAPE)
        await asyncio.wait_for(heard.registered.wait(), SECONDS)
        registrar.move_to(str(valkey.socket))
        assert registrar.is_registered(NEWS_SHAPE)
        heard.registered.clear()
        registrar.move_to("127.0.0.1:1")
        await asyncio.wait_for(heard.registered.wait(), SECONDS)
        assert registrar.connects == 2
        heard.registered.clear()
        registrar.again()
        assert not registrar.is_registered(NEWS_SHAPE)
        await asyncio.wait_for(heard.registered.wait(), SECONDS)
        assert registrar.connects == 2
    finally:
        await registrar.close()


async def test_without_registry_rights_wildcards_fail_and_exact_patterns_work(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.command("ACL", "SETUSER", "plain", "on", ">secret", "&*", "+@pubsub", "+@connection")
    url = valkey.url.replace("unix://", "unix://plain:secret@")
    async with serve(Settings(port=0, redis=url)) as node, client(node.ws_url) as ws:
        refused = await act(ws, "sub", NEWS)
        assert refused["code"] == "forbidden"
        assert "ret" in await act(ws, "sub", {"kind": "news"})
        assert "NOPERM" in caplog.text
        assert "secret" not in caplog.text


async def test_over_memory_a_shape_counts_while_a_channel_has_it() -> None:
    async with serve(Settings(port=0, redis="memory://wild", max_shapes=1)) as node, client(node.ws_url) as ws:
        assert "ret" in await act(ws, "sub", NEWS)
        assert (await act(ws, "sub", OPEN))["code"] == "too-many-shapes"
        assert "ret" in await act(ws, "sub", {"kind": "sport", "channel": "*"})
        assert node.bus.shapes == 1
        for pattern in (NEWS, {"kind": "sport", "channel": "*"}):
            await act(ws, "unsub", pattern)
        await eventually(lambda: node.bus.shapes == 0)
        assert "ret" in await act(ws, "sub", OPEN)
