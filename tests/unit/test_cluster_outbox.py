"""Publications to a cluster that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.deliveries import FutureReceiver
from realizehit.broker.cluster.outbox import Outbox
from realizehit.broker.cluster.registry_view import RegistryView
from realizehit.broker.cluster.shards import Shards
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.topology import Topology
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publication import Publication, Published
from realizehit.broker.publish_errors import PublishErrors
from realizehit.errors import BrokerUnavailable

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


class View:
    """A view that is as a test says."""

    shapes = ()

    def __init__(self) -> None:
        self.young = False

    def is_young(self, now: float) -> bool:
        return self.young

    def covers(self, time: float) -> bool:
        return False


class Unowned:
    """Shards of a cluster in which nobody owns a slot."""

    def owner_of(self, slot: int) -> None:
        return None


def outbox_with(view: View) -> Outbox:
    return Outbox(
        cast("Shards", Unowned()),
        cast("RegistryView", view),
        WATCH,
        PublishErrors(ADDRESS, 0.01),
        counts=ProjectionCounts(),
        late=lambda trouble: BrokerUnavailable("late"),
        project=True,
        timeout=0.01,
    )


def publish(outbox: Outbox) -> FutureReceiver:
    receiver = FutureReceiver(1)
    outbox.begin(Publication(CHANNEL, b"1"), receiver)
    return receiver


async def judged(outbox: Outbox) -> None:
    """Let the outbox end what it does about what is late."""
    async with asyncio.timeout(5):
        while outbox._open:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("young", [False, True])
async def test_what_failed_is_kept_nowhere(young: bool) -> None:
    """It waits for a view, or for an owner of its slot, and neither comes."""
    view = View()
    view.young = young
    outbox = outbox_with(view)
    receiver = publish(outbox)
    waiting = outbox._routes._route(slot_of(CHANNEL))
    assert len(waiting.waiting if young else outbox._held) == 1
    (outcome,) = await receiver.future
    assert isinstance(outcome, BrokerUnavailable)
    await judged(outbox)
    assert (list(outbox._held), waiting.waiting) == ([], [])
    outbox.close()


async def test_what_no_view_confirms_in_time_is_kept_nowhere() -> None:
    view = View()
    view.young = True
    outbox = outbox_with(view)
    receiver = publish(outbox)
    (part,) = outbox._routes._route(slot_of(CHANNEL)).waiting
    outbox._answered(part, Published(1))
    assert len(outbox._unconfirmed) == 1
    await receiver.future
    await judged(outbox)
    assert not outbox._unconfirmed
    outbox.close()
