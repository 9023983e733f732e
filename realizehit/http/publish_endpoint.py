"""What all publish requests have in common: a body is read and checked, and errors become problem documents.

These are raw ASGI endpoints, because a request object for each message costs more than everything else that is done for
it here, and single publications can be served without ASGI too (`realizehit.http.fast_path`).

Source: section 3 of the wire protocol, ``docs/http-api.md``.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from email.message import Message as Headers
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.types import Message, Receive, Scope, Send

from realizehit.access.gate import Gate
from realizehit.access.keys import Key
from realizehit.access.peers import peer_of
from realizehit.broker.base import Bus
from realizehit.broker.publication import Publication, without_trace
from realizehit.common.seldom import Seldom, more
from realizehit.errors import (
    ErrorCode,
    PatternError,
    RequestError,
)
from realizehit.http.fast_path import IDEMPOTENCY_KEY, TRACEPARENT, Respond
from realizehit.http.problems import DEFECT, LOG_INTERVAL, PROBLEM, BrokerErrorReporter, refusal_of
from realizehit.http.publish_traces import open_traces
from realizehit.node.metrics import Metrics
from realizehit.settings import Settings
from realizehit.transports.admission import readable
from realizehit.transports.heads import coding_of

logger: Final = logging.getLogger(__name__)

PATTERN_ROOM: Final = 16 * 1024  # bytes of a publish body besides its payload

_LONGEST_TYPE: Final = 256  # bytes of a Content-Type

JSON: Final = b"application/json"


class EncodedBody(RequestError):
    """A body is compressed, or otherwise not as it is."""


def check_coding(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Take a body only as it is.

    Raises:
        EncodedBody: a ``Content-Encoding`` says that it is not.
    """
    coding = coding_of(headers)
    if coding is not None:
        text = f"the Content-Encoding is {coding}; send the body as it is, without it"
        raise EncodedBody(text, ErrorCode.UNSUPPORTED_MEDIA_TYPE)


def _check_one_key(headers: Iterable[tuple[bytes, bytes]]) -> None:
    if _count(headers, IDEMPOTENCY_KEY) > 1:
        raise RequestError("the header Idempotency-Key is there more than once")


