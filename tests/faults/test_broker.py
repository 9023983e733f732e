"""A broker that dies, stops, cuts, delays, fills up, loads: clients stay, everything returns, and losses are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import orjson
import pytest

from realizehit.broker.base import BusState
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.errors import BrokerRefused
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.figures import note
from tests.support.gaps import LATENESS, TOO_LONG
from tests.support.ledger import Source, Witness
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey
from tests.support.wire import unique

CHANNELS = 200
CLIENTS = 8

WITHIN = 2.0  # seconds from the broker's return, when it answers again, until all is in force and told: as promised


class Rig:
    """A node with clients, and a publisher that never stops."""

    def __init__(self, node: Node, source: Source, clients: list[Witness], patterns: list[Pattern]) -> None:
        self.node = node
        self.source = source
        self.clients = clients
        self.patterns = patterns

        self.since = 0.0  # when all subscriptions had been answered
        self.until = 0.0  # up to when what was published has come, or will not; see `settled`

    def of(self, number: int) -> list[Pattern]:
        """The patterns of one client; each has two clients."""
        step = len(self.patterns) // CLIENTS
        return [self.patterns[(number * step + n) % len(self.patterns)] for n in range(2 * step)]

    async def state(self, wanted: BusState, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while self.node.bus.state is not wanted:
                await asyncio.sleep(0.005)

    async def restored(self, returned: float, times: int = 1) -> float:
        """Wait until every client was told of the gap; return the seconds since the broker's return."""
        async with asyncio.timeout(30):
            while not all(len(one.gaps) >= times for one in self.clients):
                await asyncio.sleep(0.005)
        return max(0.0, max(one.gaps[-1][0] for one in self.clients) - returned)

    async def flows(self) -> None:
        """Wait until something newly published has come to every client."""
        counts = [len(one.seen) for one in self.clients]
        async with asyncio.timeout(20):
            while not all(len(one.seen) > count for one, count in zip(self.clients, counts, strict=True)):
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Wait until what was published up to now has come wherever it will: something newer has, of each pattern."""
        self.until = time.monotonic()
        marks = {pattern.id.encode(): len(self.source.sent[pattern.id]) for pattern in self.patterns}
        async with asyncio.timeout(60):
            for number, one in enumerate(self.clients):
                wanted, looked = {pattern.id.encode() for pattern in self.of(number)}, 0
                while wanted:
                    news, looked = one.seen[looked:], len(one.seen)
                    for _, text in news:
                        label, mark, payload = text.partition(b"?")
                        if mark and label in wanted and int(payload) >= marks[label]:
                            wanted.discard(label)
                    await asyncio.sleep(0.01)

    def check(self, *, lost: bool, gaps: int = 1, gone: float | None = None) -> None:
        """Every publication came once and in order, or was told; nobody else was told, and nobody had to leave.

        Args:
            lost: whether something may be missing.
            gaps: how many were told to each client.
            gone: when the broker went; no gap begins much earlier.
        """
        missing = 0
        for number, one in enumerate(self.clients):
            assert not one.closed.is_set()
            assert len(one.gaps) == gaps
            for when, event in one.gaps:
                assert gone is None or when - event["seconds"] >= gone - TOO_LONG - LATENESS
                assert sorted(event["ids"]) == sorted(pattern.id for pattern in self.of(number))
            for pattern in self.of(number):
                came, covered = one.check(self.source, pattern, self.since, self.until)
                assert came
                missing += covered
        assert lost or not missing


@asynccontextmanager
async def rig(valkey: Valkey, url: str = "", *, publish_to: str = "", channels: int = CHANNELS) -> AsyncIterator[Rig]:
    patterns = [Pattern(unique("broker")) for _ in range(channels)]
    bus = open_bus(publish_to or valkey.url, publish_timeout=0.5)
    async with serve(Settings(port=0, redis=url or valkey.url, publish_timeout=1.0)) as node:
        await bus.start(None)
        clients = [await Witness.connect(node.ws_url) for _ in range(CLIENTS)]
        it = Rig(node, Source(bus), clients, patterns)
        for number, one in enumerate(it.clients):
            for pattern in it.of(number):
                assert "ret" in await one.ask("sub", pattern)
        it.since = time.monotonic()
        flow = asyncio.create_task(it.source.run(patterns))
        try:
            await it.flows()
            yield it
        finally:
            flow.cancel()
            with suppress(asyncio.CancelledError):
                await flow
            for one in it.clients:
                one.transport.abort()
            await bus.close()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 6.0])
async def test_killed_and_started_again(valkey: Valkey, seconds: float) -> None:
    async with rig(valkey) as it:
        gone = time.monotonic()
        valkey.kill()
        await it.state(BusState.DOWN)
        await asyncio.sleep(seconds)  # long enough for the pauses between attempts to have grown as far as they do
        await asyncio.to_thread(valkey.start)
        took = await it.restored(time.monotonic())
        note(f"Broker: kill -9, away for {seconds:g} s, from its return until all is in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        await it.settled()
        it.check(lost=True, gone=gone)


@pytest.mark.slow
async def test_stopped_for_thirty_seconds(valkey: Valkey) -> None:
    async with rig(valkey) as it:
        began = time.monotonic()
        valkey.pause()
        await it.state(BusState.DOWN)
        note("Broker: SIGSTOP, until it is noticed", time.monotonic() - began, "s")
        assert time.monotonic() - began < 10
        await asyncio.sleep(max(0.0, began + 30 - time.monotonic()))
        valkey.resume()
        took = await it.restored(time.monotonic())
        note("Broker: SIGSTOP for 30 s, from SIGCONT until all is in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        await it.settled()
        it.check(lost=True, gone=began)


async def test_a_proxy_that_cuts(valkey: Valkey) -> None:
    async with Proxy(valkey.socket) as proxy, rig(valkey, proxy.url, channels=40) as it:
        for times in range(1, 4):
            await proxy.cut()
            took = await it.restored(time.monotonic(), times)
            assert took < WITHIN
        note("Broker: connection cut, until all is in force and told", took, "s")
        await it.flows()
        await it.settled()
        it.check(lost=True, gaps=3)


async def test_a_proxy_that_truncates_in_the_middle_of_a_message(valkey: Valkey) -> None:
    async with Proxy(valkey.socket) as proxy, rig(valkey, proxy.url, channels=40) as it:
        for times, size in enumerate((1, 37, 1009), 1):
            proxy.truncate = size
            await it.restored(time.monotonic(), times)
        await it.flows()
        await it.settled()
        it.check(lost=True, gaps=3)


async def test_a_proxy_that_delays_loses_nothing(valkey: Valkey) -> None:
    async with Proxy(valkey.socket) as proxy, rig(valkey, proxy.url, channels=40) as it:
        proxy.delay = 0.3
        await asyncio.sleep(1.5)  # more than there is between two PINGs
        await it.settled()
        proxy.delay = 0.0
        await it.settled()
        assert it.node.bus.reconnects == 0
        it.check(lost=False, gaps=0)


@pytest.mark.slow
async def test_a_network_that_swallows_everything(valkey: Valkey) -> None:
    async with Proxy(valkey.socket) as proxy, rig(valkey, proxy.url, channels=40) as it:
        began = time.monotonic()
        proxy.swallow = True
        await it.state(BusState.DOWN)
        took = time.monotonic() - began
        note("Broker: packets swallowed, until it is noticed", took, "s")
        assert took < 10
        await asyncio.sleep(6)
        proxy.swallow = False
        await proxy.cut()  # what was swallowed does not come back by itself
        took = await it.restored(time.monotonic())
        note("Broker: packets swallowed, from the end of that until all is in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        await it.settled()
        it.check(lost=True, gone=began)
        assert all(event["seconds"] > 12 for one in it.clients for _, event in one.gaps)


async def test_client_kill_of_all_connections(valkey: Valkey) -> None:
    async with rig(valkey, channels=40) as it:
        await it.node.bus.ping()  # so that there is a connection to publish over
        own = {one["id"]: one["name"] for one in valkey.clients() if one["name"].startswith("realizehit")}
        # The node's three, and that of the publisher beside it, which goes by the same name.
        names = ["realizehit", "realizehit-fleet", "realizehit-publisher", "realizehit-publisher"]
        assert sorted(own.values()) == names
        for client in own:
            valkey.command("CLIENT", "KILL", "ID", client)
        took = await it.restored(time.monotonic())
        assert took < WITHIN
        more = Pattern(unique("more"))  # that is not in the ledger
        assert "ret" in await it.clients[0].ask("sub", more)
        assert await it.node.bus.publish(Publication(more.channel.encode(), b"1")) == Published(1)
        await it.flows()
        assert own.keys().isdisjoint(one["id"] for one in valkey.clients())
        await it.settled()
        it.check(lost=True)


async def test_the_wrong_password_after_a_restart_is_waited_out(tmp_path: Path) -> None:
    with Valkey(tmp_path, user="node on >first ~* &* +@all") as valkey:
        url = f"unix://node:first@{valkey.socket}"
        async with rig(valkey, url, publish_to=url, channels=40) as it:
            valkey.kill()
            valkey._config["user"] = "node on >second ~* &* +@all"
            await it.state(BusState.DOWN)
            await asyncio.to_thread(valkey.start)
            with pytest.raises(BrokerRefused, match="WRONGPASS"):
                await it.node.bus.ping()
            await asyncio.sleep(0.5)
            assert it.node.bus.state is BusState.DOWN
            valkey.kill()
            valkey._config["user"] = "node on >first ~* &* +@all"
            await asyncio.to_thread(valkey.start)
            took = await it.restored(time.monotonic())
            assert took < WITHIN
            await it.flows()
            await it.settled()
            it.check(lost=True)


@pytest.mark.slow
async def test_the_broker_drops_a_subscriber_that_reads_too_slowly(valkey: Valkey) -> None:
    async with Proxy(valkey.socket) as proxy, rig(valkey, proxy.url, channels=40) as it:
        filler = Pattern(unique("filler"))
        assert "ret" in await it.clients[0].ask("sub", filler)
        valkey.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 32kb 1")
        proxy.delay = 1.0
        big = b'"' + b"x" * 60_000 + b'"'
        async with asyncio.timeout(20):
            while it.node.bus.reconnects == 0:
                await it.source.bus.publish(Publication(filler.channel.encode(), big))
                if it.node.bus.state is BusState.DOWN:
                    proxy.delay = 0.0
        proxy.delay = 0.0
        await it.restored(time.monotonic())
        await it.flows()
        await it.settled()
        for one in it.clients:
            assert not one.closed.is_set()
            assert one.gaps
            for pattern in it.of(it.clients.index(one)):
                one.check(it.source, pattern, it.since, it.until)


async def test_a_broker_without_memory_still_carries_messages(valkey: Valkey) -> None:
    async with rig(valkey, channels=40) as it, httpx2.AsyncClient(base_url=it.node.api_url, timeout=20) as api:
        valkey.command("SET", "ballast", "x" * 100_000)
        valkey.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        valkey.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Exception, match="maxmemory"):
            valkey.command("SET", "more", "x")
        body = orjson.dumps({"pattern": dict(it.patterns[0]), "payload": "out of memory"})
        # A new subscription takes memory at the broker, a publication none that is kept.
        fresh = Pattern(unique("oom"))
        reply = await it.clients[0].ask("sub", fresh)
        assert reply.get("ret") == fresh.id
        response = await api.post("", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 200, response.text
        assert response.json()["nodes"] == 1
        await it.flows()
        assert it.node.bus.reconnects == 0


@pytest.mark.slow
async def test_a_broker_that_loads_its_data_is_waited_for(tmp_path: Path) -> None:
    with Valkey(tmp_path, enable_debug_command="yes") as valkey:
        async with rig(valkey, channels=40) as it:
            valkey.command("DEBUG", "POPULATE", "60000", "key", "50")
            valkey.command("SAVE")
            valkey.kill()
            await it.state(BusState.DOWN)
            valkey._config.update({"key-load-delay": "25", "loading-process-events-interval-bytes": "1024"})
            starting = asyncio.create_task(asyncio.to_thread(valkey.start))
            seen = await until_loading(valkey, starting)
            assert it.node.bus.state is BusState.DOWN
            await starting
            async with asyncio.timeout(60):
                while await asyncio.to_thread(loading, valkey):
                    await asyncio.sleep(0.02)
            took = await it.restored(time.monotonic())
            note("Broker: loading its data, from its end until all is in force and told", took, "s")
            assert seen
            assert took < WITHIN
            await it.flows()
            await it.settled()
            it.check(lost=True)


async def until_loading(valkey: Valkey, starting: Awaitable[None]) -> bool:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(loading, valkey):
            await asyncio.sleep(0.01)
    return True


def loading(valkey: Valkey) -> bool:
    import redis

    with suppress(redis.ConnectionError):
        return b"loading:1" in valkey.command("INFO", "persistence")
    return False
