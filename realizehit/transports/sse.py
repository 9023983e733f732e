"""Server-Sent Events: ``GET /sse?pat=…``, for browsers behind proxies that block WebSockets and for ``curl -N``.

After the response's head the connection goes to the engine, if the HTTP server can give it away as ours can; it then
costs what a WebSocket costs. Under another ASGI server, a task for each client writes what the engine queues for it.

An ``EventSource`` reconnects when a stream ends, but never after a response other than 200. So where it should
reconnect, the response is a stream that says when, and ends. ``Accept: text/event-stream`` tells an ``EventSource``.

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
from realizehit.transports.buffered import BufferedConnection
from realizehit.transports.guard import STATUS, Guard
from realizehit.transports.handover import TAKE_OVER, adopt, rename

SSE_PATH: Final = "/sse"
RETRY: Final = 2000  # milliseconds that an EventSource waits before it reconnects
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


class _Client(NamedTuple):
    """The client of a request.

    Attributes:
        send: of ASGI.
        cors: headers that say which pages may read the response.
        reconnects: whether it reconnects when a stream ends, and possibly only then.
    """

    send: Send
    cors: list[tuple[bytes, bytes]]
    reconnects: bool


class EventStreams:
    """All clients of Server-Sent Events of a node: an ASGI application, and the engine's handler for them.

    Args:
        engine: owns the connections.
        hub: keeps their subscriptions.
        guard: decides who may do what; ``None`` where everybody may do everything.
        draining: returns whether new connections are refused.
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
        self._buffered: set[BufferedConnection] = set()  # streams that a task writes

    def close(self) -> None:
        """End the streams that the engine does not write, so that their requests end."""
        for connection in list(self._buffered):
            self._engine.disconnect(connection.handle, CloseCode.GOING_AWAY)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            raise RuntimeError(f"Server-Sent Events come over HTTP, not {scope['type']}")
        headers, _ = headers_of(scope)
        client = _Client(send, cross_origin(headers, self._gate), _takes_events(headers))
        if scope["method"] == "OPTIONS":
            asked = headers.get(b"access-control-request-headers", b"last-event-id")
            await _send(
                client, 204, b"", [(b"access-control-allow-methods", _ALLOW), (b"access-control-allow-headers", asked)]
            )
        elif scope["method"] not in ("GET", "HEAD"):
            await _problem(
                client, HTTPStatus.METHOD_NOT_ALLOWED, "event streams are requested by GET", more=[(b"allow", _ALLOW)]
            )
        elif self._draining():
            await _unavailable(client, "this server is going away; try another")
        else:
            try:
                await self._serve(scope, receive, client)
            except AccessDenied as error:
                if error.retry_after is None:
                    await _problem(client, STATUS[ErrorCode(error.code)], str(error), error.code)
                else:
                    await _unavailable(client, str(error), error.code, seconds=ceil(error.retry_after))

    async def _serve(self, scope: Scope, receive: Receive, client: _Client) -> None:
        patterns = _patterns(scope["query_string"], wildcards=self._wildcards)
        if not patterns:
            await _problem(
                client, HTTPStatus.BAD_REQUEST, 'there is no pattern; add pat=key=value or pat={"key": "value"}',
                ErrorCode.BAD_REQUEST,
            )  # fmt: skip
        elif all(isinstance(pattern, _Refusal) for pattern in patterns):
            await _refuse(client, patterns)
        else:
            opening = None if self._gate is None else opening_of(scope, self._gate)
            if scope["method"] == "HEAD":
                await client.send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *client.cors]})
                await client.send({"type": "http.response.body"})
                return
            settled = asyncio.Event()  # all patterns are in force or refused, or the client has disconnected

            def on_disconnected(handle: int) -> None:
                self.on_gone(handle)
                settled.set()

            connection = BufferedConnection(
                self._engine,
                _fanout.SSE,
                on_closed=lambda: self._buffered.discard(connection),
                on_disconnected=on_disconnected,
            )
            self._buffered.add(connection)
            self._hub.events.named.add(connection.handle)
            if self._gate is not None and opening is not None:
                self._gate.connected.on_connected(connection.handle, opening)
            disconnected = asyncio.ensure_future(_disconnected(receive))
            disconnected.add_done_callback(lambda _: settled.set())
            disconnected.add_done_callback(lambda _: connection.wake())
            try:
                outcomes = await self._subscribe(connection, patterns, settled)
                if not disconnected.done():
                    await self._stream(connection, outcomes, disconnected, scope, client)
            finally:
                disconnected.cancel()
                connection.drop()  # does nothing where the engine has taken the connection over

    async def _stream(
        self,
        connection: BufferedConnection,
        outcomes: list[bytes | _Refusal],
        disconnected: asyncio.Future[None],
        scope: Scope,
        client: _Client,
    ) -> None:
        """Answer the request, once each pattern is in force or refused."""
        if connection.ended:
            await _unavailable(client, "the server ended the connection; try again")
            return
        if all(isinstance(outcome, _Refusal) for outcome in outcomes):
            await _refuse(client, outcomes)
            return
        first = _greeting(outcomes)
        if self._hand_over(connection, scope, client, first):
            return
        send = client.send
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, *client.cors]})
        data = first
        while True:
            if data:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            if disconnected.done():
                return
            if connection.ended and not (data := connection.take()):
                await send({"type": "http.response.body"})
                return
            if not connection.ended:
                data = await connection.wait()

    async def _subscribe(
        self, connection: BufferedConnection, patterns: list[bytes | _Refusal], settled: asyncio.Event
    ) -> list[bytes | _Refusal]:
        """Subscribe to all patterns, and wait until each is in force or refused, or the client has disconnected."""
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
            if self._gate is not None and not self._gate.connected.may_subscribe(connection.handle, channel):
                self._gate.connected.not_granted(channel)
                answer(index, channel, ErrorCode.FORBIDDEN, "this pattern is not granted to this client")
            else:
                self._hub.subscribe(connection.handle, Channel(channel), partial(answer, index, channel))
        await settled.wait()
        closing = _Refusal(ErrorCode.UNAVAILABLE, "the connection is closing")
        return [closing if outcome is None else outcome for outcome in outcomes]

    def _hand_over(self, connection: BufferedConnection, scope: Scope, client: _Client, first: bytes) -> bool:
        """Hand the connection to the engine, if the HTTP server gives it away."""
        take_over = (scope.get("extensions") or {}).get(TAKE_OVER)
        taken = None if take_over is None else take_over()
        if taken is None:
            return False
        transport, headers = taken
        headers = [*headers, *_HEADERS, *client.cors, (b"connection", b"close")]
        body, framing = first + connection.take(), _fanout.SSE
        if scope["http_version"] != "1.0":  # which has no chunks: the body ends with the connection
            headers.append((b"transfer-encoding", b"chunked"))
            body, framing = b"%x\r\n%b\r\n" % (len(body), body), _fanout.SSE_CHUNKED
        head = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n"
        handle = connection.handle
        try:
            other = adopt(self._engine, transport, self, head + body, framing=framing)
        except OSError:  # no file descriptor is left
            transport.abort()
            return True
        try:
            self._engine.splice(handle, other)
        except (ValueError, OSError):  # the stream has just ended, or no file descriptor is left
            self._engine.disconnect(other, CloseCode.INTERNAL_ERROR, "the stream has ended")
            return True
        rename(transport, handle)
        return True

    # What the engine calls:

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Ignore: a client sends nothing after its request."""

    def on_text(self, handle: int, data: bytes) -> None:
        """Ignore: a client sends nothing after its request."""

    def on_binary(self, handle: int, data: bytes) -> None:
        """Ignore: a client sends nothing after its request."""

    def on_gone(self, handle: int) -> None:
        """Forget a connection."""
        self._hub.events.named.discard(handle)
        if self._gate is not None:
            self._gate.connected.on_disconnected(handle)


def _patterns(query: bytes, *, wildcards: bool) -> list[bytes | _Refusal]:
    """Return the channel of each pattern of a query, in order; for a wrong pattern, why it is refused."""
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="strict")
    except ValueError as error:
        return [_Refusal(ErrorCode.BAD_REQUEST, f"the query cannot be read: {error}")]
    return [_channel(text, wildcards=wildcards) for name, text in pairs if name == "pat"]


def _channel(text: str, *, wildcards: bool) -> Channel | _Refusal:
    try:
        filters = orjson.loads(text) if text.lstrip().startswith("{") else Pattern.parse(text)
        return channel_of(filters, wildcards=wildcards)
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
    """Whether a client accepts an event stream by name, as an ``EventSource`` does."""
    ranges = headers.get(b"accept", b"").split(b",")
    return any(each.partition(b";")[0].strip().lower() == _EVENT_STREAM for each in ranges)


async def _refuse(client: _Client, outcomes: list[bytes | _Refusal]) -> None:
    """Answer that no pattern can be subscribed to: only not now, if that is why one of them is refused."""
    refusals = [outcome for outcome in outcomes if isinstance(outcome, _Refusal)]
    unavailable = next((refusal for refusal in refusals if refusal.code == ErrorCode.UNAVAILABLE), None)
    if unavailable is not None:
        await _unavailable(client, unavailable.detail, errors=_errors(outcomes))
        return
    await _problem(client, HTTPStatus.BAD_REQUEST, refusals[0].detail, refusals[0].code, errors=_errors(outcomes))


async def _unavailable(
    client: _Client, detail: str, code: str = ErrorCode.UNAVAILABLE, *, seconds: int = RETRY_AFTER, **fields: Any
) -> None:
    """Answer that there is no stream now, so that the client comes back later."""
    document = problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, code, **fields)
    if client.reconnects:
        delay = seconds * random.randint(1000, 2000)  # noqa: S311 - spreads the load, is no secret
        await _send(client, 200, b"retry: %d\nevent: unavailable\ndata: %b\n\n" % (delay, document), _HEADERS)
    else:
        wait = [(b"retry-after", b"%d" % seconds), (b"access-control-expose-headers", b"Retry-After")]
        await _send(client, 503, document, [_PROBLEM, *wait])


async def _problem(
    client: _Client,
    status: HTTPStatus,
    detail: str,
    code: str | None = None,
    *,
    more: Iterable[tuple[bytes, bytes]] = (),
    **fields: Any,
) -> None:
    await _send(client, status.value, problem(status, detail, code, **fields), [_PROBLEM, *more])


async def _send(client: _Client, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    length = [] if status == 204 else [(b"content-length", b"%d" % len(body))]
    await client.send({"type": "http.response.start", "status": status, "headers": [*headers, *length, *client.cors]})
    await client.send({"type": "http.response.body", "body": body})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
