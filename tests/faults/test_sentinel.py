"""A failover with three real sentinels: both sides of a node follow the master."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import httpx2
import orjson
import pytest

from realizehit.bus.base import BusState
from realizehit.bus.open import open_bus
from realizehit.errors import BrokerUnavailable, PublishUnclear
from realizehit.pattern import Pattern
from realizehit.sentinel import SentinelAddress
from realizehit.server import Node, serve
from realizehit.settings import Settings
from tests.bus_recorder import Recorder
from tests.faults.figures import note
from tests.faults.sentinels import Server, Watched
from tests.integration.wire import RawClient, unique

pytestmark = pytest.mark.slow

WITHIN = 2.0  # seconds from the end of a failover until everything is as it was


async def publish(api: httpx2.AsyncClient, pattern: dict[str, object], payload: object) -> httpx2.Response:
    body = orjson.dumps({"pattern": pattern, "payload": payload})
    return await api.post("", content=body, headers={"Content-Type": "application/json"})


async def failed_over(watched: Watched, old: int) -> float:
    """Wait until the sentinels name another master, and return the time."""
    async with asyncio.timeout(30):
        while watched.master == old:
            await asyncio.sleep(0.01)
    return time.monotonic()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_failover_moves_both_sides(tmp_path: Path, number: signal.Signals) -> None:
    with Watched(tmp_path) as watched:
        async with (
            serve(Settings(port=0, redis=watched.url, publish_timeout=1.0)) as node,
            httpx2.AsyncClient(base_url=node.api_url, timeout=20) as api,
        ):
            pattern = unique("failover")
            ws = await RawClient.connect(node.ws_url)
            ws.act(id="s", act="sub", pat=pattern)
            await ws.wait_for(1)
            assert (await publish(api, pattern, 1)).json()["nodes"] == 1
            await ws.wait_for(2)

            watched.servers[0].signal(number)
            ended = await failed_over(watched, watched.servers[0].port)
            published = await reaches(node, api, pattern)
            took = time.monotonic() - ended
            note(f"Sentinel: failover after {number.name}, from its end until all is in force", took, "s")
            assert took < WITHIN + 1  # and one for a machine that has other work
            await ws.wait_for(4)
            told = [orjson.loads(text) for text in ws.texts if text.startswith(b"{")][1:]
            assert [(event["evt"], event["ids"]) for event in told] == [("gap", [Pattern(pattern).id])]
            payloads = [int(text.partition(b"?")[2]) for text in ws.texts if not text.startswith(b"{")]
            assert payloads == [1, published]
            assert not ws.closed.is_set()
            ws.transport.close()
            await ws.closed.wait()


async def reaches(node: Node, api: httpx2.AsyncClient, pattern: dict[str, object]) -> int:
    """Publish until one message has reached the node that subscribes, and return its number."""
    async with asyncio.timeout(30):
        for number in range(2, 10_000):
            answer = await publish(api, pattern, number)
            if answer.status_code == 200 and answer.json()["nodes"] == 1 and node.bus.state is BusState.UP:
                return number
            await asyncio.sleep(0.01)
    raise AssertionError("it never reached the node")


async def test_a_demoted_master_that_is_alive_is_left(tmp_path: Path) -> None:
    with Watched(tmp_path) as watched:
        bus, recorder = open_bus(watched.url, publish_timeout=1.0), Recorder()
        await bus.start(recorder)
        try:
            bus.subscribe(b"a")
            await recorder.until(lambda: recorder.confirmed)
            assert await bus.publish(b"a", b"1") == 1
            old = watched.servers[0]
            # What the sentinels cannot reach they cannot demote: it goes on answering as a master.
            hide(watched, old)
            for each in watched.sentinels:
                each.command("SENTINEL", "SET", "mymaster", "down-after-milliseconds", "300")
            ended = await failed_over(watched, old.port)
            assert old.command("ROLE")[0] == "master"
            await recorder.until(lambda: recorder.gaps)
            took = time.monotonic() - ended
            note("Sentinel: a demoted master that is alive, from the failover's end until it is left", took, "s")
            assert took < WITHIN + 1
            assert old.command("PUBSUB", "NUMSUB", "a") == ["a", 0]
            async with asyncio.timeout(10):
                while await patiently(bus.publish(b"a", b"2")) != 1:
                    await asyncio.sleep(0.01)
            await recorder.until(lambda: recorder.delivered[-1] == (b"a", b"2"))
            assert watched.servers[1].command("PUBSUB", "NUMSUB", "a") == ["a", 1]
        finally:
            await bus.close()


def hide(watched: Watched, server: Server) -> None:
    """Let a server refuse the sentinels and its replica while its other clients go on."""
    server.command(
        "ACL", "SETUSER", "default", "-ping", "-info", "-replicaof", "-slaveof", "-config", "-multi", "-psync"
    )


async def patiently(publication: object) -> int:
    try:
        return int(await publication)  # type: ignore[misc]
    except (BrokerUnavailable, PublishUnclear):
        return 0


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
