"""Receivers that count bytes: they read many sockets without looking at the framing."""

from __future__ import annotations

import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

TIMEOUT = 20.0  # seconds, for every wait


class Drain:
    """Connections to one server that have sent the same bytes.

    Args:
        port: the server's.
        size: how many connections.
        opening: what each sends first.
        answered: what ends the answer to that; what comes later is counted.
    """

    def __init__(self, port: int, size: int, opening: bytes, answered: bytes) -> None:
        self.size = size
        self._epoll = select.epoll()
        self._buffer = bytearray(1 << 20)
        self._sockets: dict[int, socket.socket] = {}
        try:
            for _ in range(size):
                sock = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
                self._sockets[sock.fileno()] = sock
                sock.sendall(opening)
            for sock in self._sockets.values():
                data = b""
                while answered not in data:
                    data += self._some(sock)
                sock.setblocking(False)
                self._epoll.register(sock, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def take(self, count: int) -> None:
        """Receive a number of bytes, on all connections together, and no more.

        Raises:
            RuntimeError: they did not come in time, or more did.
        """
        sockets, buffer = self._sockets, self._buffer
        deadline = time.monotonic() + TIMEOUT
        while count > 0:
            events = self._epoll.poll(TIMEOUT, self.size)
            for fd, _ in events:
                received = sockets[fd].recv_into(buffer)
                if not received:
                    raise RuntimeError("the server closed a connection")
                count -= received
            if not events or time.monotonic() > deadline:
                raise RuntimeError(f"{count} bytes are missing after {TIMEOUT:g} s")
        if count < 0:
            raise RuntimeError(f"{-count} bytes too many arrived")

    def close(self) -> None:
        """End the connections with a reset, which leaves no port in TIME_WAIT."""
        self._epoll.close()
        for sock in self._sockets.values():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def _some(self, sock: socket.socket) -> bytes:
        data = sock.recv(65536)
        if not data:
            raise RuntimeError("the server closed a connection before it answered")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
