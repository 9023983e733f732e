"""The Python clients with history, against real nodes over a real Valkey."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from itertools import islice
from typing import Any

import httpx2
import pytest

from realizehit.client.subscription import Subscription
from realizehit.process.server import serve
from realizehit.settings import Settings
from realizehit.sync import Subscriber
from tests.integration.test_client_sync_ws import call, make
from tests.integration.test_client_ws import connect, record, until
from tests.integration.test_history_node import node_at
from tests.support.history import CHAT, SECONDS, SHORT, publish, room, set_rules
from tests.support.ports import free_port
from tests.support.processes import running
from tests.support.valkey import Valkey

Told = list[tuple[Any, str | None]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Valkey(tmp_path_factory.mktemp("history")) as valkey:
        set_rules(valkey, CHAT, SHORT)
        yield valkey


async def positions(subscription: Subscription, count: int) -> Told:
    messages = subscription.messages()
    async with asyncio.timeout(SECONDS):
        return [(message.payload, message.position) for message in [await anext(messages) for _ in range(count)]]


async def send(api: httpx2.AsyncClient, pattern: Any, numbers: range) -> Told:
    return [(number, await publish(api, pattern, number)) for number in numbers]


def read(subscriber: Subscriber, count: int) -> Told:
    return [(message.payload, message.position) for message in islice(subscriber.messages(), count)]


async def test_each_message_comes_once_across_a_restart_of_the_server(broker: Valkey) -> None:
    pattern, port = room(), free_port()
    url = f"ws://127.0.0.1:{port}/ws"
    settings = Settings(port=port, redis=broker.url, drain_seconds=0.1)
    words = [f"{key}={value}" for key, value in pattern.items()]
    recovered: list[str] = []
    async with node_at(broker) as (_, api), AsyncExitStack() as stack:  # this node publishes, and stays
        async with serve(settings):
            client = await stack.enter_async_context(connect(url))
            chat = await client.subscribe(pattern, offsets=True)
            told = record(chat, "recovered", "gap")
            subscriber = make(url, pattern, offsets=True, on_recovered=lambda: recovered.append("recovered"))
            await call(subscriber.connect)
            stack.callback(subscriber.close)
            reading = asyncio.create_task(call(read, subscriber, 30))
            process = stack.enter_context(
                running("realizehit", "subscribe", "--url", url, *words, "--positions", "--count", "30")
            )
            await asyncio.to_thread(process.find, "^subscribed to")
            sent = await send(api, pattern, range(10))
            await asyncio.to_thread(process.find, '"payload":9}')
        sent += await send(api, pattern, range(10, 20))  # nobody receives these
        async with serve(settings):
            await until(lambda: told)
            sent += await send(api, pattern, range(20, 30))
            assert await positions(chat, 30) == sent
            assert await reading == sent
            assert await asyncio.to_thread(process.wait) == 0
            assert [(each["payload"], each["position"]) for each in map(json.loads, process.out)] == sent
            assert "connected again: nothing is missing" in process.err
            assert (told, recovered, chat.gaps, subscriber.gaps) == (["recovered"], ["recovered"], 0, 0)
            await client.close()
            await call(subscriber.close)


async def test_a_later_program_goes_on_after_a_position(broker: Valkey) -> None:
    pattern = room()
    async with node_at(broker) as (node, api):
        sent = await send(api, pattern, range(10))
        async with connect(node.ws_url) as client:
            last = await client.subscribe(pattern, last=2)
            assert await positions(last, 2) == sent[8:]
            assert last.position == sent[9][1]
        sent += await send(api, pattern, range(10, 15))
        async with connect(node.ws_url) as client:
            rest = await client.subscribe(pattern, since=last.position)
            assert (rest.recovered, rest.gaps) == (True, 0)
            assert await positions(rest, 5) == sent[10:]
        subscriber = make(node.ws_url, pattern, since=sent[12][1])
        await call(subscriber.connect)
        assert (await call(next, subscriber), subscriber.position) == sent[13]
        await call(subscriber.close)


async def test_a_wildcard_resumes_too(broker: Valkey) -> None:
    pattern = room()
    async with node_at(broker) as (node, api):
        async with connect(node.ws_url) as client:
            every = await client.subscribe({**pattern, "user": "*"}, offsets=True)
            await send(api, {**pattern, "user": 1}, range(3))
            messages = every.messages()
            first = [await anext(messages) for _ in range(3)]
        await send(api, {**pattern, "user": 2}, range(3, 6))
        async with connect(node.ws_url) as client:
            every = await client.subscribe({**pattern, "user": "*"}, since=first[-1].position)
            assert every.recovered is True
            messages = every.messages()
            async with asyncio.timeout(SECONDS):
                rest = [await anext(messages) for _ in range(3)]
        assert [(each.payload, each.pattern["user"]) for each in first + rest] == [
            (number, "1" if number < 3 else "2") for number in range(6)
        ]


async def test_what_the_history_no_longer_has_is_a_gap(broker: Valkey) -> None:
    pattern = {**room(), "kept": "short"}
    async with node_at(broker) as (node, api), connect(node.ws_url) as client:
        sent = await send(api, pattern, range(30))
        short = await client.subscribe(pattern, since=sent[2][1])
        assert (short.recovered, short.gaps, short.position) == (False, 1, sent[29][1])
        sent += await send(api, pattern, range(30, 32))
        assert await positions(short, 2) == sent[30:]
        free = await client.subscribe({"free": pattern["room"]}, last=3)
        assert (free.recovered, free.gaps, free.position) == (None, 0, None)
