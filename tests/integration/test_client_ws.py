"""The WebSocket client against a real node and a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realizehit import APIClient, Pattern, Subscription, WSClient
from realizehit.client.subscription import SubscriptionState
from realizehit.errors import (
    ClientError,
    PatternError,
    QueueOverflow,
    Rejected,
    ResponseTimeout,
    ServerUnavailable,
    SettingsError,
)
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique

SECONDS = 15.0  # of any wait


def connect(url: str, **options: Any) -> WSClient:
    return WSClient(url, **{"proxy": None, "backoff_base": 0.05, "backoff_cap": 0.2, **options})


async def take(subscription: Subscription, count: int) -> list[Any]:
    async with asyncio.timeout(SECONDS):
        return [await anext(subscription) for _ in range(count)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def closing(client: WSClient) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.close()


def record(emitter: Any, *events: str) -> list[Any]:
    """Return a list that gets the events as they come, with what they carry."""
    seen: list[Any] = []
    for event in events:
        emitter.on(event, lambda *values, event=event: seen.append((event, *values) if values else event))
    return seen


async def test_subscribe_receive_unsubscribe(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("client"))
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        subscription = await client.subscribe(pattern)
        assert subscription.state == "subscribed"
        assert subscription.id == pattern.id
        assert client.subscriptions == [subscription]
        states = record(subscription, "unsubscribing", "unsubscribed")
        for payload in (b'{"title": "hello?"}', b"null", b"7"):
            assert await redis.publish(pattern.channel, payload) == 1
        assert await take(subscription, 3) == [{"title": "hello?"}, None, 7]
        await subscription.unsubscribe()
        await subscription.unsubscribe()
        assert states == ["unsubscribing", "unsubscribed"]
        assert client.subscriptions == []
        assert [payload async for payload in subscription] == []
        assert node.engine.subscribers(pattern.channel.encode()) == 0
        again = await client.subscribe(dict(pattern))
        await redis.publish(pattern.channel, b'"again"')
        assert await take(again, 1) == ["again"]


async def test_payloads_raw_and_decoded(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("raw"))
    text = '{"n": 12345678901234567890123,  "f": 1.10, "z": "é?\\u003f"}'.encode()
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        raw = await client.subscribe(pattern, raw=True)
        decoded = await client.subscribe(pattern)
        failures = record(decoded, "error")
        await redis.publish(pattern.channel, text)
        await redis.publish(pattern.channel, b"this is not JSON")
        await redis.publish(pattern.channel, b"1")
        assert await take(raw, 3) == [text, b"this is not JSON", b"1"]
        first, second = await take(decoded, 2)
        assert (first["f"], first["z"], second) == (1.1, "é??", 1)
        assert len(failures) == 1
        assert "is not JSON" in str(failures[0][1])


async def test_callbacks_get_payloads_in_order_one_at_a_time(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("callback"))
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        plain: list[int] = []
        awaited: list[int] = []
        running = 0

        async def slow(payload: int) -> None:
            nonlocal running
            running += 1
            assert running == 1
            await asyncio.sleep(0)
            awaited.append(payload)
            running -= 1

        first = await client.subscribe(pattern, callback=plain.append)
        second = await client.subscribe(pattern)
        await redis.publish(pattern.channel, b"0")
        await until(lambda: second.waiting)
        second.on("payload", slow)  # gets what waits too
        for n in range(1, 50):
            await redis.publish(pattern.channel, str(n))
        await until(lambda: len(awaited) == len(plain) == 50)
        assert plain == awaited == list(range(50))
        with pytest.raises(RuntimeError, match="has a callback"):
            aiter(first)
        second.off("payload", slow)


async def test_a_callback_that_fails_gets_the_next_payload_all_the_same(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("failing"))
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    seen: list[int] = []

    def fails(payload: int) -> None:
        seen.append(payload)
        raise RuntimeError(payload)

    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        await client.subscribe(pattern, callback=fails)
        await redis.publish(pattern.channel, b"1")
        await redis.publish(pattern.channel, b"2")
        await until(lambda: len(reported) == 2)
    assert seen == [1, 2]


async def test_one_pattern_many_subscriptions(node: Node, shared_valkey: Valkey) -> None:
    pattern = unique("many")
    spelled = {**pattern, "n": str(pattern["n"])}
    channel = Pattern(pattern).channel
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        subscriptions = await asyncio.gather(*(client.subscribe(pattern) for _ in range(5)), client.subscribe(spelled))
        assert node.engine.subscribers(channel.encode()) == 1
        assert await redis.publish(channel, b"1") == 1
        for subscription in subscriptions:
            assert await take(subscription, 1) == [1]
        await subscriptions[0].unsubscribe()
        await redis.publish(channel, b"2")
        assert await take(subscriptions[1], 1) == [2]
        assert [payload async for payload in subscriptions[0]] == []
        await client.unsubscribe(spelled)
        assert node.engine.subscribers(channel.encode()) == 0
        with pytest.raises(Rejected, match="not subscribed") as caught:
            await client.unsubscribe(pattern)
        assert caught.value.code == "not-subscribed"


async def test_unsubscribe_and_subscribe_at_once_ends_subscribed(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("overtake"))
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        old = await client.subscribe(pattern)
        for n in range(20):
            _, new = await asyncio.gather(old.unsubscribe(), client.subscribe(pattern))
            assert old.state == "unsubscribed"
            assert await redis.publish(pattern.channel, str(n)) == 1
            assert await take(new, 1) == [n]
            old = new


async def test_many_patterns_at_once(node: Node, shared_valkey: Valkey) -> None:
    patterns = [Pattern(unique("crowd")) for _ in range(300)]
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        subscriptions = await asyncio.gather(*(client.subscribe(pattern) for pattern in patterns))
        for n, pattern in enumerate(patterns):
            await redis.publish(pattern.channel, str(n))
        for n, subscription in enumerate(subscriptions):
            assert await take(subscription, 1) == [n]
        await asyncio.gather(*(subscription.unsubscribe() for subscription in subscriptions))
        assert node.engine.stats()["subscriptions"] == 0


async def test_two_patterns_with_one_id(node: Node, shared_valkey: Valkey) -> None:
    one, two = Pattern(user=25442), Pattern(user=28322)
    async with connect(node.ws_url) as client, connect(node.ws_url) as other, publisher(shared_valkey) as redis:
        mine = await client.subscribe(one)
        with pytest.raises(Rejected) as caught:
            await client.subscribe(two)
        assert caught.value.code == "id-collision"
        assert client.subscriptions == [mine]
        theirs = await other.subscribe(two)
        await redis.publish(two.channel, b'"for two"')
        await redis.publish(one.channel, b'"for one"')
        assert await take(mine, 1) == ["for one"]
        assert await take(theirs, 1) == ["for two"]


async def test_patterns_that_look_alike_are_two(node: Node, shared_valkey: Valkey) -> None:
    name = unique("alike")
    number: dict[str, Any] = {**name, "a": 1e-7}
    text = {**name, "a": "1e-07"}
    async with connect(node.ws_url) as client, publisher(shared_valkey) as redis:
        first, second = await client.subscribe(number), await client.subscribe(text)
        await redis.publish(Pattern(number).channel, b'"number"')
        await redis.publish(Pattern(text).channel, b'"text"')
        assert await take(first, 1) == ["number"]
        assert await take(second, 1) == ["text"]
        await client.subscribe({"a": "None"})
        with pytest.raises(Rejected, match="null"):
            await client.subscribe({"a": None})


async def test_what_the_server_refuses(node: Node) -> None:
    async with connect(node.ws_url) as client:
        for pattern, code in (({}, "bad-pattern"), ({"a": None}, "bad-pattern"), ({"realizehit": 1}, "forbidden")):
            with pytest.raises(Rejected) as caught:
                await client.subscribe(pattern)
            assert caught.value.code == code
        with pytest.raises(PatternError):
            await client.subscribe("kind=news")  # type: ignore[arg-type]
        assert client.subscriptions == []
        assert 0 < await client.ping() < SECONDS


async def test_a_burst_does_not_overrun_a_reader_that_keeps_up(node: Node) -> None:
    pattern = unique("burst")
    async with connect(node.ws_url) as client, APIClient(node.api_url, trust_env=False) as api:
        subscription = await client.subscribe(pattern, maxsize=4, overflow="error")
        called: list[int] = []
        await client.subscribe(pattern, maxsize=1, overflow="error", callback=called.append)
        reading = asyncio.create_task(take(subscription, 3000))
        outcomes = await api.publish_many((pattern, n) for n in range(3000))
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
        assert await reading == list(range(3000))
        await until(lambda: len(called) == 3000)
        assert called == list(range(3000))


async def test_an_overflow_drops_or_raises(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("overflow"))
    async with connect(node.ws_url, maxsize=3) as client, publisher(shared_valkey) as redis:
        oldest = await client.subscribe(pattern)
        newest = await client.subscribe(pattern, overflow="drop_newest")
        strict = await client.subscribe(pattern, overflow="error")
        last = await client.subscribe(pattern, maxsize=100)
        failures = record(strict, "error")
        for n in range(10):
            await redis.publish(pattern.channel, str(n))
        await until(lambda: last.waiting == 10)
        assert await take(oldest, 3) == [7, 8, 9]
        assert await take(newest, 3) == [0, 1, 2]
        assert (oldest.dropped, newest.dropped, last.dropped) == (7, 7, 0)
        assert await take(strict, 3) == [0, 1, 2]
        with pytest.raises(QueueOverflow, match="3 payloads"):
            await take(strict, 1)
        assert len(failures) == 1
        assert strict not in client.subscriptions
        await redis.publish(pattern.channel, b"10")
        assert await take(oldest, 1) == [10]  # the others go on


async def test_it_comes_back_subscribes_again_and_tells_the_gap(shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("restart"))
    async with publisher(shared_valkey) as redis:
        async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
            url = node.ws_url
            client = await connect(url).connect()
            lives = record(client, "connected", "disconnect", "error")
            subscription = await client.subscribe(pattern)
            other = await client.subscribe(unique("restart"))
            events = record(subscription, "subscribing", "subscribed", "gap")
            await redis.publish(pattern.channel, b"1")
            await until(lambda: subscription.waiting)
        await until(lambda: not client.connected)
        joining = asyncio.create_task(client.subscribe(pattern))  # while it is away
        await asyncio.sleep(0.2)
        await redis.publish(pattern.channel, b'"missed"')
        port = int(url.removesuffix("/ws").rsplit(":", 1)[1])
        async with serve(Settings(port=port, redis=shared_valkey.url)) as node, closing(client):
            late = await asyncio.wait_for(joining, SECONDS)
            await until(lambda: other.gaps)
            await redis.publish(pattern.channel, b"2")
            assert await take(subscription, 2) == [1, 2]
            assert await take(late, 1) == [2]
            assert [event if isinstance(event, str) else event[0] for event in events] == [
                "subscribing",
                "subscribed",
                "gap",
            ]
            assert 0.2 <= events[2][1] < 60
            assert (subscription.gaps, late.gaps) == (1, 0)
            assert lives[0] == lives[-1] == "connected"
            assert lives[1][0] == "disconnect"
            assert {kind for kind, *_ in lives[2:-1]} <= {"error"}
            assert node.engine.stats()["subscriptions"] == 2


async def test_a_drain_sends_it_to_come_back_later(shared_valkey: Valkey) -> None:
    pattern = unique("drain")
    port = free_port()
    async with serve(Settings(port=port, redis=shared_valkey.url, drain_seconds=0)) as node:
        client = await connect(node.ws_url).connect()
        lost = record(client, "disconnect")
        subscription = await client.subscribe(pattern)
        await node.drain()
        await until(lambda: lost)
        assert lost[0][1].close_code == 4001
    async with serve(Settings(port=port, redis=shared_valkey.url)):
        await until(lambda: subscription.gaps)
        assert subscription.state == "subscribed"
        await client.close()


async def test_a_client_that_comes_back_waits_for_the_broker(valkey: Valkey) -> None:
    pattern = Pattern(unique("broker"))
    settings = Settings(port=0, redis=valkey.url, subscribe_timeout=0.1)
    async with serve(settings) as node:
        url = node.ws_url
        client = await connect(url).connect()
        subscription = await client.subscribe(pattern)
    valkey.kill()
    port = int(url.removesuffix("/ws").rsplit(":", 1)[1])
    async with serve(Settings(port=port, redis=valkey.url, subscribe_timeout=0.1)), closing(client):
        await until(lambda: client.connected)
        with pytest.raises(ServerUnavailable):
            await client.subscribe(unique("broker"))
        assert subscription.state == "subscribing"
        valkey.start()
        await until(lambda: subscription.gaps)
        async with publisher(valkey) as redis:
            await redis.publish(pattern.channel, b"1")
            assert await take(subscription, 1) == [1]


async def test_closing(node: Node) -> None:
    client = connect(node.ws_url)
    with pytest.raises(ClientError, match="not connected"):
        await client.subscribe(unique("close"))
    await client.close()  # of one that never connected
    async with connect(node.ws_url) as client:
        subscription = await client.subscribe(unique("close"))
        called = await client.subscribe(unique("close"), callback=print)
        lost = record(client, "disconnect")
        reading = asyncio.create_task(anext(subscription, "ended"))
        waiting = asyncio.create_task(client.wait_closed())
        await asyncio.sleep(0)
        await asyncio.gather(client.close(), client.close())
        await client.close()
        assert await asyncio.wait_for(reading, SECONDS) == "ended"
        await asyncio.wait_for(waiting, SECONDS)
        assert subscription.state == called.state == "unsubscribed"
        assert len(lost) == 1
        for act in (client.subscribe(unique("close")), client.ping()):
            with pytest.raises(ClientError, match="closed"):
                await act
        with pytest.raises(RuntimeError, match="connects once"):
            await client.connect()
    await until(lambda: node.engine.stats()["connections"] == 0)


async def test_closing_from_a_callback(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("close"))
    client = await connect(node.ws_url).connect()
    ended: list[str] = []

    async def last(payload: Any) -> None:
        await client.close()
        ended.append("in the callback")

    await client.subscribe(pattern, callback=last)
    async with publisher(shared_valkey) as redis:
        await redis.publish(pattern.channel, b"1")
    await asyncio.wait_for(client.wait_closed(), SECONDS)
    await until(lambda: ended)


async def test_closing_while_it_is_away(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        client = await connect(node.ws_url, backoff_base=60, backoff_cap=60).connect()
        subscription = await client.subscribe(unique("away"))
    await until(lambda: not client.connected)
    assert subscription.state is SubscriptionState.SUBSCRIBING
    with pytest.raises(ClientError, match="away"):
        await client.ping()
    await subscription.unsubscribe()
    pending = asyncio.create_task(client.subscribe(unique("away")))
    await asyncio.sleep(0)
    await asyncio.wait_for(client.close(), SECONDS)
    with pytest.raises(ClientError, match="closed"):
        await pending


async def test_a_subscription_that_waits_for_the_connection_is_bounded(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        client = await connect(node.ws_url, backoff_base=60, backoff_cap=60, response_timeout=0.05).connect()
    await until(lambda: not client.connected)
    with pytest.raises(ResponseTimeout, match="the connection is away"):
        await client.subscribe(unique("away"))
    assert client.subscriptions == []
    await client.close()


async def test_connecting_may_be_tried_again_and_given_up(shared_valkey: Valkey) -> None:
    port = free_port()
    client = connect(f"ws://127.0.0.1:{port}/ws")
    with pytest.raises(ServerUnavailable):
        await client.connect()
    async with serve(Settings(port=port, redis=shared_valkey.url)) as node:
        async with client:
            with pytest.raises(RuntimeError, match="connects once"):
                await client.connect()
            await client.ping()
        given_up = connect(node.ws_url)
        connecting = asyncio.create_task(given_up.connect())
        await asyncio.sleep(0)
        await given_up.close()
        with pytest.raises(ClientError, match="closed"):
            await connecting
        await until(lambda: node.engine.stats()["connections"] == 0)


async def test_addresses_that_cannot_be_used(node: Node) -> None:
    for url in ("http://localhost/ws", "localhost:8080", ""):
        with pytest.raises(SettingsError, match="URL cannot be used"):
            WSClient(url)
    with pytest.raises(ServerUnavailable, match="cannot connect"):
        await connect(f"ws://127.0.0.1:{free_port()}/ws").connect()
    with pytest.raises(Rejected, match="HTTP 404") as caught:
        await connect(node.ws_url + "/elsewhere").connect()
    assert caught.value.status == 404
