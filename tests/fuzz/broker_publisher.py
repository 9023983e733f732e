"""What a broker answers a publisher: any RESP, or none, on the pipeline's connection.

Invariant: no exception leaves a callback; each publication ends in a count of nodes or in a `BrokerError`, whose text
shows no secret; byte by byte gives the same outcomes as one read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from realizehit.broker.publication import Publication, Published
from realizehit.broker.publisher import Pipeline
from realizehit.errors import BrokerError
from tests.fuzz.broker_subscriber import HUGE
from tests.fuzz.command import main

LOGGED_IN = b"+OK\r\n+OK\r\n+PONG\r\n"


class Pipe(asyncio.Transport):
    """A transport that keeps nothing; ending it is told to the protocol, as a loop does."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol: asyncio.Protocol | None = protocol

    def write(self, data: Any) -> None: ...

    def abort(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)


class Broker:
    """Makes connections whose other end the case is."""

    def __init__(self) -> None:
        self.protocol: asyncio.Protocol | None = None
        self.connected = asyncio.Event()

    def __str__(self) -> str:
        return "fuzz"

    def login(self) -> list[str]:
        return ["user", "secret"]

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        if self.protocol is not None:
            raise ConnectionRefusedError("once is enough")
        self.protocol = factory()
        self.protocol.connection_made(Pipe(self.protocol))
        self.connected.set()
        return str(self)

    def scrub(self, text: str) -> str:
        return text.replace("secret", "***")


def one(data: bytes) -> None:
    """Take a case after the login where its first byte is odd, in place of its answers otherwise."""
    if HUGE.search(data):
        return
    ready = bool(data) and data[0] % 2 == 1
    loop = asyncio.new_event_loop()
    unexpected: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: unexpected.append(context))
    try:
        whole = loop.run_until_complete(outcomes(ready, [data[1:]]))
        if len(data) <= 512:
            parts = loop.run_until_complete(outcomes(ready, (data[i : i + 1] for i in range(1, len(data)))))
            # Where it ends in the middle of a read, what came before counts byte by byte and is unclear at once.
            for a, b in zip(parts, whole, strict=True):
                assert a == b or b not in ("taken", "refused"), f"{parts} byte by byte, and {whole} at once"
    finally:
        loop.close()
    assert unexpected == []


async def outcomes(ready: bool, parts: Iterable[bytes]) -> list[str]:
    """Publish one by one and many at once, feed the answers, and return what became of it all."""
    broker = Broker()
    pipeline = Pipeline(broker, timeout=60.0)
    tasks = [asyncio.ensure_future(pipeline.publish(Publication(b"a:1", b"1"))) for _ in range(2)]
    many = asyncio.ensure_future(pipeline.publish_many([Publication(b"b:2", b"2")] * 3))
    ping = asyncio.ensure_future(pipeline.ping())
    await broker.connected.wait()
    assert broker.protocol is not None
    if ready:
        broker.protocol.data_received(LOGGED_IN)
        for _ in range(3):
            await asyncio.sleep(0)
    for part in parts:
        if part:
            broker.protocol.data_received(part)
            await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    await pipeline.close()
    results = [*await asyncio.gather(*tasks, return_exceptions=True), *await many]
    (answer,) = await asyncio.gather(ping, return_exceptions=True)
    assert answer is None or isinstance(answer, BrokerError), repr(answer)
    for result in results:
        assert isinstance(result, Published | BrokerError), repr(result)
        assert "secret" not in str(result)
    return ["taken" if isinstance(result, Published) else type(result).__name__ for result in results]


if __name__ == "__main__":
    main(__spec__.name)
