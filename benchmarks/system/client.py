"""A cheap WebSocket client: actions are prepared as bytes, replies are counted."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import orjson

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(payload: bytes) -> bytes:
    """Return a client's text frame; the mask is zero, so the payload stays readable."""
    size = len(payload)
    head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + struct.pack(">H", size)
    return head + bytes(4) + payload


class Client:
    """A connection to a node."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(HANDSHAKE)
        self._buffer = b""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"the server answered {head!r}")

    def act(self, act: str, patterns: Iterable[dict[str, object]]) -> None:
        """Send the action for each pattern at once, and wait for all replies.

        Raises:
            RuntimeError: one was refused.
        """
        actions = [masked(orjson.dumps({"id": n, "act": act, "pat": pattern})) for n, pattern in enumerate(patterns)]
        self._socket.sendall(b"".join(actions))
        for _ in actions:
            reply = self.message()
            if b'"err"' in reply:
                raise RuntimeError(f"{act} was answered {reply!r}")

    def message(self) -> bytes:
        """Return the next message."""
        while True:
            size, start = self._buffer[1] if len(self._buffer) > 1 else 0, 2
            if size == 126 and len(self._buffer) >= 4:
                size, start = struct.unpack(">H", self._buffer[2:4])[0], 4
            if len(self._buffer) >= start + size and len(self._buffer) >= 2:
                message, self._buffer = self._buffer[start : start + size], self._buffer[start + size :]
                return message
            self._fill()

    def _fill(self) -> None:
        data = self._socket.recv(1 << 20)
        if not data:
            raise RuntimeError("the server closed the connection")
        self._buffer += data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A reset leaves no port in TIME_WAIT.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
