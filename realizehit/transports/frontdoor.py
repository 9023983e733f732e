"""The first protocol of each accepted connection: it reads one request head and decides who serves it.

A WebSocket handshake goes straight to its transport, without the cost of an HTTP parser and request object for each
client; everything else goes to uvicorn's own HTTP protocol, with the bytes replayed. It also bounds how long and how
large a head may be, which uvicorn does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from realizehit.access.peers import peer_of_transport
from realizehit.errors import ErrorCode
from realizehit.transports.direct import Handler
from realizehit.transports.guard import Guard
from realizehit.transports.handshake import parse_head, refusal, too_large
from realizehit.transports.joined import JoinedWrites
from realizehit.transports.requests import BoundedRequests
from realizehit.transports.room import NO_ROOM, Room
from realizehit.transports.websocket import WebSocketTransport

_UPGRADE: Final = b"\r\nupgrade:"


class FrontDoor(asyncio.Protocol):
    """Reads the head of a connection's first request.

    uvicorn makes one for each connection (its ``http=`` option), and one for an upgrade on a connection that served
    HTTP before (its ``ws=`` option).

    Args:
        config, server_state, app_state, _loop: what uvicorn gives each protocol.
        websocket: takes the WebSocket handshakes; ``None`` on a listener that has none.
        timeout: seconds for the head to arrive.
        request_timeout: seconds for a request to arrive whole that is not for a WebSocket.
        max_head: bytes that a request's head may have.
        guard: counts the connections of each address, and the limits that are passed; ``None`` where nobody does.
        room: knows whether there is room for another connection; ``None`` where nobody looks.
        direct: who serves requests without ASGI, see `BoundedRequests`.
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
        max_head: int = 16 * 1024,
        guard: Guard | None = None,
        room: Room | None = None,
        direct: Mapping[bytes, Handler] = MappingProxyType({}),
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._websocket = websocket
        self._timeout = timeout
        self._request_timeout = request_timeout
        self._max_head = max_head
        self._guard = guard
        self._room = room
        self._direct = direct
        self._release: Callable[[], None] = _nothing
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._came_on: asyncio.Transport | None = None  # likewise, and kept: where the connection comes from
        self._heir: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, JoinedWrites):  # an upgrade on a connection that served HTTP before
            transport = transport.unwrap()
        self._transport = self._came_on = cast(asyncio.Transport, transport)  # uvloop's are not instances of it
        self._timer = self._loop.call_later(self._timeout, self._too_late)
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
        if self._transport is None:
            if self._heir is not None:
                self._heir.data_received(data)
            return
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end > self._max_head or (end < 0 and len(self._received) > self._max_head):
            self._limited("head_too_large")
            self._turn_away(too_large(self._max_head))
            return
        if end < 0:
            return
        if self._websocket is not None and _UPGRADE in self._received[:end].lower():
            head = parse_head(self._received[:end])
            if head is None:
                # Not for uvicorn to judge: what it would read as an upgrade after all comes back here, without end.
                self._limited("malformed")
                self._turn_away(refusal(400, "the request head is malformed", ErrorCode.BAD_REQUEST))
                return
            if head.wants_websocket:
                transport, received = self._leave()
                self._websocket.open(transport, head, received[end + 4 :])
                # For an upgrade uvicorn makes this protocol the transport's once more, when all is done.
                self._heir = cast(asyncio.Protocol, transport.get_protocol())
                return
        release, self._release = self._release, _nothing  # it is counted until that protocol ends
        transport, received = self._leave()
        protocol = BoundedRequests(
            self._config,
            self._server_state,
            self._app_state,
            self._loop,
            timeout=self._request_timeout,
            max_head=self._max_head,
            gone=release,
            limited=self._limited,
            direct=self._direct,
        )
        transport.set_protocol(protocol)
        protocol.connection_made(JoinedWrites(transport, self._loop))
        protocol.data_received(received)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._leave()
        elif self._heir is not None:
            self._heir.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._heir is not None:
            self._heir.pause_writing()

    def resume_writing(self) -> None:
        if self._heir is not None:
            self._heir.resume_writing()

    def shutdown(self) -> None:
        """End the connection; uvicorn calls it when it stops."""
        if self._transport is not None:
            self._leave()[0].close()

    def _leave(self) -> tuple[asyncio.Transport, bytes]:
        assert self._transport is not None
        assert self._timer is not None
        self._timer.cancel()
        self._release()
        self._server_state.connections.discard(self)
        transport, received = self._transport, self._received
        self._transport, self._timer, self._received = None, None, b""
        return transport, received

    def _too_late(self) -> None:
        if self._received:
            self._limited("late_head")
            text = f"the request head did not arrive within {self._timeout:g} seconds"
            self._turn_away(refusal(408, text, ErrorCode.TIMEOUT))
        else:  # browsers open connections in advance: that is counted, and no news
            if self._guard is not None:
                self._guard.gate.refusals["late_head"] += 1
            self.shutdown()

    def _limited(self, reason: str) -> None:
        if self._guard is not None:
            self._guard.limited(reason, peer=None if self._came_on is None else peer_of_transport(self._came_on))

    def _turn_away(self, response: bytes) -> None:
        transport, _ = self._leave()
        transport.write(response)
        transport.close()


def _nothing() -> None:
    """Release nothing."""
