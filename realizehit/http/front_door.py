"""The protocol of each accepted connection: one state machine, which owns its bytes, its deadline and its answers.

It finds the end of each request head itself and decides who serves the request: a WebSocket handshake goes straight to
its transport, an everyday publication to its handler, anything else to the application, with h11 as the parser of its
body. One request is served at a time: while an answer is owed, or lies here because nobody reads it, nothing is parsed,
and reading stops once a little is held.

    waiting ─► head ─► body ─► answering ─► waiting …
                 └───────┴─────────┴──────► closing

Each state has a deadline, the answering one for as long as the client does not read, and a bound on what it holds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from realizehit.access.peers import UNIX, peer_of_transport
from realizehit.errors import ErrorCode
from realizehit.http.fast_path import LONGEST_HEAD, DirectRequest, Handler, everyday
from realizehit.http.requests import BodyFault, Fed, Requests
from realizehit.transports.fd_reserve import NO_ROOM, Room
from realizehit.transports.guard import Guard
from realizehit.transports.handshake import VERSION_LINE, refusal, too_large
from realizehit.transports.heads import Fault, Head, fault_of, host_fault, in_origin_form, parse_head
from realizehit.transports.websocket import WebSocketTransport

LINGER: Final = 10.0  # seconds in which a client can read why its connection ends, whatever it goes on sending
MOST_HELD: Final = 16 * 1024  # bytes of later requests with which reading stops while an answer is owed
MOST_DISCARDED: Final = 16 << 20  # bytes that are read after a connection's last answer
LEAST_READ: Final = 16 * 1024  # bytes of its answer that a client has to take in the time for a request

_STEPS: Final = 16  # in one turn of the loop, so that a connection with much to say leaves time to the others
_BARE_LF: Final = re.compile(rb"(?<!\r)\n")

_WAITING, _HEAD, _BODY, _ANSWERING, _CLOSING, _GONE = range(6)


class FrontDoor(asyncio.Protocol):
    """Serves a connection until it ends or is handed to the engine; uvicorn makes one for each (its ``http=`` option).

    Args:
        config, server_state, app_state, _loop: what uvicorn gives each protocol.
        websocket: takes the WebSocket handshakes; ``None`` on a listener that has none.
        timeout: seconds for the head of the first request to arrive.
        request_timeout: seconds for the rest of it, and for any other request, to arrive whole; in which something of
            an answer has to be read.
        keep_alive: seconds that a connection may be idle between two requests.
        max_head: bytes that a request's head may have.
        guard: counts the connections of each address, and the limits that are passed; ``None`` where nobody does.
        room: knows whether there is room for another connection; ``None`` where nobody looks.
        direct: who serves `POST` without ASGI, by target.
        draining: whether each answer is to be its connection's last one.

    Attributes:
        client: the other end's address, once there was a request.
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
        room: Room | None = None,
        direct: Mapping[bytes, Handler] = MappingProxyType({}),
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.client: tuple[str, int] | None = None
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._websocket = websocket
        self._timeout = timeout
        self._request_timeout = request_timeout
        self._keep_alive = keep_alive
        self._max_head = max_head
        self._guard = guard
        self._room = room
        self._direct = {} if config.access_log else direct
        self._draining = draining
        self._release: Callable[[], None] = _nothing
        self._transport = cast(asyncio.Transport, None)  # until there is one
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._deadline = inf

        self._state = _WAITING
        self._held = bytearray()  # what came and is not taken by a request yet
        self._looked = 0  # bytes at its front in which a head does not end
        self._first = True  # whether no request was whole yet
        self._blank = False  # whether an empty line stood before the request
        self._timed = True  # whether the deadline is that of the request that is arriving
        self._request: DirectRequest | None = None
        self._requests: Requests | None = None
        self._advancing = False
        self._resting = False  # whether it goes on in the loop's next turn
        self._reading = True
        self._stuck = False  # whether an answer waits for the client to read
        self._unread = 0  # bytes of it, when that was looked at last
        self._discarded = 0
        self._shut = False  # whether the server stops
        self._defaults: tuple[object, bytes] = (None, b"")

    # What the event loop calls:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not instances of it
        self._until(self._timeout)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # all it needs is `shutdown`
        if self._room is not None and self._room.is_full(self._transport):
            self._limited("no_room")
            self._turn_away(NO_ROOM)
        elif self._guard is not None:
            counted = self._guard.arrived(transport)
            if isinstance(counted, bytes):
                self._turn_away(counted)
            else:
                self._release = counted

    def data_received(self, data: bytes) -> None:
        if self._state == _CLOSING:
            self._discarded += len(data)
            if self._discarded > MOST_DISCARDED and not self._transport.is_closing():
                self._transport.pause_reading()
            return
        if self._state == _WAITING and not self._held and not self._stuck and self._serve_at_once(data):
            return
        self._held += data
        self._advance()

    def _serve_at_once(self, data: bytes) -> bool:
        """Serve an everyday publication that is a read by itself, as most are, and tell whether it was one."""
        end = data.find(b"\r\n\r\n")
        request = self._everyday(data[:end]) if 0 < end <= LONGEST_HEAD and data.startswith(b"POST ") else None
        if request is None or len(data) != end + 4 + request.size:
            return False
        self._first = self._timed = False
        self._request = request
        self._state = _ANSWERING
        self._deadline = inf
        request.serve(data[end + 4 :])
        return True

    def _everyday(self, text: bytes) -> DirectRequest | None:
        """Return the publication whose head it is, if there is somebody who serves it without the application."""
        found = everyday(text)
        handler = None if found is None else self._direct.get(found.target)
        if found is None or handler is None:
            return None
        if self._requests is None:
            self._prepare()
        return DirectRequest(self, found.headers, found.size, handler)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state != _GONE:
            self._leave()
        if self._request is not None:
            self._request.disconnected = True
        if self._requests is not None:
            self._requests.drop()

    def pause_writing(self) -> None:
        # Nothing may wait here, see `_prepare`: this is called as soon as the client does not take all of an answer.
        self._stuck = True
        if self._requests is not None:
            self._requests.flow.pause_writing()
        self._unread = self._transport.get_write_buffer_size()
        self._until(self._request_timeout)

    def resume_writing(self) -> None:
        self._stuck = False
        if self._state == _GONE:
            return
        if self._requests is not None:
            self._requests.flow.resume_writing()
        if self._state == _CLOSING:
            self._until(LINGER)
        elif self._state == _WAITING:
            self._until(self._keep_alive)
        elif self._state == _ANSWERING:
            self._deadline = inf
        else:
            self._until(self._request_timeout)
        self._advance()

    def shutdown(self) -> None:
        """End the connection, after the answer to what has begun to arrive; uvicorn calls it when it stops."""
        self._shut = True
        if self._state == _CLOSING or (self._state <= _HEAD and not self._held):
            self._close()
        elif self._requests is not None:
            self._requests.end_soon()

    # The states:

    def _advance(self) -> None:
        """Go as far as what is held allows."""
        if self._advancing or self._resting:
            return
        self._advancing = True
        try:
            for _ in range(_STEPS):
                if self._stuck or not self._step():
                    break
            else:
                self._resting = True
                self._loop.call_soon(self.go_on)
        finally:
            self._advancing = False
        if not self._timed and (self._state == _BODY or (self._state == _HEAD and not self._stuck)):
            # A request that comes at once, as most do, costs no timer.
            self._timed = True
            self._until(self._request_timeout)
        self._read_or_pause()

    def _step(self) -> bool:
        """Take one step, and tell whether another one may be possible at once."""
        if self._state == _BODY:
            return self._read_body()
        if self._state == _WAITING and self._held:
            self._state = _HEAD
            self._blank = False
        return self._state == _HEAD and self._read_head()

    def go_on(self) -> None:
        """Go on after a pause."""
        self._resting = False
        if self._state in (_WAITING, _HEAD, _BODY):
            self._advance()

    def _read_head(self) -> bool:
        held = self._held
        if not self._blank and held.startswith(b"\r\n"):  # RFC 9112, section 2.2: one is forgiven
            del held[:2]
            self._blank = True
        end = held.find(b"\r\n\r\n", self._looked)
        if not 0 <= end <= self._max_head:
            self._look_at_part(held)
            return False
        self._looked = 0
        text = bytes(held[:end])
        del held[: end + 4]
        if self._first:
            self._first = self._timed = False
        self._begin(text)
        return True

    def _look_at_part(self, held: bytearray) -> None:
        """Refuse a head that is not whole but certainly wrong or too large, whichever is so first."""
        wrong = bool(held) and held[0] <= 0x20 and held != b"\r"
        if wrong or _BARE_LF.search(held, self._looked, self._max_head):
            self._refuse_malformed("the request head is malformed")
        elif len(held) > self._max_head:
            self._limited("head_too_large")
            self._refuse(too_large(self._max_head))
        else:
            self._looked = max(0, len(held) - 3)

    def _begin(self, text: bytes) -> None:
        """Find out who serves a request."""
        if len(text) <= LONGEST_HEAD and text.startswith(b"POST "):
            self._request = self._everyday(text)
            if self._request is not None:
                self._state = _BODY
                return
        head = parse_head(text)
        if head is None:
            self._refuse_malformed("the request head is malformed")
            return
        head = in_origin_form(head)
        if self._websocket is not None and head.wants_websocket:
            self._open(self._websocket, head)
            return
        fault = fault_of(head)
        if fault is not None:
            self._refuse_fault(fault)
            return
        requests = self._requests or self._prepare()
        self._state = _BODY
        try:
            requests.start(head, text + b"\r\n\r\n")
        except BodyFault as error:
            self._refuse_fault((error.status, str(error)))

    def _prepare(self) -> Requests:
        """Get ready for the first request of a connection that stays with HTTP."""
        transport = self._transport
        transport.set_write_buffer_limits(high=1, low=0)  # with 0, TLS of uvloop pauses when it has written all
        self.client = get_remote_addr(transport)
        if self.client is None and peer_of_transport(transport) == UNIX:
            self.client = (UNIX, 0)
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

    def _read_body(self) -> bool:
        request = self._request
        if request is not None:
            size = request.size
            if len(self._held) < size:
                return False
            body = bytes(self._held[:size])
            del self._held[:size]
            self._expect_answer()
            request.serve(body)
            return True
        assert self._requests is not None
        try:
            fed = self._requests.feed(self._held)
        except BodyFault as error:
            self._refuse_fault((error.status, str(error)))
            return False
        if fed is Fed.WHOLE:
            self._expect_answer()
        return fed is Fed.BUSY

    def _expect_answer(self) -> None:
        self._state = _ANSWERING
        if not self._stuck:
            self._deadline = inf

    def _read_or_pause(self) -> None:
        """Read while there is somebody for it: a request that arrives, or a little of the next one."""
        if self._state >= _CLOSING or self._transport.is_closing():
            return
        if self._state == _BODY and self._request is not None:
            wanted = True
        else:
            wanted = len(self._held) <= (self._max_head if self._state == _HEAD else MOST_HELD)
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # Answers:

    def is_last(self) -> bool:
        """Whether the connection ends with the answer that is about to begin."""
        return self._shut or self._draining()

    def respond(self, response: Sequence[bytes]) -> None:
        """Write the response to a request that an application has no part in, and go on with the next one."""
        if self._state != _ANSWERING or self._transport.is_closing():
            return
        default = self._server_state.default_headers  # a new list each second
        if self._defaults[0] is not default:
            self._defaults = (default, b"".join(b"%b: %b\r\n" % header for header in default))
        self._request = None
        self._transport.write(b"".join((response[0], self._defaults[1], *response[1:])))
        if b"connection: close\r\n" in response:
            self.finish()
        else:
            self.answered()

    def answered(self) -> None:
        """Go on: the answer is complete."""
        if self._state >= _CLOSING or self._transport.is_closing():
            return
        if self._state != _ANSWERING or self._shut:
            self.finish()
            return
        self._state = _WAITING
        self._timed = False
        if not self._stuck:
            self._until(self._keep_alive)
        if self._held:
            self._advance()

    def finish(self) -> None:
        """End the connection once what was written is sent.

        A client that is still sending can be made deaf to its answer by a reset, which is what the rest of its bytes
        would meet: they are read and forgotten for a while.
        """
        if self._state >= _CLOSING:
            return
        sending = self._state in (_HEAD, _BODY) or bool(self._held)
        self._state = _CLOSING
        self._held.clear()
        transport = self._transport
        if not self._stuck:
            self._until(LINGER)
        if not sending or transport.is_closing() or not transport.can_write_eof():
            self._close()
            return
        transport.write_eof()
        self._read_all()

    def _refuse(self, response: bytes) -> None:
        """Answer what cannot be served, and end the connection."""
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
        self._limited("head_too_large" if status == 431 else "malformed", detail=text)
        self._refuse(refusal(status, text, code))

    def _refuse_malformed(self, text: str) -> None:
        self._limited("malformed", detail=text)
        self._refuse(refusal(400, text, ErrorCode.BAD_REQUEST))

    def _turn_away(self, response: bytes) -> None:
        """Refuse a connection for which there is no place, not even for a while."""
        self._transport.write(response)
        self._close()

    def _close(self) -> None:
        self._state = _CLOSING
        if not self._stuck:
            self._until(LINGER)
        self._transport.close()

    # Those who go on without it:

    def _open(self, websocket: WebSocketTransport, head: Head) -> None:
        """Have an opening handshake answered."""
        fault = host_fault(head)
        if fault is not None:
            self._limited("malformed", detail=fault[1])
            self._refuse(refusal(*fault, ErrorCode.BAD_REQUEST, VERSION_LINE))
            return
        if head.headers.keys().isdisjoint((b"content-length", b"transfer-encoding")):
            self._state = _ANSWERING  # its end is here
        release, self._release = self._release, _nothing
        release()  # the gate counts it anew
        self._read_all()
        refused = websocket.open(self._transport, head, bytes(self._held))
        if refused is None:
            self._leave()
        else:
            self._refuse(refused)

    def hand_over(self) -> asyncio.Transport | None:
        """Let go of the connection, and return it; ``None`` where it is going."""
        if self._state >= _CLOSING or self._transport.is_closing():
            return None
        self._read_all()
        self._leave()
        return self._transport

    def _read_all(self) -> None:
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def _leave(self) -> None:
        """Have no part in the connection any more."""
        if self._requests is not None and not self._transport.is_closing():
            self._transport.set_write_buffer_limits()
        self._state = _GONE
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._server_state.connections.discard(self)
        release, self._release = self._release, _nothing
        release()

    # Deadlines:

    def _until(self, seconds: float) -> None:
        """Set the deadline; a timer that is due earlier is left as it is, and looks at the deadline then."""
        self._deadline = deadline = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_at <= deadline:
                return
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.call_at(deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        left = self._deadline - self._loop.time()
        if left <= 0:
            self._too_late()
        elif left < inf:
            self._until(left)

    def _too_late(self) -> None:
        if self._stuck:
            unread = self._transport.get_write_buffer_size()
            if self._unread - unread >= LEAST_READ:
                self._unread = unread
                self._until(self._request_timeout)
                return
            self._limited("unread_answer")
            self._transport.abort()
        elif self._state == _CLOSING:
            self._transport.abort()
        elif self._first:
            if self._held:
                self._limited("late_head")
            elif self._guard is not None:  # browsers open connections in advance: that is counted, and no news
                self._guard.gate.refusals["late_head"] += 1
            self._say_late("request head", self._timeout)
        elif self._state == _WAITING:
            self._close()
        else:
            self._limited("late_request")
            self._say_late("request", self._request_timeout)

    def _say_late(self, what: str, seconds: float) -> None:
        if self._held or self._state == _BODY:
            self._refuse(refusal(408, f"the {what} did not arrive within {seconds:g} seconds", ErrorCode.TIMEOUT))
        else:
            self._close()

    def _limited(self, reason: str, detail: str = "") -> None:
        if self._guard is not None:
            self._guard.limited(reason, peer=peer_of_transport(self._transport), detail=detail)


def _nothing() -> None:
    """Release nothing."""
