"""A soak of history: clients of all transports, publishers of all kinds, and faults that overlap, for a time.

`run` returns the account of it, checked by its caller.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

from realizehit.broker.base import Bus
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication
from realizehit.client.api import APIClient
from realizehit.common.position import Position
from realizehit.errors import ClientError, PublishUnclear, RealizehitError
from realizehit.pattern import Pattern
from tests.soak.clients import JavaScriptClient, PythonClient
from tests.soak.cluster_faults import ClusterBroker
from tests.soak.faults import Broker, SentinelBroker, Servers, SingleBroker, break_things, rules_file
from tests.soak.readers import Desk, EngineIO, Stream, Wire, first_of
from tests.support import model_pattern
from tests.support.account import Account, Came, Entry, Filters, Life
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.sentinels import Watched
from tests.support.valkey import Valkey

BROKERS: Final = ("single", "sentinel", "cluster")

RULES: Final = """
[[history]]
pattern = { soak = "kept" }
size = 2000
ttl = "1h"

[[history]]
pattern = { soak = "short" }
size = 5
ttl = "1h"

[[history]]
pattern = { soak = "bulk" }
size = 300
ttl = "1h"
"""

KEPT: Final[list[Filters]] = [{"soak": "kept", "room": room} for room in range(6)]
SHORT: Final[list[Filters]] = [{"soak": "short", "room": room} for room in range(2)]
PLAIN: Final[list[Filters]] = [{"soak": "plain", "room": room} for room in range(4)]
BULK: Final[Filters] = {"soak": "bulk", "room": 0}
WILD_KEPT: Final[Filters] = {"soak": "kept", "room": "*"}
WILD_PLAIN: Final[Filters] = {"soak": "plain", "room": "*"}
PUBLISHED: Final = [*KEPT, *KEPT, *SHORT, *PLAIN]
SUBSCRIBED: Final = [*KEPT, *SHORT, *PLAIN, WILD_KEPT, WILD_PLAIN]

LARGE: Final = "x" * 40_000
SETTLED: Final = 40.0  # seconds until all has come, after the last fault
QUEUE: Final = ("--max-queue-bytes", "200000", "--slow-grace", "0.2")


@dataclass
class Plan:
    """What a soak is to do.

    Attributes:
        seconds: for how long things happen.
        seed: of what happens; the order of events differs from run to run all the same.
        broker: ``single``, one that keeps its data; ``sentinel``, a master and a replica with sentinels; ``cluster``.
        javascript: the directory of the JavaScript program; None to leave its clients out.
        pause: seconds between faults, about.
    """

    seconds: float
    seed: int
    broker: str = "single"
    javascript: Path | None = None
    pause: float = 3.0


@dataclass
class World:
    """What all actors share.

    Attributes:
        account: all that was published and received.
        happened: how often each fault was.
        errors: what was raised where nobody could catch it, such as in a connection's callbacks.
        settling: set when nothing goes wrong any more; the readers stay connected from then on.
    """

    random: Random
    servers: Servers
    account: Account
    until: float
    happened: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    settling: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until

    def note_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep an error that the event loop reports."""
        error = context.get("exception")
        self.errors.append(f"{context['message']}: {''.join(traceback.format_exception(error)) if error else ''}")

    def check(self) -> None:
        """Check that nothing was raised, and the account.

        Raises:
            AssertionError: the first thing that is wrong.
        """
        assert not self.errors, "\n".join(self.errors[:3])
        self.account.check()


Send = Callable[[Entry, Any], Awaitable[str | None]]
"""Publishes one message and returns its position, if it has one."""


class Publishing:
    """A publisher: one message after the other.

    Args:
        world: in which it is.
        name: in the account.
        send: publishes.
        keyed: whether `send` uses an idempotency key: what is unclear is then sent again.
    """

    def __init__(self, world: World, name: str, send: Send, *, keyed: bool) -> None:
        self._world = world
        self._name = name
        self._send = send
        self._keyed = keyed

    async def publish(self, filters: Filters, filling: str = "") -> Entry:
        """Publish the next message, and enter what became of it."""
        entry = self._world.account.enter(self._name, filters, time.monotonic())
        deadline = time.monotonic() + SETTLED
        while True:
            entry.attempts += 1
            try:
                at = await self._send(entry, [entry.serial, filling])
            except PublishUnclear:
                unclear = True
            except ClientError:
                unclear = True  # it has tried several times, and one of them may have been taken
            except RealizehitError:
                unclear = entry.attempts > 1
                if not unclear:
                    entry.taken = False
            else:
                entry.taken, entry.at = True, Position.parse(at)
                break
            if not (unclear and self._keyed and time.monotonic() < deadline):
                break
            await asyncio.sleep(0.05)
        entry.ended = time.monotonic()
        return entry

    async def run(self, pause: float) -> None:
        """Publish at random until the world ends."""
        while not self._world.over:
            entry = await self.publish(self._world.random.choice(PUBLISHED))
            await asyncio.sleep(self._world.random.uniform(0.0, 2 * pause) if entry.taken else 0.1)


def through_api(world: World, api: APIClient) -> Send:
    async def send(entry: Entry, payload: Any) -> str | None:
        result = await api.publish(entry.filters, payload, idempotency_key=f"{world.until}-{entry.serial}")
        return result.at

    return send


