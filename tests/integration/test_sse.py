"""Server-Sent Events as `curl -N` and an EventSource see them: on our own server, and mounted in a foreign one."""

from __future__ import annotations

import asyncio
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import orjson
import pytest
import trustme
import uvicorn
from starlette.routing import Route
from websockets.asyncio.client import connect

from realizehit import _fanout
from realizehit.broker.open import open_bus
from realizehit.http.api import create_app
from realizehit.node.hub import Hub
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from realizehit.transports.sse import EventStreams
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique

SECONDS = 20
CNN = {"kind": "news", "channel": "CNN"}
EVENT_SOURCE = {"Accept": "text/event-stream"}


class Stream:
    """The events of a response, each as the fields that it has."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.comments = 0
        self._chunks = response.aiter_bytes()
        self._buffer = b""

    async def event(self) -> dict[str, str] | None:
        """The next event; ``None`` at the end."""
        while True:
            while b"\n\n" not in self._buffer:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    assert self._buffer == b""
                    return None
                self._buffer += chunk
            block, self._buffer = self._buffer.split(b"\n\n", 1)
            if block == b":":
                self.comments += 1
                continue
            fields: dict[str, str] = {}
            for line in block.decode().split("\n"):
                name, _, value = line.partition(": ")
                fields[name] = fields[name] + "\n" + value if name in fields else value
            return fields

    async def subscribed(self) -> dict[str, Any]:
        event = await self.event()
        assert event is not None
        assert (event["retry"], event["event"]) == ("2000", "subscribed")
        data: dict[str, Any] = orjson.loads(event["data"])
        return data


@asynccontextmanager
async def http(base: str, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with asyncio.timeout(60), httpx2.AsyncClient(base_url=base, timeout=SECONDS, **options) as session:
        yield session


def asked(*patterns: dict[str, Any] | str) -> str:
    return "/sse?" + urllib.parse.urlencode(
        [("pat", text if isinstance(text, str) else orjson.dumps(text).decode()) for text in patterns]
    )


@asynccontextmanager
async def streaming(session: httpx2.AsyncClient, url: str, **options: Any) -> AsyncIterator[Stream]:
    async with session.stream("GET", url, **options) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)


def problem(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["access-control-allow-origin"] == "*"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    return document


async def until(condition: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def mounted(valkey: Valkey, **options: Any) -> AsyncIterator[tuple[str, _fanout.Engine, EventStreams]]:
    """The application in a server that is not ours and gives no connection away."""
    loop = asyncio.get_running_loop()
    errors: list[Exception] = []
    engine = _fanout.Engine(loop.call_soon, errors.append, epoll=False, **options)
    bus = open_bus(valkey.url, max_shapes=64)
    hub = Hub(engine, bus, clock=loop.time, call_soon=loop.call_soon, call_later=loop.call_later)
    await bus.start(hub)
    streams = EventStreams(engine, hub, wildcards=True)
    config = uvicorn.Config(
        create_app(bus, Settings(), more=[Route("/sse", streams)]), port=0, lifespan="off", log_config=None
    )
    foreign = uvicorn.Server(config)
    serving = asyncio.create_task(foreign._serve())
    await until(lambda: foreign.started)
    port = foreign.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", engine, streams
    finally:
        streams.close()
        foreign.should_exit = True
        await serving
        engine.close()
        await bus.close()
    assert errors == []


@asynccontextmanager
async def any_server(kind: str, valkey: Valkey) -> AsyncIterator[tuple[str, _fanout.Engine]]:
    if kind == "mounted":
        async with mounted(valkey) as (base, engine, _):
            yield base, engine
    else:
        async with serve(Settings(port=0, redis=valkey.url), epoll=kind == "engine") as node:
            yield node.api_url, node.engine


KINDS = pytest.mark.parametrize(
    "kind",
    [
        pytest.param("engine", marks=pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="needs epoll")),
        "transport",
        "mounted",
    ],
)


@KINDS
async def test_a_stream(shared_valkey: Valkey, kind: str) -> None:
    first, second = unique("sse"), unique("sse é")
    payloads = [
        (first, '{"title": "é?😀"}'),
        (second, "[1,\n 2,\r\n 3]"),
        (first, "null"),
        (second, '"' + "x" * 300_000 + '"'),
    ]
    async with (
        any_server(kind, shared_valkey) as (base, engine),
        http(base) as session,
        publisher(shared_valkey) as broker,
    ):
        async with streaming(session, asked(first, second)) as stream:
            headers = stream.response.headers
            assert headers["content-type"] == "text/event-stream"
            assert headers["cache-control"] == "no-store"
            assert headers["x-accel-buffering"] == "no"
            assert headers["access-control-allow-origin"] == "*"
            assert "date" in headers
            assert await stream.subscribed() == {"ids": [Pattern(first).id, Pattern(second).id]}
            for pattern, payload in payloads:
                assert await broker.publish(str(Pattern(pattern)), payload) == 1
            for pattern, payload in payloads:
                event = await stream.event()
                assert event is not None
                assert event["id"] == Pattern(pattern).id
                assert set(event) == {"id", "data"}
                assert event["data"].split() == payload.split()
                assert orjson.loads(event["data"]) == orjson.loads(payload)
            stats = engine.stats()
            assert (stats["connections"], stats["subscriptions"]) == (1, 2)
        await until(lambda: engine.stats()["connections"] == engine.stats()["channels"] == 0)
        # And once more over a connection that has served other requests before.
        assert (await session.get("/healthz")).text == "ok\n"
        async with streaming(session, asked(first)) as stream:
            assert await stream.subscribed() == {"ids": [Pattern(first).id]}
            await broker.publish(str(Pattern(first)), "1")
            assert await stream.event() == {"id": Pattern(first).id, "data": "1"}
        await until(lambda: engine.stats()["connections"] == 0)


def http_server(node: Node) -> uvicorn.Server:
    """The only HTTP server that a node has."""
    assert node._listener is not None
    ((server, _),) = node._listener._servers
    return server


async def test_the_engine_takes_over_the_connection(node: Node) -> None:
    async with http(node.api_url) as session, streaming(session, asked(CNN)) as stream:
        await stream.subscribed()
        server = http_server(node)
        assert server.server_state.connections == set()
        assert server.server_state.tasks == set()
        assert stream.response.headers["connection"] == "close"
        (handle,) = node.engine.handles()
        assert node.hub.events.named == {handle}
    await until(lambda: node.hub.events.named == set())


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("kind=news,channel=CNN", CNN),
        ('{"kind":"news","channel":"CNN"}', CNN),
        (' {"a": 1, "b": true, "c": "é"}', {"a": 1, "b": True, "c": "é"}),
        ("a=1%2C2", {"a": "1,2"}),
    ],
)
async def test_forms_of_patterns_in_the_query(node: Node, text: str, pattern: dict[str, Any]) -> None:
    async with http(node.api_url) as session, streaming(session, asked(text)) as stream:
        assert await stream.subscribed() == {"ids": [Pattern(pattern).id]}


async def test_an_unencoded_query_as_typed_into_a_shell(node: Node) -> None:
    """Quotes and braces that nobody has encoded."""
    host, port = node.ws_url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b'GET /sse?pat={"kind":"news"}&pat=kind=news,channel=CNN HTTP/1.1\r\nHost: localhost\r\n\r\n')
    async with asyncio.timeout(SECONDS):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        await reader.readuntil(b"event: subscribed\n")
        ids = orjson.loads((await reader.readline()).removeprefix(b"data: "))["ids"]
    writer.close()
    assert ids == [Pattern(kind="news").id, "3bf1d979"]


@KINDS
async def test_wildcards_in_the_query(shared_valkey: Valkey, kind: str) -> None:
    user = unique("user")["n"]
    async with (
        any_server(kind, shared_valkey) as (base, _),
        http(base) as session,
        streaming(session, asked(f"user={user},**", {"user": user, "topic": "*"}, f"user={user},topic=a")) as stream,
    ):
        patterns = [Pattern({"user": user, "*": "*"}), Pattern(user=user, topic="*"), Pattern(user=user, topic="a")]
        assert (await stream.subscribed())["ids"] == [pattern.id for pattern in patterns]
        concrete = Pattern(user=user, topic="a").channel
        for number, pattern in enumerate(patterns):
            label = f"@c={concrete}?" if pattern.has_wildcard else ""
            assert shared_valkey.command("PUBLISH", pattern.channel, f"{label}{number}") == 1
            event = await stream.event()
            assert event is not None
            assert event["data"] == str(number)
            assert event["id"].startswith(pattern.id)
            assert event["id"].endswith(f"@c={concrete}") is pattern.has_wildcard


async def test_wildcards_that_a_client_may_not_have(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, identify=("user=X-User",), trusted_proxies=("127.0.0.1",))
    async with (
        serve(settings) as node,
        http(node.api_url, headers={"X-User": "42"}) as session,
        streaming(session, asked("user=42,**", "**", "user=*", "kind=*")) as stream,
    ):
        answer = await stream.subscribed()
        assert [error and error["code"] for error in answer["errors"]] == [None, "forbidden", "forbidden", None]


async def test_wildcards_that_a_server_does_not_serve(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, wildcards=False)
    async with serve(settings) as node, http(node.api_url) as session:
        assert problem(await session.get(asked("kind=*")), 400)["code"] == "wildcard-unsupported"


@KINDS
async def test_refused_and_accepted_patterns_in_one_request(shared_valkey: Valkey, kind: str) -> None:
    async with (
        any_server(kind, shared_valkey) as (base, _),
        http(base) as session,
        streaming(session, asked("x", CNN, '{"realizehit": 1}', "{", {"_reserved": 1} | {"b": None})) as stream,
    ):
        answer = await stream.subscribed()
        assert answer["ids"] == [None, "3bf1d979", None, None, None]
        codes = [error and error["code"] for error in answer["errors"]]
        assert codes == ["bad-pattern", None, "forbidden", "bad-json", "bad-pattern"]
        assert all(error is None or error["detail"] for error in answer["errors"])


async def test_requests_without_a_valid_pattern(node: Node) -> None:
    async with http(node.api_url) as session:
        assert "pat=" in problem(await session.get("/sse"), 400)["detail"]
        assert "pat=" in problem(await session.get("/sse?pattern=1"), 400)["detail"]
        document = problem(await session.get(asked("x", '{"a": null}')), 400)
        assert document["code"] == "bad-pattern"
        assert [error["code"] for error in document["errors"]] == ["bad-pattern", "bad-pattern"]
        problem(await session.get("/sse?pat=%ff"), 400)
        problem(await session.get("/sse?" + "&" * 5000), 400)
    assert node.engine.stats()["connections_total"] == 0


async def test_too_many_patterns_and_two_with_one_id(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, max_subscriptions=2)
    async with (
        serve(settings) as node,
        http(node.api_url) as session,
        streaming(session, asked({"user": 25442}, {"user": 28322}, {"a": 1}, {"a": 1}, {"b": 1})) as stream,
    ):
        answer = await stream.subscribed()
        assert answer["ids"] == [Pattern(user=25442).id, None, Pattern(a=1).id, Pattern(a=1).id, None]
        codes = [error and error["code"] for error in answer["errors"]]
        assert codes == [None, "id-collision", None, None, "too-many-subscriptions"]


async def test_a_stream_while_the_broker_is_down(valkey: Valkey) -> None:
    settings = Settings(port=0, redis=valkey.url, subscribe_timeout=0.2)
    async with serve(settings) as node, http(node.api_url) as session:
        valkey.kill()
        response = await session.get(asked(CNN, "x"))
        document = problem(response, 503)
        assert document["code"] == "unavailable"
        assert [error["code"] for error in document["errors"]] == ["unavailable", "bad-pattern"]
        assert int(response.headers["retry-after"]) > 0
        await until(lambda: node.engine.stats()["connections"] == 0)
        valkey.start()


async def unavailable(session: httpx2.AsyncClient, url: str, code: str, seconds: int) -> dict[str, Any]:
    """What an EventSource is answered that is to come back."""
    async with streaming(session, url, headers=EVENT_SOURCE) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream"
        event = await stream.event()
        assert event is not None
        assert seconds * 1000 <= int(event["retry"]) <= seconds * 2000
        assert event["event"] == "unavailable"
        assert await stream.event() is None
        document: dict[str, Any] = orjson.loads(event["data"])
        assert (document["status"], document["code"]) == (503, code)
        assert document["detail"]
    return document


async def test_an_event_source_reconnects_while_the_broker_is_down(valkey: Valkey) -> None:
    """It never would after another status than 200."""
    settings = Settings(port=0, redis=valkey.url, subscribe_timeout=0.2)
    async with serve(settings) as node, http(node.api_url) as session:
        valkey.kill()
        document = await unavailable(session, asked(CNN, "x"), "unavailable", 2)
        assert [error["code"] for error in document["errors"]] == ["unavailable", "bad-pattern"]
        # What will not be otherwise when it comes back ends it.
        problem(await session.get(asked("x"), headers=EVENT_SOURCE), 400)
        problem(await session.get("/sse", headers=EVENT_SOURCE), 400)
        problem(await session.post(asked(CNN), headers=EVENT_SOURCE), 405)
        valkey.start()


async def test_an_event_source_reconnects_to_a_full_server(shared_valkey: Valkey) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, max_connections=1)
    async with serve(settings) as node, http(node.api_url) as session, streaming(session, asked(CNN)) as stream:
        await stream.subscribed()
        await unavailable(session, asked(CNN), "too-many-connections", 5)
        response = await session.get(asked(CNN))
        assert problem(response, 503)["code"] == "too-many-connections"
        assert response.headers["retry-after"] == "5"


async def test_a_refused_event_source_does_not_reconnect(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node, http(node.api_url) as session:
        foreign = {**EVENT_SOURCE, "Origin": "https://elsewhere.example"}
        assert problem(await session.get(asked(CNN), headers=foreign), 403)["code"] == "forbidden"


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream ; q=1 , */*;q=0.1", True),
        ("application/json", False),
        ("text/*, */*", False),
        ("text/event-streams", False),
        ("", False),
    ],
)
async def test_how_an_event_source_is_recognized(node: Node, accept: str, stream: bool) -> None:
    node.draining = True
    async with http(node.api_url) as session:
        response = await session.get(asked(CNN), headers={"Accept": accept})
        assert response.status_code == (200 if stream else 503)


async def test_a_client_disconnects_before_the_response(valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=valkey.url)) as node, http(node.api_url) as session:
        valkey.pause()
        asking = asyncio.create_task(session.get(asked(CNN)))
        await until(lambda: node.engine.stats()["connections"] == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: node.engine.stats()["connections"] == node.engine.stats()["closing"] == 0)
        assert node.hub.events.named == set()
        valkey.resume()


async def test_nothing_is_missed_after_the_response(node: Node, shared_valkey: Valkey) -> None:
    """Not either where the connection goes over to the engine amid a stream of publications."""
    pattern = unique("sse-begin")
    async with publisher(shared_valkey) as broker, http(node.api_url) as session:
        number = 0
        stop = asyncio.Event()

        async def publish() -> None:
            nonlocal number
            while not stop.is_set():
                await broker.publish(str(Pattern(pattern)), str(number))
                number += 1

        publishing = asyncio.create_task(publish())
        for _ in range(10):
            async with streaming(session, asked(pattern)) as stream:
                await stream.subscribed()
                before = number
                event = await stream.event()
                assert event is not None
                assert int(event["data"]) <= before + 1
                for following in range(int(event["data"]) + 1, int(event["data"]) + 50):
                    assert await stream.event() == {"id": Pattern(pattern).id, "data": str(following)}
        stop.set()
        await publishing


@KINDS
async def test_other_methods(shared_valkey: Valkey, kind: str) -> None:
    async with any_server(kind, shared_valkey) as (base, engine), http(base) as session:
        response = await session.head(asked(CNN))
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream")
        assert response.content == b""
        assert (await session.head("/sse")).status_code == 400
        response = await session.post(asked(CNN))
        problem(response, 405)
        assert response.headers["allow"] == "GET, HEAD, OPTIONS"
        response = await session.options(asked(CNN), headers={"Access-Control-Request-Headers": "last-event-id"})
        assert response.status_code == 204
        assert response.headers["access-control-allow-methods"] == "GET, HEAD, OPTIONS"
        assert response.headers["access-control-allow-headers"] == "last-event-id"
        assert engine.stats()["connections_total"] == 0


PAGE = "https://app.example"


@pytest.mark.parametrize(
    ("allowed", "origin", "named"),
    [
        ((PAGE,), PAGE, True),
        ((PAGE,), "https://APP.example:443", True),
        ((PAGE,), "https://app.example.evil.example", False),
        ((PAGE,), "null", False),
        ((PAGE,), None, False),
        (("*",), "https://any.example", True),
        ((), PAGE, False),
    ],
)
@pytest.mark.parametrize("epoll", [True, False])
async def test_cors_names_pages_that_may_use_the_server(
    shared_valkey: Valkey, allowed: tuple[str, ...], origin: str | None, named: bool, epoll: bool
) -> None:
    """They may send their cookies; to all others that answer is closed, unless they ask without."""

    def check(response: httpx2.Response) -> None:
        headers = response.headers
        assert headers.get_list("access-control-allow-origin") == [origin if named else "*"]
        assert headers.get_list("access-control-allow-credentials") == (["true"] if named else [])
        assert headers["vary"] == "Origin"

    settings = Settings(port=0, redis=shared_valkey.url, allow_origin=allowed)
    sent = {} if origin is None else {"Origin": origin}
    async with serve(settings, epoll=epoll) as node, http(node.api_url, headers=sent) as session:
        if named or origin is None:
            async with streaming(session, asked(CNN)) as stream:
                check(stream.response)
        else:
            response = await session.get(asked(CNN))
            assert response.status_code == 403
            check(response)
        check(await session.head(asked(CNN)))
        check(await session.get("/sse"))
        check(await session.post(asked(CNN)))
        check(await session.options(asked(CNN), headers={"Access-Control-Request-Headers": "authorization"}))
        node.draining = True
        check(await session.get(asked(CNN)))
        check(await session.get(asked(CNN), headers=EVENT_SOURCE))


async def test_cors_names_pages_of_the_server_itself(node: Node) -> None:
    own = node.api_url.rstrip("/")
    async with http(node.api_url, headers={"Origin": own}) as session, streaming(session, asked(CNN)) as stream:
        assert stream.response.headers["access-control-allow-origin"] == own


async def test_a_last_event_id_is_accepted_and_replays_nothing(node: Node, shared_valkey: Valkey) -> None:
    pattern = unique("sse-last")
    async with publisher(shared_valkey) as broker, http(node.api_url) as session:
        for value in ("1", "2"):
            async with streaming(session, asked(pattern), headers={"Last-Event-ID": Pattern(pattern).id}) as stream:
                await stream.subscribed()
                await broker.publish(str(Pattern(pattern)), value)
                assert await stream.event() == {"id": Pattern(pattern).id, "data": value}


@KINDS
async def test_a_comment_is_the_heartbeat(shared_valkey: Valkey, kind: str) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, heartbeat_interval=0.1, heartbeat_timeout=0.1)
    pattern = unique("sse-beat")
    async with publisher(shared_valkey) as broker:
        if kind == "mounted":
            async with (
                mounted(shared_valkey, heartbeat_interval=0.1) as (base, engine, _),
                http(base) as session,
                streaming(session, asked(pattern)) as stream,
            ):
                await stream.subscribed()
                for tick in range(100):
                    engine.tick(tick * engine.tick_interval)
                await broker.publish(str(Pattern(pattern)), "1")
                await stream.event()
                assert stream.comments > 2
            return
        async with (
            serve(settings, epoll=kind == "engine") as node,
            http(node.api_url) as session,
            streaming(session, asked(pattern)) as stream,
        ):
            await stream.subscribed()
            await asyncio.sleep(0.6)
            await broker.publish(str(Pattern(pattern)), "1")
            assert await stream.event() == {"id": Pattern(pattern).id, "data": "1"}
            assert stream.comments > 1


@pytest.mark.parametrize("epoll", [True, False])
async def test_draining_tells_when_to_reconnect(shared_valkey: Valkey, epoll: bool) -> None:
    settings = Settings(port=0, redis=shared_valkey.url, drain_seconds=0.1)
    async with serve(settings, epoll=epoll) as node, http(node.api_url) as session:
        async with streaming(session, asked(CNN)) as stream:
            await stream.subscribed()
            drain = asyncio.create_task(node.drain())
            event = await stream.event()
            assert event is not None
            assert event["event"] == "drain"
            delay = orjson.loads(event["data"])["delay"]
            assert 0 <= delay <= 1000
            assert int(event["retry"]) == 2000 + delay // 5
            assert await stream.event() is None
        document = problem(await session.get(asked(CNN)), 503)
        assert document["code"] == "unavailable"
        await unavailable(session, asked(CNN), "unavailable", 2)
        await drain


async def test_event_streams_are_drained_last(shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EventSource that was sent away sooner would come back to the server that is going away."""
    async with (
        serve(Settings(port=0, redis=shared_valkey.url, drain_seconds=0.2)) as node,
        http(node.api_url) as session,
        AsyncExitStack() as stack,
    ):
        streams = [await stack.enter_async_context(streaming(session, asked(CNN))) for _ in range(10)]
        for stream in streams:
            await stream.subscribed()
        sockets = [await stack.enter_async_context(connect(node.ws_url)) for _ in range(10)]
        sent_away: list[bool] = []
        send_away = node._drain._send_away

        def watched(handle: int, delay: int) -> None:
            sent_away.append(handle in node.hub.events.named)
            send_away(handle, delay)

        monkeypatch.setattr(node._drain, "_send_away", watched)
        drain = asyncio.create_task(node.drain())  # it waits a while for clients that do not read the end
        for socket in sockets:
            await socket.wait_closed()
            assert socket.close_code == 4001
        for stream in streams:
            event = await stream.event()
            assert event is not None
            assert event["event"] == "drain"
            assert 2000 <= int(event["retry"]) <= 2200
            assert await stream.event() is None
        await drain
        assert sent_away == [False] * 10 + [True] * 10


