"""The first bytes of a connection, on real sockets: who serves it, and what is served to nobody."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import orjson
import pytest
import uvicorn
import uvloop

from realizehit import _fanout
from realizehit.http.front_door import FrontDoor
from realizehit.settings import Settings
from realizehit.transports.session import Session
from realizehit.transports.websocket import WebSocketTransport
from tests.support.engines import TEXT, client_frame, server_frames

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
POST = b"POST /things?a=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\nX-Odd:  a , b\r\n\r\n{\r\n\r\n }"
SECONDS = 15
MAX_HEAD = Settings().max_head_bytes

BOTH_KINDS = pytest.mark.parametrize(
    "epoll",
    [pytest.param(True, marks=pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="needs epoll")), False],
    ids=["epoll", "transport"],
)


class EchoSession(Session):
    accepts_binary = False

    def __init__(self, engine: _fanout.Engine) -> None:
        self._engine = engine

    def receive(self, conn: int, data: bytes) -> None:
        self._engine.send(conn, data)

    def receive_binary(self, conn: int, data: bytes) -> None:
        raise AssertionError("no test sends binary messages")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what came."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    answer = orjson.dumps(
        {
            "method": scope["method"],
            "path": scope["path"],
            "query": scope["query_string"].decode(),
            "headers": headers,
            "body": body.decode(),
        }
    )
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


class Door:
    """A listener with a front door, and plain connections to it."""

    def __init__(self, port: int, engine: _fanout.Engine, server: uvicorn.Server) -> None:
        self.port = port
        self.engine = engine
        self.server = server

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def exchange(self, *parts: bytes) -> bytes:
        """Send the parts, each in a packet of its own as far as that can be had, and read until the end."""
        async with self.connect() as (reader, writer):
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0)
            return await asyncio.wait_for(reader.read(), SECONDS)


@asynccontextmanager
async def opened(
    *, epoll: bool = _fanout.HAVE_EPOLL, websocket: bool = True, seconds: float = SECONDS
) -> AsyncIterator[Door]:
    """Listen."""
    loop = asyncio.get_running_loop()
    errors: list[Exception] = []
    engine = _fanout.Engine(loop.call_soon, errors.append, epoll=epoll)
    if engine.owns_sockets:
        loop.add_reader(engine.fileno(), engine.on_readable)
    transport = WebSocketTransport(engine, EchoSession(engine), max_message=1 << 20) if websocket else None
    door: Any = partial(FrontDoor, websocket=transport, timeout=seconds)
    config = uvicorn.Config(
        app,
        http=door,
        ws=door if websocket else "none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listener = await loop.create_server(
        lambda: config.http_protocol_class(config=config, server_state=server.server_state, app_state={}),  # type: ignore[call-arg]
        "127.0.0.1",
        0,
    )
    try:
        yield Door(listener.sockets[0].getsockname()[1], engine, server)
        assert errors == []
    finally:
        listener.close()
        for connection in list(server.server_state.connections):
            connection.shutdown()
        if engine.owns_sockets:
            loop.remove_reader(engine.fileno())
        engine.close()
        async with asyncio.timeout(SECONDS):
            while server.server_state.connections or server.server_state.tasks:
                await asyncio.sleep(0.001)


Open = Callable[..., Awaitable[Door]]


@pytest.fixture
async def open_door() -> AsyncIterator[Open]:
    """Listen, with the options of the test."""
    async with AsyncExitStack() as stack:
        yield lambda **options: stack.enter_async_context(opened(**options))


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)


async def read_answer(reader: asyncio.StreamReader) -> Any:
    """The application's answer, as JSON."""
    head = await read_head(reader)
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return orjson.loads(await asyncio.wait_for(reader.readexactly(length), SECONDS))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: bytes) -> bytes:
    """Send a text message and return what comes back."""
    writer.write(client_frame(TEXT, text))
    data = await asyncio.wait_for(reader.readexactly(2 + len(text)), SECONDS)
    frames, rest = server_frames(data)
    assert rest == b""
    return frames[0][1]


# --- who serves it


