"""Connections, subscriptions and publications coming and going at random, with a broker that is killed in between.

REALIZEHIT_SOAK_SECONDS says for how long, REALIZEHIT_SOAK_SEED which run it is.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from realizehit.bus.open import open_bus
from realizehit.pattern import Pattern
from tests.faults.figures import note
from tests.faults.ledger import Source, Witness
from tests.processes import Server, serving
from tests.support import Valkey

SECONDS = float(os.environ.get("REALIZEHIT_SOAK_SECONDS", "180"))
SEED = int(os.environ.get("REALIZEHIT_SOAK_SEED", "1"))

CLIENTS = 40
PATTERNS = [Pattern({"soak": n}) for n in range(60)]
IN_FLIGHT = 1.0  # seconds that a message may be under way on a machine with other work
BREAK_EVERY = 15.0  # seconds, about

pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 120)]


@dataclass
class World:
    """What all actors share."""

    server: Server
    valkey: Valkey
    source: Source
    random: random.Random
    ends: float
    disturbed_since: float | None = None  # from the break of the broker until everybody has been told
    breaks: int = 0
    connections: int = 0
    came: int = 0
    told: int = 0
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends

    def certain(self) -> float:
        """Up to when everything must have come, or been told, to whom leaves now."""
        now = time.monotonic() - IN_FLIGHT
        return now if self.disturbed_since is None else min(now, self.disturbed_since - 0.2)


async def client(world: World) -> None:
    """Come, subscribe and unsubscribe at random, and go; again and again."""
    while not world.over:
        one: Witness = await Witness.connect(world.server.ws)  # type: ignore[assignment]
        world.connections += 1
        held: dict[Pattern, float] = {}
        fresh = world.random.sample(PATTERNS, len(PATTERNS))
        until = time.monotonic() + world.random.uniform(0.1, 12.0)
        while time.monotonic() < until and not world.over:
            await asyncio.sleep(world.random.uniform(0.0, 0.4))
            if fresh and (not held or world.random.random() < 0.7):
                pattern = fresh.pop()
                reply = await one.ask("sub", pattern)
                if "ret" in reply:
                    held[pattern] = time.monotonic()
                else:
                    assert reply["code"] == "unavailable", reply
                    assert world.disturbed_since is not None, reply
            elif held:
                pattern = world.random.choice(list(held))
                settle(world, one, pattern, held.pop(pattern), world.certain())
                assert "ret" in await one.ask("unsub", pattern)
        assert not one.closed.is_set()
        certain = world.certain()
        for pattern, since in held.items():
            settle(world, one, pattern, since, certain)
        if world.random.random() < 0.5:
            one.transport.abort()
        else:
            one.transport.close()


def settle(world: World, one: Witness, pattern: Pattern, since: float, until: float) -> None:
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
        world.disturbed_since = time.monotonic()
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
        world.disturbed_since = None
        world.breaks += 1


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
    return {name: float(found[f"realizehit_{name}"]) for name in ("connections", "subscriptions", "channels")}


async def test_everything_is_accounted_for_and_nothing_grows(valkey: Valkey) -> None:
    with serving("--redis", valkey.url, "--drain-seconds", "0.1") as server:
        assert set(gauges(server).values()) == {0.0}
        bus = open_bus(valkey.url, publish_timeout=1.0)
        await bus.start(None)
        seeded = random.Random(SEED)  # the order of events differs from run to run all the same
        world = World(server, valkey, Source(bus), seeded, time.monotonic() + SECONDS)
        canary: Witness = await Witness.connect(server.ws)  # type: ignore[assignment]
        for pattern in PATTERNS:
            assert "ret" in await canary.ask("sub", pattern)
            await asyncio.sleep(0.02)
        since = time.monotonic()
        async with asyncio.TaskGroup() as actors:
            for _ in range(CLIENTS):
                actors.create_task(client(world))
            for act in (publisher(world), breaker(world, canary), sampler(world)):
                actors.create_task(act)
        await asyncio.sleep(IN_FLIGHT)
        for pattern in PATTERNS:
            settle(world, canary, pattern, since, world.certain())
        assert not canary.closed.is_set()
        canary.transport.close()
        async with asyncio.timeout(20):
            while set((left := await asyncio.to_thread(gauges, server)).values()) != {0.0}:
                await asyncio.sleep(0.05)
        assert set(left.values()) == {0.0}
        with suppress(Exception):
            await bus.close()
    published = sum(len(sent) for sent in world.source.sent.values())
    assert world.came > 10 * SECONDS
    assert world.connections > SECONDS
    if SECONDS >= 60:
        assert world.breaks
        assert world.told  # else the breaks broke nothing
        flat(world)
    for name, value in (("publications", published), ("deliveries checked", world.came), ("told as gaps", world.told)):
        note(f"Soak: {name}", value, f"in {SECONDS:g} s")
    note("Soak: breaks of the broker", world.breaks, f"in {SECONDS:g} s")


def flat(world: World) -> None:
    """Compare the halves of what followed the warm-up."""
    memory, files = (values[len(values) // 4 :] for values in (world.memory, world.files))
    half = len(memory) // 2
    early, late = statistics.median(memory[:half]), statistics.median(memory[half:])
    note("Soak: growth of memory between the halves", (late - early) / (1 << 20), "MiB")
    assert late < early + max(0.05 * early, 4 << 20), (early, late)
    assert statistics.median(files[half:]) < statistics.median(files[:half]) + 10
