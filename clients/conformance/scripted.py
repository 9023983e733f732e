"""A server that does as a case says: handshakes, replies, close codes, raw bytes and silence on cue, over HTTP too.

Unless a case says otherwise it answers as a real node would: handshakes are let in, ``sub`` and ``unsub`` are answered
with the pattern's id, pings with pongs, and publications with ``queued``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final

import h11
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from realizehit.pattern import Pattern

Answer = Mapping[str, Any]
MAX_HEAD: Final = 64 << 10


class Socket:
    """One WebSocket of a client.

    Attributes:
        number: 1 for the first of the case.
        began, ended: by ``time.monotonic()``; ``ended`` is 0 while it is open.
        close_code: what the client closed with, ``None`` where it did not.
    """

    def __init__(self, number: int, writer: asyncio.StreamWriter, protocol: ServerProtocol) -> None:
        self.number = number
        self.began = time.monotonic()
        self.ended = 0.0
        self.close_code: int | None = None
        self._writer = writer
        self._protocol = protocol

    @property
    def open(self) -> bool:
        """Whether neither side has begun to close it."""
        return self._protocol.state is State.OPEN

    def send(self, text: str) -> None:
        """Send a text message."""
        self._protocol.send_text(text.encode())
        self.flush()

    def send_binary(self, data: bytes) -> None:
        """Send a binary message."""
        self._protocol.send_binary(data)
        self.flush()

    def send_raw(self, data: bytes) -> None:
        """Write bytes as they are, whatever the protocol says."""
        self._writer.write(data)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, and end the connection once the client has answered."""
        self._protocol.send_close(code, reason)
        self.flush()

    def end(self) -> None:
        """End the connection without a close frame, once all is written."""
        self._writer.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._writer.transport.abort()

    def flush(self) -> None:
        """Write what the protocol has to say."""
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
            elif self._writer.can_write_eof():
                self._writer.write_eof()


