"""The requests of a connection that the ASGI application serves.

h11 parses the bodies and frames the responses; uvicorn's cycle connects h11 and the application. The front door decides
which bytes belong to a request, and when the next request begins.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol, cast
from urllib.parse import unquote

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_local_addr, get_path_with_query_string, is_ssl
from uvicorn.server import ServerState

from realizehit.http.write_coalescing import CoalescingTransport
from realizehit.logs.access import ACCESS_LOG
from realizehit.logs.lines import HTTP_LOGGER
from realizehit.transports.handover import TAKE_OVER
from realizehit.transports.heads import Head

_PART: Final = 64 * 1024  # bytes that h11 gets at once
_EVENTS: Final = 16  # events of h11 that are handled in one step
_BYTES_PER_CHUNK: Final = 8  # bytes of framing per byte of content in a chunked body, as with chunks of one byte
_LONGEST_TEXT: Final = 100  # characters of the parser's message in an error


class Progress(Enum):
    """The outcome of a step in reading a body."""

    COMPLETE = "the body is complete"
    NEEDS_BYTES = "more bytes are needed"
    PAUSED = "the application has enough bytes for now"
    MORE_STEPS = "another step is possible at once"


class BodyFault(Exception):
    """A body that cannot be read.

    Attributes:
        status: of the response.
    """

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Owner(Protocol):
    """The protocol of the connection."""

    def is_last(self) -> bool:
        """Whether the connection ends with the response that is about to begin."""

    def answered(self) -> None:
        """Continue: the response is complete."""

    def finish(self) -> None:
        """End the connection once everything written is sent."""

    def go_on(self) -> None:
        """Continue: the application wants more of the body."""

    def hand_over(self) -> asyncio.Transport | None:
        """Give the connection away, and return its transport; ``None`` if it is ending."""


class Requests:
    """The requests of one connection that go to the application, one after the other.

    Args:
        config, server_state, app_state: what uvicorn passes to each protocol.
        loop: the event loop.
        transport: the connection.
        client: the address of the client.
        max_head: bytes that trailers and chunk extensions may have.
        owner: the protocol of the connection.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        *,
        client: tuple[str, int] | None,
        max_head: int,
        owner: Owner,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = loop
        self._client = client
        self._server = get_local_addr(transport)
        self._scheme: Literal["http", "https"] = "https" if is_ssl(transport) else "http"
        self._max_head = max_head
        self._owner = owner
        self._access_log = config.access_log
        self.flow = Flow(transport, partial(loop.call_soon, owner.go_on))  # once it has taken what is there
        self._output = _Output(transport, loop, owner.finish)
        self._conn: h11.Connection | None = None
        self._cycle: Cycle | None = None
        self._chunked = False
        self._left = 0  # bytes of a body with a length that h11 has not got yet
        self._fed = self._taken = 0  # bytes of a chunked body that h11 got, and bytes of content among them

    @property
    def answering(self) -> bool:
        """Whether a response has begun and is not complete."""
        cycle = self._cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def start(self, head: Head, text: bytes) -> None:
        """Begin a request.

        Args:
            head: well-formed, with a path as its target.
            text: as it arrived, with the blank line at its end.

        Raises:
            BodyFault: h11 does not accept it.
        """
        conn = self._conn
        if conn is None:
            conn = self._conn = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head)
        conn.receive_data(text)
        request = _next(conn)
        assert isinstance(request, h11.Request)
        host = head.headers.get(b"host", b"")
        headers = [(name, host if name == b"host" else value) for name, value in request.headers]
        self._chunked = b"transfer-encoding" in head.headers
        self._left = int(head.headers.get(b"content-length", 0))
        self._fed = self._taken = 0
        path, _, query = head.target.partition(b"?")
        root = self._config.root_path
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.3"},
            "http_version": head.version[5:].decode(),
            "server": self._server,
            "client": self._client,
            "scheme": self._scheme,
            "method": head.method.decode(),
            "root_path": root,
            "path": root + unquote(path.decode()),
            "raw_path": root.encode() + path,
            "query_string": query,
            "headers": headers,
            "state": self._app_state.copy(),
        }
        cycle = self._cycle = Cycle(
            is_last=self._owner.is_last,
            scope=scope,
            conn=conn,
            transport=self._output,
            flow=self.flow,
            logger=HTTP_LOGGER,
            access_logger=cast(logging.Logger, ACCESS_LOG),  # uvicorn needs no more than `info`
            access_log=self._access_log,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self._answered,
        )
        scope["extensions"] = {TAKE_OVER: partial(self.take_over, cycle)}
        task = self._loop.create_task(cycle.run_asgi(self._config.loaded_app))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def feed(self, buffer: bytearray) -> Progress:
        """Take a step in reading the body.

        Args:
            buffer: received bytes; the bytes of the body are removed from its front.

        Raises:
            BodyFault: the body is malformed.
        """
        conn, cycle = self._conn, self._cycle
        assert conn is not None
        assert cycle is not None
        for _ in range(_EVENTS):
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.full = True
                return Progress.PAUSED
            event = _next(conn)
            if isinstance(event, h11.Data):
                cycle.body += event.data
                self._taken += len(event.data)
                cycle.message_event.set()
            elif isinstance(event, h11.EndOfMessage):
                rest, _ = conn.trailing_data
                buffer[:0] = rest
                cycle.more_body = False
                cycle.message_event.set()
                return Progress.COMPLETE
            elif not self._give(conn, buffer):
                return Progress.NEEDS_BYTES
        return Progress.MORE_STEPS

    def _give(self, conn: h11.Connection, buffer: bytearray) -> bool:
        """Give h11 bytes of the body; return whether there were any."""
        if self._chunked:
            if self._fed - self._taken > self._max_head + _BYTES_PER_CHUNK * self._taken:
                raise BodyFault(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the chunk extensions and trailers are too large"
                )
            part = bytes(buffer[:_PART])
            self._fed += len(part)
        else:
            part = bytes(buffer[: min(_PART, self._left)])
            self._left -= len(part)
        if not part:
            return False
        del buffer[: len(part)]
        conn.receive_data(part)
        return True

    def drop(self) -> None:
        """Tell the application that its client has disconnected."""
        cycle = self._cycle
        self._output.flush()
        if cycle is not None:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.waiting_for_100_continue = False  # or uvicorn would write it behind the last response
            cycle.message_event.set()
        self.flow.resume_writing()

    def end_soon(self) -> None:
        """Make the response under way, if any, the last one of the connection."""
        if self._cycle is not None:
            self._cycle.keep_alive = False

    def _answered(self) -> None:
        conn, cycle = self._conn, self._cycle
        assert conn is not None
        self._output.flush()
        self._cycle = None
        if cycle is not None and (conn.our_state, conn.their_state) == (h11.DONE, h11.DONE):
            if conn.trailing_data[0]:
                self._conn = None
            else:
                conn.start_next_cycle()
        self._owner.answered()

    def take_over(self, cycle: Cycle) -> tuple[asyncio.Transport, list[tuple[bytes, bytes]]] | None:
        """Give the connection away during a request; the endpoint then returns without a response.

        Requests that wait behind this one are never answered: the new owner's response ends with the connection.

        Returns:
            The transport, which the caller owns from here on, and the headers of each response; ``None`` if the
            connection is ending.
        """
        if cycle.response_started or cycle.disconnected:
            return None
        transport = self._owner.hand_over()
        if transport is None:
            return None
        self._output.flush()
        cycle.disconnected = True  # so that uvicorn writes nothing more
        if self._access_log:
            scope = cycle.scope
            path = get_path_with_query_string(scope)
            ACCESS_LOG.note(get_client_addr(scope), scope["method"], path, scope["http_version"], 200)
        return transport, self._server_state.default_headers


