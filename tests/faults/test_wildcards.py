"""Wildcard and exact subscriptions that come and go on whole servers while thousands of messages are published."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from realizehit.broker.shapes.registry import KEY
from tests.support import model_pattern
from tests.support.churn import Filters, HttpPublisher, Ledger, Member, publications, wildcard
from tests.support.figures import note
from tests.support.processes import Server
from tests.support.programs import needs
from tests.support.proxy import Proxy
from tests.support.redis_server import RedisServer
from tests.support.valkey import Valkey

PUBLICATIONS = 20_000
MEMBERS = 30
SHAPES = 56  # fewer than a registry holds
START_PAUSE = 0.1  # seconds between two requests of a publisher while a bridge starts
DELAY = 0.02  # seconds that a far server hears later of what the broker did
KEYS = ["kind", "channel", "user", "lang"]


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


class Rig:
    """Two servers that publish, three that serve WebSockets, and what clients do with them.

    Args:
        broker: the broker of all of them.
        seed: of all random choices.
        total: how many messages are published.
    """

    def __init__(self, broker: Valkey, seed: int, total: int) -> None:
        self.broker = broker
        self.random = Random(seed)
        self.total = total
        self.ledger = Ledger()
        self.publications = publications(self.random, KEYS, 150)
        self.wildcards: dict[str, list[Filters]] = {}  # by shape
        while len(self.wildcards) < SHAPES:
            self._add_wildcard()
        for _ in range(200):
            self._add_wildcard()
        self.members: list[Member] = []
        self.apis: list[Server] = []
        self.nodes: list[Server] = []
        self.pause = 0.0  # seconds between two requests of a publisher

    def _add_wildcard(self) -> None:
        filters = wildcard(self.random, self.random.choice(self.publications))
        shape = model_pattern.shape(filters)
        if shape in self.wildcards or len(self.wildcards) < SHAPES:
            self.wildcards.setdefault(shape, []).append(filters)

    async def start_api(self, number: int, port: int = 0) -> Server:
        """Start a server of the publish API, on a free port unless one is named."""
        url = self.broker.url if number else self.far
        return await asyncio.to_thread(Server, "--role", "api", "--redis", url, "--api-port", str(port))

    @asynccontextmanager
    async def servers(self) -> AsyncIterator[None]:
        """Run the servers; the first of each kind is far from the broker."""
        async with AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Proxy(self.broker.socket))
            proxy.delay = DELAY
            self.far = proxy.url
            stack.push_async_callback(self.stop)
            for number in range(3):
                url = self.far if not number else self.broker.url
                words = "--role", "ws", "--redis", url, "--max-actions", "0"
                self.nodes.append(await asyncio.to_thread(Server, *words))
            for number in range(2):
                self.apis.append(await self.start_api(number))
            yield

    async def start_bridge(self) -> Server:
        """Start a server that has no clients, and wait until it is the bridge.

        The publishers publish less meanwhile: otherwise most would be published before a slow machine has started it.
        """
        words = "--role", "ws", "--bridge", "--redis", self.broker.url, "--drain-seconds", "0.1"
        self.pause = START_PAUSE
        bridge = await asyncio.to_thread(Server, *words)
        await asyncio.to_thread(bridge.find, "this is the bridge now")
        self.pause = 0.0
        return bridge

    async def stop(self) -> None:
        """Stop the servers."""
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in (*self.nodes, *self.apis)))

    # ---- what clients do

    def _pattern(self) -> Filters:
        """Return a pattern to subscribe to; shapes come into use one after the other."""
        if self.random.random() < 0.5:
            return self.random.choice(self.publications)
        in_use = 3 + (SHAPES - 3) * self.ledger.total // self.total
        return self.random.choice(self.wildcards[self.random.choice(list(self.wildcards)[:in_use])])

    async def come_and_go(self, stay: bool) -> None:
        """Connect to servers, subscribe, wait, leave, until all is published; keep the last connection.

        Args:
            stay: whether to keep all subscriptions of the first connection.
        """
        while True:
            member = await Member.join(self.random.choice(self.nodes).ws, self.ledger)
            for _ in range(1000 if stay else self.random.randrange(1, 5)):
                await self._subscribe(member)
                await self.ledger.until(
                    min(self.total, self.ledger.total + self.random.randrange(20, 3000 if stay else 1500))
                )
                assert not member.closed.is_set(), "the server closed the connection"
                if self.ledger.total >= self.total:
                    self.members.append(member)
                    return
                if not stay:
                    await self._unsubscribe(member)
            member.leave()
            assert member.unexpected == []

    async def _subscribe(self, member: Member) -> None:
        patterns: dict[str, Filters] = {}
        for _ in range(self.random.randrange(1, 7)):
            filters = self._pattern()
            if not member.has(filters):
                patterns[model_pattern.channel(filters, wildcards=True)] = filters
        await asyncio.gather(*map(member.subscribe, patterns.values()))

    async def _unsubscribe(self, member: Member) -> None:
        leaving = [one for one in member.current.values() if self.random.random() < 0.5]
        patient = [one for one in leaving if not self.ledger.lossy and self.random.random() < 0.5]
        await asyncio.gather(*map(member.received_all, patient))
        await asyncio.gather(*map(member.unsubscribe, leaving))

    async def publish(self, publisher: HttpPublisher) -> None:
        """Publish single messages and batches until there have been enough."""
        while self.ledger.total < self.total:
            size = self.random.choice([1, 1, 1, self.random.randrange(2, 100)])
            if not await publisher.publish(self.random.choices(self.publications, k=size)):
                assert self.ledger.lossy, "a publication was refused"
                await asyncio.sleep(0.05)
            if self.pause:
                await asyncio.sleep(self.pause)

    async def run(self, disturb: Callable[[Rig], Coroutine[Any, Any, None]] | None = None) -> dict[str, int]:
        """Let clients and publishers work, disturb them, and check the account."""
        self.ledger.lossy = disturb is not None
        publishers = [HttpPublisher(self.ledger, number, self.apis[number % 2].api) for number in range(4)]
        async with asyncio.TaskGroup() as group:
            for number in range(MEMBERS):
                group.create_task(self.come_and_go(stay=self.ledger.lossy and number % 2 == 0))
            for publisher in publishers:
                group.create_task(self.publish(publisher))
            if disturb is not None:
                group.create_task(disturb(self))
        await self.ledger.settle(told=disturb is change_bridges)  # nodes learn of that gap when they renew their shapes
        counts = self.ledger.check()
        for member in self.members:
            assert member.unexpected == []
            member.leave()
        for publisher in publishers:
            publisher.close()
        if not self.ledger.lossy:
            assert self.ledger.refused == []
        return counts


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
        counts = await rig.run(disturb)
    assert counts["delivered"] > rig.total
    assert bool(counts["told"]) == (disturb is not kill_publishers)
    note_counts(disturb.__name__.replace("_", " "), counts)