@BOTH_KINDS
async def test_a_handshake_byte_by_byte_goes_to_the_engine(open_door: Open, epoll: bool) -> None:
    door = await open_door(epoll=epoll)
    async with door.connect() as (reader, writer):
        for i in range(len(HANDSHAKE)):
            writer.write(HANDSHAKE[i : i + 1])
            await asyncio.sleep(0)
        assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
        assert await echo(reader, writer, b"hello") == b"hello"
        assert door.engine.stats()["connections"] == 1
        assert door.server.server_state.connections == set()


@BOTH_KINDS
async def test_frames_that_come_with_the_head_are_not_lost(open_door: Open, epoll: bool) -> None:
    door = await open_door(epoll=epoll)
    frames = client_frame(TEXT, b"early") + client_frame(TEXT, b"bird")
    async with door.connect() as (reader, writer):
        writer.write(HANDSHAKE + frames[:-3])
        assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
        assert await asyncio.wait_for(reader.readexactly(7), SECONDS) == b"\x81\x05early"
        writer.write(frames[-3:])
        assert await asyncio.wait_for(reader.readexactly(6), SECONDS) == b"\x81\x04bird"


@pytest.mark.parametrize(
    "cut", [1, 10, POST.index(b"\r\n\r\n") + 2, POST.index(b"\r\n\r\n") + 4, len(POST) - 1, len(POST)]
)
async def test_other_requests_reach_the_application_however_they_are_split(open_door: Open, cut: int) -> None:
    door = await open_door()
    async with door.connect() as (reader, writer):
        writer.write(POST[:cut])
        await asyncio.sleep(0)
        writer.write(POST[cut:])
        answer = await read_answer(reader)
        assert (answer["method"], answer["path"], answer["query"]) == ("POST", "/things", "a=1")
        assert answer["headers"] == {"host": "x", "content-length": "7", "x-odd": "a , b"}
        assert answer["body"] == "{\r\n\r\n }"


async def test_pipelined_requests_are_answered_in_order(open_door: Open) -> None:
    door = await open_door()
    async with door.connect() as (reader, writer):
        writer.write(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(5)))
        assert [(await read_answer(reader))["path"] for _ in range(5)] == [f"/{n}" for n in range(5)]


@BOTH_KINDS
async def test_an_upgrade_after_http_requests(open_door: Open, epoll: bool) -> None:
    door = await open_door(epoll=epoll)
    async with door.connect() as (reader, writer):
        writer.write(POST)
        await read_answer(reader)
        writer.write(HANDSHAKE)
        assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
        for text in (b"one", b"two"):
            assert await echo(reader, writer, text) == text
        assert door.engine.stats()["connections"] == 1
    async with asyncio.timeout(SECONDS):
        while door.engine.stats()["connections"]:  # it learns that the client left
            await asyncio.sleep(0.005)


async def test_an_upgrade_to_another_protocol_is_an_http_request(open_door: Open) -> None:
    door = await open_door()
    async with door.connect() as (reader, writer):
        writer.write(
            b"GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n"
        )
        assert (await read_answer(reader))["headers"]["upgrade"] == "h2c"


async def test_a_listener_without_websockets_answers_http_only(open_door: Open) -> None:
    door = await open_door(websocket=False)
    async with door.connect() as (reader, writer):
        writer.write(HANDSHAKE)
        assert (await read_answer(reader))["path"] == "/ws"
    assert door.engine.stats()["connections_total"] == 0


