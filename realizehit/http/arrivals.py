"""Connections that the engine accepts: who of them becomes a client at once, and who is served over a transport.

The engine accepts, reads the first bytes of each connection, and lets clients in whose opening handshake it has a
verdict for. It asks here about all others. A usual handshake is decided here, without a transport: once for each
signature, which is all where no setting asks for a look at each client. Where one does, the verdict is about the kind
of client, and the gate decides about each client by those of its headers that the settings name. Every other connection
gets a transport of the event loop and the front door as its protocol, with the bytes that it has sent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from realizehit import _fanout
from realizehit.access.peers import UNKNOWN
from realizehit.errors import AccessDenied
from realizehit.http.front_door import Arrival
from realizehit.transports.fd_reserve import FdReserve
from realizehit.transports.guard import Guard, refusal_of
from realizehit.transports.heads import host_fault, parse_head
from realizehit.transports.websocket import WebSocketTransport

logger: Final = logging.getLogger(__name__)

VERDICTS: Final = 1024  # signatures that are remembered; at most 1 KiB each


class Arrivals:
    """The arrivals at some sockets.

    Args:
        engine: accepts.
        websocket: takes the WebSocket handshakes.
        guard: decides who is let in.
        fd_reserve: logs connections that are refused since no file descriptor is left.
        door: returns the protocol of a connection, given ``arrival``.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        websocket: WebSocketTransport,
        guard: Guard,
        fd_reserve: FdReserve,
        door: Callable[..., Any],
    ) -> None:
        self._engine = engine
        self._websocket = websocket
        self._guard = guard
        self._clients = guard.gate.clients
        self._connected = guard.gate.connected
        self._needs_peer = self._clients.needs_peer
        self._fd_reserve = fd_reserve
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._verdicts: dict[bytes, _fanout.Verdict] = {}
        self._by_head = websocket.decides_by_head
        self._counted: dict[int, str] = {}  # the address under which an arrival is counted
        self._tasks: set[asyncio.Task[Any]] = set()

    def listen(self, sock: socket.socket) -> None:
        """Accept the connections of a TCP socket that listens.

        Raises:
            OSError: it cannot be watched.
        """
        counted = self._clients.addresses is not None
        watched = None if self._by_head else self._clients.watched
        self._engine.listen(sock.fileno(), self, self._verdicts, counted, watched)

    def unlisten(self, sock: socket.socket) -> None:
        """Accept nothing more from a socket, and end what has arrived there and sent nothing."""
        self._engine.unlisten(sock.fileno())

    # Called by the engine:

    def on_arrived(self, handle: int, address: str) -> None:
        """Count a connection under its address, and refuse it or have its head read."""
        try:
            counted = self._clients.count_connection(address)
        except AccessDenied as error:
            self._give_transport(handle, b"", refusal_of(error))
            return
        if counted is not None:
            self._counted[handle] = counted
        self._engine.read_head(handle)

    def on_head(self, handle: int, head: tuple[bytes, bytes]) -> None:
        """Decide about a usual opening handshake, given its signature and all that the connection has sent."""
        signature, data = head
        verdict = self._verdict(signature)
        if not self._by_head:
            self._look_at(handle, data)
        elif (
            verdict is None
            or self._engine.clients >= self._engine.room
            or not self._engine.open_arrival(handle, verdict, data)
        ):
            self._give_transport(handle, data)

    def on_client(self, handle: int, client: _fanout.Client) -> None:
        """Decide about one client, given the verdict about its kind, its watched headers, its query and its bytes."""
        verdict, headers, query, data, key, size = client
        address = self._counted.pop(handle, None)
        if address is not None:
            self._clients.release_connection(address)  # the gate counts it as a client from here on
            peer = address
        else:
            peer = self._engine.peer(handle) if self._needs_peer else UNKNOWN
        if verdict[4] and not self._clients.trusts(peer):
            self._look_at(handle, data)
            return
        try:
            opening = self._clients.open_usual(peer, headers, query)
        except AccessDenied as error:
            self._refuse(handle, data, error)
            return
        if self._engine.open_arrival(handle, verdict, data, key, size):
            self._connected.on_connected(handle, opening)

    def on_other(self, handle: int, data: bytes) -> None:
        """Have a connection served that has sent anything else."""
        self._give_transport(handle, data)

    def on_late(self, handle: int, _: None) -> None:
        """End a connection that has sent nothing."""
        self._guard.gate.refusals.counts["late_head"] += 1  # browsers open connections in advance: not logged
        self._engine.drop(handle)

    def on_gone(self, handle: int) -> None:
        """Forget a connection that has ended."""
        self._release(handle)

    def on_exhausted(self, handle: int, _: None) -> None:
        """Count and log that a connection was closed at once, or has to wait, for want of a descriptor."""
        self._fd_reserve.log_refusal(os.strerror(errno.EMFILE))
        self._guard.count_refusal("no_room")

    # Who comes in:

    def _verdict(self, signature: bytes) -> _fanout.Verdict | None:
        """Return the verdict about a signature, and have the engine know it."""
        verdict = self._websocket.verdict(signature)
        if verdict is not None:
            if len(self._verdicts) >= VERDICTS:  # strangers choose the signatures
                self._verdicts.clear()
            self._verdicts[signature] = verdict
        return verdict

    def _refuse(self, handle: int, data: bytes, error: AccessDenied) -> None:
        """Refuse a usual opening handshake."""
        text, _, rest = data.partition(b"\r\n\r\n")
        head = parse_head(text)
        self._guard.gate.refusals.denied(error, self._engine.peer(handle), head and head.headers)
        self._give_transport(handle, rest, refusal_of(error))

    def _look_at(self, handle: int, data: bytes) -> None:
        """Decide about one client, as the front door would."""
        text, _, rest = data.partition(b"\r\n\r\n")
        head = parse_head(text)
        if head is None or not head.wants_websocket or host_fault(head) is not None:
            self._give_transport(handle, data)
            return
        self._release(handle)  # the gate counts it as a client from here on
        response = self._websocket.open_arrival(handle, self._engine.peer(handle), head, rest)
        if response is not None:
            self._give_transport(handle, rest, response)

    def _give_transport(self, handle: int, data: bytes, response: bytes | None = None) -> None:
        """Have a connection served by the front door, or refused with a response."""
        waited = self._engine.waited(handle)
        fd = self._engine.give_away(handle)
        if fd < 0:
            return  # it is gone
        counted = self._counted.pop(handle, None)
        release = _nothing if counted is None else partial(self._clients.release_connection, counted)
        arrival = Arrival(data, waited, response, release)
        sock = socket.socket(fileno=fd)
        coroutine = self._loop.connect_accepted_socket(partial(self._door, arrival=arrival), sock)
        task = self._loop.create_task(coroutine, name="realizehit arrival")
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, sock, arrival.release))

    def _done(self, sock: socket.socket, release: Callable[[], None], task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.error("a connection could not be served", exc_info=error)
        release()
        sock.close()

    def _release(self, handle: int) -> None:
        self._clients.release_connection(self._counted.pop(handle, None))


def _nothing() -> None:
    """Release nothing."""
