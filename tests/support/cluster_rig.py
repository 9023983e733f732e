"""A node with clients over a cluster, publishers that never stop, and an account of what each client was told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from realizehit.broker.cluster.watch import GOSSIP_DELAY, INTERVAL
from realizehit.broker.history.rules import Rule, Rules
from realizehit.broker.open import open_bus
from realizehit.pattern import Pattern
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.support.cluster import Cluster, slot_of
from tests.support.cluster_machine import Machine
from tests.support.gaps import LATENESS
from tests.support.ledger import Source, Witness
from tests.support.wire import unique

WITHIN = 2.0  # seconds from the new topology until all is in force and told: as promised
CLIENTS = 4
TOO_LONG = INTERVAL + GOSSIP_DELAY  # seconds by which a reported gap may be too long, as documented for a cluster
EACH = 8  # patterns of each shard
PUBLISH_TIMEOUT = 1.0
PATIENCE = 30.0

KEPT = Rules((Rule({"kept": ("yes",)}, 10_000, 3600.0),))


def patterns_of(machine: Machine, cluster: Cluster, count: int, **filters: Any) -> list[Pattern]:
    """Return patterns whose channels a machine owns, which no other test uses."""
    owned = set(cluster.owners()[machine])
    found: list[Pattern] = []
    while len(found) < count:
        pattern = Pattern({**unique("cluster"), **filters})
        if slot_of(pattern.channel) in owned:
            found.append(pattern)
    return found


class Rig:
    """What is observed.

    Attributes:
        shards: the patterns of each primary of the start.
        source: what was published, and what became of it.
        since: when all subscriptions had been answered.
    """

    def __init__(self, source: Source, clients: list[Witness], shards: dict[Machine, list[Pattern]]) -> None:
        self.source = source
        self.clients = clients
        self.shards = shards
        self.since = 0.0
        self._until = 0.0

    @property
    def patterns(self) -> list[Pattern]:
        return [pattern for patterns in self.shards.values() for pattern in patterns]

    def of(self, number: int) -> list[Pattern]:
        """The patterns of one client: half of each shard's; each pattern has two clients."""
        return [
            pattern
            for patterns in self.shards.values()
            for index, pattern in enumerate(patterns)
            if (index - number) % CLIENTS < CLIENTS // 2
        ]

    def told(self, number: int) -> Counter[str]:
        """How often each pattern of a client was told to have a gap."""
        return Counter(name for _, event in self.clients[number].gaps for name in event["ids"])

    async def restored(self, affected: Collection[Pattern], times: int = 1) -> float:
        """Wait until so many gaps of these patterns were told to all who have them; return when that was."""
        names = {pattern.id for pattern in affected}
        async with asyncio.timeout(PATIENCE):
            while not all(
                self.told(number)[pattern.id] >= times
                for number in range(CLIENTS)
                for pattern in self.of(number)
                if pattern.id in names
            ):
                await asyncio.sleep(0.005)
        return max(when for one in self.clients for when, _ in one.gaps)

    async def flows(self, patterns: Sequence[Pattern] | None = None) -> None:
        """Wait until something that is published from now on has come to all clients, of each of these patterns."""
        self._until = time.monotonic()
        chosen = self.patterns if patterns is None else patterns
        marks = {pattern.id.encode(): len(self.source.sent[pattern.id]) for pattern in chosen}
        async with asyncio.timeout(PATIENCE):
            for number, one in enumerate(self.clients):
                wanted, looked = {pattern.id.encode() for pattern in self.of(number)} & marks.keys(), 0
                while wanted:
                    news, looked = one.seen[looked:], len(one.seen)
                    for _, text in news:
                        label, mark, payload = text.partition(b"?")
                        if mark and label in wanted and int(payload) >= marks[label]:
                            wanted.discard(label)
                    await asyncio.sleep(0.01)

    def slowest(self, patterns: Collection[Pattern], began: float = 0.0) -> float:
        """Seconds that a publication to one of these patterns took at most, of those that ended after ``began``."""
        return max(
            entry.ended - entry.began
            for pattern in patterns
            for entry in self.source.sent[pattern.id]
            if entry.ended > began
        )

    def check(self, affected: Collection[Pattern], *, times: int | None = 1, gone: float | None = None) -> int:
        """Check that each message came once and in order, or was told; return how many were missed and told.

        Args:
            affected: the patterns whose gap must have been told; of no other one anything may have been told, or miss.
            times: how often the gap of each was told; None for any number.
            gone: when the fault began; no gap that was told begins much earlier.
        """
        missed = 0
        names = {pattern.id for pattern in affected}
        for number, one in enumerate(self.clients):
            assert not one.closed.is_set()
            told = self.told(number)
            own = {pattern.id for pattern in self.of(number)}
            assert told.keys() == own & names, f"told {sorted(told)}, affected {sorted(own & names)}"
            assert times is None or set(told.values()) <= {times}, told
            for when, event in one.gaps:
                assert gone is None or when - event["seconds"] >= gone - TOO_LONG - LATENESS, (when, event, gone)
            for pattern in self.of(number):
                came, missing = one.check(self.source, pattern, self.since, self._until, unclear_late=True)
                assert came
                assert not missing or pattern.id in names
                missed += missing
        return missed


@asynccontextmanager
async def rig(cluster: Cluster, ws_url: str = "", *, history: bool = False) -> AsyncIterator[Rig]:
    """Run clients of a node on a cluster, and a publisher for each shard.

    Args:
        cluster: it is started.
        ws_url: where its node is; one is started by default.
        history: whether all patterns have history.
    """
    async with AsyncExitStack() as stack:
        bus = open_bus(cluster.url, publish_timeout=PUBLISH_TIMEOUT)
        await bus.start(None)
        stack.push_async_callback(bus.close)
        if history:
            await bus.write_rules(KEPT)
        if not ws_url:
            settings = Settings(port=0, redis=cluster.url, publish_timeout=PUBLISH_TIMEOUT)
            ws_url = (await stack.enter_async_context(serve(settings))).ws_url
        filters = {"kept": "yes"} if history else {}
        shards = {machine: patterns_of(machine, cluster, EACH, **filters) for machine in cluster.primaries}
        it = Rig(Source(bus), [await Witness.connect(ws_url) for _ in range(CLIENTS)], shards)
        for number, one in enumerate(it.clients):
            stack.callback(one.transport.abort)
            for pattern in it.of(number):
                reply = await one.ask("sub", pattern)
                assert "ret" in reply, reply
        it.since = time.monotonic()
        running = [asyncio.create_task(it.source.run(patterns)) for patterns in shards.values()]
        try:
            await it.flows()
            yield it
        finally:
            for flow in running:
                flow.cancel()
            await asyncio.gather(*running, return_exceptions=True)
