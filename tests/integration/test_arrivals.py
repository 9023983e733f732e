"""Connections that the engine accepts: the same answers as over a transport, limits, deadlines, the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import jwt
import orjson
import pytest

from realizehit import _fanout
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from realizehit.transports.heads import Head, parse_head
from tests.support.engines import client_frame
from tests.support.valkey import Valkey

SECONDS = 10.0
pytestmark = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="the engine accepts nothing without epoll")

SUB = client_frame(1, orjson.dumps({"id": 7, "act": "sub", "pat": {"a": "b"}}))
REPLY = b'{"id":7,"ret":"'
SECRET = "s" * 32
TOKEN = jwt.encode({"sub": "ann", "exp": 99999999999}, SECRET)
EXPIRED = jwt.encode({"sub": "ann", "exp": 1}, SECRET)
LINES = {
    "host": "Host: localhost",
    "upgrade": "Upgrade: websocket",
    "connection": "Connection: Upgrade",
    "key": "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "version": "Sec-WebSocket-Version: 13",
}


def opening(*more: str, line: str = "GET /ws HTTP/1.1", **lines: str | None) -> bytes:
    """Return a handshake; a line that is ``None`` is left out."""
    wanted = [text for text in {**LINES, **lines}.values() if text is not None]
    return "\r\n".join((line, *wanted, *more, "", "")).encode("latin-1")


HEADS = {
    "usual": opening(),
    "usual with an action behind it": opening() + SUB,
    "other spelling": opening(host="HOST:\tlocalhost \t", connection="connection: keep-alive, upgrade"),
    "query": opening(line="GET /ws/?x=1 HTTP/1.1"),
    "headers that do not count": opening("Cookie: a=b", "User-Agent: x", "X-Long: " + "y" * 3000),
    "own page": opening("Origin: http://localhost"),
    "allowed page": opening("Origin: https://example.org"),
    "foreign page": opening("Origin: https://foreign.example"),
    "page that is not named": opening("Sec-Fetch-Site: cross-site"),
    "compression": opening("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
    "small window": opening("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9"),
    "unknown host": opening(host="Host: foreign.example"),
    "malformed host": opening(host="Host: a b"),
    "no host": opening(host=None),
    "two hosts": opening("Host: localhost"),
    "repeated header": opening("X: 1", "x: 2"),
    "wrong version": opening(version="Sec-WebSocket-Version: 8"),
    "no version": opening(version=None),
    "wrong key": opening(key="Sec-WebSocket-Key: short"),
    "no key": opening(key=None),
    "list of upgrades": opening(upgrade="Upgrade: h2c, websocket"),
    "other upgrade": opening(upgrade="Upgrade: h2c", connection="Connection: close"),
    "list of connections": opening(connection="Connection: a, Upgrade"),
    "no connection": opening(connection=None),
    "body": opening("Content-Length: 2") + b"{}",
    "HTTP/1.0": opening(line="GET /ws HTTP/1.0"),
    "POST": opening(line="POST /ws HTTP/1.1"),
    "other path": opening(line="GET /other HTTP/1.1"),
    "URL": opening(line="GET http://localhost/ws HTTP/1.1"),
    "Engine.IO": opening(line="GET /ws?EIO=9&transport=websocket HTTP/1.1"),
    "malformed": opening("X y"),
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    "too large": opening("X: " + "y" * 20_000),
    "identity": opening("X-User: ann"),
    "identity of another client": opening("x-user: \tbob"),
    "identity twice": opening("X-User: ann", "X-User: bob"),
    "malformed identity": opening("X-User: \x80"),
    "token": opening(f"Authorization: Bearer {TOKEN}"),
    "token in the query": opening(line=f"GET /ws?x&token={TOKEN} HTTP/1.1"),
    "token that expired": opening(f"Authorization: Bearer {EXPIRED}"),
    "malformed token": opening("Authorization: Bearer x.y.z"),
    "forwarded": opening("X-Forwarded-For: 1.2.3.4"),
    "plain request": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "line ends before": b"\r\n" + opening(),
}  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pages": {"allow_origin": ("https://example.org",), "compress": True},
    "any page": {"allow_origin": ("*",), "host": "0.0.0.0"},
    "limits": {"max_connections": 1000, "max_per_address": 1000, "max_handshakes": 1000, "compress": True},
    "identities": {"identify": ("user=X-User",), "trusted_proxies": ("127.0.0.0/8",)},
    "stranger's identities": {"identify": ("user=X-User",), "trusted_proxies": ("192.0.2.1",)},
    "console": {"console": True},
    "tokens": {"jwt_secret": SECRET, "jwt_algorithms": ("HS256",), "jwt_claims": ("user=sub",)},
}
FOR_EACH = {  # settings for which the server looks at each client, and a handshake that is let in
    "limits": ("limits", opening()),
    "identities": ("identities", HEADS["identity"]),
    "identities, and a Host of the proxy's": ("identities", opening("X-User: ann", host="Host: proxied.example")),
    "stranger's identities": ("stranger's identities", HEADS["identity"]),
    "tokens": ("tokens", HEADS["token"]),
    "console": ("console", opening()),
}


@asynccontextmanager
async def serving(broker: Valkey, *, epoll: bool = True, **settings: Any) -> AsyncIterator[Node]:
    async with serve(Settings(port=0, redis=broker.url, **settings), epoll=epoll) as node:
        yield node


def port_of(node: Node) -> int:
    return int(node.ws_url.rsplit(":", 1)[1].partition("/")[0])


@asynccontextmanager
async def connected(node: Node) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(node))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def answer(node: Node, *parts: bytes, until: bytes = b"") -> bytes:
    """Send the parts and read to the end, or, of an accepted handshake, until the reply to `SUB`."""
    async with connected(node) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
        received = b""
        async with asyncio.timeout(SECONDS):
            while part := await reader.read(65536):
                received += part
                if received.startswith(b"HTTP/1.1 101 ") and received.endswith(b"\r\n\r\n"):
                    writer.write(SUB)
                if REPLY in received:
                    break
        return re.sub(rb"\r\ndate: [^\r]*", b"", received, flags=re.IGNORECASE)


def refusals(node: Node) -> dict[str, int]:
    return {reason: count for reason, count in node.guard.gate.refusals.counts.items() if count}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
async def test_answers_are_the_same_as_over_a_transport(shared_valkey: Valkey, settings: dict[str, Any]) -> None:
    random = Random(7)
    async with serving(shared_valkey, **settings) as node, serving(shared_valkey, epoll=False, **settings) as other:
        for name, head in HEADS.items():
            for _ in range(2):  # the second one may be answered by what the first one left
                key = b64encode(random.randbytes(16))
                data = head.replace(b"dGhlIHNhbXBsZSBub25jZQ==", key)
                assert await answer(node, data) == await answer(other, data), name
            assert refusals(node) == refusals(other), name
        async with asyncio.timeout(SECONDS):
            while node.engine.stats()["connections"]:
                await asyncio.sleep(0.01)
        gates = node.guard.gate.clients, other.guard.gate.clients
        assert gates[0].ignored_headers == gates[1].ignored_headers
        assert not gates[0].addresses


async def test_a_usual_client_gets_no_transport(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey) as node:
        tasks: list[asyncio.Task[Any]] = []

        def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            task = asyncio.Task(coroutine, loop=loop, **options)
            tasks.append(task)
            return task

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            for _ in range(3):
                assert REPLY in await answer(node, opening())
            assert "realizehit arrival" not in [task.get_name() for task in tasks]
            assert b"200 OK" in await answer(node, HEADS["plain request"])
            assert "realizehit arrival" in [task.get_name() for task in tasks]
        finally:
            loop.set_task_factory(None)


@pytest.mark.parametrize(("settings", "head"), FOR_EACH.values(), ids=FOR_EACH.keys())
async def test_a_known_kind_of_client_is_decided_without_its_whole_head(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, settings: str, head: bytes
) -> None:
    parsed = []

    def spy(text: bytes) -> Head | None:
        parsed.append(text)
        return parse_head(text)

    monkeypatch.setattr("realizehit.http.arrivals.parse_head", spy)
    async with serving(shared_valkey, **SETTINGS[settings]) as node:
        for _ in range(3):
            assert REPLY in await answer(node, head)
        assert len(parsed) == 1


async def test_a_refused_client_of_a_known_kind_is_logged_with_its_headers(
    shared_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(shared_valkey, **SETTINGS["tokens"]) as node:
        assert REPLY in await answer(node, HEADS["token"])
        assert b"the token has expired" in await answer(node, HEADS["token that expired"])
        assert refusals(node) == {"bad_token": 1}
    assert "refused: bad_token; peer 127.0.0.1, Host 'localhost'; the token has expired" in caplog.text
    assert EXPIRED[-20:] not in caplog.text


async def test_the_engine_asks_whether_a_client_may_join(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grants = tmp_path / "grants.toml"
    grants.write_text('[[grant]]\npattern = { a = ["$user", "c"] }\n', encoding="utf-8")
    pattern = {"a": "ann"}
    sub = client_frame(1, orjson.dumps({"id": 7, "act": "sub", "pat": pattern}))
    async with serving(shared_valkey, **SETTINGS["identities"], grants=str(grants)) as node:
        asked = []
        hub_subscribe = node.hub.subscribe

        def spy(conn: int, *rest: Any) -> None:
            asked.append(conn)
            hub_subscribe(conn, *rest)

        monkeypatch.setattr(node.hub, "subscribe", spy)
        async with contextlib.AsyncExitStack() as stack:

            async def said(user: str) -> bytes:
                reader, writer = await stack.enter_async_context(connected(node))
                writer.write(opening(f"X-User: {user}") + sub)
                async with asyncio.timeout(SECONDS):
                    return await reader.readuntil(b"}")

            assert b'"forbidden"' in await said("bob")
            for _ in range(2):  # the first one waits for the broker, the second one finds the channel in force
                assert REPLY in await said("ann")
            assert b'"forbidden"' in await said("bob")
            assert asked == []
            assert refusals(node) == {"not_granted": 2}
            grants.write_text('[[grant]]\npattern = { a = "c" }\n', encoding="utf-8")
            node.reload()
            assert b'"forbidden"' in await said("ann")


async def test_a_head_in_parts(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey) as node, connected(node) as (reader, writer):
        head = opening()
        for byte in range(0, len(head), 40):
            writer.write(head[byte : byte + 40])
            await asyncio.sleep(0.001)
        writer.write(SUB)
        async with asyncio.timeout(SECONDS):
            await reader.readuntil(REPLY)


async def test_a_silent_connection_is_closed_in_time(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, handshake_timeout=0.2) as node, connected(node) as (reader, _):
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""
        assert refusals(node) == {"late_head": 1}
        assert node.engine.arrivals == 0


async def test_a_connection_that_ends_before_its_head(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey, max_per_address=1) as node:
        async with connected(node), asyncio.timeout(SECONDS):
            while node.engine.arrivals == 0 or not node.guard.gate.clients.addresses:
                await asyncio.sleep(0.01)
            assert b"503" in await answer(node, opening())
        async with asyncio.timeout(SECONDS):
            while node.engine.arrivals or node.guard.gate.clients.addresses:
                await asyncio.sleep(0.01)
        assert REPLY in await answer(node, opening())


@pytest.mark.parametrize("settings", [{}, {"max_per_address": 100}])
async def test_no_room_and_draining(shared_valkey: Valkey, settings: dict[str, Any]) -> None:
    async with serving(shared_valkey, max_connections=1, **settings) as node:
        async with connected(node) as (reader, writer):
            writer.write(opening())
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
            assert b"too-many-connections" in await answer(node, opening())
        async with asyncio.timeout(SECONDS):
            while node.engine.stats()["connections"]:
                await asyncio.sleep(0.01)
        assert REPLY in await answer(node, opening())
        node.draining = True
        assert b"going away" in await answer(node, opening())


async def test_closing_ends_what_has_arrived(shared_valkey: Valkey) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serving(shared_valkey) as node:
            reader, _ = await stack.enter_async_context(connected(node))
            async with asyncio.timeout(SECONDS):
                while node.engine.arrivals == 0:
                    await asyncio.sleep(0.01)
        assert await asyncio.wait_for(reader.read(), SECONDS) == b""


async def test_descriptors_run_out(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey) as node, contextlib.AsyncExitStack() as stack:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        probe = socket.socket()
        clients = [stack.enter_context(socket.socket()) for _ in range(3)]
        probe.close()
        try:
            # The reserve begins below what the clients here have, so that each connection gets one of it.
            resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 12, hard))
            assert b"no room for another connection" in await answer(node, opening())
            async with asyncio.timeout(SECONDS):
                while node._listener is None or node._listener.connections:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0)  # for the transports on both sides to close their sockets
            # None is left at all.
            taken = []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(stack.enter_context(socket.socket()))
            clients[0].setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(SECONDS):
                await loop.sock_connect(clients[0], ("127.0.0.1", port_of(node)))
                with contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(clients[0], 100) == b""
                while refusals(node).get("no_room", 0) < 2:
                    await asyncio.sleep(0.01)
            for one in taken:
                one.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert REPLY in await answer(node, opening())


async def test_a_client_has_the_options_of_its_door(shared_valkey: Valkey) -> None:
    async with serving(shared_valkey) as node:
        found = []
        async with connected(node) as (reader, writer):
            writer.write(opening())
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
            local = writer.get_extra_info("sockname")
            for fd in _sockets():
                with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                    if sock.family == socket.AF_INET and sock.getpeername() == local:
                        options = (socket.TCP_NODELAY, socket.TCP_USER_TIMEOUT)
                        found.append([sock.getsockopt(socket.IPPROTO_TCP, option) for option in options])
        assert found == [[1, 45_000]]


def _sockets() -> list[int]:
    """Return the descriptors of this process that are sockets."""
    return [int(path.name) for path in Path("/proc/self/fd").iterdir() if path.is_socket()]


async def test_many_at_once(shared_valkey: Valkey) -> None:
    reset = struct.pack("ii", 1, 0)
    async with serving(shared_valkey) as node:
        loop = asyncio.get_running_loop()

        async def one() -> bytes:
            with socket.socket() as sock:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                await loop.sock_connect(sock, ("127.0.0.1", port_of(node)))
                await loop.sock_sendall(sock, opening() + SUB)
                received = b""
                while REPLY not in received:
                    received += await loop.sock_recv(sock, 4096)
                return received

        async with asyncio.timeout(SECONDS):
            answers = await asyncio.gather(*(one() for _ in range(300)))
        assert all(one.startswith(b"HTTP/1.1 101 ") for one in answers)
