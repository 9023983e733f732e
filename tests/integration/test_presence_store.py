"""What the broker keeps of presence: the same in memory, at a Valkey and at a cluster."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from realizehit.broker.base import Bus, Interest
from realizehit.broker.open import open_bus
from realizehit.broker.presence.scripts import PREFIX
from realizehit.broker.presence.store import MOST_CHANGES, Changed, PresenceStore
from realizehit.errors import BrokerRefused
from realizehit.pattern import presence_channel
from tests.support.bus_recorder import Recorder
from tests.support.valkey import Valkey

LEASE = 60.0
SHORT = 0.05
numbering = itertools.count()


def room() -> bytes:
    return b"kind:chat|room:store-%d" % next(numbering)


def user(number: int) -> bytes:
    return b'{"user":"%05d"}' % number


def name() -> bytes:
    return b"node%d" % next(numbering)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Bus, Recorder]]:
    bus = open_bus(url)
    recorder = Recorder()
    await bus.start(recorder)
    try:
        yield bus, recorder
    finally:
        await bus.close()


@pytest.fixture(params=["memory", "valkey", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{next(numbering)}"
    return str(request.getfixturevalue(f"shared_{request.param}").url)


@asynccontextmanager
async def watching(url: str, channel: bytes) -> AsyncIterator[tuple[PresenceStore, Recorder]]:
    async with opened(url) as (bus, recorder):
        derived = presence_channel(channel)
        assert derived is not None
        if not bus.subscribe(Interest(derived)):
            await recorder.until(lambda: derived in recorder.confirmed)
        yield bus.presence, recorder


def events(recorder: Recorder) -> list[tuple[str, Any, int]]:
    found = [orjson.loads(payload) for _, payload in recorder.delivered]
    return [(event["event"], event["member"]["user"], event["count"]) for event in found]


async def enter(store: PresenceStore, *channels: bytes, lease: float = LEASE) -> bytes:
    node = name()
    await store.enter(node, lease)
    await store.announce(node, channels)
    return node


async def lapse(store: PresenceStore, node: bytes) -> None:
    """Have the lease of a node run out."""
    await store.renew(node, SHORT)
    async with asyncio.timeout(10):
        while node not in await store.lapsed(b"test", SHORT):
            await asyncio.sleep(SHORT)


async def test_a_member_on_two_nodes_joins_and_leaves_once(url: str) -> None:
    channel = room()
    async with watching(url, channel) as (store, recorder):
        one, two = await enter(store, channel), await enter(store, channel)
        assert await store.change(channel, one, [user(1), user(2)], [], 3) == Changed(2, 0, 2)
        assert await store.change(channel, two, [user(2)], [], 4) == Changed(0, 0, 1)
        assert await store.change(channel, two, [user(2)], [], 4) == Changed(0, 0, 1)  # it was told again
        assert await store.read(channel, b"", 10) == (2, 7, [user(1), user(2)], False)
        assert await store.change(channel, one, [], [user(2), user(2)], 0) == Changed(0, 0, 1)
        assert await store.change(channel, one, [], [user(2)], 0) == Changed(0, 0, 1)
        assert await store.read(channel, b"", 10) == (2, 4, [user(1), user(2)], False)
        assert await store.change(channel, two, [], [user(2)], 0) == Changed(0, 1, 0)
        assert await store.change(channel, one, [user(3)], [user(1)], 0) == Changed(1, 1, 1)
        assert await store.read(channel, b"", 10) == (1, 0, [user(3)], False)
        await recorder.until(lambda: len(recorder.delivered) >= 5)
        assert events(recorder) == [
            ("join", "00001", 1),
            ("join", "00002", 2),
            ("leave", "00002", 1),
            ("join", "00003", 2),
            ("leave", "00001", 1),
        ]


async def test_members_are_read_in_pages(url: str) -> None:
    channel = room()
    async with opened(url) as (bus, _):
        store = bus.presence
        node = await enter(store, channel)
        for start in range(0, 500, 100):
            await store.change(channel, node, [user(number) for number in range(start, start + 100)], [], 0)
        found: list[bytes] = []
        sizes = []
        more = True
        while more:
            page = await store.read(channel, found[-1] if found else b"", 150)
            assert page.total == 500
            found += page.members
            sizes.append(len(page.members))
            more = page.more
        assert found == [user(number) for number in range(500)]
        assert sizes == [150, 150, 150, 50]
        assert await store.read(channel, b"", 0) == (500, 0, [], False)
        assert (await store.read(channel, user(249), 1)).members == [user(250)]
        assert (await store.read(channel, user(498), 1)).more is False


async def test_a_node_whose_lease_ran_out_loses_its_members_in_steps(url: str) -> None:
    channel, other = room(), room()
    async with watching(url, channel) as (store, recorder):
        dead, alive = await enter(store, channel, other), await enter(store, channel)
        both = [user(number) for number in range(MOST_CHANGES)]
        await store.change(channel, dead, both, [], 2)
        await store.change(channel, dead, [user(500), user(501)], [], 2)
        await store.change(channel, alive, both, [], 0)
        assert dead not in await store.lapsed(b"test", SHORT)
        await lapse(store, dead)
        assert not await store.renew(dead, LEASE)  # it never holds again
        assert await store.renew(alive, LEASE)
        await store.forget(dead)  # it has channels, so it stays
        assert dead in await store.lapsed(b"test", SHORT)
        assert set(await store.channels(dead)) == {channel, other}
        left, more = await store.remove(channel, dead)
        assert more
        assert await store.remove(channel, dead) == (2 - left, False)
        assert await store.read(channel, b"", 0) == (MOST_CHANGES, 0, [], False)
        await store.retire(dead, [channel, other])
        assert await store.channels(dead) == []
        await store.forget(dead)
        assert dead not in await store.lapsed(b"test", SHORT)
        assert await store.without_lease([dead, alive]) == [dead]
        await recorder.until(lambda: len(recorder.delivered) >= MOST_CHANGES + 4)
        gone = events(recorder)[MOST_CHANGES + 2 :]
        assert sorted((event, member) for event, member, _ in gone) == [("leave", "00500"), ("leave", "00501")]


async def test_a_node_that_was_forgotten_and_registers_late_is_removed_again(url: str) -> None:
    channel = room()
    async with opened(url) as (bus, _):
        store = bus.presence
        node = name()
        await store.announce(node, [channel])
        await store.change(channel, node, [user(1)], [], 0)
        assert not await store.renew(node, LEASE)
        async with asyncio.timeout(10):
            while node not in await store.lapsed(b"test", SHORT):
                await asyncio.sleep(SHORT)
        assert await store.channels(node) == [channel]


async def test_an_audit_shows_what_the_broker_has(url: str) -> None:
    channel = room()
    async with opened(url) as (bus, _):
        store = bus.presence
        one, two = await enter(store, channel), await enter(store, channel)
        await store.change(channel, one, [user(1), user(2)], [], 1)
        await store.change(channel, two, [], [], 5)
        audit = await store.audit(channel, one)
        assert (audit.here, audit.anonymous, set(audit.nodes)) == (2, 1, {one, two})
        await store.change(channel, two, [], [], 0)
        assert (await store.audit(channel, one)).nodes == [one]
        assert await store.audit(room(), one) == (0, 0, [])


@pytest.mark.parametrize("part", ["members", "counts"])
async def test_a_broker_that_lost_a_part_of_a_channel_forgets_all_of_it(shared_valkey: Valkey, part: str) -> None:
    channel = room()
    derived = presence_channel(channel)
    assert derived is not None
    prefix = f"{PREFIX}{{{derived.decode()}}}:"
    async with watching(shared_valkey.url, channel) as (store, recorder):
        one, two = await enter(store, channel), await enter(store, channel)
        await store.change(channel, one, [user(1)], [], 1)
        await store.change(channel, two, [user(1), user(2)], [], 0)
        shared_valkey.command("DEL", prefix + part)
        assert await store.audit(channel, one) == (0, 0, [])
        assert await store.audit(channel, two) == (0, 0, [])
        assert not shared_valkey.command("KEYS", prefix.replace("[", "?") + "*")
        assert await store.change(channel, one, [user(1)], [], 0) == Changed(1, 0, 1)
        await recorder.until(lambda: len(recorder.delivered) == 3)


async def test_all_keys_expire(valkey: Valkey) -> None:
    channel = room()
    async with opened(valkey.url) as (bus, _):
        store = bus.presence
        for node in (await enter(store, channel), await enter(store, channel)):
            await store.change(channel, node, [user(1)], [], 1)
        keys = [key for key in valkey.command("KEYS", "*") if key.startswith(PREFIX.encode())]
        assert len(keys) == 9
        assert all(valkey.command("TTL", key) > 80_000 for key in keys)


async def test_one_caller_at_a_time_removes_nodes(shared_valkey: Valkey) -> None:
    async with opened(shared_valkey.url) as (bus, _):
        store = bus.presence
        shared_valkey.command("DEL", "realizehit:presence:{nodes}:reaper")
        node = await enter(store, room())
        await store.renew(node, SHORT)
        async with asyncio.timeout(10):
            while node not in await store.lapsed(b"first", LEASE):
                await asyncio.sleep(SHORT)
        assert await store.lapsed(b"second", LEASE) == []
        assert node in await store.lapsed(b"first", LEASE)
        shared_valkey.command("DEL", "realizehit:presence:{nodes}:reaper")


async def test_missing_rights_are_named(valkey: Valkey) -> None:
    async with opened(valkey.url) as (bus, _):
        valkey.command("ACL", "SETUSER", "default", "-zadd")
        with pytest.raises(BrokerRefused, match="presence needs the rights to EVAL"):
            await bus.presence.enter(name(), LEASE)


async def test_the_scripts_can_be_lost(valkey: Valkey) -> None:
    channel = room()
    async with opened(valkey.url) as (bus, _):
        store = bus.presence
        node = await enter(store, channel)
        await store.change(channel, node, [user(1)], [], 0)
        await store.change(channel, node, [user(2)], [], 0)
        assert valkey.calls("evalsha") == 1
        valkey.command("SCRIPT", "FLUSH")
        await store.change(channel, node, [user(3)], [], 0)
        assert (await store.read(channel, b"", 0)).total == 3


@pytest.mark.slow
async def test_a_join_costs_the_same_among_100_000_members_and_a_read_is_a_page(valkey: Valkey) -> None:
    channel = room()
    async with opened(valkey.url) as (bus, _):
        store = bus.presence
        node = await enter(store, channel)

        async def commands(call: Awaitable[object]) -> int:
            """The number of commands, those of scripts included."""
            valkey.command("CONFIG", "RESETSTAT")
            await call
            lines = valkey.command("INFO", "commandstats").decode().splitlines()
            return sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines if "calls=" in line)

        async def costs(number: int) -> tuple[int, ...]:
            return (
                await commands(store.change(channel, node, [user(number)], [], 0)),
                await commands(store.change(channel, node, [], [user(number)], 0)),
                await commands(store.read(channel, b"", 1000)),
                await commands(store.audit(channel, node)),
            )

        await costs(0)  # the scripts are sent
        few = await costs(1)
        for start in range(0, 100_000, MOST_CHANGES):
            members = [user(start + number) for number in range(MOST_CHANGES)]
            assert (await store.change(channel, node, members, [], 0)).joined == MOST_CHANGES
        assert await costs(100_000) == few
        found, after, pages = 0, b"", 0
        while True:
            page = await store.read(channel, after, 1000)
            found, pages = found + len(page.members), pages + 1
            if not page.more:
                break
            after = page.members[-1]
        assert (found, pages) == (100_000, 100)
