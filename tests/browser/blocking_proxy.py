"""A proxy as some networks have it: HTTP passes, an upgrade does not."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

_REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class BlockingProxy:
    """Listens on a port of its own and passes connections on.

    Args:
        port: where to, on this machine.

    Attributes:
        port: where it listens.
        refused: how many upgrades it refused.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.refused = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._sockets.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(65536)
                if not data:
                    return
                head += data
            passed_on = self._passed_on(head)
            if passed_on is None:
                self.refused += 1
                client.sendall(_REFUSED)
                client.shutdown(socket.SHUT_WR)
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets.append(server)
            server.sendall(passed_on)
            self._start(self._copy, server, client)
            self._copy(client, server)

    def _passed_on(self, head: bytes) -> bytes | None:
        """What the server gets for the beginning of a connection, its first request's head; ``None`` to refuse it."""
        return None if b"\r\nupgrade:" in head.lower() else head

    def _copy(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                to.sendall(data)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in list(self._threads):
            thread.join(20)


class CookieProxy(BlockingProxy):
    """A proxy that makes an identity of a cookie; it passes everything on, one request a connection."""

    def _passed_on(self, head: bytes) -> bytes | None:
        head, _, body = head.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        if b"\r\nupgrade:" not in head.lower():
            lines = [line for line in lines if not line.lower().startswith(b"connection:")] + [b"Connection: close"]
        user = re.search(rb"\r\ncookie: [^\r]*\buser=(\w+)", head, re.IGNORECASE)
        if user is not None:
            lines.append(b"X-User: " + user[1])
        return b"\r\n".join([first, *lines, b"", body])


@contextmanager
def blocking_proxy(port: int) -> Iterator[BlockingProxy]:
    with closing(BlockingProxy(port)) as proxy:
        yield proxy


@contextmanager
def cookie_proxy(port: int) -> Iterator[BlockingProxy]:
    with closing(CookieProxy(port)) as proxy:
        yield proxy
