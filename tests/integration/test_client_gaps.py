"""What the Python clients make of events: a broker that was away, and a subscription that the server ended."""

from __future__ import annotations

import asyncio
import time

import orjson
import pytest
from websockets.asyncio.server import ServerConnection

from realizehit import Pattern
from realizehit.broker.base import BusState
from realizehit.errors import Rejected
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.integration.test_client_sync_ws import call, make
from tests.integration.test_client_sync_ws import take as take_sync
from tests.integration.test_client_ws import connect, record, take, until
from tests.support.gaps import check_gap
from tests.support.processes import running
from tests.support.scripted_server import Scripted, answer_all, reply, scripted
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique


async def test_a_broker_that_was_away_is_a_gap_for_every_client(valkey: Valkey) -> None:
    gaps: list[float] = []
    pattern, other = Pattern(unique("gaps")), Pattern(unique("gaps"))
    async with serve(Settings(port=0, redis=valkey.url)) as node, connect(node.ws_url) as client:
        news, twin = await client.subscribe(pattern), await client.subscribe(pattern)
        told = record(news, "gap")
        subscriber = make(node.ws_url, pattern, on_gap=gaps.append)
        await call(subscriber.connect)
        words = [f"{key}={value}" for key, value in pattern.items()]
        with running("realizehit", "subscribe", "--url", node.ws_url, "--count", "1", *words) as process:
            await asyncio.to_thread(process.find, "^subscribed to")
            gone = time.monotonic()
            valkey.kill()
            await until(lambda: node.bus.state is BusState.DOWN)
            waiting = asyncio.create_task(client.subscribe(other))
            valkey.start()
            back = time.monotonic()
            late = await waiting
            await until(lambda: told)
            now = time.monotonic()
            await asyncio.to_thread(process.find, r"^a gap of \d+\.\d s has ended: messages may be missing$")
            async with publisher(valkey) as redis:
                await redis.publish(pattern.channel, b"1")
                await redis.publish(other.channel, b"2")
            assert await call(take_sync, subscriber, 1) == [1]
            assert (await take(news, 1), await take(twin, 1), await take(late, 1)) == ([1], [1], [2])
            assert await asyncio.to_thread(process.wait) == 0
            assert process.out == ["1"]
        assert [event for event, _ in told] == ["gap"]
        assert (news.gaps, twin.gaps, late.gaps, subscriber.gaps) == (1, 1, 0, 1)
        assert gaps == pytest.approx([told[0][1]], abs=5)
        check_gap(told[0][1], gone, back, now)
        await call(subscriber.close)


async def end_the_first(server: Scripted, socket: ServerConnection) -> None:
    """Grant a subscription, then end it with an event; other actions are answered."""
    action = await server.next_action(socket)
    await reply(socket, action, ret="aaaaaaaa")
    await socket.send('{"evt":"news-of-a-later-version","ids":["aaaaaaaa"]}')
    event = {"evt": "unsubscribed", "ids": ["aaaaaaaa", "bbbbbbbb"], "code": "forbidden", "reason": "no more of this"}
    await socket.send(orjson.dumps(event).decode())
    while True:
        await reply(socket, await server.next_action(socket), ret="pong")


async def test_a_subscription_that_the_server_ends_raises_why() -> None:
    async with scripted(end_the_first) as server, connect(server.url) as client:
        news = await client.subscribe({"kind": "news"})
        with pytest.raises(Rejected, match="no more of this") as caught:
            await asyncio.wait_for(anext(news), 15)
        assert caught.value.code == "forbidden"
        assert news.state == "unsubscribed"
        assert client.subscriptions == []
        assert await client.ping() > 0  # the connection goes on


async def test_a_subscriber_that_the_server_ends_raises_why() -> None:
    async with scripted(end_the_first) as server:
        subscriber = make(server.url, {"kind": "news"})
        await call(subscriber.connect)
        with pytest.raises(Rejected, match="no more of this"):
            await call(take_sync, subscriber, 1)


async def send_no_utf8(server: Scripted, socket: ServerConnection) -> None:
    """Confirm a subscription, then send a text that is not UTF-8; record the code that the client closes with."""
    await reply(socket, await server.next_action(socket), ret="abc")
    await socket.send(b'abc?"\xff"', text=True)
    await socket.wait_closed()
    server.actions.append({"closed": socket.close_code})


async def send_good_one(server: Scripted, socket: ServerConnection) -> None:
    await reply(socket, await server.next_action(socket), ret="abc")
    await socket.send("abc?1")
    await answer_all(server, socket)


async def test_a_text_that_is_not_utf8_costs_the_connection() -> None:
    async with scripted(send_no_utf8, send_good_one) as server, connect(server.url) as client:
        news = await client.subscribe({"kind": "news"})
        assert await take(news, 1) == [1]
        assert news.gaps == 1
        assert {"closed": 1007} in server.actions


async def test_a_text_that_is_not_utf8_costs_a_subscribers_connection() -> None:
    async with scripted(send_no_utf8, send_good_one) as server:
        subscriber = await call(make(server.url, {"kind": "news"}).connect)
        assert await call(take_sync, subscriber, 1) == [1]
        assert subscriber.gaps == 1
        assert {"closed": 1007} in server.actions
        await call(subscriber.close)