@BOTH_KINDS
def test_front_door_on_uvloop(epoll: bool) -> None:
    async def main() -> None:
        async with opened(epoll=epoll) as door:
            async with door.connect() as (reader, writer):
                writer.write(HANDSHAKE[:30])
                await asyncio.sleep(0)
                writer.write(HANDSHAKE[30:] + client_frame(TEXT, b"early"))
                assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
                assert await asyncio.wait_for(reader.readexactly(7), SECONDS) == b"\x81\x05early"
                assert await echo(reader, writer, b"later") == b"later"
            async with door.connect() as (reader, writer):
                writer.write(POST)
                assert (await read_answer(reader))["body"] == "{\r\n\r\n }"
                writer.write(HANDSHAKE)
                assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
                assert await echo(reader, writer, b"after http") == b"after http"
            assert (await door.exchange(HANDSHAKE.replace(b"Host: x\r\n", b""))).startswith(b"HTTP/1.1 400 ")
            assert (await door.exchange(b"GET /ws HTTP/1.1\r\nX: " + b"x" * MAX_HEAD)).startswith(b"HTTP/1.1 431 ")
            async with asyncio.timeout(SECONDS):
                while door.engine.stats()["connections"]:
                    await asyncio.sleep(0.005)

    uvloop.run(main())


# --- what is served to nobody


def request(*lines: bytes, first: bytes = b"GET /ws HTTP/1.1") -> bytes:
    """The good handshake with lines added, or another first line."""
    return HANDSHAKE.replace(b"GET /ws HTTP/1.1", first)[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


@pytest.mark.parametrize(
    "data",
    [
        request(b" folded"),
        request(b"X: 1", b"\tfolded"),
        request(b"X: a\x00b"),
        request(b"X : 1"),
        request(b"\xc3\xa9: 1"),
        request(b"Content-Length: 3") + b"abc",
        request(b"Content-Length: 3", b"Content-Length: 4") + b"abcd",
        request(b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request(b"Content-Length: 3", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        request(b"Host: y"),
        request(first=b"GET /ws HTTP/1.1\nX: 1"),
        request(first=b"GET /ws\xff HTTP/1.1"),
        request(first=b"G\x00T /ws HTTP/1.1"),
        HANDSHAKE.replace(b"Host: x\r\n", b""),
        # two requests for one reader, one for another
        b"GET / HTTP/1.1\nHost: x\n\n" + HANDSHAKE,
    ],
)  # fmt: skip
@pytest.mark.parametrize("after_http", [False, True])
async def test_ambiguous_and_malformed_heads_are_refused(
    open_door: Open, data: bytes, after_http: bool, caplog: pytest.LogCaptureFixture
) -> None:
    door = await open_door()
    with caplog.at_level(logging.ERROR):
        async with door.connect() as (reader, writer):
            if after_http:
                writer.write(POST)
                await read_answer(reader)
            writer.write(data)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), SECONDS)
    assert answer.split(b" ")[1] in (b"400", b"426"), answer
    assert door.engine.stats()["connections_total"] == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(b"Upgrade: h2c"), b"426"),
        (request(first=b"GET /ws"), b"400"),
        (request(first=b"GET /ws HTTP/0.9"), b"400"),
        (request(first=b"GET /ws HTTP/1.0"), b"505"),
        (request(first=b"POST /ws HTTP/1.1"), b"405"),
        (request(first=b"GET /elsewhere HTTP/1.1"), b"404"),
    ],
)
async def test_a_first_request_that_is_not_a_valid_handshake(open_door: Open, data: bytes, status: bytes) -> None:
    door = await open_door()
    assert (await door.exchange(data)).split(b" ")[1] == status
    assert door.engine.stats()["connections_total"] == 0


async def test_a_head_that_is_too_long_gets_431(open_door: Open) -> None:
    door = await open_door()
    long = b"GET /ws HTTP/1.1\r\nX: " + b"x" * MAX_HEAD
    assert (await door.exchange(long)).startswith(b"HTTP/1.1 431 ")
    assert (await door.exchange(long + b"\r\n" + HANDSHAKE.partition(b"\r\n")[2])).startswith(b"HTTP/1.1 431 ")
    assert (await door.exchange(long[:9000], long[9000:])).startswith(b"HTTP/1.1 431 ")
    assert door.engine.stats()["connections_total"] == 0
    # A long body is no long head, and a head of just the size is served.
    async with door.connect() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100_000)
        assert len((await read_answer(reader))["body"]) == 100_000
    async with door.connect() as (reader, writer):
        head = b"GET / HTTP/1.1\r\nHost: x\r\nX: "
        writer.write(head + b"x" * (MAX_HEAD - len(head)) + b"\r\n\r\n")
        assert len((await read_answer(reader))["headers"]["x"]) > 16_000


