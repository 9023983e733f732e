"""What goes wrong in the soak of a cluster: slots that move, primaries that fail, machines that come and go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final

from tests.soak.faults import Fault, note_log
from tests.support.account import Account
from tests.support.cluster import Cluster, slot_of
from tests.support.cluster_machine import Machine

CONTROL: Final = "{realizehit}:control"  # what the machines tell each other of shapes and rules is in its slot
LOSS: Final = 0.5  # seconds before and after a failover in which the machines may lose what they have answered


class ClusterBroker:
    """Primaries and their replicas. One of its faults is under way at a time.

    Args:
        cluster: one whose machines can be cut off.
        account: told when something may be lost.
        random: what happens.
        channels: those that are published to.
    """

    def __init__(self, cluster: Cluster, account: Account, random: Random, channels: Sequence[str]) -> None:
        self.faults: dict[str, Fault] = {
            "slots moved": self.move_slots,
            "replica takes over": self.fail_over,
            "primary killed": self.kill_primary,
            "primary stopped": self.stop_primary,
            "primary cut off": self.cut_off_primary,
            "connections killed": self.kill_connections,
            "primary added and removed": self.add_and_remove,
        }
        self._cluster = cluster
        self._account = account
        self._random = random
        self._channels = channels
        self._slots = sorted({slot_of(name) for name in (*channels, CONTROL)})
        self._busy = asyncio.Lock()

    async def note_logs(self) -> None:
        await self._do(self._note_logs)

    def _note_logs(self) -> None:
        for channel in self._channels:
            note_log(self._account, channel, self._cluster.owner(channel).command)

    async def _do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(work, *arguments)

    def _any_primary(self) -> Machine:
        return self._random.choice(self._cluster.primaries)

    async def _move(self, slot: int, to: Machine) -> None:
        owners = await self._do(self._cluster.owners)
        if slot not in owners.get(to, []):
            await self._do(self._cluster.move_slot, slot, to)

    async def move_slots(self) -> None:
        async with self._busy, self._outage():
            primaries = await self._do(lambda: self._cluster.primaries)
            for slot in self._random.sample(self._slots, 5):
                await self._move(slot, self._random.choice(primaries))

    async def fail_over(self) -> None:
        async with self._busy, self._outage():
            await self._do(self._cluster.failover, await self._do(self._any_primary))
            await self._do(self._cluster.settle)

    async def kill_primary(self) -> None:
        async with self._busy:
            began, primary = time.monotonic(), await self._do(self._any_primary)
            with self._account.outage():
                await self._do(self._cluster.kill_primary, primary)
            await self._do(primary.start)
            await self._do(self._cluster.settle)
            await self._lost(began)

    async def stop_primary(self) -> None:
        async with self._busy, self._outage():
            began, primary = time.monotonic(), await self._do(self._any_primary)
            candidates = await self._do(self._cluster.replicas, primary)
            primary.pause()
            try:
                await self._do(self._cluster.promoted, candidates)
            finally:
                primary.resume()
            await self._do(self._cluster.settle)
            await self._lost(began)

    async def cut_off_primary(self) -> None:
        async with self._busy, self._outage():
            began, primary = time.monotonic(), await self._do(self._any_primary)
            candidates = await self._do(self._cluster.replicas, primary)
            await self._do(self._cluster.cut_off, primary)
            try:
                await self._do(self._cluster.promoted, candidates)
                await asyncio.sleep(self._random.uniform(0.0, 1.0))
            finally:
                await self._do(self._cluster.rejoin, primary)
            await self._do(self._cluster.settle)
            await self._lost(began)

    async def kill_connections(self) -> None:
        async with self._busy, self._outage():
            machine, kind = await self._do(self._any_primary), self._random.choice(["pubsub", "normal"])
            await self._do(machine.command, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def add_and_remove(self) -> None:
        async with self._busy, self._outage():
            machine = await self._do(self._cluster.add_primary)
            for slot in self._random.sample(self._slots, 4):
                await self._move(slot, machine)
            await asyncio.sleep(self._random.uniform(0.0, 1.0))
            await self._do(self._cluster.remove_primary, machine)
            await self._do(self._cluster.settle)

    @asynccontextmanager
    async def _outage(self) -> AsyncIterator[None]:
        with self._account.outage():
            yield

    async def _lost(self, began: float) -> None:
        """Enter that what was answered since a failover began may be lost: replication is asynchronous."""
        self._account.lossy.append((began - LOSS, time.monotonic() + LOSS))
        await self.note_logs()
