"""A client that is subscribed to channels of a cluster at one machine, for tests of publishers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hiredis

from realizehit.broker.resp import pack
from tests.support.cluster_machine import Machine

SECONDS = 20.0


class ShardSubscriber:
    """Collects the messages that one machine sends.

    Attributes:
        messages: channel and payload, in order.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self._writer = writer
        self._confirmed = 0
        self._news = asyncio.Condition()
        self._task = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (reply := parser.gets()) is not False:
                self._take(reply)
            async with self._news:
                self._news.notify_all()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"smessage":
            self.messages.append((reply[1], reply[2]))
        elif isinstance(reply, list) and reply[0] == b"ssubscribe":
            self._confirmed += 1

    async def _until(self, condition: Any) -> None:
        async with asyncio.timeout(SECONDS), self._news:
            await self._news.wait_for(condition)

    async def add(self, channel: bytes) -> None:
        """Subscribe to a channel, and wait until that is in force."""
        wanted = self._confirmed + 1
        self._writer.write(pack(("SSUBSCRIBE", channel)))
        await self._until(lambda: self._confirmed >= wanted)

    async def take(self, count: int) -> list[tuple[bytes, bytes]]:
        """Wait until there are so many messages, and return all."""
        await self._until(lambda: len(self.messages) >= count)
        return self.messages

    async def close(self) -> None:
        """Disconnect."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self._writer.close()


@asynccontextmanager
async def subscriber_at(machine: Machine, *channels: bytes) -> AsyncIterator[ShardSubscriber]:
    """Subscribe to channels that a machine owns."""
    subscriber = ShardSubscriber(*await asyncio.open_connection(*machine.place))
    try:
        for channel in channels:
            await subscriber.add(channel)
        yield subscriber
    finally:
        await subscriber.close()
