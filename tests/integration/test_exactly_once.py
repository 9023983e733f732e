"""Every publication is delivered exactly once, in order per channel, to exactly its subscribers."""

from __future__ import annotations

import asyncio
import random

import pytest

from realizehit.pattern import Pattern
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, publisher, unique


@pytest.mark.parametrize(
    ("own", "shared", "publications", "epoll"), [(1000, 100, 10_000, True), (100, 20, 2_000, False)]
)
async def test_exactly_once_in_order_to_exactly_the_subscribers(
    shared_valkey: Valkey, own: int, shared: int, publications: int, epoll: bool
) -> None:
    chance = random.Random(20_26)
    common = Pattern(unique("shared"))
    async with (
        serve(Settings(port=0, redis=shared_valkey.url), epoll=epoll) as node,
        publisher(shared_valkey) as redis,
    ):
        clients = [await RawClient.connect(node.ws_url) for _ in range(own + shared)]
        patterns = [Pattern(unique("own")) for _ in range(own)] + [common] * shared
        for client, pattern in zip(clients, patterns, strict=True):
            client.act(id="s", act="sub", pat=dict(pattern))
        for client in clients:
            await client.wait_for(1)
        for client, pattern in zip(clients, patterns, strict=True):
            assert client.texts == [b'{"id":"s","ret":"%s"}' % pattern.id.encode()]
            client.texts.clear()

        expected: dict[str, list[bytes]] = {pattern.channel: [] for pattern in patterns}
        for start in range(0, publications, 500):
            async with redis.pipeline(transaction=False) as pipeline:
                for n in range(start, start + 500):
                    pattern = common if chance.random() < 0.1 else chance.choice(patterns[:own])
                    expected[pattern.channel].append(f'{pattern.id}?{{"n":{n}}}'.encode())
                    pipeline.publish(pattern.channel, f'{{"n":{n}}}')
                assert await pipeline.execute() == [1] * 500

        for client, pattern in zip(clients, patterns, strict=True):
            await client.wait_for(len(expected[pattern.channel]))
        # A reply comes behind all that was on its way: whatever else there were would be here by now.
        for client in clients:
            client.act(id="p", act="ping")
        for client, pattern in zip(clients, patterns, strict=True):
            wanted = [*expected[pattern.channel], b'{"id":"p","ret":"pong"}']
            await client.wait_for(len(wanted))
            assert client.texts == wanted
        stats = node.engine.stats()
        assert stats["messages"] == publications
        assert stats["deliveries"] == sum(len(expected[pattern.channel]) for pattern in patterns)
        for client in clients:
            client.transport.close()
        await asyncio.gather(*(client.closed.wait() for client in clients))
