"""``every`` over each transport, with the node's own timer and a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection

from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_engineio import BOTH_KINDS, Poller, poller, websocket
from tests.integration.test_sse import KINDS, any_server, asked, http, streaming
from tests.support.valkey import Valkey
from tests.support.wire import client, publisher, unique

EVERY = 200  # milliseconds
COUNT = 50

Read = Callable[[], Awaitable[str]]


@asynccontextmanager
async def node_of(valkey: Valkey, *, epoll: bool, **settings: Any) -> AsyncIterator[Node]:
    async with asyncio.timeout(60), serve(Settings(port=0, redis=valkey.url, **settings), epoll=epoll) as node:
        yield node


async def publish(redis: Redis, pattern: Pattern) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(1, COUNT + 1):
            pipeline.publish(pattern.channel, str(number))
        await pipeline.execute()


async def all_kept(node: Node) -> None:
    """Wait until the node has kept the last message."""
    while node.engine.stats()["conflated"] < COUNT - 2:
        await asyncio.sleep(0.005)


async def check(read: Read) -> None:
    """Read until the newest message comes: after the first one nearly all are left out."""
    received = [await read()]
    while received[-1] != str(COUNT):
        received.append(await read())
    assert received[0] == "1"
    assert 2 <= len(received) < COUNT // 2


async def subscribe(ws: ClientConnection, pattern: Pattern, prefix: str = "", **keys: object) -> None:
    await ws.send(prefix + orjson.dumps({"id": "s", "act": "sub", "pat": dict(pattern), **keys}).decode())
    answer = str(await ws.recv())
    assert orjson.loads(answer.removeprefix(prefix)) == {"id": "s", "ret": pattern.id}


def reader(ws: ClientConnection, pattern: Pattern, prefix: str = "") -> Read:
    async def read() -> str:
        return str(await ws.recv()).removeprefix(f"{prefix}{pattern.id}?")

    return read


@BOTH_KINDS
@pytest.mark.parametrize("compress", [False, True])
async def test_websocket(shared_valkey: Valkey, epoll: bool, compress: bool) -> None:
    pattern = Pattern(unique("every"))
    async with (
        node_of(shared_valkey, epoll=epoll, compress=compress) as node,
        client(node.ws_url, compression="deflate" if compress else None) as ws,
        client(node.ws_url) as plain,
        publisher(shared_valkey) as redis,
    ):
        await subscribe(ws, pattern, every=EVERY)
        await subscribe(plain, pattern)
        await publish(redis, pattern)
        await check(reader(ws, pattern))
        read = reader(plain, pattern)
        assert [await read() for _ in range(COUNT)] == [str(number) for number in range(1, COUNT + 1)]
        # Another `sub` without the key: every message again.
        await subscribe(ws, pattern)
        await publish(redis, pattern)
        for read in (reader(ws, pattern), reader(plain, pattern)):
            assert [await read() for _ in range(COUNT)] == [str(number) for number in range(1, COUNT + 1)]


async def subscribe_polling(polling: Poller, pattern: Pattern, every: int) -> Read:
    await polling.act({"id": "s", "act": "sub", "pat": dict(pattern), "every": every})
    assert orjson.loads((await polling.packet())[1:]) == {"id": "s", "ret": pattern.id}

    async def read() -> str:
        packet = await polling.packet()
        while packet == "2":
            packet = await polling.packet()
        return packet.removeprefix(f"4{pattern.id}?")

    return read


@BOTH_KINDS
@pytest.mark.parametrize("revision", [3, 4])
async def test_engineio_by_polling(shared_valkey: Valkey, epoll: bool, revision: int) -> None:
    pattern = Pattern(unique("every"))
    async with (
        node_of(shared_valkey, epoll=epoll) as node,
        poller(node, revision) as polling,
        publisher(shared_valkey) as redis,
    ):
        read = await subscribe_polling(polling, pattern, EVERY)
        await publish(redis, pattern)
        await check(read)


@BOTH_KINDS
@pytest.mark.parametrize("revision", [3, 4])
async def test_newest_message_survives_the_upgrade(shared_valkey: Valkey, epoll: bool, revision: int) -> None:
    pattern = Pattern(unique("every"))
    async with (
        node_of(shared_valkey, epoll=epoll) as node,
        poller(node, revision) as polling,
        publisher(shared_valkey) as redis,
    ):
        read = await subscribe_polling(polling, pattern, 60_000)
        await publish(redis, pattern)
        assert await read() == "1"
        await all_kept(node)
        async with websocket(node, revision, polling.opened["sid"]) as ws:
            waiting = asyncio.create_task(polling.get())
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            await waiting
            await ws.send("5")  # what is kept is in the framing of polling
            assert await ws.recv() == f"4{pattern.id}?{COUNT}"


@KINDS
async def test_event_stream(shared_valkey: Valkey, kind: str) -> None:
    pattern, other = Pattern(unique("every")), Pattern(unique("every"))
    async with (
        asyncio.timeout(60),
        any_server(kind, shared_valkey) as (base, _),
        http(base) as session,
        publisher(shared_valkey) as redis,
        streaming(session, f"{asked(dict(pattern))}&every={EVERY}&{asked(dict(other)).partition('?')[2]}") as stream,
    ):
        assert await stream.subscribed() == {"ids": [pattern.id, other.id]}
        await publish(redis, pattern)

        async def read() -> str:
            event = await stream.event()
            assert event is not None
            return event["data"]

        await check(read)
        await publish(redis, other)  # which has no `every` behind it
        assert [await read() for _ in range(COUNT)] == [str(number) for number in range(1, COUNT + 1)]


async def test_newest_message_precedes_the_close_of_a_draining_server(shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("every"))
    async with (
        node_of(shared_valkey, epoll=True, drain_seconds=0.1) as node,
        client(node.ws_url) as ws,
        publisher(shared_valkey) as redis,
    ):
        await subscribe(ws, pattern, every=60_000)
        await publish(redis, pattern)
        read = reader(ws, pattern)
        assert await read() == "1"
        await all_kept(node)
        draining = asyncio.create_task(node.drain())
        assert await read() == str(COUNT)
        await draining
