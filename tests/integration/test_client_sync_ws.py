"""The synchronous subscriber, in a thread, against a real node and a scripted server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realizehit import Pattern
from realizehit.errors import (
    ClientError,
    Disconnected,
    PatternError,
    Rejected,
    ResponseTimeout,
    ServerUnavailable,
    SettingsError,
)
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from realizehit.sync import Subscriber
from tests.integration.test_client_ws import until
from tests.support.ports import free_port
from tests.support.scripted_server import Scripted, answer_all, answer_then_close, scripted
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique


def make(url: str, pattern: Any, **options: Any) -> Subscriber:
    return Subscriber(url, pattern, **{"proxy": None, "backoff_base": 0.05, "backoff_cap": 0.2, **options})


async def call(function: Any, *arguments: Any) -> Any:
    async with asyncio.timeout(20):
        return await asyncio.to_thread(function, *arguments)


def take(subscriber: Subscriber, count: int) -> list[Any]:
    return [next(subscriber) for _ in range(count)]


async def test_a_plain_for_loop(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("sync"))
    seen: list[Any] = []

    def follow() -> None:
        with make(node.ws_url, pattern) as subscriber:
            assert subscriber.id == pattern.id
            for payload in subscriber:
                seen.append(payload)
                if payload == "last":
                    break

    following = asyncio.create_task(call(follow))
    async with publisher(shared_valkey) as redis:
        await until(lambda: node.engine.subscribers(pattern.channel.encode()))
        for payload in (b'{"title": "hello?"}', b"null", b'"last"'):
            await redis.publish(pattern.channel, payload)
        await following
    assert seen == [{"title": "hello?"}, None, "last"]
    await until(lambda: node.engine.stats()["connections"] == 0)


async def test_payloads_raw_and_no_json(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("sync"))
    errors: list[ClientError] = []
    raw, decoded = make(node.ws_url, pattern, raw=True), make(node.ws_url, pattern, on_error=errors.append)
    for subscriber in (raw, decoded):
        await call(subscriber.connect)
    async with publisher(shared_valkey) as redis:
        for text in (b'{ "f": 1.10 }', b"no JSON", b'[1e400, "\\ud800"]', b"1"):
            await redis.publish(pattern.channel, text)
    assert await call(take, raw, 4) == [b'{ "f": 1.10 }', b"no JSON", b'[1e400, "\\ud800"]', b"1"]
    assert await call(take, decoded, 3) == [{"f": 1.1}, ["1e400", "\ud800"], 1]
    assert [str(error).partition(" out: ")[0] for error in errors] == [
        f"a payload of {dict(pattern)!r} is not JSON and was left"
    ]
    for subscriber in (raw, decoded):
        await call(subscriber.close)


async def test_it_comes_back_and_tells_the_gap(shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("sync"))
    gaps: list[float] = []
    port = free_port()
    subscriber = make(f"ws://127.0.0.1:{port}/ws", pattern, on_gap=gaps.append)
    async with publisher(shared_valkey) as redis:
        async with serve(Settings(port=port, redis=shared_valkey.url)):
            await call(subscriber.connect)
            await redis.publish(pattern.channel, b"1")
            assert await call(take, subscriber, 1) == [1]
        waiting = asyncio.create_task(call(take, subscriber, 1))
        await asyncio.sleep(0.2)
        async with serve(Settings(port=port, redis=shared_valkey.url)):
            await until(lambda: gaps)
            await redis.publish(pattern.channel, b"2")
            assert await waiting == [2]
            assert subscriber.gaps == 1
            assert 0.2 <= gaps[0] < 60
            await call(subscriber.close)


async def test_closing_from_another_thread_ends_the_loop(node: Node) -> None:
    subscriber = make(node.ws_url, unique("sync"))
    await call(subscriber.connect)
    waiting = asyncio.create_task(call(list, subscriber))
    await asyncio.sleep(0.05)
    await call(subscriber.close)
    await call(subscriber.close)
    assert await waiting == []
    with pytest.raises(RuntimeError, match="connects once"):
        subscriber.connect()


async def test_closing_while_it_is_away(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        subscriber = make(node.ws_url, unique("sync"), backoff_base=60, backoff_cap=60)
        await call(subscriber.connect)
    waiting = asyncio.create_task(call(list, subscriber))
    await asyncio.sleep(0.1)
    await call(subscriber.close)
    assert await waiting == []


async def test_refused_connections_and_patterns(node: Node) -> None:
    for pattern, code in (({}, "bad-pattern"), ({"realizehit": "*"}, "forbidden")):
        with pytest.raises(Rejected) as caught:
            await call(make(node.ws_url, pattern).connect)
        assert caught.value.code == code
    with pytest.raises(Rejected, match="HTTP 404"):
        await call(make(node.ws_url + "/elsewhere", {"a": 1}).connect)
    with pytest.raises(ServerUnavailable, match="cannot connect"):
        await call(make(f"ws://127.0.0.1:{free_port()}/ws", {"a": 1}).connect)
    with pytest.raises(SettingsError):
        make("http://localhost/", {"a": 1})
    with pytest.raises(PatternError):
        make(node.ws_url, "kind=news")
    with pytest.raises(ClientError, match="not connected"):
        next(make(node.ws_url, {"a": 1}))


async def test_it_never_comes_back_after_4503() -> None:
    async with scripted(answer_then_close(1, 4503, "no more"), answer_all) as server:
        subscriber = make(server.url, {"kind": "news"})
        await call(subscriber.connect)
        for _ in range(2):
            with pytest.raises(Disconnected, match="no more") as caught:
                await call(next, subscriber)
            assert caught.value.close_code == 4503
        await call(subscriber.close)
        assert len(server.arrivals) == 1


async def test_the_delay_of_4001_is_obeyed() -> None:
    async with scripted(answer_then_close(1, 4001, "delay=50"), answer_all) as server:
        subscriber = make(server.url, {"kind": "news"}, backoff_base=60, backoff_cap=60)
        await call(subscriber.connect)
        waiting = asyncio.create_task(call(list, subscriber))
        await until(lambda: subscriber.gaps)
        assert 0.05 <= server.arrivals[1] - server.arrivals[0] < 10
        await call(subscriber.close)
        await waiting


async def test_no_answer() -> None:
    async def silent(server: Scripted, socket: Any) -> None:
        await server.next_action(socket)
        await socket.wait_closed()

    async with scripted(silent) as server:
        with pytest.raises(ResponseTimeout, match="no answer to sub within"):
            await call(make(server.url, {"kind": "news"}, response_timeout=0.1).connect)
