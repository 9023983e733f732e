"""The application's side of a connection: each request that is not an everyday publication, as ASGI has it.

h11 reads the bodies and frames the answers, uvicorn's cycle joins it with the application. Which bytes are a request's,
and when the next one begins, is the front door's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol
from urllib.parse import unquote

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER, HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_local_addr, get_path_with_query_string, is_ssl
from uvicorn.server import ServerState

from realizehit.http.write_coalescing import JoinedWrites
from realizehit.logs import ACCESS_LOGGER, HTTP_LOGGER
from realizehit.transports.handover import TAKE_OVER
from realizehit.transports.heads import Head

_PART: Final = 64 * 1024  # bytes that h11 is given at once
_EVENTS: Final = 16  # of h11 that are handled in one step
_BYTES_PER_CHUNK: Final = 8  # of framing that a byte of a chunked body may cost: a chunk of its own, say
_LONGEST_TEXT: Final = 100  # characters of what the parser says


class Fed(Enum):
    """What came of a step in reading a body."""

    WHOLE = "it is here"
    HUNGRY = "more bytes are needed"
    FULL = "the application has enough for now"
    BUSY = "another step can be taken at once"


class BodyFault(Exception):
    """A body that cannot be read.

    Attributes:
        status: of the answer.
    """

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class Owner(Protocol):
    """The protocol of the connection."""

    def is_last(self) -> bool:
        """Whether the connection ends with the answer that is about to begin."""

    def answered(self) -> None:
        """Go on: the answer is complete."""

    def finish(self) -> None:
        """End the connection once what was written is sent."""

    def go_on(self) -> None:
        """Read on: the application wants more of the body."""

    def hand_over(self) -> asyncio.Transport | None:
        """Let go of the connection, and return it; ``None`` where it is going."""


class Requests:
    """The requests of one connection that go to the application, one after the other.

    Args:
        config, server_state, app_state: what uvicorn gives each protocol.
        loop: the event loop.
        transport: the connection.
        client: its other end.
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
        # uvicorn looks whether the logger has handlers, which others in this process may have given it.
        self._access_log = config.access_log and ACCESS_LOGGER.hasHandlers()
        self.flow = Flow(transport, partial(loop.call_soon, owner.go_on))  # when it has taken what is there
        self._output = _Output(transport, loop, owner.finish)
        self._conn: h11.Connection | None = None
        self._cycle: Cycle | None = None
        self._chunked = False
        self._left = 0  # bytes of a body with a length that h11 has yet to be given
        self._fed = self._taken = 0  # bytes that h11 was given of a chunked body, and those of them that are content

    @property
    def answering(self) -> bool:
        """Whether an answer has begun and is not complete."""
        cycle = self._cycle
        return cycle is not None and cycle.response_started and not cycle.response_complete

    def start(self, head: Head, text: bytes) -> None:
        """Begin a request.

        Args:
            head: well-formed, and its target a path.
            text: as it came, with the blank line at its end.

        Raises:
            BodyFault: the parser does not take it.
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
            access_logger=ACCESS_LOGGER,
            access_log=self._access_log,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            on_response=self._answered,
        )
        scope["extensions"] = {TAKE_OVER: partial(self.take_over, cycle)}
        task = self._loop.create_task(cycle.run_asgi(self._config.loaded_app))
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.tasks.add(task)

    def feed(self, held: bytearray) -> Fed:
        """Take a step in reading the body.

        Args:
            held: what came of the connection; the body's bytes are taken off its front.

        Raises:
            BodyFault: it cannot be read.
        """
        conn, cycle = self._conn, self._cycle
        assert conn is not None
        assert cycle is not None
        for _ in range(_EVENTS):
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.full = True
                return Fed.FULL
            event = _next(conn)
            if isinstance(event, h11.Data):
                cycle.body += event.data
                self._taken += len(event.data)
                cycle.message_event.set()
            elif isinstance(event, h11.EndOfMessage):
                rest, _ = conn.trailing_data
                held[:0] = rest
                cycle.more_body = False
                cycle.message_event.set()
                return Fed.WHOLE
            elif not self._give(conn, held):
                return Fed.HUNGRY
        return Fed.BUSY

    def _give(self, conn: h11.Connection, held: bytearray) -> bool:
        """Give the parser what it can have."""
        if self._chunked:
            if self._fed - self._taken > self._max_head + _BYTES_PER_CHUNK * self._taken:
                raise BodyFault(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the chunk extensions and trailers are too large"
                )
            part = bytes(held[:_PART])
            self._fed += len(part)
        else:
            part = bytes(held[: min(_PART, self._left)])
            self._left -= len(part)
        if not part:
            return False
        del held[: len(part)]
        conn.receive_data(part)
        return True

    def drop(self) -> None:
        """Tell the application that its client has gone."""
        cycle = self._cycle
        self._output.flush()
        if cycle is not None:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.waiting_for_100_continue = False  # or it would be said behind the last answer
            cycle.message_event.set()
        self.flow.resume_writing()

    def end_soon(self) -> None:
        """Have the answer under way be the last one, if there is one."""
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
        """Give the connection away in the middle of a request; the endpoint then returns without having answered.

        Requests that wait behind this one are never answered: the response that is to come ends with the connection.

        Returns:
            The transport, which is the caller's from here on, and the headers that each response has; ``None`` where
            the connection is going.
        """
        if cycle.response_started or cycle.disconnected:
            return None
        transport = self._owner.hand_over()
        if transport is None:
            return None
        self._output.flush()
        cycle.disconnected = True  # so that nothing is written on its behalf
        if self._access_log:
            scope = cycle.scope
            path = get_path_with_query_string(scope)
            ACCESS_LOGGER.info(
                '%s - "%s %s HTTP/%s" %d', get_client_addr(scope), scope["method"], path, scope["http_version"], 200
            )
        return transport, self._server_state.default_headers


class Cycle(RequestResponseCycle):
    """One request of the application, and its answer; the last answer of a connection says that it is.

    Args:
        is_last: tells whether it is that, when the answer begins.
        **options: uvicorn's.
    """

    def __init__(self, *, is_last: Callable[[], bool], **options: Any) -> None:
        super().__init__(**options)
        self._is_last = is_last

    async def send(self, message: Any) -> None:
        """Take one of the application's messages."""
        if message["type"] == "http.response.start" and (self.more_body or not self.keep_alive or self._is_last()):
            # A body that is not whole yet is not waited for, so that nothing can come after it.
            headers = list(message.get("headers", ()))
            if CLOSE_HEADER not in headers:
                message = {**message, "headers": [*headers, CLOSE_HEADER]}
        await super().send(message)


class Flow(FlowControl):
    """What a cycle knows of its connection's pauses.

    Args:
        transport: the connection.
        wanted: called when the application asks for more of a body.

    Attributes:
        full: whether reading the body stopped, since the application has enough for now.
    """

    def __init__(self, transport: asyncio.Transport, wanted: Callable[[], object]) -> None:
        super().__init__(transport)
        self.full = False
        self._wanted = wanted

    def resume_reading(self) -> None:
        """Learn that the application takes what there is of the body."""
        if self.full:
            self.full = False
            self._wanted()


class _Output(JoinedWrites):
    """The connection as a cycle has it: what ends the connection is the owner's affair."""

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
