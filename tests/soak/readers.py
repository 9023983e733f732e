"""Clients of the soak without a library: WebSocket, Engine.IO and Server-Sent Events, which resume where they were."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any, Final, Protocol
from urllib.parse import quote, urlsplit

import orjson

from realizehit.common.position import Position
from tests.support.account import Account
from tests.support.account_records import Back, Came, Filters, Life, Told
from tests.support.engines import TEXT, client_frame
from tests.support.model_pattern import channel, pattern_id
from tests.support.wire import HANDSHAKE, RawClient

ANSWER: Final = 15.0  # seconds until an answer to `sub`


async def first_of(*events: asyncio.Event, seconds: float | None = None) -> None:
    """Wait until one of some events is set, or for a time."""
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


class Desk:
    """One subscription of a client that connects again and again: its lives, and where it goes on.

    Args:
        account: gets the lives.
        transport: how the client is called in it.
        filters: the pattern.
        positions: whether it asks for positions.
    """

    def __init__(self, account: Account, transport: str, filters: Filters, *, positions: bool) -> None:
        self.filters = filters
        self.id = pattern_id(channel(dict(filters), wildcards=True))
        self.positions = positions
        self.at: Position | None = None
        self._account = account
        self._transport = transport
        self._life: Life | None = None
        self._began_again = 0.0

    @property
    def life(self) -> Life | None:
        return self._life

    def lost(self) -> None:
        """The connection is lost: without positions, the next subscription is another one."""
        if self._life is not None and self._life.at is None:
            self._life = None

    def in_force(self, at: Position | None, recovered: bool | None) -> None:
        """Take the answer to `sub`."""
        now = time.monotonic()
        if self._life is None:
            self._life = self._account.begin(Life(self._transport, self.filters, now, at))
        elif recovered:
            self._life.events.append(Back(now, at))
        else:
            self._life.events.append(Told(now, 0.0, at))
        self.at = at

    def gap(self, seconds: float, at: Position | None) -> None:
        now = time.monotonic()
        assert self._life is not None, "a gap of what is not subscribed to"
        self._life.events.append(Told(now, now - seconds, at))
        if at is not None:
            self.at = at

    def message(self, label: bytes, payload: bytes) -> None:
        fields = dict(part.split(b"=", 1) for part in label.split(b"&")) if label else {}
        offset, at = fields.get(b"o", b"").decode(), None
        if offset:
            epoch, dot, number = offset.rpartition(".")
            if not dot:
                assert self.at is not None, "an offset before any epoch"
                epoch = self.at.epoch
            at = self.at = Position(epoch, int(number))
        assert self._life is not None, f"{self._transport} {self.filters} got a message before the answer to its sub"
        self._life.events.append(Came(time.monotonic(), orjson.loads(payload)[0], at))


class Connection(Protocol):
    """A connection for some subscriptions.

    Attributes:
        closed: set when it has ended.
        close_code: of the WebSocket, if it was closed.
    """

    transport: asyncio.Transport
    closed: asyncio.Event
    close_code: int | None


def _received(desks: dict[bytes, Desk], text: bytes) -> None:
    head, _, payload = text.partition(b"?")
    name, _, label = head.partition(b"@")
    desk = desks.get(name)
    if desk is not None:
        desk.message(label, payload)


def _told(desks: dict[bytes, Desk], event: dict[str, Any]) -> None:
    for name in event["ids"]:
        desks[name.encode()].gap(event["seconds"], Position.parse(event.get("at", {}).get(name)))


class Wire(RawClient):
    """A WebSocket."""

    name = "websocket"

    def __init__(self) -> None:
        super().__init__()
        self.desks: dict[bytes, Desk] = {}
        self._asked: dict[str, tuple[Desk, asyncio.Future[bool]]] = {}

    @classmethod
    async def open(cls, url: str, desks: Sequence[Desk], *, small: bool = False) -> Wire | None:
        """Connect and subscribe; return None if that is not possible now."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one: Wire | None = None
        try:
            async with asyncio.timeout(ANSWER):
                await loop.sock_connect(sock, (parts.hostname, parts.port))
                transport, one = await loop.create_connection(cls, sock=sock)
                one.transport = transport
                transport.write(cls.handshake)
                await first_of(one._opened, one.closed)
                if not one.closed.is_set() and all([await one.subscribe(desk) for desk in desks]):
                    return one
        except (OSError, TimeoutError):
            pass
        if one is None:
            sock.close()
        else:
            one.transport.abort()
            await one.closed.wait()
        return None

    async def subscribe(self, desk: Desk) -> bool:
        """Send `sub` and return whether it is in force."""
        wishes: dict[str, Any] = {}
        if desk.positions:
            wishes = {"offsets": True} if desk.at is None else {"since": str(desk.at)}
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        name = f"s{len(self._asked)}"
        self._asked[name] = desk, answered
        self.desks[desk.id.encode()] = desk
        self.act(id=name, act="sub", pat=dict(desk.filters), **wishes)
        return await answered

    def data_received(self, data: bytes) -> None:
        if not self._opened.is_set() and not (self._buffer + data).startswith(b"HTTP/1.1 101 "):
            self.transport.abort()
            return
        super().data_received(data)
        texts, self.texts = self.texts, []
        for text in texts:
            message = self.unwrap(text)
            if message is None:
                continue
            if message[:1] != b"{":
                _received(self.desks, message)
                continue
            event = orjson.loads(message)
            if "evt" not in event:
                self._answered(event)
            elif event["evt"] == "gap":
                _told(self.desks, event)

    def _answered(self, reply: dict[str, Any]) -> None:
        desk, answered = self._asked[reply["id"]]
        if "ret" in reply:
            desk.in_force(Position.parse(reply.get("at")), reply.get("recovered"))
        else:
            assert reply["code"] in ("unavailable", "rate-limited"), reply
        if not answered.done():
            answered.set_result("ret" in reply)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for desk, answered in self._asked.values():
            if not answered.done():
                answered.set_result(False)
            desk.lost()

    def unwrap(self, text: bytes) -> bytes | None:
        return text


