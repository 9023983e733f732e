"""Server-Sent Events: ``GET /sse?pat=…``, for browsers behind proxies that block WebSockets and for ``curl -N``.

After the response's head the connection goes to the engine, if the HTTP server can give it away as ours can; it then
costs what a WebSocket costs. Under another ASGI server, a task for each client writes what the engine queues for it.

An ``EventSource`` reconnects when a stream ends, but never after a response other than 200. So where it should
reconnect, the response is a stream that says when, and ends. ``Accept: text/event-stream`` tells an ``EventSource``.

Source: the HTML standard, section 9.2; the Fetch standard, section 3.2; ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Final

from starlette.types import Receive, Scope, Send

from realizehit import _fanout
from realizehit.errors import AccessDenied, CloseCode, ErrorCode
from realizehit.node.history_request import PLAIN, Started
from realizehit.node.hub import Hub
from realizehit.node.names import key_of
from realizehit.pattern import Channel
from realizehit.transports.admission import cross_origin, headers_of, opening_of
from realizehit.transports.buffered import BufferedConnection
from realizehit.transports.guard import STATUS, Guard
from realizehit.transports.handover import TAKE_OVER, adopt, rename
from realizehit.transports.sse_query import Wanted, wanted_of
from realizehit.transports.sse_responses import (
    STREAM_HEADERS,
    Begun,
    Refusal,
    StreamClient,
    accepts_events,
    all_refused,
    greeting,
    refuse,
    refuse_all,
    refuse_for_now,
    send_response,
)

SSE_PATH: Final = "/sse"

_ALLOW: Final = b"GET, HEAD, OPTIONS"


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
        client = StreamClient(send, cross_origin(headers, self._gate), accepts_events(headers))
        if scope["method"] == "OPTIONS":
            asked = headers.get(b"access-control-request-headers", b"last-event-id")
            await send_response(
                client, 204, b"", [(b"access-control-allow-methods", _ALLOW), (b"access-control-allow-headers", asked)]
            )
        elif scope["method"] not in ("GET", "HEAD"):
            await refuse(
                client, HTTPStatus.METHOD_NOT_ALLOWED, "event streams are requested by GET", more=[(b"allow", _ALLOW)]
            )
        elif self._draining():
            await refuse_for_now(client, "this server is going away; try another")
        else:
            try:
                await self._serve(scope, receive, client, headers)
            except AccessDenied as error:
                if error.retry_after is None:
                    await refuse(client, STATUS[ErrorCode(error.code)], str(error), error.code)
                else:
                    await refuse_for_now(client, str(error), error.code, seconds=ceil(error.retry_after))

    async def _serve(
        self, scope: Scope, receive: Receive, client: StreamClient, headers: Mapping[bytes, bytes]
    ) -> None:
        event_id = headers.get(b"last-event-id", b"")
        wanted = wanted_of(scope["query_string"], event_id, wildcards=self._wildcards)
        if not wanted:
            await refuse(
                client, HTTPStatus.BAD_REQUEST, 'there is no pattern; add pat=key=value or pat={"key": "value"}',
                ErrorCode.BAD_REQUEST,
            )  # fmt: skip
        elif refusals := all_refused([each.channel for each in wanted]):
            await refuse_all(client, refusals)
        else:
            opening = None if self._gate is None else opening_of(scope, self._gate)
            if scope["method"] == "HEAD":
                await client.send(
                    {"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *client.cors]}
                )
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
                outcomes = await self._subscribe(connection, wanted, settled)
                if not disconnected.done():
                    await self._stream(connection, outcomes, disconnected, scope, client)
            finally:
                disconnected.cancel()
                connection.drop()  # does nothing where the engine has taken the connection over

    async def _stream(
        self,
        connection: BufferedConnection,
        outcomes: list[Begun | Refusal],
        disconnected: asyncio.Future[None],
        scope: Scope,
        client: StreamClient,
    ) -> None:
        """Answer the request, once each pattern is in force or refused."""
        if connection.ended:
            await refuse_for_now(client, "the server ended the connection; try again")
            return
        if refusals := all_refused(outcomes):
            await refuse_all(client, refusals)
            return
        first = greeting(outcomes)
        if self._hand_over(connection, scope, client, first):
            return
        send = client.send
        await send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *client.cors]})
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
        self, connection: BufferedConnection, wanted: list[Wanted], settled: asyncio.Event
    ) -> list[Begun | Refusal]:
        """Subscribe to all patterns, and wait until each is in force or refused, or the client has disconnected."""
        outcomes: list[Begun | Refusal | None] = [
            each.channel if isinstance(each.channel, Refusal) else None for each in wanted
        ]
        open_count = outcomes.count(None)

        def answer(index: int, channel: bytes, code: ErrorCode | None, text: str, started: Started = PLAIN) -> None:
            nonlocal open_count
            outcomes[index] = Begun(channel, started) if code is None else Refusal(code, text)
            open_count -= 1
            if open_count == 0:
                settled.set()

        for index, (channel, history, _, every, trace) in enumerate(wanted):
            if isinstance(channel, Refusal):
                continue
            if self._gate is not None and not self._gate.connected.may_subscribe(connection.handle, channel):
                self._gate.connected.not_granted(channel)
                answer(index, channel, ErrorCode.FORBIDDEN, "this pattern is not granted to this client")
            else:
                answered = partial(answer, index, channel)
                self._hub.subscribe(connection.handle, channel, answered, history, every, trace=trace)
        await settled.wait()
        closing = Refusal(ErrorCode.UNAVAILABLE, "the connection is closing")
        begun = [closing if outcome is None else outcome for outcome in outcomes]
        return [self._resumed(connection.handle, each, what) for each, what in zip(begun, wanted, strict=True)]

    def _resumed(self, conn: int, outcome: Begun | Refusal, wanted: Wanted) -> Begun | Refusal:
        """Tell a gap of a pattern of a stream that resumes, if the request does not say how far it had come."""
        if isinstance(outcome, Refusal) or not wanted.resumes:
            return outcome
        key = key_of(Channel(outcome.channel))
        kept = self._hub.logs.kept_seconds(key)
        if kept is None:
            return outcome
        self._hub.gaps.tell(conn, [key], kept)
        return outcome._replace(started=outcome.started._replace(recovered=False))

    def _hand_over(self, connection: BufferedConnection, scope: Scope, client: StreamClient, first: bytes) -> bool:
        """Hand the connection to the engine, if the HTTP server gives it away."""
        take_over = (scope.get("extensions") or {}).get(TAKE_OVER)
        taken = None if take_over is None else take_over()
        if taken is None:
            return False
        transport, headers = taken
        headers = [*headers, *STREAM_HEADERS, *client.cors, (b"connection", b"close")]
        self._engine.send_newest(connection.handle)
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


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
