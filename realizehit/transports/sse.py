"""Server-Sent Events: ``GET /sse?pat=…``, for browsers without a WebSocket to go through and for ``curl -N``.

Where the connection can be taken from the HTTP server, as from our own, it goes to the engine after the response's head
and costs what a WebSocket does. Under another ASGI server a task for each client writes what the engine holds for it.

Source: the HTML standard, section 9.2; ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import orjson
from starlette.types import Receive, Scope, Send

from realizehit import _fanout
from realizehit.errors import AccessDenied, CloseCode, ErrorCode, PatternError
from realizehit.hub import Hub
from realizehit.messages import problem
from realizehit.pattern import Pattern, channel_of
from realizehit.transports.adoption import adopt, rename
from realizehit.transports.entrance import opening_of
from realizehit.transports.guard import STATUS, Guard
from realizehit.transports.held import Held
from realizehit.transports.requests import TAKE_OVER

SSE_PATH: Final = "/sse"
RETRY: Final = 2000  # milliseconds that an EventSource waits before it connects again
RETRY_AFTER: Final = 2  # seconds, in every 503

_MAX_FIELDS: Final = 4096  # of a query
_OPEN_TO_ALL: Final = (b"access-control-allow-origin", b"*")  # nothing here depends on who asks by cookies
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    _OPEN_TO_ALL,
)
_ALLOW: Final = b"GET, HEAD, OPTIONS"


class _Refusal(NamedTuple):
    """Why one pattern is not subscribed to."""

    code: ErrorCode | str
    detail: str


class EventStreams:
    """All clients of Server-Sent Events of a node: an ASGI application, and the engine's handler for them.

    Args:
        engine: owns the connections.
        hub: keeps their subscriptions.
        guard: says who may do what; ``None`` where everybody may do everything.
        draining: whether new connections are to be turned away.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        hub: Hub,
        *,
        guard: Guard | None = None,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._gate = None if guard is None else guard.gate
        self._draining = draining
        self._held: set[Held] = set()

    def close(self) -> None:
        """End the streams that the engine does not own, so that their requests come to an end."""
        for held in list(self._held):
            self._engine.disconnect(held.handle, CloseCode.GOING_AWAY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"Server-Sent Events come over HTTP, not {scope['type']}")
        if scope["method"] == "OPTIONS":
            headers = dict(scope["headers"])
            asked = headers.get(b"access-control-request-headers", b"last-event-id")
            await _send(
                send, 204, b"", [(b"access-control-allow-methods", _ALLOW), (b"access-control-allow-headers", asked)]
            )
        elif scope["method"] not in ("GET", "HEAD"):
            await _problem(
                send, HTTPStatus.METHOD_NOT_ALLOWED, "events are asked for by GET", more=[(b"allow", _ALLOW)]
            )
        elif self._draining():
            await _unavailable(send, "this server is going away; try another")
        else:
            try:
                await self._serve(scope, receive, send)
            except AccessDenied as error:
                status = STATUS[ErrorCode(error.code)]
                wait = [] if error.retry_after is None else _retry_after(ceil(error.retry_after))
                await _problem(send, status, str(error), error.code, more=wait)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        patterns = _patterns(scope["query_string"])
        if not patterns:
            await _problem(
                send, HTTPStatus.BAD_REQUEST, 'no pattern is asked for; add pat=key=value or pat={"key": "value"}',
                ErrorCode.BAD_REQUEST,
            )  # fmt: skip
        elif all(isinstance(pattern, _Refusal) for pattern in patterns):
            await _refuse(send, patterns)
        else:
            opening = None if self._gate is None else opening_of(scope, self._gate)
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
                await send({"type": "http.response.body"})
                return
            settled = asyncio.Event()  # all patterns are answered, or there is nobody to answer

            def left(handle: int) -> None:
                self.on_gone(handle)
                settled.set()

            held = Held(self._engine, _fanout.SSE, closed=lambda: self._held.discard(held), gone=left)
            self._held.add(held)
            self._hub.events.named.add(held.handle)
            if self._gate is not None and opening is not None:
                self._gate.joined(held.handle, opening)
            gone = asyncio.ensure_future(_disconnected(receive))
            gone.add_done_callback(lambda _: settled.set())
            gone.add_done_callback(lambda _: held.wake())
            try:
                outcomes = await self._subscribe(held, patterns, settled)
                if not gone.done():
                    await self._stream(held, outcomes, gone, scope, send)
            finally:
                gone.cancel()
                held.drop()  # where the connection went on by itself this does nothing

    async def _stream(
        self, held: Held, outcomes: list[bytes | _Refusal], gone: asyncio.Future[None], scope: Scope, send: Send
    ) -> None:
        """Answer the request, once it is known what is subscribed to."""
        if held.ended:
            await _unavailable(send, "the server ended the connection; try again")
            return
        if all(isinstance(outcome, _Refusal) for outcome in outcomes):
            await _refuse(send, outcomes)
            return
        first = _greeting(outcomes)
        if self._hand_over(held, scope, first):
            return
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
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
                self._gate.refusals["not_granted"] += 1
                answer(index, channel, ErrorCode.FORBIDDEN, "this pattern is not granted to this client")
            else:
                self._hub.subscribe(held.handle, channel, partial(answer, index, channel))
        await settled.wait()
        left = _Refusal(ErrorCode.UNAVAILABLE, "the connection is closing")
        return [left if outcome is None else outcome for outcome in outcomes]

    def _hand_over(self, held: Held, scope: Scope, first: bytes) -> bool:
        """Give the connection to the engine, if it can be had."""
        take_over = (scope.get("extensions") or {}).get(TAKE_OVER)
        taken = None if take_over is None else take_over()
        if taken is None:
            return False
        transport, headers = taken
        headers = [*headers, *_HEADERS, (b"connection", b"close")]
        head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"
        handle = held.handle
        try:
            other = adopt(self._engine, transport, self, head + first + held.take(), framing=_fanout.SSE)
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