class EngineIO(Wire):
    """Engine.IO, revision 4, on its WebSocket transport."""

    name = "engine.io"
    handshake = HANDSHAKE.replace(b"GET /ws ", b"GET /ws/?EIO=4&transport=websocket ")

    def act(self, **action: Any) -> None:
        self.transport.write(client_frame(TEXT, b"4" + orjson.dumps(action)))

    def unwrap(self, text: bytes) -> bytes | None:
        if text == b"2":  # a ping
            self.transport.write(client_frame(TEXT, b"3"))
        return text[1:] if text[:1] == b"4" else None


class Stream(asyncio.Protocol):
    """Server-Sent Events."""

    name = "sse"
    transport: asyncio.Transport

    def __init__(self, desks: Sequence[Desk]) -> None:
        self.desks = {desk.id.encode(): desk for desk in desks}
        self.closed = asyncio.Event()
        self.close_code: int | None = None
        self._order = desks
        self._answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._head = True

    @classmethod
    async def open(cls, url: str, desks: Sequence[Desk], *, small: bool = False) -> Stream | None:
        """Connect and subscribe; return None if that is not possible now."""
        del small
        parts = urlsplit(url)
        query = []
        for desk in desks:
            query.append("pat=" + quote(orjson.dumps(dict(desk.filters))))
            if desk.positions:
                query.append(f"since={desk.at or ''}")
        if any(desk.positions for desk in desks):
            query.append("offsets=1")
        try:
            async with asyncio.timeout(ANSWER):
                loop = asyncio.get_running_loop()
                host, port = parts.hostname or "", parts.port or 80
                transport, one = await loop.create_connection(lambda: cls(desks), host, port)
                one.transport = transport
                target = f"/sse?{'&'.join(query)}"
                transport.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                try:
                    if await one._answered:
                        return one
                except asyncio.CancelledError:
                    transport.abort()
                    raise
        except (OSError, TimeoutError):
            return None
        one.transport.abort()
        await one.closed.wait()
        return None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._head:
            head, blank, rest = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                return
            self._head, self._buffer = False, rest
            if not head.startswith(b"HTTP/1.1 200 "):
                assert head.startswith(b"HTTP/1.1 503 "), head
                self._answer(False)
        if self._answered.done() and not self._answered.result():
            return
        *events, self._buffer = self._buffer.split(b"\n\n")
        for event in events:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            name = fields.get(b"event")
            if name == b"subscribed":
                self._subscribed(orjson.loads(fields[b"data"]))
            elif name == b"gap":
                _told(self.desks, orjson.loads(fields[b"data"]))
            elif name is None and b"id" in fields:
                _received(self.desks, fields[b"id"] + b"?" + fields[b"data"])

    def _subscribed(self, data: dict[str, Any]) -> None:
        count = len(self._order)
        ats, recovered = data.get("at", [None] * count), data.get("recovered", [None] * count)
        for desk, name, at, whole in zip(self._order, data["ids"], ats, recovered, strict=True):
            if name is not None:
                desk.in_force(Position.parse(at), whole)
        self._answer(None not in data["ids"])

    def _answer(self, outcome: bool) -> None:
        if not self._answered.done():
            self._answered.set_result(outcome)

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer(False)
        self.closed.set()
        for desk in self._order:
            desk.lost()
