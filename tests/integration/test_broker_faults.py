"""A whole node whose broker is killed, stopped and started again: its clients stay, and all comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.broker.base import BusState
from realizehit.broker.channel_states import BATCH
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.shapes.registry import CONTROL
from realizehit.pattern import Pattern, is_reserved
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.gaps import check_gap
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, unique

JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def node_of(valkey: Valkey) -> AsyncIterator[tuple[Node, httpx2.AsyncClient]]:
    settings = Settings(port=0, redis=valkey.url, subscribe_timeout=0.5, publish_timeout=1.0)
    async with serve(settings) as node, httpx2.AsyncClient(base_url=node.api_url, timeout=20) as api:
        yield node, api


async def state(node: Node, wanted: BusState, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while node.bus.state is not wanted:
            await asyncio.sleep(0.01)


async def ask(ws: RawClient, pattern: Any, seconds: float = 20) -> dict[str, Any]:
    """Subscribe, and return the reply."""
    before = len(ws.texts)
    ws.act(id="ask", act="sub", pat=pattern)
    await ws.wait_for(before + 1, seconds)
    reply: dict[str, Any] = orjson.loads(ws.texts.pop())
    return reply


async def publish(api: httpx2.AsyncClient, pattern: Any, payload: Any) -> httpx2.Response:
    return await api.post("", content=orjson.dumps({"pattern": pattern, "payload": payload}), headers=JSON)


def is_own(channel: bytes) -> bool:
    """Whether servers use a channel among themselves."""
    return channel == CONTROL or is_reserved(channel)


async def in_force(valkey: Valkey, count: int) -> None:
    async with asyncio.timeout(20):
        while sum(1 for channel in valkey.command("PUBSUB", "CHANNELS") if not is_own(channel)) != count:
            await asyncio.sleep(0.01)


async def test_a_killed_broker(valkey: Valkey) -> None:
    async with node_of(valkey) as (node, api):
        clients = [await RawClient.connect(node.ws_url) for _ in range(4)]
        count = 3 * BATCH  # channels
        patterns = [unique("fault") for _ in range(count)]
        for number, pattern in enumerate(patterns):
            clients[number % 4].act(id="s", act="sub", pat=pattern)
        for ws in clients:
            await ws.wait_for(count // 4)
            ws.texts.clear()

        gone = time.monotonic()
        valkey.kill()
        await state(node, BusState.DOWN)
        fresh = unique("fault")
        reply = await ask(clients[0], fresh)
        assert reply["code"] == "unavailable"
        assert reply["err"]
        # What was granted before stays granted, and what was not is not remembered.
        assert (await ask(clients[0], patterns[0]))["ret"] == Pattern(patterns[0]).id
        clients[1].act(id="u", act="unsub", pat=patterns[1])
        await clients[1].wait_for(1)
        assert orjson.loads(clients[1].texts.pop())["ret"] == Pattern(patterns[1]).id
        for response in (await publish(api, patterns[0], "lost"), await api.get("readyz")):
            assert response.status_code == 503
            assert response.json()["code"] == "unavailable"
            assert int(response.headers["retry-after"]) > 0

        valkey.start()
        back = time.monotonic()
        for ws in clients:
            await ws.wait_for(1)
        told = time.monotonic()
        await state(node, BusState.UP)
        await in_force(valkey, count - 1)
        # Everything was subscribed again in a few commands of many channels.
        assert valkey.calls("subscribe") <= 3 + 2  # and one each for the rules, and for questions of other servers
        assert (await api.get("readyz")).status_code == 200
        for number, ws in enumerate(clients):
            await ws.wait_for(1)
            event = orjson.loads(ws.texts.pop())
            assert event.keys() == {"evt", "ids", "seconds"}
            kept = [Pattern(pattern).id for pattern in patterns[number::4] if pattern is not patterns[1]]
            assert (event["evt"], sorted(event["ids"])) == ("gap", sorted(kept))
            check_gap(event["seconds"], gone, back, told)
        for number, pattern in enumerate(patterns):
            if number % 100 == 1:
                nodes = 0 if number == 1 else 1
                assert (await publish(api, pattern, number)).json()["nodes"] == nodes
        await clients[1].wait_for(count // 100)
        assert [int(text.partition(b"?")[2]) for text in clients[1].texts] == list(range(101, count, 100))
        assert (await ask(clients[2], fresh))["ret"] == Pattern(fresh).id
        assert [ws.texts for number, ws in enumerate(clients) if number != 1] == [[], [], []]
        assert not any(ws.closed.is_set() for ws in clients)
        assert node.bus.reconnects == 1
        for ws in clients:
            ws.transport.close()
        await asyncio.gather(*(ws.closed.wait() for ws in clients))
        await in_force(valkey, 0)


async def test_a_waiting_subscription_succeeds_if_the_broker_returns_in_time(valkey: Valkey) -> None:
    settings = Settings(port=0, redis=valkey.url, subscribe_timeout=20)
    async with serve(settings) as node:
        ws = await RawClient.connect(node.ws_url)
        valkey.kill()
        await state(node, BusState.DOWN)
        pattern = unique("waits")
        asked = asyncio.create_task(ask(ws, pattern, 20))
        valkey.start()
        assert (await asked)["ret"] == Pattern(pattern).id
        await in_force(valkey, 1)
        ws.transport.close()
        await ws.closed.wait()


async def test_a_broker_that_comes_after_the_node_leaves_no_gap_behind(valkey: Valkey) -> None:
    valkey.kill()
    async with serve(Settings(port=0, redis=valkey.url, subscribe_timeout=20)) as node:
        ws = await RawClient.connect(node.ws_url)
        pattern = unique("late")
        asked = asyncio.create_task(ask(ws, pattern, 20))
        await state(node, BusState.DOWN)
        valkey.start()
        assert (await asked)["ret"] == Pattern(pattern).id
        async with asyncio.timeout(20):
            while node.hub.gaps._open or node.hub.gaps._ending:
                await asyncio.sleep(0.01)
        assert (node.hub.gaps.told, ws.texts) == (0, [])
        ws.transport.close()
        await ws.closed.wait()


@pytest.mark.slow
async def test_a_stopped_broker_is_noticed_within_ten_seconds_and_clients_stay(valkey: Valkey) -> None:
    async with node_of(valkey) as (node, api):
        ws = await RawClient.connect(node.ws_url)
        pattern = unique("stopped")
        assert "ret" in await ask(ws, pattern)
        assert (await publish(api, pattern, 1)).json()["nodes"] == 1
        await ws.wait_for(1)
        gone = time.monotonic()
        valkey.pause()
        try:
            await state(node, BusState.DOWN, 10)
            assert (await ask(ws, unique("stopped")))["code"] == "unavailable"
            assert (await publish(api, pattern, 2)).status_code == 503
            assert (await api.get("readyz")).status_code == 503
        finally:
            back = time.monotonic()
            valkey.resume()
        await state(node, BusState.UP)
        await in_force(valkey, 1)
        async with asyncio.timeout(20):
            while not (told := [text for text in ws.texts if text.startswith(b"{")]):
                await ws.wait_for(len(ws.texts) + 1)
        now = time.monotonic()
        event = orjson.loads(told[0])
        assert (event["evt"], event["ids"]) == ("gap", [Pattern(pattern).id])
        # Nothing was certain from the last sign of the stopped broker on.
        check_gap(event["seconds"], gone, back, now)
        ws.texts.remove(told[0])
        async with asyncio.timeout(20):
            while (await publish(api, pattern, 3)).status_code != 200:
                pass
        # Whatever the stopped broker was sent may have been carried out when it went on: once at most.
        async with asyncio.timeout(20):
            while not ws.texts or not ws.texts[-1].endswith(b"?3"):
                await ws.wait_for(len(ws.texts) + 1)
        assert [text.partition(b"?")[2] for text in ws.texts] in ([b"1", b"3"], [b"1", b"2", b"3"])
        assert not ws.closed.is_set()
        ws.transport.close()
        await ws.closed.wait()


def test_a_dead_peer_is_noticed_within_ten_seconds_by_default() -> None:
    times = LinkSettings()
    assert times.probe_after + times.probe_timeout < 9
    assert times.connect_timeout < 10
