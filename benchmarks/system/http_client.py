"""A cheap keep-alive HTTP client: prepared requests on raw sockets, one outstanding on each."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator


def request(path: str, body: bytes, *headers: str) -> bytes:
    """Return a POST as bytes."""
    lines = (
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def exchange(sock: socket.socket, data: bytes) -> int:
    """Send a request, read its whole answer and return the answer's size.

    Raises:
        RuntimeError: the answer was not 200.
    """
    sock.sendall(data)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {answer[:300]!r}")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    left = int(headers[b"content-length"]) - len(body)
    while left > 0:
        left -= len(sock.recv(1 << 20))
    return len(head) + 4 + int(headers[b"content-length"])


class Connections:
    """Keep-alive connections to one server.

    Args:
        port: on 127.0.0.1.
        count: how many.
        requests: what they send, one after the other.
    """

    def __init__(self, port: int, count: int, requests: Iterator[bytes]) -> None:
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        for sock in self._sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(sock, selectors.EVENT_READ, [b""])
            exchange(sock, next(requests))

    def send(self, count: int) -> float:
        """Send a number of requests, over all connections; return the seconds.

        Raises:
            RuntimeError: an answer was not 200.
        """
        waiting = min(len(self._sockets), count)
        left = count - waiting
        start = time.perf_counter()
        for one in self._sockets[:waiting]:
            one.send(next(self._requests))
        while waiting:
            for key, _ in self._selector.select():
                sock: object = key.fileobj
                got: list[bytes] = key.data
                assert isinstance(sock, socket.socket)
                got[0] += sock.recv(65536)
                if not _is_complete(got[0]):  # its head and its body may arrive separately
                    continue
                got[0] = b""
                if left:
                    left -= 1
                    sock.send(next(self._requests))
                else:
                    waiting -= 1
        return time.perf_counter() - start

    def close(self) -> None:
        """Close them all."""
        self._selector.close()
        for sock in self._sockets:
            sock.close()


def _is_complete(answer: bytes) -> bool:
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server answered {answer[:300]!r}")
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    _, _, rest = head.lower().partition(b"content-length: ")
    return len(body) >= int(rest.partition(b"\r")[0])
