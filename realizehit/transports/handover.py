"""Hands a connection from asyncio to the engine: its descriptor if the engine owns its sockets, else its transport."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from realizehit import _fanout

TAKE_OVER: Final = "realizehit.take_over"
"""The extension of an ASGI scope by which an endpoint takes over the connection, see `Requests.take_over`."""


def adopt(
    engine: _fanout.Engine,
    transport: asyncio.Transport,
    handler: _fanout.Handler,
    head: bytes = b"",
    rest: bytes = b"",
    *,
    framing: int = _fanout.WEBSOCKET,
) -> int:
    """Hand a connection to the engine; the caller must not use the transport afterwards.

    Args:
        engine: takes the connection.
        transport: the connection in asyncio. It stays in use only if the bytes must pass through Python.
        handler: is called with what the client sends.
        head: bytes to send first.
        rest: bytes that the client has already sent.
        framing: how messages look on the connection.

    Returns:
        The engine's handle.

    Raises:
        OSError: no file descriptor is left; the caller still owns the transport.
    """
    tls = transport.get_extra_info("sslcontext") is not None
    if engine.owns_sockets and not tls:
        # A duplicate, since aborting the transport closes its own descriptor.
        fd = os.dup(transport.get_extra_info("socket").fileno())
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        return engine.adopt(fd, handler, head, rest, framing)
    protocol = _TransportProtocol(engine)
    transport.set_protocol(protocol)
    if tls:
        transport.set_write_buffer_limits(high=1, low=0)  # what is not encrypted yet waits in the engine
    sock = transport.get_extra_info("socket")
    protocol.handle = engine.attach(transport, handler, head, rest, framing, sock.fileno(), tls)
    return protocol.handle


def rename(transport: asyncio.Transport, handle: int) -> None:
    """Set the new handle of a connection that was given to `adopt`."""
    protocol = transport.get_protocol()
    if isinstance(protocol, _TransportProtocol):
        protocol.handle = handle


class _TransportProtocol(asyncio.Protocol):
    """Connects a connection that keeps its asyncio transport to the engine."""

    def __init__(self, engine: _fanout.Engine) -> None:
        self._engine = engine
        self.handle = 0  # the handle of no connection

    def data_received(self, data: bytes) -> None:
        self._engine.feed(self.handle, bytes(data))

    def pause_writing(self) -> None:
        self._engine.pause(self.handle)

    def resume_writing(self) -> None:
        self._engine.resume(self.handle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.lost(self.handle)
