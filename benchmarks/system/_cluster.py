"""The broker's side of a node, or a publisher, in a separate process: each line of its input is a command.

Run as a script, so that it can be that of another revision as well: it imports nothing of the benchmarks.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import uvloop

from realizehit.broker.base import Batch, Bus, BusState, Interest, Source
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.errors import BrokerError

PAYLOAD = b'"%b"' % (b"x" * 126)
IN_ONE = 10_000  # messages of a call


class Counter:
    """Counts what arrives."""

    def __init__(self) -> None:
        self.received = 0
        self.waiting: set[bytes] = set()

    def deliver(self, batch: Batch) -> None:
        self.received += len(batch)

    def subscribed(self, channel: Interest) -> None:
        self.waiting.discard(channel)

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        self.waiting.difference_update(channels)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        raise error

    def state_changed(self, source: Source, state: BusState) -> None: ...

    def restored(self, source: Source, seconds: float, **details: Any) -> None: ...

    def lapsed(self, source: Source, channels: Collection[Interest]) -> None: ...

    def regained(self, source: Source, channels: Collection[Interest], seconds: float, **details: Any) -> None: ...


async def subscribe(bus: Bus, counter: Counter, channels: Sequence[str]) -> dict[str, Any]:
    """Subscribe to channels, and wait until all are in force."""
    counter.waiting = {channel.encode() for channel in channels}
    for channel in channels:
        bus.subscribe(Interest(channel.encode()))
    while counter.waiting:
        await asyncio.sleep(0.01)
    return {}


async def publish(bus: Bus, channels: Sequence[str], messages: int) -> dict[str, Any]:
    """Publish to channels in turn, and say how long that took."""
    names = [channel.encode() for channel in channels]
    block = [Publication(names[n % len(names)], PAYLOAD) for n in range(IN_ONE)]
    cpu, start, taken = time.process_time(), time.perf_counter(), 0
    for _ in range(messages // IN_ONE):
        taken += sum(isinstance(outcome, Published) for outcome in await bus.publish_many(block))
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "messages": taken}


async def received(counter: Counter, total: int) -> dict[str, Any]:
    """Wait until so many messages have arrived."""
    async with asyncio.timeout(30):
        while counter.received < total:
            await asyncio.sleep(0.01)
    return {"received": counter.received}


async def main(url: str) -> None:
    """Obey."""
    counter, bus = Counter(), open_bus(url)
    await bus.start(counter)
    print(json.dumps({}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case {"subscribe": channels}:
                answer = await subscribe(bus, counter, channels)
            case {"publish": messages, "channels": channels}:
                answer = await publish(bus, channels, messages)
            case {"until": total}:
                answer = await received(counter, total)
        print(json.dumps(answer), flush=True)
    await bus.close()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[2]))
