"""An engine without an event loop, on socket pairs, for tests of the engine itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from realizehit import _fanout

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Loop:
    """Collects the callbacks that the engine schedules."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.errors: list[Exception] = []

    def run(self) -> int:
        """Run all callbacks, also those scheduled meanwhile; return their number."""
        calls = 0
        while self.soon:
            self.soon.pop(0)()
            calls += 1
        return calls


class Recorder:
    """A handler that records its calls."""

    def __init__(self) -> None:
        self.texts: list[tuple[int, bytes]] = []
        self.binaries: list[tuple[int, bytes]] = []
        self.raw: list[tuple[int, bytes]] = []
        self.gone: list[int] = []

    def on_text(self, handle: int, data: bytes) -> None:
        self.texts.append((handle, data))

    def on_binary(self, handle: int, data: bytes) -> None:
        self.binaries.append((handle, data))

    def on_bytes(self, handle: int, data: bytes) -> None:
        self.raw.append((handle, data))

    def on_gone(self, handle: int) -> None:
        self.gone.append(handle)


class Peer:
    """The client's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b""

    def send(self, opcode: int, payload: bytes = b"", *, first: int | None = None) -> None:
        self.sock.sendall(client_frame(opcode, payload, first=first))

    def read(self) -> bytes:
        """Everything that can be read now."""
        parts = []
        while True:
            try:
                part = self.sock.recv(1 << 20, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts)

    def frames(self) -> list[tuple[int, bytes]]:
        """Complete frames that can be read now, as opcode and payload."""
        self._buffer += self.read()
        frames, self._buffer = server_frames(self._buffer)
        return frames

    def texts(self) -> list[bytes]:
        return [payload for opcode, payload in self.frames() if opcode == TEXT]

    def at_eof(self) -> bool:
        try:
            return self.sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def client_frame(
    opcode: int, payload: bytes = b"", *, first: int | None = None, mask: bytes = b"\x12\x34\x56\x78"
) -> bytes:
    """A frame of a client; ``first`` replaces the first byte."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65536:
        length = b"\xfe" + struct.pack(">H", size)
    else:
        length = b"\xff" + struct.pack(">Q", size)
    masked = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
    return bytes([0x80 | opcode if first is None else first]) + length + mask + masked


def server_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """Split complete frames off a server's bytes; return them and the rest."""
    frames = []
    while len(data) >= 2:
        assert data[0] & 0xF0 == 0x80, "the server sends whole frames without extensions"
        size, start = data[1], 2
        assert size < 128, "the server masks nothing"
        if len(data) < {126: 4, 127: 10}.get(size, 2):
            break
        if size == 126:
            size, start = struct.unpack(">H", data[2:4])[0], 4
        elif size == 127:
            size, start = struct.unpack(">Q", data[2:10])[0], 10
        if len(data) < start + size:
            break
        frames.append((data[0] & 0x0F, data[start : start + size]))
        data = data[start + size :]
    return frames, data


class SocketTransport:
    """A transport between an engine and a socket that the engine does not own; it buffers nothing."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def close(self) -> None:
        self.sock.close()

    abort = close


class Bench:
    """An engine, its loop, its recorder, and its connections: sockets, or transports in a build without epoll."""

    def __init__(self, **options: float) -> None:
        self.loop = Loop()
        self.handler = Recorder()
        self.engine = _fanout.Engine(self.loop.soon.append, self.loop.errors.append, **options)  # type: ignore[arg-type]
        self.vacant: list[bytes] = []
        self.engine.on_vacant = self.vacant.append
        self.peers: list[Peer] = []
        self.transports: dict[int, SocketTransport] = {}

    def connect(
        self,
        head: bytes = b"",
        rest: bytes = b"",
        send_buffer: int | None = None,
        framing: int = _fanout.WEBSOCKET,
    ) -> tuple[int, Peer]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        if send_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if self.engine.owns_sockets:
            handle = self.engine.adopt(ours.detach(), self.handler, head, rest, framing)
        else:
            transport = SocketTransport(ours)
            handle = self.engine.attach(transport, self.handler, head, rest, framing)
            self.transports[handle] = transport
        peer = Peer(theirs)
        self.peers.append(peer)
        return handle, peer

    def publish(self, *messages: tuple[bytes, bytes]) -> None:
        self.engine.dispatch([[b"message", channel, payload] for channel, payload in messages])
        self.loop.run()

    def splice(self, handle: int, other: int) -> None:
        """Move a connection to the socket or transport of another one, as a server does."""
        self.engine.splice(handle, other)
        if other in self.transports:
            self.transports[handle] = self.transports.pop(other)

    def poll(self) -> None:
        self.engine.poll()
        for handle, transport in list(self.transports.items()):
            self.read(handle, transport.sock)
        self.loop.run()

    def read(self, handle: int, sock: socket.socket) -> None:
        """Pass the bytes of a connection with a transport to the engine, as an event loop would."""
        try:
            while sock.fileno() >= 0:
                data = sock.recv(65536)
                if not data:
                    self.engine.lost(handle)
                    break
                self.engine.feed(handle, data)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.engine.lost(handle)
        del self.transports[handle]


@contextmanager
def bench(**options: float) -> Iterator[Bench]:
    """Run an engine; fail the test if a callback raised. A fixture checks for leaks after each test."""
    it = Bench(**options)
    try:
        yield it
        assert it.loop.errors == []
    finally:
        it.engine.close()
        for peer in it.peers:
            peer.sock.close()