class ScriptedServer:
    """The server. `start` and `stop` it, and `reset` it before each case.

    Attributes:
        actions: what clients sent, with the number of the connection as ``connection``.
        requests: the HTTP requests that came: method, target, headers, body and time.
        sockets: all WebSockets of the case.
        answering: whether actions are answered; set it to ``False`` for a server that is silent.
        ponging: whether pings are answered.
    """

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clear()

    def _clear(self) -> None:
        self.actions: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.handshakes: list[dict[str, str]] = []
        self.sockets: list[Socket] = []
        self.answering = True
        self.ponging = True
        self._accepted = 0
        self._handshakes: deque[Answer] = deque()
        self._http: deque[Answer] = deque()
        self._replies: dict[str, deque[Answer]] = defaultdict(deque)

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=MAX_HEAD)
        self.port: int = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End all connections and listen no more."""
        assert self._server is not None
        self._server.close()
        await self.reset()

    async def reset(self) -> None:
        """End all connections and forget what the last case did and asked for."""
        for writer in tuple(self._writers):
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._clear()

    @property
    def ws(self) -> str:
        """The address for WebSocket clients."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def api(self) -> str:
        """The address for API clients."""
        return f"http://127.0.0.1:{self.port}/"

    def script(self, what: str, answers: list[Answer], act: str = "") -> None:
        """Say what the next handshakes, HTTP requests or actions are answered with.

        Args:
            what: ``handshakes``, ``http`` or ``replies``.
            answers: one for each, in order; after the last one the server answers as usual. A reply with ``pat`` is for
                that pattern only.
            act: the action that ``replies`` are for.
        """
        {"handshakes": self._handshakes, "http": self._http, "replies": self._replies[act]}[what].extend(answers)

    def forget(self) -> None:
        """Forget what clients did before the latest connection, and that connection's actions."""
        self.actions.clear()
        self.handshakes.clear()
        del self.sockets[:-1]

    def forget_http(self) -> None:
        """Answer further HTTP requests as usual."""
        self._http.clear()

    def latest(self, number: int = 0) -> Socket:
        """Return a WebSocket by its number; the last one for 0."""
        if not self.sockets:
            raise LookupError("no client is connected to the scripted server")
        return self.sockets[number - 1 if number else -1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self._accepted += 1
        number = self._accepted
        try:
            while await self._serve_one(reader, writer, number):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, h11.RemoteProtocolError):
            pass  # the client went away, or the case had it cut
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """Serve one request of a connection; return whether another one may follow."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        if b"\r\nupgrade: websocket\r\n" in head.lower():
            await self._serve_socket(head, reader, writer)
            return False
        return await self._serve_request(head, reader, writer, number)

    # ---- WebSocket

    async def _serve_socket(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.handshakes.append(_headers(head))
        answer = self._handshakes.popleft() if self._handshakes else {}
        self.news.set()
        if answer.get("abort"):
            return
        if answer.get("silent"):
            await reader.read()
            return
        if "bytes" in answer:
            writer.write(bytes.fromhex(answer["bytes"]))
            await writer.drain()
            return
        if "status" in answer:
            writer.write(_response(answer))
            await writer.drain()
            return
        protocol = ServerProtocol(max_size=16 << 20)
        protocol.receive_data(head)
        (request,) = protocol.events_received()
        assert isinstance(request, Request)
        protocol.send_response(protocol.accept(request))
        socket = Socket(len(self.sockets) + 1, writer, protocol)
        socket.flush()
        self.sockets.append(socket)
        self.news.set()
        try:
            while protocol.state is not State.CLOSED and (data := await reader.read(65536)):
                self._take(socket, protocol, data)
        finally:
            socket.ended = time.monotonic()
            socket.close_code = protocol.close_rcvd.code if protocol.close_rcvd is not None else None
            self.news.set()

    def _take(self, socket: Socket, protocol: ServerProtocol, data: bytes) -> None:
        protocol.receive_data(data)
        for frame in protocol.events_received():
            if getattr(frame, "opcode", None) is Opcode.PONG:
                self.actions.append({"act": "pong", "connection": socket.number})
                self.news.set()
            elif getattr(frame, "opcode", None) is Opcode.TEXT:
                assert not isinstance(frame, Request)
                action = json.loads(bytes(frame.data))  # type: ignore[union-attr]
                self.actions.append({**action, "connection": socket.number, "time": time.monotonic()})
                self.news.set()
                if self.answering:
                    self._reply(socket, action)
        if self.ponging:
            socket.flush()
        else:
            protocol.data_to_send()  # thrown away: a server that is silent answers no ping either

    def _reply(self, socket: Socket, action: Mapping[str, Any]) -> None:
        act = str(action.get("act"))
        answer = self._next_reply(act, action.get("pat"))
        if answer.get("hold") or not socket.open:
            return
        if "close" in answer:
            socket.close(int(answer["close"]), str(answer.get("reason", "")))
            return
        if "text" in answer:
            socket.send(str(answer["text"]).replace('"$id"', json.dumps(action.get("id"))))
            return
        if not answer:
            answer = {"ret": {"ping": "pong", "auth": "ok"}.get(act) or Pattern(action["pat"]).id}
        socket.send(json.dumps({"id": action.get("id"), **answer}))

    def _next_reply(self, act: str, pattern: object) -> dict[str, Any]:
        """Take the first scripted reply that is for any pattern or for this one; empty if there is none."""
        replies = self._replies[act]
        for answer in replies:
            if answer.get("pat", pattern) == pattern:
                replies.remove(answer)
                return {key: value for key, value in answer.items() if key != "pat"}
        return {}

    # ---- HTTP

    async def _serve_request(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        parser.receive_data(head)
        request = parser.next_event()
        assert isinstance(request, h11.Request)
        body = bytearray()
        while (event := parser.next_event()) is not h11.PAUSED and not isinstance(event, h11.EndOfMessage):
            if event is h11.NEED_DATA:
                if parser.they_are_waiting_for_100_continue:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                parser.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Data):
                body += event.data
        self.requests.append(
            {
                "method": request.method.decode(),
                "target": request.target.decode(),
                "headers": {name.decode().lower(): value.decode() for name, value in request.headers},
                "body": body.decode(errors="replace"),
                "time": time.monotonic(),
                "connection": number,
            }
        )
        self.news.set()
        answer = self._http.popleft() if self._http else _published(bytes(body))
        await asyncio.sleep(answer.get("delay", 0.0))
        if answer.get("abort"):
            return False
        if answer.get("silent"):
            await reader.read()
            return False
        data = bytes.fromhex(answer["bytes"]) if "bytes" in answer else _response(answer)
        writer.write(data[: len(data) // 2] if answer.get("half") else data)
        await writer.drain()
        return "bytes" not in answer and not answer.get("half")


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode(errors="replace").split("\r\n")
    pairs = [line.partition(":") for line in lines[1:] if ":" in line]
    return {"target": lines[0].split(" ")[1], **{name.strip().lower(): value.strip() for name, _, value in pairs}}


def _response(answer: Answer) -> bytes:
    status, body = int(answer.get("status", 200)), str(answer.get("body", "")).encode()
    headers = {"Content-Type": "application/json", **answer.get("headers", {}), "Content-Length": str(len(body))}
    lines = [f"HTTP/1.1 {status} As the case says", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def _published(body: bytes) -> Answer:
    """Answer a publication or a batch as a real server would; the payloads are not looked at."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        value = json.loads(body)
        if "messages" in value:
            results = [_queued(message) for message in value["messages"]]
            return {"body": json.dumps({"results": results, "queued": len(results), "failed": 0})}
        return {"body": json.dumps(_queued(value))}
    return {"status": 400, "body": json.dumps({"detail": "the body is no publication", "code": "bad-request"})}


def _queued(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": "queued", "id": Pattern(message["pattern"]).id, "nodes": 1}
