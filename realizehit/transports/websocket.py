"""WebSocket connections: from the opening handshake into the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from realizehit import _fanout
from realizehit.access.connected_clients import Opening
from realizehit.access.peers import peer_of_transport
from realizehit.common.masking import masked
from realizehit.errors import ErrorCode
from realizehit.transports.compression import negotiate
from realizehit.transports.fd_reserve import NO_DESCRIPTOR, FdReserve
from realizehit.transports.guard import Guard
from realizehit.transports.handover import adopt
from realizehit.transports.handshake import accept, refusal
from realizehit.transports.heads import Head
from realizehit.transports.intake import Intake
from realizehit.transports.session import Session

WS_PATH: Final = "/ws"


class Dialect(Protocol):
    """A protocol inside WebSockets that a client asks for in its query, such as Engine.IO."""

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
        refused = self._refusal(transport, head, dialect)
        opening: Opening | None = None
        if refused is None and self._guard is not None:
            admitted = self._guard.admit(transport, head)
            if isinstance(admitted, bytes):
                refused = admitted
            else:
                opening = admitted
        if refused is None:
            accepted, response = accept(head)
            if not accepted:
                self._bad_handshake(transport, head, "the handshake does not follow RFC 6455")
                refused = response
        if refused is not None:
            return refused
        try:
            extension = None if self._compressed is None else negotiate(head)
            if dialect is not None:
                handle = dialect.open(transport, head, response, rest)
            elif self._compressed is None or extension is None:
                handle = adopt(self._engine, transport, self._plain, response, rest)
            else:
                response = response.removesuffix(b"\r\n") + extension + b"\r\n"
                handle = adopt(self._engine, transport, self._compressed, response, rest, framing=_fanout.DEFLATE)
            if self._guard is not None and opening is not None:
                self._guard.on_connected(handle, opening)
        except OSError as error:
            self._fd_reserve.log_refusal(error.strerror or str(error))
            if self._guard is not None:
                self._guard.count_refusal("no_room")
            return NO_DESCRIPTOR
        return None

    def _bad_handshake(self, transport: asyncio.BaseTransport, head: Head, detail: str) -> None:
        if self._guard is not None:
            self._guard.count_refusal(
                "bad_handshake", peer=peer_of_transport(transport), headers=head.headers, detail=detail
            )

    def _dialect(self, head: Head) -> Dialect | None:
        if self._engineio is not None and any(pair.startswith(b"EIO=") for pair in head.query.split(b"&")):
            return self._engineio
        return None

    def _refusal(self, transport: asyncio.BaseTransport, head: Head, dialect: Dialect | None) -> bytes | None:
        if self._path is not None and head.path.rstrip(b"/") != self._path:
            path = masked(ascii(head.path[:100].decode()))
            self._bad_handshake(transport, head, f"the path is {path}, not {self._path.decode()}")
            return refusal(404, f"WebSocket clients connect to {self._path.decode()}", None)
        if self._draining():
            text = "this server is going away; try another"
            return refusal(503, text, ErrorCode.UNAVAILABLE, "Retry-After: 1")
        return None if dialect is None else dialect.refusal(transport, head)
