"""The wire as a client sees it, over the library's connection, for tests of the messages themselves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import orjson
import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect

from tests.support.engines import CLOSE, PING, PONG, TEXT, client_frame, server_frames
from tests.support.valkey import Valkey

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)

_numbers = itertools.count()


def unique(name: str) -> dict[str, Any]:
    """A pattern that no other test uses, so that all can share a broker."""
    return {"test": name, "n": next(_numbers)}


async def act(ws: ClientConnection, act: str, pattern: Any = None, request_id: Any = "a1") -> Any:
    """Send one action and return the reply to it; payloads in between are an error."""
    message = {"id": request_id, "act": act}
    if pattern is not None:
        message["pat"] = pattern
    await ws.send(orjson.dumps(message).decode())
    return orjson.loads(await ws.recv())


@asynccontextmanager
async def publisher(valkey: Valkey) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(valkey.url)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def client(url: str, **options: Any) -> AsyncIterator[ClientConnection]:
    async with connect(url, **{"proxy": None, "compression": None, **options}) as ws:
        yield ws


class RawClient(asyncio.Protocol):
    """A WebSocket client without a library, cheap enough for thousands of them; it collects the text messages."""

    handshake = HANDSHAKE
    transport: asyncio.Transport

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.close_code: int | None = None
        self.closed = asyncio.Event()
        self._opened = asyncio.Event()
        self._arrived = asyncio.Event()
        self._buffer = b""

    @classmethod
    async def connect(cls, url: str) -> Self:
        host, port = url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
        transport, protocol = await asyncio.get_running_loop().create_connection(cls, host, int(port))
        protocol.transport = transport
        transport.write(cls.handshake)
        await protocol._opened.wait()
        return protocol

    def act(self, **action: Any) -> None:
        self.transport.write(client_frame(TEXT, orjson.dumps(action)))

    async def wait_for(self, count: int, seconds: float = 60) -> None:
        """Wait for a number of messages."""
        async with asyncio.timeout(seconds):
            while len(self.texts) < count:
                self._arrived.clear()
                await self._arrived.wait()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._opened.is_set():
            head, blank, rest = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._buffer = rest
            self._opened.set()
        frames, self._buffer = server_frames(self._buffer)
        for opcode, payload in frames:
            if opcode == TEXT:
                self.texts.append(payload)
            elif opcode == PING:
                self.transport.write(client_frame(PONG, payload))
            elif opcode == CLOSE:
                self.close_code = int.from_bytes(payload[:2])
                self.transport.write(client_frame(CLOSE, payload[:2]))
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