def _patterns(query: bytes) -> list[bytes | _Refusal]:
    """Return the channels that a query asks for, in its order; for each that is wrong, why."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        return [_Refusal(ErrorCode.BAD_REQUEST, f"the query cannot be read: {error}")]
    return [_channel(text) for name, text in pairs if name == "pat"]


def _channel(text: str) -> bytes | _Refusal:
    try:
        if text.lstrip().startswith("{"):
            return channel_of(orjson.loads(text))
        return channel_of(Pattern.parse(text))
    except orjson.JSONDecodeError as error:
        return _Refusal(ErrorCode.BAD_JSON, f"the pattern is not JSON: {error}")
    except PatternError as error:
        return _Refusal(error.code, str(error))


def _greeting(outcomes: list[bytes | _Refusal]) -> bytes:
    ids = [None if isinstance(outcome, _Refusal) else _fanout.channel_id(outcome) for outcome in outcomes]
    data: dict[str, Any] = {"ids": ids}
    if None in ids:
        data["errors"] = _errors(outcomes)
    return b"retry: %d\n\nevent: subscribed\ndata: %b\n\n" % (RETRY, orjson.dumps(data))


def _errors(outcomes: list[bytes | _Refusal]) -> list[dict[str, str] | None]:
    return [
        {"code": str(outcome.code), "detail": outcome.detail} if isinstance(outcome, _Refusal) else None
        for outcome in outcomes
    ]


async def _refuse(send: Send, outcomes: list[bytes | _Refusal]) -> None:
    """Say that no pattern can be subscribed to: not now, where that is so of one of them, or not at all."""
    refusals = [outcome for outcome in outcomes if isinstance(outcome, _Refusal)]
    away = next((refusal for refusal in refusals if refusal.code == ErrorCode.UNAVAILABLE), None)
    if away is not None:
        await _unavailable(send, away.detail, errors=_errors(outcomes))
        return
    await _problem(send, HTTPStatus.BAD_REQUEST, refusals[0].detail, refusals[0].code, errors=_errors(outcomes))


async def _unavailable(send: Send, detail: str, **fields: Any) -> None:
    wait = _retry_after(RETRY_AFTER)
    await _problem(send, HTTPStatus.SERVICE_UNAVAILABLE, detail, ErrorCode.UNAVAILABLE, more=wait, **fields)


def _retry_after(seconds: int) -> list[tuple[bytes, bytes]]:
    return [(b"retry-after", b"%d" % seconds), (b"access-control-expose-headers", b"Retry-After")]


async def _problem(
    send: Send,
    status: HTTPStatus,
    detail: str,
    code: str | None = None,
    *,
    more: Iterable[tuple[bytes, bytes]] = (),
    **fields: Any,
) -> None:
    document = problem(status, detail, code, **fields)
    await _send(send, status.value, document, [(b"content-type", b"application/problem+json"), *more])


async def _send(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length, _OPEN_TO_ALL]})
    await send({"type": "http.response.body", "body": body})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
