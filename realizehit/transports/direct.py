"""A request that is answered without ASGI, as publications are: no task, no event, no messages back and forth.

To uvicorn's protocol such a request looks like the cycle that it keeps for each request of an application; the order of
pipelined requests, keep-alive and the connection's end hold for it as for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final, Protocol

MAX_BODY: Final = 60_000  # bytes; a longer body takes the way that reads with pauses

Respond = Callable[[int, bytes, bytes, Iterable[tuple[bytes, bytes]]], None]
"""Called once with status, media type, body and further headers."""

Handler = Callable[[tuple[str, int] | None, Mapping[bytes, bytes], bytes, Respond], None]
"""Serves a request: the client's address, headers by lower-case name, the body, and how to answer. It never raises."""


class Owner(Protocol):
    """The protocol of the connection."""

    client: tuple[str, int] | None

    def respond(self, request: DirectRequest, response: Sequence[bytes]) -> None:
        """Write a response, and go on with what comes after it."""


class DirectRequest:
    """One request while its body arrives and until it is answered.

    Args:
        owner: the protocol.
        headers: of the request.
        handler: serves it.

    Attributes:
        body, more_body, response_started, response_complete, disconnected, keep_alive: as uvicorn's cycle has them.
    """

    __slots__ = (
        "_handler", "_headers", "_owner", "body", "disconnected", "keep_alive", "more_body", "response_complete",
        "response_started",
    )  # fmt: skip

    def __init__(self, owner: Owner, headers: Mapping[bytes, bytes], handler: Handler) -> None:
        self.body = bytearray()
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self._owner = owner
        self._headers = headers
        self._handler: Handler | None = handler

    @property
    def message_event(self) -> DirectRequest:
        """What is set when there is news of the request."""
        return self

    def set(self) -> None:
        """Serve the request once its body is whole, unless the client has gone."""
        if self.more_body or self._handler is None:
            return
        handler, self._handler = self._handler, None
        if not self.disconnected:
            handler(self._owner.client, self._headers, bytes(self.body), self._answer)

    def _answer(self, status: int, media_type: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]]) -> None:
        self.response_started = self.response_complete = True
        if self.disconnected:
            return
        lines = [b"content-type: %b\r\ncontent-length: %d\r\n" % (media_type, len(body))]
        lines += [b"%b: %b\r\n" % header for header in more]
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self._owner.respond(self, (status_line(status), *lines, b"\r\n", body))


def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return _OK if status == HTTPStatus.OK else b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


_OK: Final = b"HTTP/1.1 200 OK\r\n"
