"""Receives messages for the load test: with the Python client, or with the library `websockets` alone."""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.client import connect

from realizehit import WSClient

STEP = 1000  # messages from one line of the output to the next


class Counter:
    """Counts messages and tells how many there are.

    Args:
        end: how many there will be.
    """

    def __init__(self, end: int) -> None:
        self.finished = asyncio.Event()
        self._end = end
        self._count = 0

    def take(self, _: object = None) -> None:
        """Count one message."""
        self._count += 1
        if self._count % STEP == 0 or self._count == self._end:
            print(self._count, flush=True)
            if self._count == self._end:
                self.finished.set()


async def client(url: str, counter: Counter, queue: int) -> None:
    """Receive with the client."""
    async with WSClient(url) as ws:
        await ws.subscribe({"kind": "load"}, callback=counter.take, raw=True, maxsize=queue)
        print("ready", flush=True)
        await counter.finished.wait()


async def plain(url: str, counter: Counter, _: int) -> None:
    """Receive with `websockets`."""
    async with connect(url, compression=None, proxy=None) as ws:
        await ws.send('{"id":"1","act":"sub","pat":{"kind":"load"}}')
        async for message in ws:
            if message[:1] == "{":
                print("ready", flush=True)
                continue
            counter.take()
            if counter.finished.is_set():
                return


async def main(mode: str, url: str, end: str, queue: str) -> None:
    """Receive ``end`` messages."""
    receive = {"client": client, "plain": plain}[mode]
    await receive(url, Counter(int(end)), int(queue))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
