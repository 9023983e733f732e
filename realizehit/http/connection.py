"""A connection of the HTTP server: its state, its deadlines, its responses and its orderly end.

Which bytes are a request and who serves it is decided by the subclass in `realizehit.http.front_door`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, cast

from uvicorn.server import ServerState

from realizehit.access.peers import peer_of_transport
from realizehit.errors import ErrorCode
from realizehit.http.deadline import Deadline
from realizehit.http.fast_path import DirectRequest
from realizehit.http.requests import Requests
from realizehit.transports.guard import Guard
from realizehit.transports.handshake import refusal
from realizehit.transports.heads import Fault

LINGER: Final = 10.0  # seconds in which a client can read the last response, whatever it still sends
MAX_DISCARDED: Final = 16 << 20  # bytes that are read and discarded after a connection's last response
MIN_READ: Final = 16 * 1024  # bytes of a response that a client must read within the timeout of a request

WAITING, HEAD, BODY, ANSWERING, CLOSING, GONE = range(6)
"""The states: no request yet, its head arrives, its body arrives, the response is owed, ending, not ours any more."""


class Timeouts(NamedTuple):
    """Seconds that a connection has.

    Attributes:
        first_head: for the head of the first request to arrive.
        request: for its body, and for each later request, to arrive; also for the client to read a part of a response.
        keep_alive: between two requests.
    """

    first_head: float
    request: float
    keep_alive: float


class Connection(asyncio.Protocol, ABC):
    """What every connection has, whichever requests come on it.

    Args:
        loop: the event loop.
        server_state: uvicorn's list of connections.
        timeouts: of this connection.
        guard: counts the connections of each address, and refusals; ``None`` where nothing is counted.
        draining: returns whether each response must be the last one of its connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        server_state: ServerState,
        *,
        timeouts: Timeouts,
        guard: Guard | None,
        draining: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._server_state = server_state
        self._timeouts = timeouts
        self._guard = guard
        self._draining = draining
        self._transport = cast(asyncio.Transport, None)  # until `connection_made`
        self._deadline: Final = Deadline(loop, self._on_expired)
        self._state = WAITING
        self._buffer = bytearray()  # received bytes that belong to no request yet
        self._request: DirectRequest | None = None  # the request that is served without ASGI
        self._requests: Requests | None = None  # the requests that the application serves
        self._first = True  # whether no head was complete yet
        self._has_request_deadline = True  # whether the deadline is that of the request that is arriving
        self._reading = True
        self._blocked = False  # whether a response waits in the transport for the client to read
        self._unread = 0  # bytes of it at the last check
        self._discarded = 0
        self._stopping = False  # whether the server stops
        self._default_headers: tuple[object, bytes] = (None, b"")
        self._release: Callable[[], None] = _nothing  # stops counting the connection under its address

    @abstractmethod
    def advance(self) -> None:
        """Parse and serve as much as the state and the buffer allow."""

    # Pauses

    def pause_writing(self) -> None:
        # The write buffer's limit is one byte, see `FrontDoor`: this is called once the client does not read at once.
        self._blocked = True
        if self._requests is not None:
            self._requests.flow.pause_writing()
        self._unread = self._transport.get_write_buffer_size()
        self._deadline.set(self._timeouts.request)

    def resume_writing(self) -> None:
        self._blocked = False
        if self._state == GONE:
            return
        if self._requests is not None:
            self._requests.flow.resume_writing()
        if self._state == CLOSING:
            self._deadline.set(LINGER)
        elif self._state == WAITING:
            self._deadline.set(self._timeouts.keep_alive)
        elif self._state == ANSWERING:
            self._deadline.clear()
        else:
            self._deadline.set(self._timeouts.request)
        self.advance()

    def _set_reading(self, wanted: bool) -> None:
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Responses

    def is_last(self) -> bool:
        """Whether the connection ends with the response that is about to begin."""
        return self._stopping or self._draining()

    def respond(self, response: Sequence[bytes]) -> None:
        """Write the response to a request that was served without ASGI, and continue with the next request."""
        if self._state != ANSWERING or self._transport.is_closing():
            return
        default = self._server_state.default_headers  # a new list each second
        if self._default_headers[0] is not default:
            self._default_headers = (default, b"".join(b"%b: %b\r\n" % header for header in default))
        self._request = None
        self._transport.write(b"".join((response[0], self._default_headers[1], *response[1:])))
        if b"connection: close\r\n" in response:
            self.finish()
        else:
            self.answered()

    def answered(self) -> None:
        """Continue: the response is complete."""
        if self._state >= CLOSING or self._transport.is_closing():
            return
        if self._state != ANSWERING or self._stopping:
            self.finish()
            return
        self._state = WAITING
        self._has_request_deadline = False
        if not self._blocked:
            self._deadline.set(self._timeouts.keep_alive)
        if self._buffer:
            self.advance()

    def _refuse(self, response: bytes) -> None:
        """Write a response that refuses the request, and end the connection."""
        requests = self._requests
        answering = requests is not None and requests.answering
        if requests is not None:
            requests.drop()
        if not answering:
            self._transport.write(response)
        self.finish()

    def _refuse_fault(self, fault: Fault) -> None:
        status, text = fault
        code = ErrorCode.TOO_LARGE if status == 431 else ErrorCode.BAD_REQUEST
        self._count_refusal("head_too_large" if status == 431 else "malformed", detail=text)
        self._refuse(refusal(status, text, code))

    def _refuse_malformed(self, text: str) -> None:
        self._count_refusal("malformed", detail=text)
        self._refuse(refusal(400, text, ErrorCode.BAD_REQUEST))

    # The end

    def shutdown(self) -> None:
        """End the connection, after the response to a request that has begun; uvicorn calls it when it stops."""
        self._stopping = True
        if self._state == CLOSING or (self._state <= HEAD and not self._buffer):
            self._close()
        elif self._requests is not None:
            self._requests.end_soon()

    def finish(self) -> None:
        """End the connection once everything written is sent.

        Closing while a client still sends causes a reset, which can make the client lose the response. So the rest of
        its bytes are read and discarded for `LINGER` seconds.
        """
        if self._state >= CLOSING:
            return
        sending = self._state in (HEAD, BODY) or bool(self._buffer)
        self._state = CLOSING
        self._buffer.clear()
        transport = self._transport
        if not self._blocked:
            self._deadline.set(LINGER)
        if not sending or transport.is_closing() or not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        self._set_reading(True)

    def _discard(self, size: int) -> None:
        """Count bytes that came after the last response, and stop reading where they are too many."""
        self._discarded += size
        if self._discarded > MAX_DISCARDED and not self._transport.is_closing():
            self._transport.pause_reading()

    def _reject(self, response: bytes) -> None:
        """Refuse the connection itself, before any request."""
        self._transport.write(response)
        self._close()

    def _close(self) -> None:
        """End the connection after what is written; nothing more is read."""
        self._state = CLOSING
        if not self._blocked:
            self._deadline.set(LINGER)
        self._transport.close()

    def _detach(self) -> None:
        """Forget the connection: it has ended, or somebody else has it now."""
        if self._requests is not None and not self._transport.is_closing():
            self._transport.set_write_buffer_limits()
        self._state = GONE
        self._buffer.clear()
        self._deadline.cancel()
        self._server_state.connections.discard(self)
        self._uncount()

    def _uncount(self) -> None:
        """Stop counting the connection under its address."""
        release, self._release = self._release, _nothing
        release()

    # Deadlines and limits

    def _on_expired(self) -> None:
        """Handle the end of the deadline."""
        if self._blocked:
            if self._is_reading_response():
                self._deadline.set(self._timeouts.request)
                return
            self._count_refusal("unread_answer")
            self._transport.abort()
        elif self._state == CLOSING:
            self._transport.abort()
        elif self._first:
            if self._buffer:
                self._count_refusal("late_head")
            elif self._guard is not None:  # browsers open connections in advance: counted, but not logged
                self._guard.gate.refusals.counts["late_head"] += 1
            self._refuse_late("request head", self._timeouts.first_head)
        elif self._state == WAITING:
            self._close()
        else:
            self._count_refusal("late_request")
            self._refuse_late("request", self._timeouts.request)

    def _is_reading_response(self) -> bool:
        """Whether the client has read enough of a waiting response since the last check."""
        unread = self._transport.get_write_buffer_size()
        if self._unread - unread < MIN_READ:
            return False
        self._unread = unread
        return True

    def _refuse_late(self, what: str, seconds: float) -> None:
        if self._buffer or self._state == BODY:
            self._refuse(refusal(408, f"the {what} did not arrive within {seconds:g} seconds", ErrorCode.TIMEOUT))
        else:
            self._close()

    def _count_refusal(self, reason: str, detail: str = "") -> None:
        if self._guard is not None:
            self._guard.count_refusal(reason, peer=peer_of_transport(self._transport), detail=detail)


def _nothing() -> None:
    """Release nothing."""
