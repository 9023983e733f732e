"""The end of connections whose bytes go through a transport, TLS or not: nothing waits for a peer that does no more."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from realizehit.process import parts
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.conftest import Certificate
from tests.integration.test_sse import asked
from tests.support.engines import BINARY, CLOSE, PONG, TEXT, client_frame, server_frames
from tests.support.valkey import Valkey
from tests.support.wire import HANDSHAKE, unique

SECONDS = 20
KINDS = pytest.mark.parametrize("kind", ["epoll", "transports", "tls"])


@asynccontextmanager
async def serving(
    valkey: Valkey, certificate: Certificate, kind: str, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[Node]:
    """A node that would wait for an hour for the ends of its connections."""
    monkeypatch.setattr(parts, "CLOSE_TIMEOUT", 3600.0)
    tls: dict[str, Any] = certificate.settings if kind == "tls" else {}
    async with (
        asyncio.timeout(SECONDS),
        serve(Settings(port=0, redis=valkey.url, **tls, **options), epoll=kind == "epoll") as node,
    ):
        yield node


class Peer:
    """A client that reads what comes and never answers: not a close frame, and not the end of TLS or of the socket."""

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        self.sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = None if tls is None else tls.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self.ended = False  # the system's end of the connection, below TLS

    @classmethod
    async def connect(cls, node: Node, tls: ssl.SSLContext | None, request: bytes) -> Peer:
        host, port = node.ws_url.partition("://")[2].removesuffix("/ws").rsplit(":", 1)
        sock = socket.create_connection((host, int(port)))
        sock.setblocking(False)
        self = cls(sock, tls)
        if self._tls is not None:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
        await self.send(request)
        return self

    async def _flush(self) -> None:
        await self._loop.sock_sendall(self.sock, self._outgoing.read())

    async def _fill(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self.sock, 65536)
        except ConnectionResetError:
            data = b""
        self.ended = self.ended or not data
        self._incoming.write(data)
        return data

    async def send(self, data: bytes) -> None:
        if self._tls is None:
            await self._loop.sock_sendall(self.sock, data)
        else:
            self._tls.write(data)
            await self._flush()

    async def read(self) -> bytes:
        """What comes next; nothing at the end of the connection, below TLS."""
        if self._tls is None:
            return await self._fill()
        while not self.ended:
            try:
                if data := self._tls.read(65536):
                    return data
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:  # the server's end of TLS, which is not answered
                while await self._fill():
                    pass
                return b""
            await self._fill()
        return b""

    async def until(self, end: bytes) -> bytes:
        data = b""
        while end not in data:
            part = await self.read()
            assert part, data
            data += part
        return data.partition(end)[2]

    async def rest(self) -> bytes:
        data = b""
        while part := await self.read():
            data += part
        return data

    def close(self) -> None:
        self.sock.close()


ERRORS = {
    "a frame without a mask": (b"\x81\x01a", 1002),
    "an unknown opcode": (client_frame(3), 1002),
    "a binary message": (client_frame(BINARY, b"x"), 1003),
    "text that is no UTF-8": (client_frame(TEXT, b"\xff"), 1007),
    "a message that is too large": (client_frame(TEXT, b"x" * 20_000), 1009),
    "a close frame with a wrong code": (client_frame(CLOSE, b"\x03\xed"), 1002),
    "too many frames": (client_frame(PONG) * 300, 4502),
    "a close frame": (client_frame(CLOSE, b"\x03\xe8"), 1000),
}


@KINDS
@pytest.mark.parametrize("name", ERRORS)
async def test_after_a_protocol_error_the_server_does_not_wait_for_the_client(
    shared_valkey: Valkey, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    wrong, code = ERRORS[name]
    options = {"max_actions": 1, "max_subscriptions": 5}
    async with serving(shared_valkey, certificate, kind, monkeypatch, **options) as node:
        peer = await Peer.connect(node, certificate.context if kind == "tls" else None, HANDSHAKE)
        assert await peer.until(b"\r\n\r\n") == b""
        await peer.send(wrong)
        frames, rest = server_frames(await peer.rest())
        assert [(opcode, int.from_bytes(payload[:2])) for opcode, payload in frames] == [(CLOSE, code)]
        assert rest == b""
        if kind == "epoll":
            peer.close()
        while node.engine.stats()["closing"]:
            await asyncio.sleep(0.01)
        peer.close()


@pytest.mark.parametrize("kind", ["transports", "tls"])
async def test_a_close_frame_that_is_not_answered_is_the_end(
    shared_valkey: Valkey, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with serving(shared_valkey, certificate, kind, monkeypatch) as node:
        peer = await Peer.connect(node, certificate.context if kind == "tls" else None, HANDSHAKE)
        await peer.until(b"\r\n\r\n")
        assert node.engine.disconnect(node.engine.handles()[0], 4001, "delay=1")
        frames, _ = server_frames(await peer.rest())
        assert frames == [(CLOSE, (4001).to_bytes(2) + b"delay=1")]
        while node.engine.stats()["closing"]:  # its peer does not end its side
            await asyncio.sleep(0.01)
        peer.close()


@pytest.mark.parametrize("kind", ["transports", "tls"])
async def test_an_event_stream_ends_with_its_last_bytes(
    shared_valkey: Valkey, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    async with serving(shared_valkey, certificate, kind, monkeypatch) as node:
        request = f"GET {asked(unique('end'))} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        peer = await Peer.connect(node, certificate.context if kind == "tls" else None, request)
        await peer.until(b"event: subscribed")
        handle = node.engine.handles()[0]
        node.engine.send_bytes(handle, b"x" * 300_000 + b"event: last\n\n")
        assert node.engine.disconnect(handle, 1001)
        assert (await peer.rest()).endswith(b"x" * 300_000 + b"event: last\n\n\r\n0\r\n\r\n")
        while node.engine.stats()["closing"]:
            await asyncio.sleep(0.01)
        peer.close()


@KINDS
async def test_the_system_gives_up_after_the_heartbeat(
    shared_valkey: Valkey, certificate: Certificate, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        pytest.skip("this system has no such option")
    options = {"heartbeat_interval": 9.0, "heartbeat_timeout": 7.5}
    async with serving(shared_valkey, certificate, kind, monkeypatch, **options) as node:
        tls = certificate.context if kind == "tls" else None
        events = f"GET {asked(unique('half-open'))} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        for request, answer in (
            (HANDSHAKE, b"\r\n\r\n"),
            (HANDSHAKE.replace(b"/ws", b"/ws?EIO=4&transport=websocket"), b"pingTimeout"),
            (events, b"event: subscribed"),
        ):
            peer = await Peer.connect(node, tls, request)
            await peer.until(answer)
            assert set(options_of(peer, option)) == {16_500}
            peer.close()


def options_of(peer: Peer, option: int) -> list[int]:
    """What the sockets of this process that are connected to a peer have as a TCP option."""
    client = peer.sock.getsockname()
    values = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        # Some are no sockets, which would leave the copy of their descriptor open; or they are closed by now.
        with suppress(OSError):
            if not str(entry.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as sock:
                if sock.getpeername() == client:
                    values.append(sock.getsockopt(socket.IPPROTO_TCP, option))
    return values
