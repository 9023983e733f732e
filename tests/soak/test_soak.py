"""Connections, subscriptions and publications coming and going at random, with a broker that is killed in between.

The clients are WebSockets, Engine.IO and event streams. REALIZEHIT_SOAK_SECONDS says for how long, REALIZEHIT_SOAK_SEED
which run it is.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from realizehit.broker.open import open_bus
from realizehit.broker.shapes.registry import CONTROL
from realizehit.pattern import Pattern, is_reserved
from tests.support.figures import note
from tests.support.ledger import EngineIOWitness, Source, StreamWitness, Witness
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey

SECONDS = float(os.environ.get("REALIZEHIT_SOAK_SECONDS", "180"))
SEED = int(os.environ.get("REALIZEHIT_SOAK_SEED", "1"))

KINDS: tuple[tuple[type[Witness], int], ...] = ((Witness, 24), (EngineIOWitness, 8))  # how many of each at a time
STREAMS = 8  # readers of Server-Sent Events at a time
PATTERNS = [Pattern({"soak": n}) for n in range(60)]
IN_FLIGHT = 1.0  # seconds that a message, or the news of a break, may be under way on a machine with other work
BREAK_EVERY = 15.0  # seconds, about

# What must be nothing at the end; the last three also never happened.
GAUGES = (
    "connections",
    "subscriptions",
    "channels",
    'disconnects_total{reason="slow_consumer"}',
    'disconnects_total{reason="heartbeat_missed"}',
    'disconnects_total{reason="protocol_error"}',
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]


# In a server's own interpreter: at its end, what the engine of a debug build says is alive.
TELL_COUNTS = """
import atexit, json, sys

def tell():
    engine = sys.modules.get("realizehit._fanout")
    if engine is not None:
        with open({file!r}, "w") as file:
            json.dump(engine.debug_counts(), file)

atexit.register(tell)
"""


@dataclass
class Break:
    """A time in which the broker was away: until everybody must have been told."""

    began: float
    ended: float = math.inf


@dataclass
class World:
    """What all actors share."""

    server: Server
    valkey: Valkey
    source: Source
    random: random.Random
    ends: float
    breaks: list[Break] = field(default_factory=list)
    connections: int = 0
    came: int = 0
    told: int = 0
    gaps: Counter[str] = field(default_factory=Counter)  # events, by the kind of client
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends

    @property
    def disturbed_since(self) -> float | None:
        """When the broker broke, until everybody has been told."""
        return self.breaks[-1].began if self.breaks and self.breaks[-1].ended == math.inf else None

    def certain(self) -> float:
        """Up to when everything must have come, or been told, to whom leaves now."""
        now = time.monotonic() - IN_FLIGHT
        return now if self.disturbed_since is None else min(now, self.disturbed_since - 0.2)


async def client(world: World, kind: type[Witness]) -> None:
    """Come, subscribe and unsubscribe at random, and go; again and again."""
    while not world.over:
        one: Witness = await kind.connect(world.server.ws)
        world.connections += 1
        held: dict[Pattern, float] = {}
        ever: dict[str, float] = {}
        fresh = world.random.sample(PATTERNS, len(PATTERNS))
        until = time.monotonic() + world.random.uniform(0.1, 12.0)
        while time.monotonic() < until and not world.over:
            await asyncio.sleep(world.random.uniform(0.0, 0.4))
            if fresh and (not held or world.random.random() < 0.7):
                pattern = fresh.pop()
                reply = await one.ask("sub", pattern)
                if "ret" in reply:
                    held[pattern] = ever[pattern.id] = time.monotonic()
                else:
                    assert reply["code"] == "unavailable", reply
                    assert world.disturbed_since is not None, reply
            elif held:
                pattern = world.random.choice(list(held))
                settle(world, one, pattern, held.pop(pattern), world.certain())
                assert "ret" in await one.ask("unsub", pattern)
        assert not one.closed.is_set()
        leave(world, one, held, ever)


async def stream(world: World) -> None:
    """Come for some patterns, read for a while, and go; again and again."""
    while not world.over:
        patterns = world.random.sample(PATTERNS, world.random.randint(1, 12))
        one = await StreamWitness.connect(world.server.api, patterns)
        if one.status == 503:
            assert world.disturbed_since is not None
            one.transport.abort()
            continue
        assert (one.status, one.closed.is_set()) == (200, False)
        world.connections += 1
        await asyncio.sleep(min(world.random.uniform(0.1, 12.0), max(0.0, world.ends - time.monotonic())))
        assert not one.closed.is_set()
        leave(world, one, dict.fromkeys(patterns, one.since), dict.fromkeys((p.id for p in patterns), one.since))


def leave(world: World, one: Witness | StreamWitness, held: dict[Pattern, float], ever: dict[str, float]) -> None:
    """Account for what a client still has, and for every gap that it was told, and let it go.

    Args:
        world: in which this happens.
        one: the client.
        held: what it has, and since when.
        ever: the ids of all that it has had, and since when.
    """
    certain = world.certain()
    for pattern, since in held.items():
        settle(world, one, pattern, since, certain)
    account_for_gaps(world, one, ever)
    if world.random.random() < 0.5:
        one.transport.abort()
    else:
        one.transport.close()


def account_for_gaps(world: World, one: Witness | StreamWitness, ever: dict[str, float]) -> None:
    """Assert that each break was told once at most, and of no subscription that was made after it."""
    told: list[Break] = []
    for when, event in one.gaps:
        at = [each for each in world.breaks if each.began <= when <= each.ended + IN_FLIGHT]
        assert at, f"told at {when:.3f} of a gap, and the breaks were {world.breaks}"
        assert at[-1] not in told, f"told twice of {at[-1]}"
        told.append(at[-1])
        needless = {label: ever[label] for label in event["ids"] if ever[label] > at[-1].began + IN_FLIGHT}
        assert not needless, f"told of {at[-1]} what was subscribed to since: {needless}"
        world.gaps[type(one).__name__] += 1


def settle(world: World, one: Witness | StreamWitness, pattern: Pattern, since: float, until: float) -> None:
    came, missing = one.check(world.source, pattern, since, until)
    world.came += came
    world.told += missing


async def publisher(world: World) -> None:
    while not world.over:
        await world.source.publish(world.random.choice(PATTERNS))
        if world.random.random() < 0.2:
            await asyncio.sleep(world.random.uniform(0.0, 0.01))


async def breaker(world: World, canary: Witness) -> None:
    """Kill the broker, or only the node's connection to it, and wait until the canary was told."""
    while world.ends - time.monotonic() > BREAK_EVERY:
        await asyncio.sleep(world.random.uniform(0.5, 1.5) * BREAK_EVERY)
        gaps = len(canary.gaps)
        world.breaks.append(Break(time.monotonic()))
        if world.random.random() < 0.5:
            world.valkey.command("CLIENT", "KILL", "TYPE", "pubsub")
        else:
            world.valkey.kill()
            await asyncio.sleep(world.random.uniform(0.0, 3.0))
            await asyncio.to_thread(world.valkey.start)
        async with asyncio.timeout(30):
            while len(canary.gaps) == gaps:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)  # the others are told in the same moment
        world.breaks[-1].ended = time.monotonic()


