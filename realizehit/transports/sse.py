"""Server-Sent Events: ``GET /sse?pat=…``, for browsers without a WebSocket to go through and for ``curl -N``.

Where the connection can be taken from the HTTP server, as from our own, it goes to the engine after the response's head
and costs what a WebSocket does. Under another ASGI server a task for each client writes what the engine holds for it.

An ``EventSource`` comes back to a stream that ended, and never to an answer other than 200. So where it is to come back
it is answered with a stream that says when, and ends; it is known by the ``text/event-stream`` that it accepts.

Source: the HTML standard, section 9.2; the Fetch standard, section 3.2; ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from realizehit import _fanout
from realizehit.errors import AccessDenied, CloseCode, ErrorCode, PatternError
from realizehit.node.hub import Hub
from realizehit.node.messages import problem
from realizehit.pattern import Channel, Pattern, channel_of
from realizehit.transports.admission import cross_origin, headers_of, opening_of
from realizehit.transports.buffered import Held
from realizehit.transports.guard import STATUS, Guard
from realizehit.transports.handover import TAKE_OVER, adopt, rename

SSE_PATH: Final = "/sse"
RETRY: Final = 2000  # milliseconds that an EventSource waits before it connects again
RETRY_AFTER: Final = 2  # seconds, in every 503

_MAX_FIELDS: Final = 4096  # of a query
_EVENT_STREAM: Final = b"text/event-stream"
_HEADERS: Final = (
    (b"content-type", _EVENT_STREAM),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)
_PROBLEM: Final = (b"content-type", b"application/problem+json")
_ALLOW: Final = b"GET, HEAD, OPTIONS"


class _Refusal(NamedTuple):
    """Why one pattern is not subscribed to."""

    code: ErrorCode | str
    detail: str


class _Asker(NamedTuple):
    """Who is to be answered.

    Attributes:
        send: ASGI's.
        pages: headers that say which pages may read the answer.
        comes_back: whether it comes back to a stream that ended, and maybe to nothing else.
    """

    send: Send
    pages: list[tuple[bytes, bytes]]
    comes_back: bool


class EventStreams:
    """All clients of Server-Sent Events of a node: an ASGI application, and the engine's handler for them.

    Args:
        engine: owns the connections.
        hub: keeps their subscriptions.
        guard: says who may do what; ``None`` where everybody may do everything.
        draining: whether new connections are to be turned away.
        wildcards: whether subscriptions may have wildcards.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        hub: Hub,
        *,
        guard: Guard | None = None,
        draining: Callable[[], bool] = lambda: False,
        wildcards: bool = False,
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._gate = None if guard is None else guard.gate
        self._draining = draining
        self._wildcards = wildcards
        self._held: set[Held] = set()

    def close(self) -> None:
        """End the streams that the engine does not own, so that their requests come to an end."""
        for held in list(self._held):
            self._engine.disconnect(held.handle, CloseCode.GOING_AWAY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"Server-Sent Events come over HTTP, not {scope['type']}")
        headers, _ = headers_of(scope)
        asker = _Asker(send, cross_origin(headers, self._gate), _takes_events(headers))
        if scope["method"] == "OPTIONS":
            asked = headers.get(b"access-control-request-headers", b"last-event-id")
            await _send(
                asker, 204, b"", [(b"access-control-allow-methods", _ALLOW), (b"access-control-allow-headers", asked)]
            )
        elif scope["method"] not in ("GET", "HEAD"):
            await _problem(
                asker, HTTPStatus.METHOD_NOT_ALLOWED, "events are asked for by GET", more=[(b"allow", _ALLOW)]
            )
        elif self._draining():
            await _unavailable(asker, "this server is going away; try another")
        else:
            try:
                await self._serve(scope, receive, asker)
            except AccessDenied as error:
                if error.retry_after is None:
                    await _problem(asker, STATUS[ErrorCode(error.code)], str(error), error.code)
                else:
                    await _unavailable(asker, str(error), error.code, seconds=ceil(error.retry_after))

    async def _serve(self, scope: Scope, receive: Receive, asker: _Asker) -> None:
        patterns = _patterns(scope["query_string"], wildcards=self._wildcards)
        if not patterns:
            await _problem(
                asker, HTTPStatus.BAD_REQUEST, 'no pattern is asked for; add pat=key=value or pat={"key": "value"}',
                ErrorCode.BAD_REQUEST,
            )  # fmt: skip
        elif all(isinstance(pattern, _Refusal) for pattern in patterns):
            await _refuse(asker, patterns)
        else:
            opening = None if self._gate is None else opening_of(scope, self._gate)
            if scope["method"] == "HEAD":
                await asker.send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *asker.pages]})
                await asker.send({"type": "http.response.body"})
                return
            settled = asyncio.Event()  # all patterns are answered, or there is nobody to answer

            def left(handle: int) -> None:
                self.on_gone(handle)
                settled.set()

            held = Held(self._engine, _fanout.SSE, closed=lambda: self._held.discard(held), gone=left)
            self._held.add(held)
            self._hub.events.named.add(held.handle)
            if self._gate is not None and opening is not None:
                self._gate.on_connected(held.handle, opening)
            gone = asyncio.ensure_future(_disconnected(receive))
            gone.add_done_callback(lambda _: settled.set())
            gone.add_done_callback(lambda _: held.wake())
            try:
                outcomes = await self._subscribe(held, patterns, settled)
                if not gone.done():
                    await self._stream(held, outcomes, gone, scope, asker)
            finally:
                gone.cancel()
                held.drop()  # where the connection went on by itself this does nothing

    async def _stream(
        self, held: Held, outcomes: list[bytes | _Refusal], gone: asyncio.Future[None], scope: Scope, asker: _Asker
    ) -> None:
        """Answer the request, once it is known what is subscribed to."""
        if held.ended:
            await _unavailable(asker, "the server ended the connection; try again")
            return
        if all(isinstance(outcome, _Refusal) for outcome in outcomes):
            await _refuse(asker, outcomes)
            return
        first = _greeting(outcomes)
        if self._hand_over(held, scope, asker, first):
            return
        send = asker.send
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *asker.pages]})
        data = first
        while True:
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            if gone.done():
                return
            if held.ended and not (data := held.take()):
                await send({"type": "http.response.body"})
                return
            if not held.ended:
                data = await held.wait()

    async def _subscribe(
        self, held: Held, patterns: list[bytes | _Refusal], settled: asyncio.Event
    ) -> list[bytes | _Refusal]:
        """Ask for all patterns, and wait until each is in force or refused, or the client has left."""
        outcomes: list[bytes | _Refusal | None] = [
            pattern if isinstance(pattern, _Refusal) else None for pattern in patterns
        ]

        open_count = outcomes.count(None)

        def answer(index: int, channel: bytes, code: ErrorCode | None, text: str) -> None:
            nonlocal open_count
            outcomes[index] = channel if code is None else _Refusal(code, text)
            open_count -= 1
            if open_count == 0:
                settled.set()

        for index, channel in enumerate(patterns):
            if isinstance(channel, _Refusal):
                continue
            if self._gate is not None and not self._gate.may_subscribe(held.handle, channel):
                self._gate.not_granted(channel)
                answer(index, channel, ErrorCode.FORBIDDEN, "this pattern is not granted to this client")
            else:
                self._hub.subscribe(held.handle, Channel(channel), partial(answer, index, channel))
        await settled.wait()
        left = _Refusal(ErrorCode.UNAVAILABLE, "the connection is closing")
        return [left if outcome is None else outcome for outcome in outcomes]

    def _hand_over(self, held: Held, scope: Scope, asker: _Asker, first: bytes) -> bool:
        """Give the connection to the engine, if it can be had."""
        take_over = (scope.get("extensions") or {}).get(TAKE_OVER)
        taken = None if take_over is None else take_over()
        if taken is None:
            return False
        transport, headers = taken
        headers = [*headers, *_HEADERS, *asker.pages, (b"connection", b"close")]
        body, framing = first + held.take(), _fanout.SSE
        if scope["http_version"] != "1.0":  # which ends with its connection alone
            headers.append((b"transfer-encoding", b"chunked"))
            body, framing = b"%x\r\n%b\r\n" % (len(body), body), _fanout.SSE_CHUNKED
        head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"
        handle = held.handle
        try:
            other = adopt(self._engine, transport, self, head + body, framing=framing)
        except OSError:  # no descriptor is left
            transport.abort()
            return True
        try:
            self._engine.splice(handle, other)
        except (ValueError, OSError):  # the stream has just ended, or there is no descriptor left
            self._engine.disconnect(other, CloseCode.INTERNAL_ERROR, "the stream is over")
            return True
        rename(transport, handle)
        return True

    # What the engine calls:

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Take no notice: nothing that counts comes after the request."""

    on_text = on_binary = on_bytes

    def on_gone(self, handle: int) -> None:
        """Forget a connection."""
        self._hub.events.named.discard(handle)
        if self._gate is not None:
            self._gate.left(handle)


def _patterns(query: bytes, *, wildcards: bool) -> list[bytes | _Refusal]:
    """Return the channels that a query asks for, in its order; for each that is wrong, why."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        return [_Refusal(ErrorCode.BAD_REQUEST, f"the query cannot be read: {error}")]
    return [_channel(text, wildcards=wildcards) for name, text in pairs if name == "pat"]


