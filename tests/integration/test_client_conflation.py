"""``every`` in the Python clients and the command, against a real node and a real Valkey."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from redis.asyncio import Redis

from realizehit.client.ws import WSClient
from realizehit.errors import Disconnected
from realizehit.pattern import Pattern
from realizehit.process.server import Node
from realizehit.sync import Subscriber
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique

COUNT = 50
EVERY = 200  # milliseconds


async def publish(redis: Redis, pattern: Pattern) -> None:
    async with redis.pipeline(transaction=False) as pipeline:
        for number in range(1, COUNT + 1):
            pipeline.publish(pattern.channel, str(number))
        await pipeline.execute()


def check(received: list[int]) -> None:
    assert received[0] == 1
    assert received[-1] == COUNT
    assert len(received) < COUNT // 2


async def test_async_client_asks_again_after_a_lost_connection(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("every"))
    lost = asyncio.Event()

    def note_lost(error: Disconnected) -> None:
        lost.set()

    async with (
        asyncio.timeout(60),
        publisher(shared_valkey) as redis,
        WSClient(node.ws_url, backoff_base=0.001) as client,
    ):
        client.on("disconnect", note_lost)
        subscription = await client.subscribe(pattern, every=EVERY)
        again = asyncio.Event()
        subscription.on("subscribed", again.set)
        for _ in range(2):
            await publish(redis, pattern)
            received = [await anext(subscription)]
            while received[-1] != COUNT:
                received.append(await anext(subscription))
            check(received)
            again.clear()
            (handle,) = node.engine.subscriber_handles(pattern.channel.encode())
            assert node.engine.every(handle, pattern.channel.encode()) == EVERY
            node.engine.disconnect(handle, 4001, "delay=1")
            await again.wait()
        assert lost.is_set()


async def test_sync_client(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("every"))
    subscriber = Subscriber(node.ws_url, pattern, every=EVERY)

    def follow(messages: Iterator[int]) -> list[int]:
        received = [next(messages)]
        while received[-1] != COUNT:
            received.append(next(messages))
        return received

    async with asyncio.timeout(60), publisher(shared_valkey) as redis:
        await asyncio.to_thread(subscriber.connect)
        try:
            await publish(redis, pattern)
            check(await asyncio.to_thread(follow, iter(subscriber)))
        finally:
            await asyncio.to_thread(subscriber.close)


async def test_sync_client_gets_notes(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("note"))
    notes: list[object] = []
    subscriber = Subscriber(node.ws_url, pattern, on_note=notes.append)
    async with asyncio.timeout(60), publisher(shared_valkey) as redis:
        await asyncio.to_thread(subscriber.connect)
        try:
            (handle,) = node.engine.subscriber_handles(pattern.channel.encode())
            node.hub.events.send(handle, "note", note={"maintenance": "10:00"})
            await redis.publish(pattern.channel, "1")
            assert await asyncio.to_thread(next, iter(subscriber)) == 1
            assert notes == [{"maintenance": "10:00"}]
        finally:
            await asyncio.to_thread(subscriber.close)


async def test_command(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("every"))
    command = [sys.executable, "-m", "realizehit", "subscribe", *(f"{key}={value}" for key, value in pattern.items())]
    async with asyncio.timeout(60), publisher(shared_valkey) as redis:
        process = await asyncio.create_subprocess_exec(
            *command, "--url", node.ws_url, "--every", str(EVERY), "--count", "2",
            cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        assert b"subscribed" in await process.stderr.readline()
        (handle,) = node.engine.subscriber_handles(pattern.channel.encode())
        assert node.engine.every(handle, pattern.channel.encode()) == EVERY
        await publish(redis, pattern)
        output, _ = await process.communicate()
        assert output.split()[0] == b"1"
        assert process.returncode == 0