def to_broker(bus: Bus, *, keyed: bool) -> Send:
    async def send(entry: Entry, payload: Any) -> str | None:
        key = b"direct-%d" % entry.serial if keyed else b""
        channel = Pattern(dict(entry.filters)).channel.encode()
        return (await bus.publish(Publication(channel, orjson.dumps(payload), key))).at

    return send


class Reader:
    """A client without a library that comes and goes, and resumes where it was.

    Args:
        world: in which it is.
        kind: the class of its connections.
        random: what it does.
        positions: whether it asks for positions.
    """

    def __init__(self, world: World, kind: type[Wire | Stream], random: Random, *, positions: bool) -> None:
        self.desks: list[Desk] = []
        self.connected = asyncio.Event()
        self._world = world
        self._kind = kind
        self._random = random
        self._positions = positions

    async def run(self) -> None:
        while not self._world.stopping.is_set():
            if not self.desks or (self._random.random() < 0.15 and not self._world.settling.is_set()):
                self._choose()
            index = self._random.randrange(len(self._world.servers.ports))
            url = self._world.servers.api(index) if self._kind is Stream else self._world.servers.ws(index)
            connection = await self._kind.open(url, self.desks)
            if connection is None:
                await asyncio.sleep(self._random.uniform(0.05, 0.3))
                continue
            self.connected.set()
            await self._stay(connection)
            self.connected.clear()
            connection.transport.abort()
            await connection.closed.wait()
            await asyncio.sleep(self._random.choice([0.0, 0.0, 0.3, 2.0]))

    def _choose(self) -> None:
        chosen = self._random.sample(SUBSCRIBED, self._random.randint(1, 3))
        name = f"{self._kind.name}{' with positions' if self._positions else ''}"
        self.desks = [Desk(self._world.account, name, each, positions=self._positions) for each in chosen]

    async def _stay(self, connection: Wire | Stream) -> None:
        """Stay until the connection ends, or for a while; in the end until the soak is over."""
        await first_of(connection.closed, self._world.settling, seconds=self._random.expovariate(1 / 4))
        if self._world.settling.is_set():
            await first_of(connection.closed, self._world.stopping)

    @property
    def lives(self) -> list[Life]:
        return [desk.life for desk in self.desks if desk.life is not None]


class SlowReader:
    """A WebSocket client that stops reading until the server closes it, and then resumes."""

    def __init__(self, world: World, publishing: Publishing, random: Random) -> None:
        self.desk = Desk(world.account, "slow websocket", BULK, positions=True)
        self._world = world
        self._publishing = publishing
        self._random = random

    async def run(self) -> None:
        slow = self._random.random
        while not self._world.stopping.is_set():
            connection = await Wire.open(self._world.servers.ws(0), [self.desk], small=True)
            if connection is None:
                await asyncio.sleep(0.2)
                continue
            if self._world.settling.is_set() or self._world.over:
                await first_of(connection.closed, self._world.stopping)
            else:
                await asyncio.sleep(2 * slow())
                connection.transport.pause_reading()
                for _ in range(120):
                    await self._publishing.publish(BULK, LARGE)
                await asyncio.sleep(0.5)
                connection.transport.resume_reading()
                await first_of(connection.closed, seconds=3.0)
                self._world.happened[f"slow reader closed with {connection.close_code}"] += 1
            connection.transport.abort()
            await connection.closed.wait()

    @property
    def lives(self) -> list[Life]:
        return [] if self.desk.life is None else [self.desk.life]


@asynccontextmanager
async def broker_of(
    plan: Plan, directory: Path, account: Account, random: Random
) -> AsyncIterator[tuple[Broker, str, str]]:
    """Start the broker; yield it, its URL, and a URL behind a proxy that breaks."""
    if plan.broker == "cluster":
        with Cluster(directory, separable=True, cluster_allow_pubsubshard_when_down="no") as cluster:
            channels = [model_pattern.channel(dict(filters), wildcards=True) for filters in (*SUBSCRIBED, BULK)]
            yield ClusterBroker(cluster, account, random, channels), cluster.url, cluster.url
        return
    if plan.broker == "sentinel":
        with Watched(directory) as watched:
            yield SentinelBroker(watched, account, random), watched.url, watched.url
        return
    # What the process has answered is written, although not yet to the disk: killing the process loses nothing.
    with Valkey(directory, appendonly="yes", save="") as valkey:
        async with Proxy(valkey.socket) as proxy:
            yield SingleBroker(valkey, proxy, random), valkey.url, proxy.url


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
        Reader(world, kind, Random(next(seeds)), positions=positions)
        for kind, count in ((Wire, 4), (EngineIO, 3), (Stream, 3))
        for positions in (True, True, False)
        for _ in range(count)
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
            group.create_task(break_things(faults, random, world.until, plan.pause, world.happened)) for _ in range(2)
        ]
        flows = [group.create_task(each.run(0.04)) for each in publishing]
        await asyncio.gather(*breaking, *flows)
        world.settling.set()
        lives = await _settle(world, publishing[2], readers, libraries)
        for life in lives:
            life.final = True
        world.stopping.set()
    for library in libraries:
        await library.stop()


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