class Cycle(RequestResponseCycle):
    """One request to the application and its response; the last response of a connection has ``Connection: close``.

    Args:
        is_last: called when the response begins; returns whether it is the last one.
        **options: those of uvicorn's class.
    """

    def __init__(self, *, is_last: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self._is_last = is_last

    async def send(self, message: Any) -> None:
        """Handle a message of the application."""
        if message["type"] == "http.response.start" and (self.more_body or not self.keep_alive or self._is_last()):
            # The rest of an incomplete body is not waited for, so no request can follow it.
            headers = list(message.get("headers", ()))
            if CLOSE_HEADER not in headers:
                message = {**message, "headers": [*headers, CLOSE_HEADER]}
        await super().send(message)


class Flow(FlowControl):
    """The pauses of a connection, as a cycle sees them.

    Args:
        transport: the connection.
        wanted: called when the application asks for more of a body.

    Attributes:
        full: whether reading the body is paused, since the application has enough for now.
    """

    def __init__(self, transport: asyncio.Transport, wanted: Callable[[], object]) -> None:
        super().__init__(transport)
        self.full = False
        self._wanted = wanted

    def resume_reading(self) -> None:
        """Continue reading the body, which the application has consumed so far."""
        if self.full:
            self.full = False
            self._wanted()


class _Output(CoalescingTransport):
    """The connection as a cycle sees it: the owner decides how it ends."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, finish: Callable[[], object]
    ) -> None:
        super().__init__(transport, loop)
        self._finish = finish

    def close(self) -> None:
        self.flush()
        self._finish()


def _next(conn: h11.Connection) -> object:
    try:
        return conn.next_event()
    except h11.RemoteProtocolError as error:
        status = HTTPStatus(error.error_status_hint)
        raise BodyFault(status, f"the request is malformed: {str(error)[:_LONGEST_TEXT]}") from None
