"""The clients of the soak without a library: those that come and go, and one that reads too slowly."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Final

from tests.soak.publishers import Publishing
from tests.soak.readers import Desk, Stream, Wire, first_of
from tests.soak.world import BULK, SHORT, SUBSCRIBED, World
from tests.support.account_records import Life

LARGE: Final = "x" * 40_000


class Reader:
    """A client without a library that comes and goes, and resumes where it was.

    Args:
        world: in which it is.
        kind: the class of its connections.
        random: what it does.
        positions: whether it asks for positions.
        stays_away: whether it often stays away for longer than the messages are kept of a pattern that it always has.
    """

    def __init__(
        self, world: World, kind: type[Wire | Stream], random: Random, *, positions: bool, stays_away: bool = False
    ) -> None:
        self.desks: list[Desk] = []
        self.connected = asyncio.Event()
        self._world = world
        self._kind = kind
        self._random = random
        self._positions = positions
        self._stays_away = stays_away

    async def run(self) -> None:
        while not self._world.stopping.is_set():
            again = self._random.random() < 0.15 and not (self._stays_away or self._world.settling.is_set())
            if not self.desks or again:
                self._choose()
            index = self._random.randrange(len(self._world.servers.ports))
            url = self._world.servers.api(index) if self._kind is Stream else self._world.servers.ws(index)
            connection = await self._kind.open(url, self.desks)
            if connection is None:
                await asyncio.sleep(self._random.uniform(0.05, 0.3))
                continue
            self.connected.set()
            await self._stay(connection)
            self.connected.clear()
            connection.transport.abort()
            await connection.closed.wait()
            await asyncio.sleep(self._random.choice([0.0, 2.0, 3.0] if self._stays_away else [0.0, 0.0, 0.3, 2.0]))

    def _choose(self) -> None:
        chosen = [SHORT[0]] if self._stays_away else self._random.sample(SUBSCRIBED, self._random.randint(1, 3))
        name = f"{self._kind.name}{' with positions' if self._positions else ''}"
        self.desks = [Desk(self._world.account, name, each, positions=self._positions) for each in chosen]

    async def _stay(self, connection: Wire | Stream) -> None:
        """Stay until the connection ends, or for a while; in the end until the soak is over."""
        await first_of(connection.closed, self._world.settling, seconds=self._random.expovariate(1 / 4))
        if self._world.settling.is_set():
            await first_of(connection.closed, self._world.stopping)

    @property
    def lives(self) -> list[Life]:
        return [desk.life for desk in self.desks if desk.life is not None]


class SlowReader:
    """A WebSocket client that stops reading until the server closes it, and then resumes."""

    def __init__(self, world: World, publishing: Publishing, random: Random) -> None:
        self.desk = Desk(world.account, "slow websocket", BULK, positions=True)
        self._world = world
        self._publishing = publishing
        self._random = random

    async def run(self) -> None:
        slow = self._random.random
        while not self._world.stopping.is_set():
            connection = await Wire.open(self._world.servers.ws(0), [self.desk], small=True)
            if connection is None:
                await asyncio.sleep(0.2)
                continue
            if self._world.settling.is_set() or self._world.over:
                await first_of(connection.closed, self._world.stopping)
            else:
                await asyncio.sleep(2 * slow())
                connection.transport.pause_reading()
                for _ in range(120):
                    await self._publishing.publish(BULK, LARGE)
                await asyncio.sleep(0.5)
                connection.transport.resume_reading()
                await first_of(connection.closed, seconds=3.0)
                self._world.happened[f"slow reader closed with {connection.close_code}"] += 1
            connection.transport.abort()
            await connection.closed.wait()

    @property
    def lives(self) -> list[Life]:
        return [] if self.desk.life is None else [self.desk.life]