async def test_a_server_with_event_streams_alone_drains_at_once(shared_valkey: Valkey) -> None:
    async with (
        serve(Settings(port=0, redis=shared_valkey.url, drain_seconds=3600.0)) as node,
        http(node.api_url) as session,
        streaming(session, asked(CNN)) as stream,
    ):
        await stream.subscribed()
        drain = asyncio.create_task(node.drain())
        event = await stream.event()
        assert event is not None
        assert int(event["retry"]) == 2000 + orjson.loads(event["data"])["delay"] // 5
        assert await stream.event() is None
        await asyncio.wait_for(drain, 60)


async def test_the_end_of_a_stream_under_another_asgi_server(shared_valkey: Valkey) -> None:
    async with (
        mounted(shared_valkey) as (base, engine, streams),
        http(base) as session,
        streaming(session, asked(CNN)) as stream,
    ):
        await stream.subscribed()
        engine.send_bytes(engine.handles()[0], b"event: last\n\n")
        streams.close()
        assert await stream.event() == {"event": "last"}
        assert await stream.event() is None


@pytest.mark.parametrize("kind", ["engine", "mounted"])
async def test_a_slow_reader_is_closed(shared_valkey: Valkey, kind: str) -> None:
    pattern = unique("sse-slow")
    async with any_server(kind, shared_valkey) as (base, engine), publisher(shared_valkey) as broker:
        host, port = base.removeprefix("http://").rstrip("/").rsplit(":", 1)
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(f"GET {asked(pattern)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await until(lambda: engine.stats()["connections"] == 1 and engine.stats()["subscriptions"] == 1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # whose buffers are full at some time
        for _ in range(400):
            await broker.publish(str(Pattern(pattern)), '"' + "x" * 100_000 + '"')
            if engine.stats()["slow_disconnects"]:
                break
        assert engine.stats()["slow_disconnects"] == 1
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_over_tls(shared_valkey: Valkey, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    pattern = unique("sse-tls")
    settings = Settings(port=0, redis=shared_valkey.url, tls_cert=str(chain), tls_key=str(key))
    async with (
        serve(settings) as node,
        http(node.api_url.replace("127.0.0.1", "localhost"), verify=context) as session,
        publisher(shared_valkey) as broker,
    ):
        async with streaming(session, asked(pattern)) as stream:
            await stream.subscribed()
            await broker.publish(str(Pattern(pattern)), "1")
            assert await stream.event() == {"id": Pattern(pattern).id, "data": "1"}
        await until(lambda: node.engine.stats()["connections"] == 0)


async def test_each_event_reaches_a_client_that_reads_in_blocks(node: Node, shared_valkey: Valkey) -> None:
    """Some read a response without a length until a block is full; a chunk is handed on when it is here."""
    address = urlsplit(node.api_url)
    pattern = unique("sse-blocks")

    def read() -> Iterator[bytes]:
        connection = HTTPConnection(address.hostname or "", address.port, timeout=SECONDS)
        connection.request("GET", asked(pattern))
        response = connection.getresponse()
        assert response.getheader("Transfer-Encoding") == "chunked"
        assert response.getheader("Content-Length") is None
        while block := response.read1(100_000):
            yield block
        connection.close()

    blocks = read()
    async with publisher(shared_valkey) as broker:
        first = await asyncio.to_thread(next, blocks)
        assert first.startswith(b"retry: 2000\nevent: subscribed\n")
        assert first.endswith(b"\n\n")
        for n in range(3):
            await broker.publish(str(Pattern(pattern)), f'"{n}"')
            assert await asyncio.to_thread(next, blocks) == f'id: {Pattern(pattern).id}\ndata: "{n}"\n\n'.encode()
        [handle] = node.engine.handles()
        node.hub.events.send(handle, "drain", retry=5, delay=1)
        assert await asyncio.to_thread(next, blocks) == b'retry: 5\nevent: drain\ndata: {"delay":1}\n\n'
        node.engine.disconnect(handle, 4001)
        assert await asyncio.to_thread(next, blocks, None) is None  # the end is said too


async def test_a_stream_over_http_1_0_has_no_chunks(node: Node, shared_valkey: Valkey) -> None:
    address = urlsplit(node.api_url)
    pattern = unique("sse-old")
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET {asked(pattern)} HTTP/1.0\r\n\r\n".encode())
    async with asyncio.timeout(SECONDS), publisher(shared_valkey) as broker:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert (await reader.readuntil(b"\n\n")).startswith(b"retry: 2000\nevent: subscribed\n")
        await broker.publish(str(Pattern(pattern)), "1")
        assert await reader.readuntil(b"\n\n") == f"id: {Pattern(pattern).id}\ndata: 1\n\n".encode()
        node.engine.disconnect(node.engine.handles()[0], 4001)
        assert await reader.read() == b""
    writer.close()


async def test_requests_behind_a_stream_are_not_answered(node: Node, shared_valkey: Valkey) -> None:
    host, port = node.ws_url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
    pattern = unique("sse-pipelined")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = f"GET {asked(pattern)} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    writer.write((request + "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").encode())
    async with asyncio.timeout(SECONDS), publisher(shared_valkey) as broker:
        assert b"connection: close" in await reader.readuntil(b"\r\n\r\n")
        assert Pattern(pattern).id.encode() in await reader.readuntil(b"]}\n\n")
        await broker.publish(str(Pattern(pattern)), "1")
        assert await reader.readuntil(b"data: 1\n") == f"\r\n16\r\nid: {Pattern(pattern).id}\ndata: 1\n".encode()
        writer.close()
        await until(lambda: node.engine.stats()["connections"] == 0)
        server = http_server(node)
        await until(lambda: not server.server_state.tasks and not server.server_state.connections)
