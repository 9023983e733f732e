"""The publishing connections to all primaries of a cluster, as its topology changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from realizehit.broker.cluster.address import ClusterAddress, Place
from realizehit.broker.cluster.shard import Shard
from realizehit.broker.cluster.topology import Topology
from realizehit.broker.history.rules import NO_RULES, Rules
from realizehit.common.durations import Durations

GRACE: Final = 0.5  # seconds for the last replies of a machine that is no primary any more


class Shards:
    """Keeps one connection to each primary, made when it is needed.

    Args:
        address: the cluster.
        registrations: the registration of each shape of wildcards.
        window: seconds for which the broker remembers idempotency keys.
        timeout: seconds for the answer to anything.
        name: how the connections are called in the machines' ``CLIENT LIST``.
        on_up: see `Pipeline`.
        on_down: see there.

    Attributes:
        durations: how long scripts took.
        topology: the one that is in force; None before the first.
        changed: set once the topology changes; there is another event for the next change.
    """

    def __init__(
        self,
        address: ClusterAddress,
        *,
        registrations: Mapping[bytes, bytes],
        window: float,
        timeout: float,
        name: str,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self.durations = Durations()
        self.topology: Topology | None = None
        self.changed = asyncio.Event()
        self._address = address
        self._options: dict[str, Any] = {
            "registrations": registrations,
            "durations": self.durations,
            "window": window,
            "timeout": timeout,
            "name": name,
            "on_up": on_up,
            "on_down": on_down,
        }
        self._rules: Rules = NO_RULES
        self._shards: dict[Place, Shard] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._connects = 0  # of those that are gone

    @property
    def connects(self) -> int:
        """How often a connection was made."""
        return self._connects + sum(shard.connects for shard in self._shards.values())

    def at(self, place: Place) -> Shard:
        """Return the connection to a machine."""
        shard = self._shards.get(place)
        if shard is None:
            shard = self._shards[place] = Shard(self._address.node(*place), place, **self._options)
            shard.script.rules = self._rules
        return shard

    def owner_of(self, slot: int) -> Shard | None:
        """Return the connection to the machine that owns a slot; None while nobody knows."""
        place = None if self.topology is None else self.topology.owner_of(slot)
        return None if place is None else self.at(place)

    def take_rules(self, rules: Rules) -> None:
        """Have logs written by these rules from here on."""
        self._rules = rules
        for shard in self._shards.values():
            shard.script.rules = rules

    def take(self, topology: Topology) -> None:
        """Follow a new topology."""
        self.topology = topology
        self.changed.set()
        self.changed = asyncio.Event()

    def leave_others(self) -> None:
        """Leave the machines that are no primaries any more. Nothing new may be on the way to them."""
        primaries = () if self.topology is None else self.topology.primaries
        for place in [place for place in self._shards if place not in primaries]:
            shard = self._shards.pop(place)
            self._connects += shard.connects
            task = asyncio.get_running_loop().create_task(shard.retire(GRACE), name="realizehit retired shard")
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def close(self) -> None:
        """Disconnect."""
        shards, self._shards = list(self._shards.values()), {}
        self._connects += sum(shard.connects for shard in shards)
        for shard in shards:
            await shard.close()
        retiring = list(self._retiring)
        for task in retiring:
            task.cancel()
        if retiring:
            await asyncio.wait(retiring)
