"""Readers and the limits of their queues: one batch that may be published closes nobody who reads, on any transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.conftest import Certificate
from tests.integration.test_engineio import Poller
from tests.integration.test_sse import Stream, asked
from tests.support.valkey import Valkey
from tests.support.wire import act, client, unique

SECONDS = 30
MESSAGES, SIZE = 2000, 1000
LIMITS = {"max_queue_messages": 50, "max_queue_bytes": 20_000}


def local(url: str) -> str:
    return url.replace("127.0.0.1", "localhost")


@asynccontextmanager
async def api(node: Node, certificate: Certificate) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=local(node.api_url), verify=certificate.context, timeout=SECONDS) as http:
        yield http


async def publish(http: httpx2.AsyncClient, pattern: dict[str, Any], payloads: list[str]) -> None:
    """All of them in one request."""
    messages = [{"pattern": pattern, "payload": payload} for payload in payloads]
    answer = await http.post("/batch", json={"messages": messages})
    assert answer.json()["queued"] == len(payloads)


async def over_websocket(node: Node, http: httpx2.AsyncClient, context: Any, payloads: list[str]) -> list[str]:
    pattern = unique("burst")
    async with client(local(node.ws_url), ssl=context, max_size=None, max_queue=None) as ws:
        await act(ws, "sub", pattern)
        await publish(http, pattern, payloads)
        return [orjson.loads(str(await ws.recv()).partition("?")[2]) for _ in payloads]


async def over_engineio(node: Node, http: httpx2.AsyncClient, context: Any, payloads: list[str]) -> list[str]:
    pattern = unique("burst")
    url = local(node.ws_url) + "/?EIO=4&transport=websocket"
    async with client(url, ssl=context, max_size=None, max_queue=None) as ws:
        await ws.recv()
        await ws.send("4" + orjson.dumps({"id": 1, "act": "sub", "pat": pattern}).decode())
        await ws.recv()
        await publish(http, pattern, payloads)
        return [orjson.loads(str(await ws.recv()).partition("?")[2]) for _ in payloads]


async def over_events(node: Node, http: httpx2.AsyncClient, context: Any, payloads: list[str]) -> list[str]:
    pattern = unique("burst")
    async with http.stream("GET", asked(pattern)) as response:
        stream = Stream(response)
        await stream.subscribed()
        await publish(http, pattern, payloads)
        events = [await stream.event() for _ in payloads]
        return [orjson.loads(event["data"]) for event in events if event is not None]


async def by_polling(node: Node, http: httpx2.AsyncClient, context: Any, payloads: list[str]) -> list[str]:
    pattern = unique("burst")
    poller = await Poller(http, 4).open()
    await poller.subscribe(pattern)
    poll = asyncio.create_task(poller.poll())
    assert node.engineio is not None
    while not any(session.connection.waiting for session in node.engineio._sessions.values()):
        await asyncio.sleep(0.005)
    await publish(http, pattern, payloads)
    packets = await poll
    while len(packets) < len(payloads):
        packets += await poller.poll()
    return [orjson.loads(packet.partition("?")[2]) for packet in packets]


READERS = {
    "websocket": over_websocket, "engineio": over_engineio, "events": over_events, "polling": by_polling,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["epoll", "transports", "tls"])
@pytest.mark.parametrize("way", READERS)
async def test_one_batch_closes_no_reader(shared_valkey: Valkey, certificate: Certificate, way: str, kind: str) -> None:
    tls = certificate.settings if kind == "tls" else {}
    settings = Settings(port=0, redis=shared_valkey.url, **LIMITS, **tls)  # type: ignore[arg-type]
    payloads = [f"{number}:" + "x" * SIZE for number in range(MESSAGES)]
    async with (
        asyncio.timeout(SECONDS),
        serve(settings, epoll=kind == "epoll") as node,
        api(node, certificate) as http,
    ):
        context = certificate.context if tls else None
        assert await READERS[way](node, http, context, payloads) == payloads
        assert node.engine.stats()["slow_disconnects"] == 0


async def test_without_a_grace_the_limit_is_the_limit(shared_valkey: Valkey, certificate: Certificate) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, slow_grace=0.0, **LIMITS)  # type: ignore[arg-type]
    pattern = unique("no-grace")
    async with (
        asyncio.timeout(SECONDS),
        serve(settings) as node,
        api(node, certificate) as http,
        client(node.ws_url) as ws,
    ):
        await act(ws, "sub", pattern)
        await publish(http, pattern, ["x" * SIZE] * MESSAGES)
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (4002, "slow consumer")


async def test_a_batch_of_the_largest_size_fits(shared_valkey: Valkey, certificate: Certificate) -> None:
    settings = Settings(port=0, redis=shared_valkey.url)
    async with asyncio.timeout(SECONDS), serve(settings) as node, api(node, certificate) as http:
        for count in (4, settings.max_batch_messages):
            room = (settings.max_batch_bytes - 20) // count - len(orjson.dumps(unique("burst"))) - 30
            payloads = ["x" * room] * count
            assert await over_websocket(node, http, None, payloads) == payloads
        assert node.engine.stats()["slow_disconnects"] == 0


@pytest.mark.parametrize("kind", ["transports", "tls"])
async def test_bytes_buffered_in_a_transport_count(shared_valkey: Valkey, certificate: Certificate, kind: str) -> None:
    """A transport takes some, and what it cannot get rid of counts against the limit like what waits in the engine."""
    limit, size = 400_000, 20_000
    tls: dict[str, Any] = certificate.settings if kind == "tls" else {}
    settings = Settings(port=0, redis=shared_valkey.url, max_queue_bytes=limit, slow_grace=0.0, **tls)
    pattern = Pattern(unique("outside"))
    async with (
        asyncio.timeout(SECONDS),
        serve(settings, epoll=False) as node,
        client(local(node.ws_url), ssl=certificate.context if tls else None, max_queue=1) as ws,
    ):
        await act(ws, "sub", dict(pattern))
        ws.transport.pause_reading()
        waiting = blocked = 0
        while not node.engine.stats()["slow_disconnects"]:
            if node.engine.stats()["blocked"]:
                blocked += 1
                waiting = max(waiting, node.engine.queues()[1])
            node.engine.dispatch([[b"message", pattern.channel.encode(), b"x" * size]])
            await asyncio.sleep(0)
        assert limit - 2 * size < waiting <= limit
        # Much of that were no messages that wait in the engine.
        assert blocked * size < limit - 50_000
        ws.transport.abort()
