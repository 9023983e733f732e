"""Requests that are answered without ASGI, as most publications are: no task, no event, no messages back and forth.

Only plain requests are taken: one Content-Length says where the body ends, and nothing else in the head does; the
request asks for nothing but an answer. All other requests go to the application.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from realizehit.transports.heads import fault_of, parse_head

MAX_BODY: Final = 60_000  # bytes; a longer body takes the way that reads with pauses

LONGEST_HEAD: Final = 1024  # bytes; a longer one takes the application's way

Respond = Callable[[int, bytes, bytes, Iterable[tuple[bytes, bytes]]], None]
"""Called once with status, media type, body and further headers."""

Handler = Callable[[tuple[str, int] | None, Mapping[bytes, bytes], bytes, Respond], None]
"""Serves a request: the client's address, headers by lower-case name, the body, and how to answer. It never raises."""

_ASK_FOR_MORE: Final = frozenset((b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"content-encoding"))
_STAYS: Final = (None, b"keep-alive", b"Keep-Alive")  # what Connection says of a connection that goes on


class PlainHead(NamedTuple):
    """The head of a request that the fast path takes.

    Attributes:
        target: the path of the request, with its query.
        headers: values by lower-case name.
        size: bytes of the body.
    """

    target: bytes
    headers: Mapping[bytes, bytes]
    size: int


IDEMPOTENCY_KEY: Final = b"idempotency-key"
TRACEPARENT: Final = b"traceparent"

_VALUE: Final = rb":[ \t]*([!-~](?:[ -~]*[!-~])?)[ \t]*(?=\r\n|\Z)"
_OWN_LINES: Final = (  # headers of which each request has another value
    (IDEMPOTENCY_KEY, re.compile(rb"\r\n[Ii]dempotency-[Kk]ey" + _VALUE)),
    (TRACEPARENT, re.compile(rb"\r\n[Tt]raceparent" + _VALUE)),
)


def parse_plain_head(text: bytes) -> PlainHead | None:
    """Parse a head; ``None`` where the request is not for the fast path.

    Args:
        text: up to the blank line, that one not included; at most `LONGEST_HEAD` bytes, as what is kept has a bound.
    """
    if b"dempotency-" not in text and b"raceparent" not in text:
        return _parse(text)
    # Without the lines that differ in each request the heads are the same few again.
    own: dict[bytes, bytes] = {}
    for name, pattern in _OWN_LINES:
        line = pattern.search(text)
        if line is not None:
            own[name] = line[1]
            text = text[: line.start()] + text[line.end() :]
    found = _parse(text)
    if found is None or not own:
        return found
    if not own.keys().isdisjoint(found.headers):  # such a header is there twice
        return None
    return PlainHead(found.target, {**found.headers, **own}, found.size)


@lru_cache(maxsize=1024)  # publishers send the same few heads over and over
def _parse(text: bytes) -> PlainHead | None:
    head = parse_head(text)
    if head is None or head.method != b"POST" or head.version != b"HTTP/1.1" or fault_of(head) is not None:
        return None
    headers = head.headers
    length = headers.get(b"content-length")
    if (
        length is None
        or int(length) > MAX_BODY
        or head.repeated
        or headers.get(b"connection") not in _STAYS
        or not _ASK_FOR_MORE.isdisjoint(headers)
    ):
        return None
    return PlainHead(head.target, MappingProxyType(headers), int(length))


class Owner(Protocol):
    """The protocol of the connection."""

    client: tuple[str, int] | None

    def respond(self, response: Sequence[bytes]) -> None:
        """Write a response, its default headers after its first part, and go on with what comes after it."""

    def is_last(self) -> bool:
        """Whether the connection ends with this answer."""

    def note_answer(self, target: bytes, status: int) -> None:
        """Write a line to the access log, if there is one."""


class DirectRequest:
    """One request from when its body is here until it is answered.

    Args:
        owner: the protocol.
        found: the head.
        handler: serves it.

    Attributes:
        size: of the body, in bytes.
        disconnected: whether the client is gone, so that no answer can be sent.
    """

    __slots__ = ("_found", "_handler", "_owner", "disconnected", "size")

    def __init__(self, owner: Owner, found: PlainHead, handler: Handler) -> None:
        self.size = found.size
        self.disconnected = False
        self._owner = owner
        self._found = found
        self._handler = handler

    def serve(self, body: bytes) -> None:
        """Have it served."""
        self._handler(self._owner.client, self._found.headers, body, self._answer)

    def _answer(self, status: int, media_type: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]]) -> None:
        if self.disconnected:
            return
        self._owner.note_answer(self._found.target, status)
        lines = [b"content-type: %b\r\ncontent-length: %d\r\n" % (media_type, len(body))]
        lines += [b"%b: %b\r\n" % header for header in more]
        if self._owner.is_last():
            lines.append(b"connection: close\r\n")
        self._owner.respond((status_line(status), *lines, b"\r\n", body))


def status_line(status: int) -> bytes:
    """Return the first line of a response."""
    return _OK if status == HTTPStatus.OK else b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())


_OK: Final = b"HTTP/1.1 200 OK\r\n"
