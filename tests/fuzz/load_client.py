"""What a server may send the load client: any bytes after the handshake, or in its place.

Invariant: nothing raises or crashes; a connection ends or stays, and the counts say which; nothing that came is counted
as more deliveries than it has frames.
"""

from __future__ import annotations

import contextlib
import socket

from realizehit.loadtest import _load
from tests.fuzz.command import main
from tests.support.scripted_websocket import ACCEPTED, channels

SECONDS = 0.002


def one(data: bytes) -> None:
    """Take a case as what comes after the handshake where its first byte is odd; its second says where it is cut."""
    head, cut, stream = data[:1], data[1:2], data[2:]
    if head and head[0] % 2:
        stream = ACCEPTED + stream
    at = cut[0] * len(stream) // 256 if cut else 0
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        fleet = _load.Fleet(listener.getsockname(), channels(3), [[0, 1, 2]])
        stack.callback(fleet.close)
        fleet.connect()
        fleet.run(SECONDS)
        server, _ = listener.accept()
        stack.callback(server.close)
        for part in (stream[:at], stream[at:]):
            with contextlib.suppress(OSError):
                server.sendall(part)
            fleet.run(SECONDS)
        counts = fleet.counts()
        assert (
            counts["connections"]
            + counts["pending"]
            + counts["failed"]
            + counts["dropped"]
            + counts["closed"]
            + (counts["protocol_errors"])
            >= 1
            or not _load.HAVE_EPOLL
        )
        assert 0 <= counts["ready"] <= counts["connections"] <= 1
        assert 0 <= counts["subscriptions"] <= 3
        assert counts["deliveries"] <= len(stream) // 53
        assert sum(count for _, count in fleet.take_latencies()) == counts["deliveries"]
        fleet.problems()
        fleet.notes()
        fleet.close_codes()
        fleet.give_up()


if __name__ == "__main__":
    main(__spec__.name)
