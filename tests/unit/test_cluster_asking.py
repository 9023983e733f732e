"""Questions to a cluster that are not answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.asking import ClusterQuestions
from realizehit.broker.cluster.shards import Shards
from realizehit.broker.cluster.topology import Topology
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.errors import BrokerUnavailable, BrokerUnclear

ADDRESS = ClusterAddress("redis+cluster://127.0.0.1:1")
CHANNEL = b"a:1"


class Watch:
    """Knows nothing."""

    current = None
    trouble = None

    def add_listener(self, listener: Callable[[Topology], None]) -> None:
        pass

    def refresh_soon(self, place: Any = None) -> None:
        pass


WATCH = cast("TopologyWatch", Watch())


class Owner:
    """Shards that are all one machine."""

    changed = asyncio.Event()

    def __init__(self, is_connected: bool) -> None:
        self.is_connected = is_connected

    def owner_of(self, slot: int) -> Owner:
        return self


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_question_that_was_sent_and_is_late_is_unclear(is_connected: bool) -> None:
    questions = ClusterQuestions(ADDRESS, cast("Shards", Owner(is_connected)), WATCH, 0.01)

    async def call(shard: Any, asking: bool) -> None:
        await asyncio.Event().wait()

    with pytest.raises(BrokerUnavailable) as caught:
        await questions.at(CHANNEL, call)
    assert isinstance(caught.value, BrokerUnclear) is is_connected
