"""A connection made from a broker URL has the socket options that the URL asks for."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from realizehit.broker.url import Address


@pytest.mark.parametrize(
    ("option", "alive"), [("", True), ("socket_keepalive=no", False), ("socket_keepalive=1", True)]
)
async def test_the_system_ends_connections_to_dead_peers(option: str, alive: bool) -> None:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    made: list[asyncio.BaseTransport] = []

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    await Address(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}?{option}").connect(Protocol)
    (transport,) = made
    sock: socket.socket = transport.get_extra_info("socket")
    assert bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)) is alive
    if sys.platform == "linux":
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert (sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5) is alive
    transport.close()
    server.close()
