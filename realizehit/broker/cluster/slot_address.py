"""The address of whatever machine of a cluster owns a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realizehit.broker.cluster.address import ClusterAddress, place_text
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.errors import BrokerUnavailable


class SlotAddress:
    """Leads each connection to the primary that owns a slot at that time; it can stand where an `Address` can.

    Args:
        address: the cluster.
        watch: knows the owners; it has been started.
        slot: the slot.
    """

    def __init__(self, address: ClusterAddress, watch: TopologyWatch, slot: int) -> None:
        self._address = address
        self._watch = watch
        self._slot = slot

    def __str__(self) -> str:
        return str(self._address)

    def login(self) -> list[str]:
        """Return the arguments of AUTH."""
        return self._address.login()

    def scrub(self, text: str) -> str:
        """Return a text without the passwords of this address."""
        return self._address.scrub(text)

    def current(self) -> str:
        """Return where the primary is, as `connect` does; empty where nobody knows."""
        topology = self._watch.current
        owner = None if topology is None else topology.owner_of(self._slot)
        return "" if owner is None else place_text(owner)

    def confirmed(self, place: str) -> float:
        """Return the loop's time up to which a place was certainly the owner; see `Address.confirmed`."""
        return self._watch.confirmed

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        """Open one connection to the primary, and return where that is; see `Address.connect`."""
        topology = self._watch.current
        owner = None if topology is None else topology.owner_of(self._slot)
        if owner is None:
            self._watch.refresh_soon()
            raise BrokerUnavailable(f"nobody knows who owns the slot {self._slot}")
        try:
            await self._address.node(*owner).connect(factory)
        except OSError:
            self._watch.refresh_soon()
            raise
        return place_text(owner)