@pytest.mark.parametrize("pieces", [1, 2])
async def test_each_head_of_a_connection_is_bounded(open_door: Open, pieces: int) -> None:
    door = await open_door()
    async with door.connect() as (reader, writer):
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await read_answer(reader)
        long = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (2 * MAX_HEAD) + b"\r\n\r\n"
        size = -(-len(long) // pieces)
        for start in range(0, len(long), size):
            writer.write(long[start : start + size])
            await asyncio.sleep(0.01)  # so that they are read one by one; the outcome is the same if not
        assert (await read_head(reader)).startswith(b"HTTP/1.1 431 ")


async def test_many_requests_in_one_read_do_not_count_as_a_large_head(open_door: Open) -> None:
    door = await open_door()
    one = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 500 + b"\r\n\r\n"
    count = 8 * MAX_HEAD // len(one)
    async with door.connect() as (reader, writer):
        writer.write(one[:10])
        await asyncio.sleep(0.01)
        writer.write(one[10:] + one * count + one[:10])  # each read ends within a head
        await asyncio.sleep(0.01)
        writer.write(one[10:])
        for _ in range(count + 2):
            assert (await read_answer(reader))["method"] == "GET"


async def test_an_endless_header_is_not_buffered(open_door: Open) -> None:
    door = await open_door()
    async with door.connect() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await read_answer(reader)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        answer = asyncio.ensure_future(read_head(reader))
        sent = 0
        while not answer.done() and sent < 100 * MAX_HEAD:
            with suppress(ConnectionError):
                writer.write(b"x" * 1024)
                await writer.drain()
            await asyncio.sleep(0.001)
            sent += 1024
        assert (await answer).startswith(b"HTTP/1.1 431 ")
        assert sent < 100 * MAX_HEAD


async def test_a_late_head_gets_408_and_a_silent_client_nothing(open_door: Open) -> None:
    door = await open_door(seconds=0.2)
    for part in (b"G", HANDSHAKE[:-1], HANDSHAKE[:-2]):
        answer = await door.exchange(part)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"within 0.2 seconds" in answer
    assert await door.exchange() == b""
    # Who was in time is not cut off later.
    async with door.connect() as (reader, writer):
        writer.write(HANDSHAKE)
        await read_head(reader)
        await asyncio.sleep(0.4)
        assert await echo(reader, writer, b"still here") == b"still here"


async def test_a_client_disconnects_within_its_head(open_door: Open) -> None:
    door = await open_door()
    async with door.connect() as (_, writer):
        writer.write(HANDSHAKE[:50])
        async with asyncio.timeout(SECONDS):
            while not door.server.server_state.connections:
                await asyncio.sleep(0.001)
    async with asyncio.timeout(SECONDS):
        while door.server.server_state.connections:
            await asyncio.sleep(0.001)
    assert door.engine.stats()["connections_total"] == 0


async def test_idle_connections_are_closed_when_the_server_stops(open_door: Open) -> None:
    door = await open_door()
    async with door.connect() as (reader, _):
        async with asyncio.timeout(SECONDS):
            while not door.server.server_state.connections:
                await asyncio.sleep(0.001)
        [waiting] = door.server.server_state.connections
        waiting.shutdown()
        waiting.shutdown()
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="a connection that keeps its transport needs no second descriptor")
async def test_without_a_file_descriptor_a_client_gets_503(open_door: Open, caplog: pytest.LogCaptureFixture) -> None:
    door = await open_door()
    async with door.connect() as (reader, writer):
        async with asyncio.timeout(SECONDS):
            while not door.server.server_state.connections:
                await asyncio.sleep(0.001)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            writer.write(HANDSHAKE)
            answer = await asyncio.wait_for(reader.read(), SECONDS)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: " in answer
    assert "a connection was refused" in caplog.text
    assert door.engine.stats()["connections_total"] == 0
    async with door.connect() as (reader, writer):
        writer.write(HANDSHAKE)
        assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
