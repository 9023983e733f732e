"""The protocol of each accepted connection: finds out which bytes are a request, and who serves it.

It finds the end of each request's head itself. A WebSocket handshake goes to its transport, a plain publication to its
handler without ASGI, and every other request to the application, with h11 as the parser of its body. Requests of a
connection are served one after the other: while a response is owed, or waits for the client to read it, nothing is
parsed, and reading pauses once a few bytes are buffered.

    waiting ─► head ─► body ─► answering ─► waiting …
                 └───────┴─────────┴──────► closing

Each state has a deadline, except answering while the client reads, and a bound on what it buffers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from realizehit.access.peers import UNIX, peer_of_transport
from realizehit.errors import ErrorCode
from realizehit.http.connection import ANSWERING, BODY, CLOSING, GONE, HEAD, WAITING, Connection, Timeouts
from realizehit.http.fast_path import LONGEST_HEAD, DirectRequest, Handler, parse_plain_head
from realizehit.http.head_reader import HeadReader, HeadTooLarge, MalformedHead
from realizehit.http.requests import BodyFault, Progress, Requests
from realizehit.logs.access import ACCESS_LOG
from realizehit.transports.fd_reserve import NO_DESCRIPTOR, FdReserve
from realizehit.transports.guard import Guard
from realizehit.transports.handshake import VERSION_LINE, refusal, too_large
from realizehit.transports.heads import Head, fault_of, host_fault, in_origin_form, parse_head
from realizehit.transports.websocket import WebSocketTransport

MAX_BUFFERED: Final = 16 * 1024  # bytes of later requests at which reading pauses while a response is owed

_STEPS: Final = 16  # in one turn of the event loop, so that one busy connection does not delay the others


class Arrival(NamedTuple):
    """What is known of a connection that the engine accepted.

    Attributes:
        data: the bytes that it has sent so far.
        waited: seconds since it was accepted.
        response: with which it is refused; ``None`` to serve it.
        release: to be called once, when the connection ends or goes to the engine.
    """

    data: bytes
    waited: float
    response: bytes | None
    release: Callable[[], None]


class FrontDoor(Connection):
    """Serves a connection until it ends or goes to the engine; uvicorn creates one for each (its option ``http=``).

    Args:
        config, server_state, app_state, _loop: what uvicorn passes to each protocol.
        websocket: takes the WebSocket handshakes; ``None`` on a listener without WebSockets.
        timeout: seconds for the head of the first request to arrive.
        request_timeout: seconds for its body, and for each later request, to arrive; also for the client to read a part
            of a response.
        keep_alive: seconds that a connection may be idle between two requests.
        max_head: bytes that a request's head may have.
        guard: counts the connections of each address, and refusals; ``None`` where nothing is counted.
        fd_reserve: tells whether a file descriptor is left for a client; ``None`` where that is not checked.
        direct: handlers of `POST` requests that are served without ASGI, by target.
        draining: returns whether each response must be the last one of its connection.
        arrival: what is known of a connection that the engine accepted; ``None`` for any other.

    Attributes:
        client: the address of the client, known from the first HTTP request on.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        websocket: WebSocketTransport | None,
        timeout: float,
        request_timeout: float = 30.0,
        keep_alive: float = 75.0,
        max_head: int = 16 * 1024,
        guard: Guard | None = None,
        fd_reserve: FdReserve | None = None,
        direct: Mapping[bytes, Handler] = MappingProxyType({}),
        draining: Callable[[], bool] = lambda: False,
        arrival: Arrival | None = None,
    ) -> None:
        loop = _loop or asyncio.get_running_loop()
        timeouts = Timeouts(timeout, request_timeout, keep_alive)
        super().__init__(loop, server_state, timeouts=timeouts, guard=guard, draining=draining)
        self.client: tuple[str, int] | None = None
        self._client_text = ""
        self._config = config
        self._app_state = app_state
        self._websocket = websocket
        self._max_head = max_head
        self._fd_reserve = fd_reserve
        self._direct = direct
        self._access_log = config.access_log
        self._arrival = arrival
        self._heads = HeadReader(max_head)
        self._advancing = False
        self._scheduled = False  # whether it continues in the loop's next turn

    # Called by the event loop and by uvicorn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass
        arrival, self._arrival = self._arrival, None
        self._deadline.set(self._timeouts.first_head - (arrival.waited if arrival else 0.0))
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # uvicorn needs no more than `shutdown`
        if arrival is not None:
            self._release = arrival.release
        if arrival is not None and arrival.response is not None:
            self._state = ANSWERING
            self._buffer += arrival.data
            self._refuse(arrival.response)
        elif self._fd_reserve is not None and self._fd_reserve.is_exhausted(self._transport):
            self._count_refusal("no_room")
            self._reject(NO_DESCRIPTOR)
        elif arrival is not None:
            self._buffer += arrival.data
            self._scheduled = True
            self._loop.call_soon(self.go_on)
        elif self._guard is not None:
            counted = self._guard.count_connection(partial(peer_of_transport, transport))
            if isinstance(counted, bytes):
                self._reject(counted)
            else:
                self._release = counted

    def data_received(self, data: bytes) -> None:
        if self._state == CLOSING:
            self._discard(len(data))
            return
        if self._state == WAITING and not self._buffer and not self._blocked and self._serve_whole(data):
            return
        self._buffer += data
        self.advance()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state != GONE:
            self._detach()
        if self._request is not None:
            self._request.disconnected = True
        if self._requests is not None:
            self._requests.drop()

    # The states

    def advance(self) -> None:
        """Parse and serve as much as the state and the buffer allow."""
        if self._advancing or self._scheduled:
            return
        self._advancing = True
        try:
            for _ in range(_STEPS):
                if self._blocked or not self._step():
                    break
            else:
                self._scheduled = True
                self._loop.call_soon(self.go_on)
        finally:
            self._advancing = False
        if not self._has_request_deadline and (self._state == BODY or (self._state == HEAD and not self._blocked)):
            # Set only now, so that a request that arrives whole, as most do, needs no timer.
            self._has_request_deadline = True
            self._deadline.set(self._timeouts.request)
        self._read_or_pause()

    def _step(self) -> bool:
        """Take one step, and return whether another step may be possible at once."""
        if self._state == BODY:
            return self._read_body()
        if self._state == WAITING and self._buffer:
            self._state = HEAD
            self._heads.start()
        return self._state == HEAD and self._read_head()

    def go_on(self) -> None:
        """Continue after a pause."""
        self._scheduled = False
        if self._state in (WAITING, HEAD, BODY):
            self.advance()

    def _read_head(self) -> bool:
        try:
            text = self._heads.take(self._buffer)
        except MalformedHead:
            self._refuse_malformed("the request head is malformed")
            return False
        except HeadTooLarge:
            self._count_refusal("head_too_large")
            self._refuse(too_large(self._max_head))
            return False
        if text is None:
            return False
        if self._first:
            self._first = self._has_request_deadline = False
        self._begin(text)
        return True

    def _read_body(self) -> bool:
        request = self._request
        if request is not None:
            size = request.size
            if len(self._buffer) < size:
                return False
            body = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._expect_response()
            request.serve(body)
            return True
        assert self._requests is not None
        try:
            progress = self._requests.feed(self._buffer)
        except BodyFault as error:
            self._refuse_fault((error.status, str(error)))
            return False
        if progress is Progress.COMPLETE:
            self._expect_response()
        return progress is Progress.MORE_STEPS

    def _expect_response(self) -> None:
        self._state = ANSWERING
        if not self._blocked:
            self._deadline.clear()

    def _read_or_pause(self) -> None:
        """Read while a request arrives, and a little of the next request."""
        if self._state >= CLOSING or self._transport.is_closing():
            return
        if self._state == BODY and self._request is not None:
            self._set_reading(True)
        else:
            self._set_reading(len(self._buffer) <= (self._max_head if self._state == HEAD else MAX_BUFFERED))

    # Who serves a request

    def _serve_whole(self, data: bytes) -> bool:
        """Serve a plain publication that arrived in one read, as most do; return whether it was one."""
        end = data.find(b"\r\n\r\n")
        request = self._plain_publication(data[:end]) if 0 < end <= LONGEST_HEAD and data.startswith(b"POST ") else None
        if request is None or len(data) != end + 4 + request.size:
            return False
        self._first = self._has_request_deadline = False
        self._request = request
        self._state = ANSWERING
        self._deadline.clear()
        request.serve(data[end + 4 :])
        return True

    def _plain_publication(self, text: bytes) -> DirectRequest | None:
        """Return the request of a head if a handler serves it without ASGI."""
        found = parse_plain_head(text)
        handler = None if found is None else self._direct.get(found.target)
        if found is None or handler is None:
            return None
        if self._requests is None:
            self._prepare()
        return DirectRequest(self, found, handler)

    def note_answer(self, target: bytes, status: int) -> None:
        """Write a line to the access log, as uvicorn does for the requests that the application serves."""
        if self._access_log:
            ACCESS_LOG.note(self._client_text, "POST", target.decode("ascii"), "1.1", status)

    def _begin(self, text: bytes) -> None:
        """Decide by its head who serves a request."""
        if len(text) <= LONGEST_HEAD and text.startswith(b"POST "):
            self._request = self._plain_publication(text)
            if self._request is not None:
                self._state = BODY
                return
        head = parse_head(text)
        if head is None:
            self._refuse_malformed("the request head is malformed")
            return
        head = in_origin_form(head)
        if self._websocket is not None and head.wants_websocket:
            self._open_websocket(self._websocket, head, text)
            return
        fault = fault_of(head)
        if fault is not None:
            self._refuse_fault(fault)
            return
        requests = self._requests or self._prepare()
        self._state = BODY
        try:
            requests.start(head, text + b"\r\n\r\n")
        except BodyFault as error:
            self._refuse_fault((error.status, str(error)))

    def _prepare(self) -> Requests:
        """Prepare for the first HTTP request of a connection."""
        transport = self._transport
        transport.set_write_buffer_limits(high=1, low=0)  # with high=0, uvloop's TLS pauses when all is written
        self.client = get_remote_addr(transport)
        if self.client is None and peer_of_transport(transport) == UNIX:
            self.client = (UNIX, 0)
        self._client_text = "" if self.client is None else f"{self.client[0]}:{self.client[1]}"
        self._requests = Requests(
            self._config,
            self._server_state,
            self._app_state,
            self._loop,
            transport,
            client=self.client,
            max_head=self._max_head,
            owner=self,
        )
        return self._requests

    def _open_websocket(self, websocket: WebSocketTransport, head: Head, text: bytes) -> None:
        """Have a WebSocket handshake answered, given its head also as text without the end."""
        fault = host_fault(head)
        if fault is not None:
            self._count_refusal("malformed", detail=fault[1])
            self._refuse(refusal(*fault, ErrorCode.BAD_REQUEST, VERSION_LINE))
            return
        if websocket.pass_on(self._transport, head, text + b"\r\n\r\n" + self._buffer):
            self._detach()
            return
        if head.headers.keys().isdisjoint((b"content-length", b"transfer-encoding")):
            self._state = ANSWERING  # the request has no body
        self._uncount()  # the gate counts it as a client from here on
        self._set_reading(True)
        response = websocket.open(self._transport, head, bytes(self._buffer))
        if response is None:
            self._detach()
        else:
            self._refuse(response)

    def hand_over(self) -> asyncio.Transport | None:
        """Give the connection away, and return its transport; ``None`` if it is ending."""
        if self._state >= CLOSING or self._transport.is_closing():
            return None
        self._set_reading(True)
        self._detach()
        return self._transport
