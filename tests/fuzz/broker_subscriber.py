"""What a broker sends a subscriber: any RESP, or none, on the connection that hands publications to the engine.

Invariant: no exception leaves a callback; whatever is no answer ends the connection, with a reason; byte by byte gives
the same publications, confirmations, refusals and end as one read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from realizehit.bus.connection import SUBSCRIBE, UNSUBSCRIBE, Command, SubscriberConnection
from realizehit.errors import BrokerError
from tests.engines import bench
from tests.fuzz.command import main

LOGGED_IN = b"+OK\r\n+PONG\r\n"
CHANNELS = (b"a:1", b"b:2")
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
    """Counts what a connection reports, and hands publications to an engine as a node does."""

    def __init__(self, deliver: Any) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.messages: list[Any] = []
        self._deliver = deliver

    def deliver(self, batch: list[Any]) -> None:
        self.messages += batch
        self._deliver(batch)

    def confirmed(self, kind: bytes, channel: bytes) -> None:
        self.heard.append(("confirmed", (kind, channel)))

    def failed(self, command: Command, text: str) -> None:
        self.heard.append(("failed", (command.channels, text)))

    def answered(self) -> None: ...

    def disconnected(self) -> None:
        self.heard.append(("disconnected", None))


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
            assert parts == whole, f"{parts} byte by byte, and {whole} at once"
    finally:
        loop.close()


async def told(parts: Iterable[bytes]) -> Any:
    """Feed a connection, and return all that came of it."""
    with bench() as b:
        for channel in CHANNELS:
            b.engine.subscribe(b.connect()[0], channel)
        owner = Owner(b.engine.dispatch)
        connection = SubscriberConnection(owner, ["user", "secret"], "fuzz", 5.0, 5.0)
        pipe = Pipe()
        connection.connection_made(pipe)
        connection.send(SUBSCRIBE, CHANNELS)
        connection.send(UNSUBSCRIBE, CHANNELS[:1])
        for part in parts:
            if part:
                connection.data_received(part)
        ended = pipe.ended
        connection.connection_lost(None)
        reason = await connection.closed
        assert reason
        error = connection.ready.exception()
        assert error is None or isinstance(error, BrokerError)
        b.loop.run()
    # Where the connection ends in the middle of a read, what else came with it may have been reported or not.
    return (owner.heard[:-1] if error is None else owner.heard, ended, type(error)) if not ended else (ended,)


if __name__ == "__main__":
    main(__spec__.name)