async def sampler(world: World) -> None:
    process = Path(f"/proc/{world.server.pid}")
    page = os.sysconf("SC_PAGE_SIZE")
    while not world.over:
        world.memory.append(int((process / "statm").read_text().split()[1]) * page)
        world.files.append(len(list((process / "fd").iterdir())))
        await asyncio.sleep(0.5)


def gauges(server: Server) -> dict[str, float]:
    with urllib.request.urlopen(server.api + "metrics", timeout=20) as response:
        lines = response.read().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(found[f"realizehit_{name}"]) for name in GAUGES}


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


def is_own(channel: bytes) -> bool:
    """Whether servers use a channel among themselves."""
    return channel == CONTROL or is_reserved(channel)


async def test_everything_is_accounted_for_and_nothing_grows(valkey: Valkey, tmp_path: Path) -> None:
    tmp_path.joinpath("sitecustomize.py").write_text(TELL_COUNTS.format(file=str(tmp_path / "counts")))
    env = {"PYTHONPATH": os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))}
    with serving("--redis", valkey.url, "--drain-seconds", "0.1", env=env) as server:
        assert set(gauges(server).values()) == {0.0}
        files = open_files(server)
        bus = open_bus(valkey.url, publish_timeout=1.0)
        await bus.start(None)
        seeded = random.Random(SEED)  # the order of events differs from run to run all the same
        world = World(server, valkey, Source(bus), seeded, time.monotonic() + SECONDS)
        canary: Witness = await Witness.connect(server.ws)
        for pattern in PATTERNS:
            assert "ret" in await canary.ask("sub", pattern)
            await asyncio.sleep(0.02)
        since = time.monotonic()
        async with asyncio.TaskGroup() as actors:
            for kind, count in KINDS:
                for _ in range(count):
                    actors.create_task(client(world, kind))
            for _ in range(STREAMS):
                actors.create_task(stream(world))
            for act in (publisher(world), breaker(world, canary), sampler(world)):
                actors.create_task(act)
        await asyncio.sleep(IN_FLIGHT)
        assert not canary.closed.is_set()
        leave(world, canary, dict.fromkeys(PATTERNS, since), {pattern.id: since for pattern in PATTERNS})
        async with asyncio.timeout(20):
            while set((await asyncio.to_thread(gauges, server)).values()) != {0.0}:
                await asyncio.sleep(0.05)
            while any(not is_own(channel) for channel in valkey.command("PUBSUB", "CHANNELS")):
                await asyncio.sleep(0.05)
            while open_files(server) > files:
                await asyncio.sleep(0.05)
        with suppress(Exception):
            await bus.close()
    counts = json.loads(tmp_path.joinpath("counts").read_text())
    assert counts is None or set(counts.values()) == {0}, counts  # of a debug build; others count nothing
    published = sum(len(sent) for sent in world.source.sent.values())
    assert world.came > 10 * SECONDS
    assert world.connections > SECONDS
    if SECONDS >= 60:
        assert world.breaks
        assert world.told  # else the breaks broke nothing
        assert world.gaps.keys() == {"Witness", "EngineIOWitness", "StreamWitness"}
        flat(world)
    for name, value in (("publications", published), ("deliveries checked", world.came), ("told as gaps", world.told)):
        note(f"Soak: {name}", value, f"in {SECONDS:g} s")
    note("Soak: breaks of the broker", len(world.breaks), f"in {SECONDS:g} s")


def flat(world: World) -> None:
    """Compare the halves of what followed the warm-up."""
    memory, files = (values[len(values) // 4 :] for values in (world.memory, world.files))
    half = len(memory) // 2
    early, late = statistics.median(memory[:half]), statistics.median(memory[half:])
    note("Soak: growth of memory between the halves", (late - early) / (1 << 20), "MiB")
    assert late < early + max(0.05 * early, 4 << 20), (early, late)
    assert statistics.median(files[half:]) < statistics.median(files[:half]) + 10
