"""Wildcard and exact subscriptions that come and go on a cluster, while slots move and machines fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support import model_pattern
from tests.support.churn_rig import Deployment
from tests.support.cluster import Cluster, slot_of
from tests.support.figures import note

pytestmark = pytest.mark.slow

PUBLICATIONS = 4_000
PAUSE = 0.1  # seconds between two requests of a publisher: the first subscription to a shape takes more than a second
CONTROL = "{realizehit}:control"

Disturb = Callable[[Deployment, Cluster], Coroutine[Any, Any, None]]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def note_counts(what: str, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        note(f"Wildcards on a cluster: {what}, {PUBLICATIONS:,} publications: {name}", count, "")


async def test_clients_that_come_and_go_receive_exactly_what_they_subscribed_to(cluster: Cluster) -> None:
    deployment = Deployment(cluster.url, seed=1, total=PUBLICATIONS)
    deployment.pause = PAUSE
    async with deployment.servers():
        counts = await deployment.run()
    assert counts["told"] == 0
    note_counts("clients come and go", counts)


async def move_slots(deployment: Deployment, cluster: Cluster) -> None:
    """Move the slots of channels in use, of projections and of the registry, thirty times."""
    random = Random(3)
    for part in range(1, 31):
        await deployment.ledger.until(part * deployment.total // 32)
        primaries = cluster.primaries
        current = [
            one.filters for one in deployment.ledger.subscriptions if one.replied is not None and one.left is None
        ]
        in_use = [model_pattern.channel(filters, wildcards=True) for filters in current]
        name = CONTROL if part % 10 == 0 or not in_use else random.choice(in_use)
        owner = cluster.owner(name)
        target = random.choice([machine for machine in primaries if machine is not owner])
        await asyncio.to_thread(cluster.move_slot, slot_of(name), target)


async def fail(deployment: Deployment, cluster: Cluster) -> None:
    """Have a replica take over from the primary of the registry, and kill another primary."""
    await deployment.ledger.until(deployment.total // 3)
    await asyncio.to_thread(cluster.failover, cluster.owner(CONTROL))
    await deployment.ledger.until(deployment.total // 2)
    await asyncio.to_thread(cluster.settle)
    owner = cluster.owner(CONTROL)
    await asyncio.to_thread(cluster.kill_primary, next(each for each in cluster.primaries if each is not owner))


@pytest.mark.parametrize("disturb", [move_slots, fail])
async def test_after_a_fault_clients_receive_everything_or_are_told_of_a_gap(
    cluster: Cluster, disturb: Disturb
) -> None:
    deployment = Deployment(cluster.url, seed=2, total=PUBLICATIONS)
    deployment.pause = PAUSE
    async with deployment.servers():
        counts = await deployment.run(disturb(deployment, cluster))
    failed = [one for sent in deployment.ledger.sent.values() for one in sent if not one.taken]
    counts["failed"] = len(failed)
    assert counts["delivered"] > deployment.total
    if disturb is move_slots:
        assert not failed
    assert counts["told"] > 10
    note_counts(disturb.__name__.replace("_", " "), counts)