def _channel(text: str, *, wildcards: bool) -> Channel | _Refusal:
    try:
        if text.lstrip().startswith("{"):
            return channel_of(orjson.loads(text), wildcards=wildcards)
        return channel_of(Pattern.parse(text), wildcards=wildcards)
    except orjson.JSONDecodeError as error:
        return _Refusal(ErrorCode.BAD_JSON, f"the pattern is not JSON: {error}")
    except PatternError as error:
        return _Refusal(error.code, str(error))


def _greeting(outcomes: list[bytes | _Refusal]) -> bytes:
    ids = [None if isinstance(outcome, _Refusal) else _fanout.channel_id(outcome) for outcome in outcomes]
    data: dict[str, Any] = {"ids": ids}
    if None in ids:
        data["errors"] = _errors(outcomes)
    return b"retry: %d\nevent: subscribed\ndata: %b\n\n" % (RETRY, orjson.dumps(data))


def _errors(outcomes: list[bytes | _Refusal]) -> list[dict[str, str] | None]:
    return [
        {"code": str(outcome.code), "detail": outcome.detail} if isinstance(outcome, _Refusal) else None
        for outcome in outcomes
    ]


def _takes_events(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a client asks for an event stream by name, as an ``EventSource`` does."""
    ranges = headers.get(b"accept", b"").split(b",")
    return any(each.partition(b";")[0].strip().lower() == _EVENT_STREAM for each in ranges)


async def _refuse(asker: _Asker, outcomes: list[bytes | _Refusal]) -> None:
    """Say that no pattern can be subscribed to: not now, where that is so of one of them, or not at all."""
    refusals = [outcome for outcome in outcomes if isinstance(outcome, _Refusal)]
    away = next((refusal for refusal in refusals if refusal.code == ErrorCode.UNAVAILABLE), None)
    if away is not None:
        await _unavailable(asker, away.detail, errors=_errors(outcomes))
        return
    await _problem(asker, HTTPStatus.BAD_REQUEST, refusals[0].detail, refusals[0].code, errors=_errors(outcomes))


async def _unavailable(
    asker: _Asker, detail: str, code: str = ErrorCode.UNAVAILABLE, *, seconds: int = RETRY_AFTER, **fields: Any
) -> None:
    """Say that there is no stream for now, so that who asked comes back."""
    document = problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, code, **fields)
    if asker.comes_back:
        delay = seconds * random.randint(1000, 2000)  # noqa: S311 - no secret, a spread
        await _send(asker, 200, b"retry: %d\nevent: unavailable\ndata: %b\n\n" % (delay, document), _HEADERS)
    else:
        wait = [(b"retry-after", b"%d" % seconds), (b"access-control-expose-headers", b"Retry-After")]
        await _send(asker, 503, document, [_PROBLEM, *wait])


async def _problem(
    asker: _Asker,
    status: HTTPStatus,
    detail: str,
    code: str | None = None,
    *,
    more: Iterable[tuple[bytes, bytes]] = (),
    **fields: Any,
) -> None:
    await _send(asker, status.value, problem(status, detail, code, **fields), [_PROBLEM, *more])


async def _send(asker: _Asker, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
    await asker.send({"type": "http.response.start", "status": status, "headers": [*headers, *length, *asker.pages]})
    await asker.send({"type": "http.response.body", "body": body})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
