"""From an asyncio transport into the engine: as a bare descriptor where the engine owns its sockets, else as it is."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from realizehit import _fanout

TAKE_OVER: Final = "realizehit.take_over"
"""The extension of an ASGI scope by which an endpoint can have the connection, see `Requests.take_over`."""


def adopt(
    engine: _fanout.Engine,
    transport: asyncio.Transport,
    handler: _fanout.Handler,
    head: bytes = b"",
    rest: bytes = b"",
    *,
    framing: int = _fanout.WEBSOCKET,
) -> int:
    """Hand a connection to the engine; the transport is not the caller's any more from here on.

    Args:
        engine: takes the connection.
        transport: the connection as asyncio has it. It is kept only where its bytes have to go through Python.
        handler: who is told what the client sends.
        head: bytes to send first.
        rest: bytes that the client sent already.
        framing: how messages look on it.

    Returns:
        The engine's handle.

    Raises:
        OSError: there is no descriptor left; the transport is still the caller's.
    """
    tls = transport.get_extra_info("sslcontext") is not None
    if engine.owns_sockets and not tls:
        # A duplicate, because the transport closes its own descriptor when it is aborted.
        fd = os.dup(transport.get_extra_info("socket").fileno())
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        return engine.adopt(fd, handler, head, rest, framing)
    protocol = _TransportProtocol(engine)
    transport.set_protocol(protocol)
    if tls:
        transport.set_write_buffer_limits(high=1, low=0)  # what is not encrypted can wait in the engine
    sock = transport.get_extra_info("socket")
    protocol.handle = engine.attach(transport, handler, head, rest, framing, sock.fileno(), tls)
    return protocol.handle


def rename(transport: asyncio.Transport, handle: int) -> None:
    """Tell a transport that was given to `adopt` that its connection has another handle now."""
    protocol = transport.get_protocol()
    if isinstance(protocol, _TransportProtocol):
        protocol.handle = handle


class _TransportProtocol(asyncio.Protocol):
    """Ties a connection that keeps its asyncio transport to the engine."""

    def __init__(self, engine: _fanout.Engine) -> None:
        self._engine = engine
        self.handle = 0  # no connection has this one

    def data_received(self, data: bytes) -> None:
        self._engine.feed(self.handle, bytes(data))

    def pause_writing(self) -> None:
        self._engine.pause(self.handle)

    def resume_writing(self) -> None:
        self._engine.resume(self.handle)

    def connection_lost(self, exc: Exception | None) -> None:
        self._engine.lost(self.handle)
