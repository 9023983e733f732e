"""Wildcard and exact subscriptions that come and go on whole servers while thousands of messages are published."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from realizehit.broker.shapes.registry import KEY
from tests.support.churn_rig import Deployment
from tests.support.figures import note
from tests.support.processes import Server
from tests.support.programs import needs
from tests.support.redis_server import RedisServer
from tests.support.valkey import Valkey

PUBLICATIONS = 20_000
START_PAUSE = 0.1  # seconds between two requests of a publisher while a bridge starts


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A broker of the test's own: Valkey, or Redis as the distribution has it."""
    if request.param == "redis":
        needs("redis-server")
    with (RedisServer if request.param == "redis" else Valkey)(tmp_path) as server:
        yield server


def note_counts(what: str, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        note(f"Wildcards: {what}, {PUBLICATIONS:,} publications: {name}", count, "")


class Rig(Deployment):
    """Servers around one broker, which a test can break.

    Args:
        broker: the broker of all of them.
        seed: of all random choices.
        total: how many messages are published.
    """

    def __init__(self, broker: Valkey, seed: int, total: int) -> None:
        super().__init__(broker.url, seed, total, broker.socket)
        self.broker = broker

    async def start_bridge(self) -> Server:
        """Start a server that has no clients, and wait until it is the bridge.

        The publishers publish less meanwhile: otherwise most would be published before a slow machine has started it.
        """
        words = "--role", "ws", "--bridge", "--redis", self.url, "--drain-seconds", "0.1"
        self.pause = START_PAUSE
        bridge = await asyncio.to_thread(Server, *words)
        await asyncio.to_thread(bridge.find, "this is the bridge now")
        self.pause = 0.0
        return bridge


async def change_bridges(rig: Rig) -> None:
    """Start a bridge, end it, start another, kill that; in the end there is none."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for begins in (True, False):
            await rig.ledger.until(min(rig.total, rig.ledger.total + rig.total // 5))
            if begins:
                bridge = await rig.start_bridge()
            else:
                bridge.signal(number)
                await asyncio.to_thread(bridge.stop)


@pytest.mark.slow
async def test_clients_that_come_and_go_receive_exactly_what_they_subscribed_to(broker: Valkey) -> None:
    rig = Rig(broker, seed=1, total=PUBLICATIONS)
    async with rig.servers():
        counts = await rig.run()
    assert counts["told"] == 0
    note_counts("clients come and go", counts)


async def kill_publisher(rig: Rig, number: int) -> None:
    """Kill a server that publishes, and start it again on its port."""
    api = rig.apis[number]
    api.signal(signal.SIGKILL)
    await asyncio.to_thread(api.wait)
    rig.apis[number] = await rig.start_api(number, int(api.api.rstrip("/").rpartition(":")[2]))


async def kill_publishers(rig: Rig) -> None:
    """Kill one or the other server that publishes, five times."""
    for part in range(1, 6):
        await rig.ledger.until(part * rig.total // 6)
        await kill_publisher(rig, part % 2)


async def restart_broker(rig: Rig) -> None:
    """Kill the broker twice under load, and start it again without what it knew."""
    for part in (1, 2):
        await rig.ledger.until(part * rig.total // 3)
        rig.broker.kill()
        for file in rig.broker.directory.iterdir():
            if file.suffix == ".rdb":
                file.unlink()
        await asyncio.to_thread(rig.broker.start)


async def lose_registry(rig: Rig) -> None:
    """Delete the registry under load, as FLUSHALL does and a broker that evicts keys; a new publisher finds nothing."""
    await rig.ledger.until(rig.total // 2)
    rig.broker.command("DEL", KEY)
    await kill_publisher(rig, 1)


@pytest.mark.slow
@pytest.mark.parametrize("disturb", [kill_publishers, restart_broker, lose_registry, change_bridges])
async def test_after_a_fault_clients_receive_everything_or_are_told_of_a_gap(
    broker: Valkey, disturb: Callable[[Rig], Coroutine[Any, Any, None]]
) -> None:
    rig = Rig(broker, seed=2, total=PUBLICATIONS)
    async with rig.servers():
        # Nodes learn of the gap between two bridges when they renew their shapes.
        counts = await rig.run(disturb(rig), told=disturb is change_bridges)
    assert counts["delivered"] > rig.total
    assert bool(counts["told"]) == (disturb is not kill_publishers)
    note_counts(disturb.__name__.replace("_", " "), counts)
