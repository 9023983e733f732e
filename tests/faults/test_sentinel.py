"""A failover with three real sentinels: both sides of a node follow the master."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.broker.sentinel import SentinelAddress
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.figures import note
from tests.support.ledger import Source, Witness
from tests.support.sentinels import Server, Watched
from tests.support.wire import unique

pytestmark = pytest.mark.slow

WITHIN = (
    2.0  # seconds from the end of a failover, when the sentinels name the new master, until all is in force and told
)


async def failed_over(watched: Watched, old: int) -> float:
    """Wait until the sentinels name another master, and return the time."""
    async with asyncio.timeout(30):
        while watched.master == old:
            await asyncio.sleep(0.01)
    return time.monotonic()


@asynccontextmanager
async def accounted(node: Node, new: Server) -> AsyncIterator[Witness]:
    """A client of a node through a failover; in the end everything that was published came, or a gap covers it.

    One publisher uses the node. Another one learns of the new master as soon as there is one, long before the sentinels
    name it, and publishes there.
    """
    followed, direct = Pattern(unique("followed")), Pattern(unique("direct"))
    bus = open_bus(f"redis://127.0.0.1:{new.port}")
    await bus.start(None)
    sources = {followed: Source(node.bus), direct: Source(bus)}
    ws: Witness = await Witness.connect(node.ws_url)
    for pattern in sources:
        assert "ret" in await ws.ask("sub", pattern)
    since = time.monotonic()
    flows = [
        asyncio.create_task(sources[followed].run([followed])),
        asyncio.create_task(once_master(new, sources[direct], direct)),
    ]
    try:
        await comes(ws, followed)
        yield ws
        await comes(ws, followed)
        await comes(ws, direct)
    finally:
        for flow in flows:
            flow.cancel()
        await asyncio.gather(*flows, return_exceptions=True)
        await bus.close()
    # A connection is answered in order: with the reply all has come that was on its way.
    assert "ret" in await ws.ask("ping", followed)
    assert not ws.closed.is_set()
    assert [sorted(event["ids"]) for _, event in ws.gaps] == [sorted(pattern.id for pattern in sources)]
    for pattern, source in sources.items():
        came, _ = ws.check(source, pattern, since, time.monotonic())
        assert came
    ws.transport.close()
    await ws.closed.wait()


async def once_master(new: Server, source: Source, pattern: Pattern) -> None:
    while (await asyncio.to_thread(new.command, "ROLE"))[0] != "master":
        await asyncio.sleep(0.005)
    await source.run([pattern])


async def comes(ws: Witness, pattern: Pattern, seen: int | None = None) -> None:
    """Wait until something has come to a client: from now on, or after so many messages."""
    seen = len(ws.seen) if seen is None else seen
    async with asyncio.timeout(20):
        while not any(text.startswith(pattern.id.encode()) for _, text in ws.seen[seen:]):
            await asyncio.sleep(0.01)


async def told(ws: Witness) -> float:
    """Wait for the gap; return its time."""
    async with asyncio.timeout(30):
        while not ws.gaps:
            await asyncio.sleep(0.005)
    return ws.gaps[0][0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_failover_moves_both_sides(tmp_path: Path, number: signal.Signals) -> None:
    with Watched(tmp_path) as watched:
        old, new = watched.servers
        async with (
            serve(Settings(port=0, redis=watched.url, publish_timeout=1.0)) as node,
            accounted(node, new) as ws,
        ):
            old.signal(number)
            ended = await failed_over(watched, old.port)
            took = await told(ws) - ended
            note(f"Sentinel: failover after {number.name}, from its end until all is in force", took, "s")
            assert took < WITHIN


async def test_a_demoted_master_that_is_alive_is_left(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        old, new = watched.servers
        async with (
            serve(Settings(port=0, redis=watched.url, publish_timeout=1.0)) as node,
            accounted(node, new) as ws,
        ):
            # What the sentinels cannot reach they cannot demote: it goes on answering as a master.
            hide(watched, old)
            for each in watched.sentinels:
                each.command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "300")
            ended = await failed_over(watched, old.port)
            assert old.command("ROLE")[0] == "master"
            took = await told(ws) - ended
            note("Sentinel: a demoted master that is alive, from the failover's end until it is left", took, "s")
            assert took < WITHIN
            assert old.command("PUBSUB", "CHANNELS", "n:*") == []


def hide(watched: Watched, server: Server) -> None:
    """Let a server refuse the sentinels and its replica while its other clients go on."""
    server.command(
        "ACL", "SETUSER", "default", "-ping", "-info", "-replicaof", "-slaveof", "-config", "-multi", "-psync"
    )


async def test_a_sentinel_that_was_cut_off_is_not_believed(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        address = SentinelAddress(watched.url)
        stale = watched.sentinels[0]
        old = watched.servers[0]
        assert await address.current() == f"127.0.0.1:{old.port}"
        stale.signal(signal.SIGSTOP)
        old.signal(signal.SIGSTOP)
        async with asyncio.timeout(30):
            while await address.current() != f"127.0.0.1:{watched.servers[1].port}":
                await asyncio.sleep(0.05)
        for each in watched.sentinels[1:]:
            each.kill()
        assert await address.current() == ""
        await address.close()


@pytest.mark.parametrize("alive", [False, True])
async def test_the_shapes_of_wildcards_are_registered_at_the_new_master(tmp_path: Path, alive: bool) -> None:
    wildcard, concrete = Pattern({"kind": "news", "channel": "*"}), Pattern({"kind": "news", "channel": "CNN"})
    with Watched(tmp_path) as watched:
        old, new = watched.servers
        async with serve(Settings(port=0, redis=watched.url, publish_timeout=1.0)) as node:
            ws: Witness = await Witness.connect(node.ws_url)
            assert "ret" in await ws.ask("sub", wildcard)
            if alive:
                hide(watched, old)
                for each in watched.sentinels:
                    each.command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "300")
            else:
                old.signal(signal.SIGKILL)
            ended = await failed_over(watched, old.port)
            took = await told(ws) - ended
            note(f"Sentinel: shapes registered at the new master, {'demoted' if alive else 'killed'}", took, "s")
            assert took < WITHIN
            assert new.command("ZRANGE", "realizehit:shapes", "0", "-1") == ["channel:*|kind:="]
            seen = len(ws.seen)
            async with asyncio.timeout(20):
                while not isinstance(
                    (await node.bus.publish_many([Publication(concrete.channel.encode(), b"1")]))[0], Published
                ):
                    await asyncio.sleep(0.05)
            await comes(ws, wildcard, seen)
            assert [event["ids"] for _, event in ws.gaps] == [[wildcard.id]] * len(ws.gaps)
            assert len(ws.gaps) == 1
            ws.transport.close()
            await ws.closed.wait()
