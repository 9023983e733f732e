"""From every publisher to clients with wildcard subscriptions: each message once, with its pattern."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realizehit import APIClient, Publisher, sync
from realizehit.client.messages import PublishResult
from realizehit.client.subscription import Subscription
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_client_ws import connect, take
from tests.support.valkey import Valkey

Publish = Callable[[dict[str, str], int], Awaitable[PublishResult]]
STOCK = {"kind": "stock", "symbol": "*"}
OWN = {"user": "42", "*": "*"}


@asynccontextmanager
async def publishers(api_url: str, broker_url: str) -> AsyncIterator[dict[str, Publish]]:
    with sync.Publisher(broker_url) as blocking:
        async with APIClient(api_url, trust_env=False) as api, Publisher(broker_url) as publisher:

            async def in_batch(pattern: dict[str, str], payload: int) -> PublishResult:
                (outcome,) = await api.publish_many([(pattern, payload)])
                assert isinstance(outcome, PublishResult)
                return outcome

            async def in_thread(pattern: dict[str, str], payload: int) -> PublishResult:
                return await asyncio.to_thread(blocking.publish, pattern, payload)

            yield {"api": api.publish, "batch": in_batch, "publisher": publisher.publish, "sync": in_thread}


async def told(subscription: Subscription, count: int) -> list[tuple[dict[str, str], Any]]:
    """Return the patterns and payloads of the next messages."""
    found: list[tuple[dict[str, str], Any]] = []
    async with asyncio.timeout(20):
        async for message in subscription.messages():
            found.append((message.pattern, message.payload))
            if len(found) == count:
                break
    return found


async def test_each_message_comes_once_for_each_subscription_that_it_matches(valkey: Valkey) -> None:
    settings = Settings(port=0, redis=valkey.url)
    async with (
        serve(settings) as near,
        serve(settings) as far,
        publishers(near.api_url, valkey.url) as ways,
        connect(near.ws_url) as one,
        connect(far.ws_url) as two,
    ):
        for publish in ways.values():  # each knows the registry before the shapes are there
            assert (await publish({"before": "1"}, 0)).nodes == 0
        stock, exact = await one.subscribe(STOCK), await one.subscribe({"kind": "stock", "symbol": "ACME"})
        everything, other = await two.subscribe(OWN), await two.subscribe(STOCK)
        numbers = itertools.count(1)
        expected: list[tuple[dict[str, str], int]] = []
        for publish in ways.values():
            for symbol in ("ACME", "INIT"):
                pattern, number = {"kind": "stock", "symbol": symbol}, next(numbers)
                assert (await publish(pattern, number)).nodes == (3 if symbol == "ACME" else 2)
                expected.append((pattern, number))
            assert (await publish({"user": "42", "n": "1"}, next(numbers))).nodes == 1
            assert (await publish({"kind": "stock", "symbol": "ACME", "more": "1"}, next(numbers))).nodes == 0
        for subscription in (stock, other):
            assert await told(subscription, 8) == expected
        assert await take(exact, 4) == [1, 5, 9, 13]
        assert [payload for _, payload in await told(everything, 4)] == [3, 7, 11, 15]
        for subscription in (stock, other, exact, everything):
            await subscription.unsubscribe()
        # Their shapes are in the registry until they lapse; nothing of it is delivered any more.
        assert (await ways["api"]({"kind": "stock", "symbol": "ACME"}, 0)).nodes == 0


@pytest.mark.parametrize("broker", ["memory://end-to-end", None], ids=["memory", "embedded"])
async def test_on_other_brokers(broker: str | None) -> None:
    async with serve(Settings(port=0, redis=broker)) as node, connect(node.ws_url) as client:
        subscription = await client.subscribe(STOCK)
        await check(node)
        assert await told(subscription, 1) == [({"kind": "stock", "symbol": "ACME"}, {"price": 1})]


async def check(node: Node) -> None:
    async with APIClient(node.api_url, trust_env=False) as api:
        assert (await api.publish({"kind": "stock", "symbol": "ACME"}, {"price": 1})).nodes == 1
        assert (await api.publish({"kind": "stock"}, 2)).nodes == 0
