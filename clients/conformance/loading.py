"""The load test: how fast a client receives, beside the fastest plain WebSocket library of its language.

A real server gets batches over HTTP, so fast that some thousand messages are always on their way, and a program of the
language receives them: with the client, then with the plain library, in turns. The first fifth of the messages warms up
and does not count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clients.conformance.driver import DriverError
from clients.conformance.languages import Language
from clients.conformance.real import RealServer

MESSAGES: Final = 1_000_000
SIZE: Final = 128  # bytes of a payload
BATCH: Final = 2000
MOST_UNDER_WAY: Final = 20_000  # published messages that the program has not told yet
ROUNDS: Final = 2  # of each program, in turns; the best one counts
SILENCE: Final = 60.0  # seconds without progress after which a program is given up
QUEUE: Final = 60_000  # messages that may wait in the server and in the client
NO_PINGS: Final = ("--heartbeat-interval", "3600")  # a plain reader may know no pings, and slow runs take long
ARGS: Final = ("--max-queue-messages", str(QUEUE), "--max-queue-bytes", str(64 << 20), *NO_PINGS)


@dataclass(frozen=True)
class Speed:
    """How fast one program received.

    Attributes:
        rate: messages a second.
        cpu: processor time a message, in seconds.
    """

    rate: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.rate:,.0f} messages/s, {self.cpu * 1e6:.2f} us of processor time each"


@dataclass(frozen=True)
class Load:
    """The client of a language beside its plain library."""

    language: str
    beside: str
    client: Speed
    plain: Speed

    def __str__(self) -> str:
        return f"{self.language}: {self.client}; {self.beside}: {self.plain}"

    @property
    def ratio(self) -> float:
        """How many messages the client takes in the processor time in which the plain library takes one."""
        return self.plain.cpu / self.client.cpu


async def measure(language: Language, messages: int = MESSAGES) -> Load:
    """Measure a language.

    Args:
        language: it is prepared and built.
        messages: how many each program receives in all.

    Raises:
        DriverError: a program ended early or stopped receiving.
    """
    server = RealServer(ARGS)
    found: dict[str, list[Speed]] = {"client": [], "plain": []}
    try:
        await server.start()
        for _ in range(ROUNDS):
            for mode, speeds in found.items():
                speeds.append(await _receive(language, mode, server, max(messages // ROUNDS, 10 * BATCH)))
    finally:
        await server.stop()
    return Load(language.name, language.beside, _best(found["client"]), _best(found["plain"]))


def _best(speeds: Sequence[Speed]) -> Speed:
    return Speed(max(each.rate for each in speeds), min(each.cpu for each in speeds))


async def _receive(language: Language, mode: str, server: RealServer, messages: int) -> Speed:
    process = await language.start_load(mode, server.ws, messages, QUEUE)
    try:
        return await _Receiver(process, server, messages, f"{language.name}, {mode}").run()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class _Receiver:
    """A program that receives, and what it has told."""

    def __init__(self, process: asyncio.subprocess.Process, server: RealServer, messages: int, name: str) -> None:
        self._process = process
        self._server = server
        self._messages = messages
        self._name = name
        self._told = 0
        self._news = asyncio.Event()

    async def run(self) -> Speed:
        if await self._line() != "ready":
            raise DriverError(f"{self._name}: the program of the load test did not get ready")
        publishing = asyncio.create_task(self._publish())
        start: tuple[int, float, float] | None = None
        try:
            while self._told < self._messages:
                self._told = int(await self._line())
                self._news.set()
                if start is None and self._told >= self._messages // 5:
                    start = self._told, time.monotonic(), self._cpu()
                elif self._told + BATCH > self._messages:
                    break  # the program may end before its processor time is read
            end = self._told, time.monotonic(), self._cpu()
        finally:
            publishing.cancel()
            await asyncio.wait({publishing})
        if not publishing.cancelled() and (error := publishing.exception()) is not None:
            raise error
        assert start is not None
        count = end[0] - start[0]
        return Speed(rate=count / (end[1] - start[1]), cpu=(end[2] - start[2]) / count)

    async def _publish(self) -> None:
        message = b'{"pattern":{"kind":"load"},"payload":"%s"}' % (b"x" * (SIZE - 2))
        for published in range(0, self._messages, BATCH):
            count = min(BATCH, self._messages - published)
            await self._server.publish_batch(b'{"messages":[%s]}' % b",".join([message] * count))
            while published + count - self._told > MOST_UNDER_WAY:
                self._news.clear()
                await self._news.wait()

    async def _line(self) -> str:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(SILENCE):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise DriverError(f"{self._name}: no progress in {SILENCE:g} s after {self._told} messages") from None
        if not line:
            raise DriverError(f"{self._name}: the program of the load test ended after {self._told} messages")
        return line.decode().strip()

    def _cpu(self) -> float:
        """Return the processor time of the program so far, in seconds."""
        return time.clock_gettime(~self._process.pid << 3 | 2)  # Linux's CPU clock of a process, CPUCLOCK_SCHED
