"""A WebSocket server that sends exactly what a test tells it, also invalid messages."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson

from realizehit._fanout import channel_id
from realizehit.loadtest._load import Fleet
from realizehit.pattern import Pattern

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def server_frame(opcode: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, size])
    elif size < 65536:
        head = bytes([0x80 | opcode, 126]) + struct.pack(">H", size)
    else:
        head = bytes([0x80 | opcode, 127]) + struct.pack(">Q", size)
    return head + payload


def pattern_of(channel: int) -> Pattern:
    return Pattern(load="test", n=channel)


def channels(count: int) -> list[tuple[bytes, bytes]]:
    """Channels in the form of a fleet's argument."""
    patterns = [pattern_of(n) for n in range(count)]
    return [(pattern.channel.encode(), orjson.dumps(dict(pattern))) for pattern in patterns]


def payload(channel: int, number: int, *, when: int | None = None, mark: int = 0, size: int = 42) -> bytes:
    """A stamped payload of ``size`` bytes."""
    when = time.monotonic_ns() if when is None else when
    stamp = b'"%08x%08x%016x%08x' % (channel, number, when, mark)
    return stamp.ljust(size - 1, b"x") + b'"'


def message(channel: int, number: int, *, label: str | None = None, **options: int) -> bytes:
    """A stamped publication as the server frames it."""
    label = label or pattern_of(channel).id
    return server_frame(TEXT, label.encode() + b"?" + payload(channel, number, **options))


class ScriptedServer:
    """Accepts connections, answers handshakes and actions; the test does the rest.

    Attributes:
        clients: the connections, in the order they came.
        heads: the requests of their handshakes.
        frames: what clients sent after the handshake, as opcode and payload.
        reply: from an action to the text of its reply, or None for no reply.
    """

    def __init__(self, answer: bytes = ACCEPTED) -> None:
        self.answer = answer
        self.clients: list[socket.socket] = []
        self.heads: list[bytes] = []
        self.frames: list[tuple[int, bytes]] = []
        self.reply: Callable[[dict[str, object]], bytes | None] = self.good_reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._listener.getsockname()
        return host, port

    @staticmethod
    def good_reply(action: dict[str, object]) -> bytes:
        label = channel_id(Pattern(action["pat"]).channel.encode())  # type: ignore[arg-type]
        return orjson.dumps({"id": action["id"], "ret": label})

    def send(self, data: bytes, client: int = 0) -> None:
        self.clients[client].sendall(data)

    def close(self) -> None:
        # Closing a listener alone would leave the thread in its accept.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in self.clients:
            client.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(10)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        received = b""
        try:
            while b"\r\n\r\n" not in received:
                received += client.recv(65536)
            head, _, received = received.partition(b"\r\n\r\n")
            self.heads.append(head)
            client.sendall(self.answer)
            while data := client.recv(65536):
                received = self._take(client, received + data)
        except OSError:
            pass

    def _take(self, client: socket.socket, data: bytes) -> bytes:
        while (frame := masked_frame(data)) is not None:
            opcode, text, data = frame
            self.frames.append((opcode, text))
            if opcode == TEXT and (reply := self.reply(orjson.loads(text))) is not None:
                client.sendall(server_frame(TEXT, reply))
        return data


def masked_frame(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Split off the first complete frame of a client: opcode, payload, and the rest."""
    if len(data) < 2:
        return None
    assert data[0] & 0x70 == 0
    assert data[1] & 0x80, "a client masks"
    size, start = data[1] & 127, 2
    if size == 126:
        size, start = struct.unpack(">H", data[2:4])[0], 4
    mask, start = data[start : start + 4], start + 4
    if len(data) < start + size:
        return None
    text = bytes(byte ^ mask[i & 3] for i, byte in enumerate(data[start : start + size]))
    return data[0] & 15, text, data[start + size :]


@contextmanager
def scripted(answer: bytes = ACCEPTED) -> Iterator[ScriptedServer]:
    server = ScriptedServer(answer)
    try:
        yield server
    finally:
        server.close()


def run_until(fleet: Fleet, condition: Callable[[], bool], seconds: float = 15) -> None:
    """Run a fleet in short steps until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (fleet.counts(), fleet.notes(), fleet.problems())
        fleet.run(0.002)
