"""A soak of history: clients of all transports, publishers of all kinds, and faults that overlap, for a time.

`run` returns the account of it, checked by its caller.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Final

from realizehit.broker.open import open_bus
from realizehit.client.api import APIClient
from tests.soak.clients import JavaScriptClient, PythonClient
from tests.soak.cluster_faults import ClusterBroker
from tests.soak.faults import DOWN_AFTER, Broker, SentinelBroker, Servers, SingleBroker, break_things, rules_file
from tests.soak.publishers import Publishing, through_api, to_broker
from tests.soak.readers import EngineIO, Stream, Wire
from tests.soak.subscribers import Reader, SlowReader
from tests.soak.world import BULK, KEPT, PLAIN, RULES, SETTLED, SHORT, SUBSCRIBED, WILD_KEPT, WILD_PLAIN, Plan, World
from tests.support import model_pattern
from tests.support.account import Account
from tests.support.account_records import Came, Life
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.sentinels import Watched
from tests.support.valkey import Valkey

CUTS: Final = 5
QUEUE: Final = ("--max-queue-bytes", "200000", "--slow-grace", "0.2")


@asynccontextmanager
async def broker_of(
    plan: Plan, directory: Path, account: Account, random: Random
) -> AsyncIterator[tuple[Broker, str, str]]:
    """Start the broker; yield it, its URL, and a URL behind a proxy that breaks."""
    if plan.broker == "cluster":
        with Cluster(directory, separable=True, cluster_allow_pubsubshard_when_down="no") as cluster:
            account.sharded = True
            channels = [model_pattern.channel(dict(filters), wildcards=True) for filters in (*SUBSCRIBED, BULK)]
            yield ClusterBroker(cluster, account, random, channels), cluster.url, cluster.url
        return
    if plan.broker == "sentinel":
        with Watched(directory, down_after=DOWN_AFTER) as watched:
            yield SentinelBroker(watched, account, random), watched.url, watched.url
        return
    # What the process has answered is written, although not yet to the disk: killing the process loses nothing.
    with Valkey(directory, appendonly="yes", save="") as valkey:
        async with Proxy(valkey.socket) as proxy:
            yield SingleBroker(valkey, proxy, account, random), valkey.url, proxy.url


async def run(plan: Plan, directory: Path) -> World:
    """Run a soak, and return what happened; its account is not checked yet."""
    random, account = Random(plan.seed), Account()
    rules = rules_file(directory, RULES)
    async with AsyncExitStack() as stack:
        broker, url, broken_url = await stack.enter_async_context(broker_of(plan, directory, account, random))
        common = ("--history", str(rules), "--drain-seconds", "1", "--publish-timeout", "2", *QUEUE)
        servers = Servers(random, ("--redis", broken_url, *common), ("--redis", url, "--workers", "2", *common))
        stack.push_async_callback(servers.stop)
        await servers.start()
        world = World(random, servers, account, time.monotonic() + plan.seconds)
        asyncio.get_running_loop().set_exception_handler(world.note_error)
        await _act(world, plan, broker, url, stack)
        await broker.note_logs()
        return world


async def _act(world: World, plan: Plan, broker: Broker, url: str, stack: AsyncExitStack) -> None:
    random = world.random
    bus = open_bus(url, publish_timeout=2.0)
    await bus.start(None)
    stack.push_async_callback(bus.close)
    apis = [await stack.enter_async_context(APIClient(world.servers.api(index), timeout=3.0)) for index in (0, 1)]
    publishing = [
        *(Publishing(world, f"api {index}", through_api(world, api), keyed=True) for index, api in enumerate(apis)),
        Publishing(world, "direct with keys", to_broker(bus, keyed=True), keyed=True),
        Publishing(world, "direct", to_broker(bus, keyed=False), keyed=False),
    ]
    bulk = Publishing(world, "bulk", to_broker(bus, keyed=True), keyed=True)
    seeds = itertools.count(plan.seed + 1)
    readers: list[Reader | SlowReader] = [
        Reader(world, kind, Random(next(seeds)), positions=positions, stays_away=positions and number == 0)
        for kind, count in ((Wire, 4), (EngineIO, 3), (Stream, 3))
        for positions in (True, True, False)
        for number in range(count)
    ]
    readers.append(SlowReader(world, bulk, Random(next(seeds))))
    proxy = await stack.enter_async_context(Proxy(world.servers.ports[1]))
    libraries = _libraries(world, plan, proxy)
    faults = {**broker.faults, **world.servers.faults, "clients cut": proxy.cut, "clients half open": _half_open(proxy)}
    for library in libraries:
        await library.start()
    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(reader.run())
        breaking = [
            group.create_task(break_things(faults, random, world.until, plan.pause, world.account, world.happened))
            for _ in range(2)
        ]
        breaking.append(group.create_task(_cut_libraries(world, proxy, plan.seconds)))
        flows = [group.create_task(each.run(0.04)) for each in publishing]
        await asyncio.gather(*breaking, *flows)
        world.settling.set()
        lives = await _settle(world, publishing[2], readers, libraries)
        for life in lives:
            life.final = True
        world.stopping.set()
    for library in libraries:
        await library.stop()


async def _cut_libraries(world: World, proxy: Proxy, seconds: float) -> None:
    """Cut the clients with a library off a few times, whatever else happens to them."""
    for _ in range(CUTS):
        await asyncio.sleep(seconds / (CUTS + 1))
        await proxy.cut()
        world.happened["clients with a library cut"] += 1


def _half_open(proxy: Proxy) -> Callable[[], Awaitable[None]]:
    async def half_open() -> None:
        proxy.swallow = True
        await asyncio.sleep(4.0)
        proxy.swallow = False
        await proxy.cut()

    return half_open


def _libraries(world: World, plan: Plan, proxy: Proxy) -> list[PythonClient | JavaScriptClient]:
    """Return the clients with a library; they connect through a proxy that breaks."""
    url = f"ws://127.0.0.1:{proxy.port}/ws"
    positions = [(filters, True) for filters in (*KEPT[:4], *SHORT, WILD_KEPT)]
    plain = [(filters, False) for filters in (KEPT[0], KEPT[5], *PLAIN, WILD_PLAIN)]
    libraries: list[PythonClient | JavaScriptClient] = [
        PythonClient(world.account, url, wanted) for wanted in (positions, plain, positions)
    ]
    if plan.javascript is not None:
        libraries += [
            JavaScriptClient(world.account, plan.javascript, url, transport, wanted)
            for transport, wanted in (("websocket", positions), ("websocket", plain), ("sse", positions))
        ]
    return libraries


async def _settle(
    world: World,
    publishing: Publishing,
    readers: Sequence[Reader | SlowReader],
    libraries: Sequence[PythonClient | JavaScriptClient],
) -> list[Life]:
    """Publish a last message to each pattern when all are connected, and wait until it has come to everybody."""
    async with asyncio.timeout(SETTLED):
        for reader in readers:
            if isinstance(reader, Reader):
                await reader.connected.wait()
            while not reader.lives:
                await asyncio.sleep(0.05)
    await asyncio.sleep(2.0)  # the clients with a library reconnect within this
    last = set()
    for filters in (*KEPT, *SHORT, *PLAIN, BULK):
        entry = await publishing.publish(filters)
        assert entry.taken, f"{entry} after the last fault"
        last.add(entry.serial)
    deadline = time.monotonic() + SETTLED
    while True:
        lives = [life for owner in (*readers, *libraries) for life in owner.lives]
        waiting = [life for life in lives if not _has_come(life, world.account, last)]
        if not waiting or time.monotonic() > deadline:
            return lives
        await asyncio.sleep(0.1)


def _has_come(life: Life, account: Account, last: set[int]) -> bool:
    wanted = sum(1 for serial in last if account.is_for(life, account.entries[serial]))
    have = sum(1 for event in life.events if isinstance(event, Came) and event.serial in last)
    return have >= wanted