def _count(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> int:
    return sum(name == wanted for name, _ in headers)


class Endpoint(ABC):
    """Reads a body, has it published, and answers; errors become problem documents."""

    media_types: tuple[str, ...] = ("application/json",)

    def __init__(
        self, bus: Bus, settings: Settings, metrics: Metrics, gate: Gate | None, broker_errors: BrokerErrorReporter
    ) -> None:
        self.bus = bus
        self.broker_errors = broker_errors
        self.gate = gate
        self.metrics = metrics
        self.traces = open_traces(settings, metrics)
        self.max_payload = settings.max_payload_bytes
        self._seldom = Seldom(LOG_INTERVAL)
        self.max_body = settings.max_payload_bytes + PATTERN_ROOM

    @abstractmethod
    async def publish(
        self, body: bytes, media_type: str, key: Key | None, began: float, headers: Mapping[bytes, bytes]
    ) -> Any:
        """Publish what a body holds, as far as the key may, and return the answer.

        Args:
            body: whole.
            media_type: one of `media_types`.
            key: of the publisher; ``None`` where publishing needs no key.
            began: when the whole body had arrived, by `time.perf_counter`.
            headers: of the request, by lower-case name.
        """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            key = (
                None if self.gate is None else self.gate.publishers.authenticate(peer_of(scope.get("client")), headers)
            )
            media_type = self._media_type(headers.get(b"content-type", b""))
            check_coding(scope["headers"])
            if IDEMPOTENCY_KEY in headers:
                _check_one_key(scope["headers"])
            if self.traces is not None and TRACEPARENT in headers and _count(scope["headers"], TRACEPARENT) > 1:
                headers[TRACEPARENT] = b""  # which is invalid, as two are
            self._check_size(headers.get(b"content-length"))
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                body: bytes | None = message.get("body", b"")
                self._check_body(body or b"")
            else:
                body = await self._read_rest(message, receive)
            if body is None:
                return  # the publisher went away
            answer = await self.publish(body, media_type, key, time.perf_counter(), headers)
        except Exception as error:
            status, kind, data, more = self._refusal(error, scope.get("client"), headers)
            await _send_bytes(send, status, kind, data, more)
            if status == HTTPStatus.INTERNAL_SERVER_ERROR:
                raise  # the server logs it
        else:
            await _send_bytes(send, 200, JSON, orjson.dumps(answer))

    def _refusal(
        self, error: BaseException, client: object, headers: Mapping[bytes, bytes]
    ) -> tuple[int, bytes, bytes, list[tuple[bytes, bytes]]]:
        """Return status, media type, body and further headers of the answer to what went wrong, and count it."""
        if isinstance(error, RequestError | PatternError):
            self.metrics.count("invalid")
            if error.code == ErrorCode.TOO_LARGE:
                self._limited(client, headers)
            elif self.gate is not None:
                # The code alone: the text may quote the body, which is nothing for a log.
                self.gate.refusals.log.note("invalid", peer=peer_of(client), headers=headers, detail=str(error.code))
        refusal = refusal_of(error, self.broker_errors)
        if refusal is None:
            return HTTPStatus.INTERNAL_SERVER_ERROR.value, PROBLEM, DEFECT, []
        more = refusal.headers
        if isinstance(error, EncodedBody):
            more.append((b"accept-encoding", b"identity"))
        return refusal.status.value, refusal.media_type, refusal.body, more

    def _admit(
        self, client: tuple[str, int] | None, headers: Mapping[bytes, bytes], body: bytes
    ) -> tuple[Key | None, str]:
        """Decide about a request that comes without ASGI; return the key that it has and its media type."""
        key = None if self.gate is None else self.gate.publishers.authenticate(peer_of(client), headers)
        media_type = self._media_type(headers.get(b"content-type", b""))
        self._check_body(body)
        return key, media_type

    def _check_body(self, body: bytes) -> None:
        if len(body) > self.max_body:
            raise self._too_large(f"the body has {len(body)} bytes")

    def _refuse(self, respond: Respond, error: BaseException, client: object, headers: Mapping[bytes, bytes]) -> None:
        answer = self._refusal(error, client, headers)
        if answer[0] == HTTPStatus.INTERNAL_SERVER_ERROR and (left_out := self._seldom.passes("failed")) is not None:
            logger.error("a publication failed%s", more(left_out), exc_info=error)
        respond(*answer)

    def _readable(self, respond: Respond, headers: Mapping[bytes, bytes]) -> Respond:
        """Have the answer carry what the page that asks needs to read it."""
        if b"origin" not in headers or self.gate is None:
            return respond
        return _with(respond, readable(headers, self.gate))

    def _media_type(self, header: bytes) -> str:
        # Insisting on the type keeps web pages of strangers from publishing: what a form or a plain request of another
        # origin can send is none of these, and for these a browser asks for permission first, which is not given.
        media_type = "application/json" if header == JSON else _media_type(header)
        if media_type not in self.media_types:
            wanted = " or ".join(f"Content-Type: {name}" for name in self.media_types)
            shown = f"Content-Type is {header[:100].decode('latin-1')}" if header else "the Content-Type is missing"
            raise RequestError(f"{shown}; send the header {wanted}", ErrorCode.UNSUPPORTED_MEDIA_TYPE)
        return media_type

    def _check_size(self, length: bytes | None) -> None:
        if length is not None and length.isdigit() and int(length) > self.max_body:
            raise self._too_large(f"the body has {int(length)} bytes")

    async def _read_rest(self, message: Message, receive: Receive) -> bytes | None:
        """Read a body that comes in parts, as a large one does, or one that does not say how large it is."""
        parts: list[bytes] = []
        size = 0
        while message["type"] == "http.request":
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_body:
                raise self._too_large("the body has more bytes")
            if not message.get("more_body", False):
                return b"".join(parts)
            message = await receive()
        return None

    def _too_large(self, what: str) -> RequestError:
        return RequestError(f"{what}; at most {self.max_body} are taken", ErrorCode.TOO_LARGE)

    def payload_error(self, publication: Publication) -> RequestError | None:
        """Hold a publication to the bound of a payload."""
        size = len(publication.payload)
        if size <= self.max_payload or (size := len(without_trace(publication.payload))) <= self.max_payload:
            return None
        text = f"the payload has {size} bytes; at most {self.max_payload} are taken"
        return RequestError(text, ErrorCode.TOO_LARGE)

    def _limited(self, client: object = None, headers: Mapping[bytes, bytes] | None = None) -> None:
        if self.gate is not None:
            self.gate.refusals.count("payload_too_large", peer=peer_of(client) if client else None, headers=headers)


def _with(respond: Respond, headers: Sequence[tuple[bytes, bytes]]) -> Respond:
    """Return a function that responds with further headers."""
    return lambda status, media_type, body, more: respond(status, media_type, body, [*more, *headers])


def _media_type(header: bytes) -> str:
    """Return the media type that a Content-Type names; an empty text where its charset is not UTF-8."""
    return _short_media_type(header) if len(header) <= _LONGEST_TYPE else ""  # what is kept has a bound


@lru_cache(maxsize=256)
def _short_media_type(header: bytes) -> str:
    message = Headers()
    message["content-type"] = header.decode("latin-1") or "none/none"
    return message.get_content_type() if message.get_content_charset("utf-8") in ("utf-8", "us-ascii") else ""


async def _send_bytes(
    send: Send, status: int, media_type: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
