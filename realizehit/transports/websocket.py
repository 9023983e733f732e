"""WebSocket connections: from the opening handshake into the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from realizehit import _fanout
from realizehit.access.connected_clients import Opening
from realizehit.access.peers import peer_of_transport
from realizehit.common.masking import masked
from realizehit.errors import ErrorCode
from realizehit.transports.compression import negotiate
from realizehit.transports.fd_reserve import NO_DESCRIPTOR, FdReserve
from realizehit.transports.guard import Guard
from realizehit.transports.handover import adopt
from realizehit.transports.handshake import BEFORE_ANSWER, accept, is_usual, refusal
from realizehit.transports.heads import Head, host_fault, parse_head
from realizehit.transports.intake import Intake
from realizehit.transports.session import Session

WS_PATH: Final = "/ws"

_SAMPLE: Final = b"\r\nsec-websocket-key:AAAAAAAAAAAAAAAAAAAAAA=="  # in the place of the key that a signature lacks


class Dialect(Protocol):
    """A protocol inside WebSockets that a client asks for in its query, such as Engine.IO."""

    def pass_on(self, transport: asyncio.Transport, head: Head, data: bytes) -> bool:
        """Give a connection away that is for another process, given all that it has sent; return whether it was."""

    def refusal(self, transport: asyncio.BaseTransport, head: Head) -> bytes | None:
        """Return the response that refuses a handshake, or ``None`` for a handshake that can be accepted."""

    def open(self, transport: asyncio.Transport, head: Head, response: bytes, rest: bytes) -> int:
        """Take over a connection whose handshake is accepted, and return the engine's handle.

        Raises:
            OSError: no file descriptor is left.
        """


class WebSocketTransport:
    """All WebSocket connections of a node.

    Args:
        engine: owns the connections.
        session: is given whole messages.
        max_message: largest message that a client may send, in bytes.
        path: where clients connect, with or without a slash at its end; ``None`` for any path.
        draining: returns whether new connections are refused.
        compress: whether messages are compressed for clients that offer it.
        engineio: serves the clients whose query has ``EIO``.
        guard: decides who is let in; ``None`` for everybody.
        fd_reserve: logs connections that are refused since no file descriptor is left.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        session: Session,
        *,
        max_message: int,
        path: str | None = WS_PATH,
        draining: Callable[[], bool] = lambda: False,
        compress: bool = False,
        engineio: Dialect | None = None,
        guard: Guard | None = None,
        fd_reserve: FdReserve | None = None,
    ) -> None:
        self._fd_reserve = fd_reserve or FdReserve()
        self._engine = engine
        self._path = None if path is None else path.encode()
        self._draining = draining
        self._engineio = engineio
        self._guard = guard
        intake = partial(
            Intake,
            engine,
            session,
            max_message=max_message,
            on_disconnected=None if guard is None else guard.on_disconnected,
            count_refusal=None if guard is None else guard.count_refusal,
        )
        self._plain = intake()
        self._compressed = intake(compressed=True) if compress else None

    @property
    def parsers(self) -> int:
        """How many connections have a parser in Python now."""
        return self._plain.parsers + (self._compressed.parsers if self._compressed else 0)

    def pass_on(self, transport: asyncio.Transport, head: Head, data: bytes) -> bool:
        """Give a connection away whose opening handshake is for another process of this server.

        Args:
            transport: the connection; the caller must not use it any more if it was given away.
            head: the request.
            data: all that the connection has sent, with the head.

        Returns:
            Whether it was given away.
        """
        dialect = self._dialect(head)
        return dialect is not None and self._is_path(head) and dialect.pass_on(transport, head, data)

    def open(self, transport: asyncio.Transport, head: Head, rest: bytes) -> bytes | None:
        """Answer an opening handshake, and hand an accepted connection to the engine.

        Args:
            transport: the connection; the caller must not use it any more if the handshake is accepted.
            head: the request.
            rest: the bytes that came after it.

        Returns:
            ``None`` if it is accepted; else the response with which the caller ends the connection.
        """
        dialect = self._dialect(head)
        peer = peer_of_transport(transport)
        refused = self._refusal(peer, head)
        if refused is None and dialect is not None:
            refused = dialect.refusal(transport, head)
        admitted = refused or self._admit(peer, head)
        if isinstance(admitted, bytes):
            return admitted
        try:
            if dialect is not None:
                handle = dialect.open(transport, head, admitted.response, rest)
            else:
                intake, framing, response = self._kind(head, admitted.response)
                handle = adopt(self._engine, transport, intake, response, rest, framing=framing)
            self._connected(handle, admitted)
        except OSError as error:
            self._fd_reserve.log_refusal(error.strerror or str(error))
            if self._guard is not None:
                self._guard.count_refusal("no_room")
            return NO_DESCRIPTOR
        return None

    def take_subs(self, limit: int) -> None:
        """Have the engine read plain subs, and carry them out on channels in force.

        Args:
            limit: subscriptions that a connection may hold.
        """
        intakes = (self._plain,) if self._compressed is None else (self._plain, self._compressed)
        connected = None if self._guard is None else self._guard.gate.connected
        may_join = None if connected is None or connected.are_free else connected.may_subscribe
        self._engine.take_subs(intakes, limit, may_join)

    # Arrivals, which have no transport:

    @property
    def decides_by_head(self) -> bool:
        """Whether `verdict` decides about opening handshakes, apart from the number of clients."""
        return self._guard is None or self._guard.gate.clients.decides_by_head

    def verdict(self, signature: bytes) -> _fanout.Verdict | None:
        """Decide about all opening handshakes with one signature, see `realizehit._fanout.opening_signature`.

        Returns:
            What the engine needs to let them in, and whether it is for clients of trusted proxies only; ``None`` if
            they are refused or take another way.
        """
        head = parse_head(signature + _SAMPLE)
        if (
            head is None
            or self._draining()
            or not self._is_path(head)
            or host_fault(head) is not None
            or not is_usual(head)
        ):
            return None
        trusted_only = False
        if self._guard is not None and not self._guard.gate.clients.is_admitted(head.headers):
            trusted_only = self._guard.gate.clients.is_admitted(head.headers, trusted=True)
            if not trusted_only:
                return None
        intake, framing, response = self._kind(head, BEFORE_ANSWER + b"\r\n\r\n")
        return intake, framing, BEFORE_ANSWER, response.removeprefix(BEFORE_ANSWER), trusted_only

    def open_arrival(self, handle: int, peer: str, head: Head, rest: bytes) -> bytes | None:
        """Answer the usual opening handshake of an arrival, and let it in.

        Args:
            handle: of the arrival.
            peer: where it comes from.
            head: the request.
            rest: the bytes that came after it.

        Returns:
            ``None`` if it is accepted or gone; else the response with which the caller ends the connection.
        """
        admitted = self._refusal(peer, head) or self._admit(peer, head)
        if isinstance(admitted, bytes):
            return admitted
        intake, framing, response = self._kind(head, admitted.response)
        if self._engine.admit(handle, intake, response, rest, framing):
            self._connected(handle, admitted)
        return None

    # What is decided:

    def _admit(self, peer: str, head: Head) -> _Admitted | bytes:
        """Let a client in, or return the response that refuses it."""
        opening: Opening | None = None
        if self._guard is not None:
            admitted = self._guard.admit(peer, head)
            if isinstance(admitted, bytes):
                return admitted
            opening = admitted
        accepted, response = accept(head)
        if not accepted:
            self._bad_handshake(peer, head, "the handshake does not follow RFC 6455")
            return response
        return _Admitted(opening, response)

    def _kind(self, head: Head, response: bytes) -> tuple[Intake, int, bytes]:
        """Return who receives a client's input, the framing, and the response with the extension that it says."""
        extension = None if self._compressed is None else negotiate(head)
        if self._compressed is None or extension is None:
            return self._plain, _fanout.WEBSOCKET, response
        return self._compressed, _fanout.DEFLATE, response.removesuffix(b"\r\n") + extension + b"\r\n"

    def _connected(self, handle: int, admitted: _Admitted) -> None:
        if self._guard is not None and admitted.opening is not None:
            self._guard.on_connected(handle, admitted.opening)

    def _bad_handshake(self, peer: str, head: Head, detail: str) -> None:
        if self._guard is not None:
            self._guard.count_refusal("bad_handshake", peer=peer, headers=head.headers, detail=detail)

    def _dialect(self, head: Head) -> Dialect | None:
        if self._engineio is not None and any(pair.startswith(b"EIO=") for pair in head.query.split(b"&")):
            return self._engineio
        return None

    def _is_path(self, head: Head) -> bool:
        return self._path is None or head.path.rstrip(b"/") == self._path

    def _refusal(self, peer: str, head: Head) -> bytes | None:
        if self._path is not None and not self._is_path(head):
            path = masked(ascii(head.path[:100].decode()))
            self._bad_handshake(peer, head, f"the path is {path}, not {self._path.decode()}")
            return refusal(404, f"WebSocket clients connect to {self._path.decode()}", None)
        if self._draining():
            text = "this server is going away; try another"
            return refusal(503, text, ErrorCode.UNAVAILABLE, "Retry-After: 1")
        return None


class _Admitted(NamedTuple):
    """A handshake that is accepted.

    Attributes:
        opening: what the gate knows of the client; ``None`` without a gate.
        response: the response.
    """

    opening: Opening | None
    response: bytes
