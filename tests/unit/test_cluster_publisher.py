"""A cluster's publisher where nobody owns the slot of the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from realizehit.broker.base import Interest
from realizehit.broker.cluster import publisher as module
from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.bus import ClusterBus
from realizehit.broker.cluster.publisher import ClusterPublisher
from realizehit.broker.cluster.slots import SLOTS
from realizehit.broker.cluster.topology import Topology
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.errors import BrokerUnavailable
from tests.support.bus_recorder import Recorder
from tests.support.wildcard_fakes import FakeLink

ADDRESS = ClusterAddress("redis+cluster://127.0.0.1:1")
UNOWNED = Topology(1, (None,) * SLOTS, ())


class Watch:
    """Knows a topology in which nobody owns a slot."""

    current = UNOWNED
    trouble = None

    def add_listener(self, listener: Callable[[Topology], None]) -> None:
        pass

    def refresh_soon(self, place: Any = None) -> None:
        pass


WATCH = cast("TopologyWatch", Watch())


async def test_a_ping_fails_while_the_rules_that_are_followed_are_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_READ", 0.0)
    for follow in (True, False):
        publisher = ClusterPublisher(ADDRESS, WATCH, follow=follow, timeout=0.05)
        await publisher.start()
        try:
            if follow:
                with pytest.raises(BrokerUnavailable):
                    await publisher.ping()
            else:
                await publisher.ping()
        finally:
            await publisher.close()


async def test_what_a_node_subscribes_is_in_force_although_the_rules_are_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_READ", 0.0)
    bus, node, channel = ClusterBus("redis+cluster://127.0.0.1:1"), Recorder(), Interest(b"a:1")
    link = FakeLink()
    link.in_force.add(channel)
    bus._node, bus._subscribing = cast("Any", node), cast("Any", link)
    publisher = ClusterPublisher(ADDRESS, WATCH, follow=True, timeout=0.05)
    await publisher.start()
    assert not bus.subscribe(channel)
    following = asyncio.create_task(bus._follow(publisher))
    try:
        await node.until(lambda: node.confirmed == [channel])
        assert not bus.hold(channel)
    finally:
        following.cancel()
        await asyncio.wait({following})
        await publisher.close()
