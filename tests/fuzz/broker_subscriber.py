"""What a broker sends a subscriber: any RESP, or none, on the connection that hands publications to the engine.

Invariant: no exception leaves a callback; whatever is no answer ends the connection, with a reason; byte by byte gives
the same publications, confirmations, refusals and end as one read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from realizehit.broker.base import Interest
from realizehit.broker.connection import SUBSCRIBE, UNSUBSCRIBE, Command, SubscriberConnection
from realizehit.errors import BrokerError
from tests.fuzz.command import main
from tests.support.engines import bench

LOGGED_IN = b"+OK\r\n+PONG\r\n"
CHANNELS = (Interest(b"a:1"), Interest(b"b:2"))
# hiredis makes room for as many elements as an array announces: a broker is trusted not to announce millions.
HUGE = re.compile(rb"[*~%>|][0-9]{6,}")


class Pipe(asyncio.Transport):
    """A transport that keeps nothing, and tells whether it was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def write(self, data: Any) -> None: ...

    def abort(self) -> None:
        self.ended = True


class Owner:
    """Writes down what a connection reports, and hands publications to an engine as a node does."""

    def __init__(self, deliver: Any) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.gone = 0
        self.deliver = deliver

    def confirmed(self, kind: bytes, channels: Sequence[bytes]) -> None:
        self.heard += [("confirmed", (kind, channel)) for channel in channels]

    def failed(self, command: Command, text: str) -> None:
        self.heard.append(("failed", (command.channels, text)))

    def answered(self) -> None: ...

    def relay_lost_broker(self) -> bool:
        self.heard.append(("relay lost broker", None))
        return True

    def relay_has_broker(self) -> None:
        self.heard.append(("relay has broker", None))

    def relay_refused(self, channel: bytes, text: str) -> None:
        self.heard.append(("relay refused", (channel, text)))

    def disconnected(self) -> None:
        self.gone += 1


def one(data: bytes) -> None:
    """Take a case after the login where its first byte is odd, in place of its answers otherwise."""
    if HUGE.search(data):
        return
    ready = bool(data) and data[0] % 2 == 1
    stream = (LOGGED_IN if ready else b"") + data[1:]
    loop = asyncio.new_event_loop()
    try:
        whole = loop.run_until_complete(told([stream]))
        if len(stream) <= 512:
            parts = loop.run_until_complete(told(stream[i : i + 1] for i in range(len(stream))))
            # What came in one read with the end of the connection may have been reported or not.
            upto = stream[: parts.read]
            same = whole if upto == stream else loop.run_until_complete(told([upto]))
            assert parts == same, f"{parts} byte by byte, and {same} at once"
            assert whole.heard[: len(parts.heard)] == parts.heard, f"{parts} byte by byte, and {whole} at once"
            for some, more in zip(parts.received, whole.received, strict=True):
                assert more[: len(some)] == some, f"{parts} byte by byte, and {whole} at once"
    finally:
        loop.close()


class Outcome(NamedTuple):
    """What came of a connection.

    Attributes:
        read: how many bytes it took.
        heard: what its owner was told.
        received: what each subscriber got.
        gone: how often the owner was told of its end.
        ended: whether it was ended from this side.
        reason: why it is gone.
        error: the type of what the login failed with.
    """

    read: int
    heard: list[tuple[str, Any]]
    received: list[list[bytes]]
    gone: int
    ended: bool
    reason: str
    error: type[BaseException | None]


async def told(parts: Iterable[bytes]) -> Outcome:
    """Feed a connection until it ends, and return all that came of it."""
    with bench() as b:
        peers = []
        for channel in CHANNELS:
            conn, peer = b.connect()
            b.engine.subscribe(conn, channel)
            peers.append(peer)
        owner = Owner(b.engine.dispatch)
        connection = SubscriberConnection(owner, ["user", "secret"], "fuzz", 5.0, 5.0)
        pipe = Pipe()
        connection.connection_made(pipe)
        connection.send(SUBSCRIBE, CHANNELS)
        connection.send(UNSUBSCRIBE, CHANNELS[:1])
        read = 0
        for part in parts:
            if part:
                connection.data_received(part)
            read += len(part)
            if pipe.ended:
                break
        ended = pipe.ended
        connection.connection_lost(None)
        reason = await connection.closed
        assert reason
        error = connection.ready.exception()
        assert error is None or isinstance(error, BrokerError)
        b.loop.run()
        assert owner.gone == (error is None)
        received = [peer.texts() for peer in peers]
        return Outcome(read, owner.heard, received, owner.gone, ended, reason, type(error))


if __name__ == "__main__":
    main(__spec__.name)
