"""A cluster under load: slots move, primaries fail, come and go. Only the clients of the shard concerned are told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from realizehit.broker.base import Interest
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.errors import BrokerUnavailable
from tests.support.bus_recorder import Recorder
from tests.support.cluster import Cluster, slot_of
from tests.support.cluster_machine import Machine
from tests.support.cluster_rig import KEPT, WITHIN, patterns_of, rig
from tests.support.figures import note
from tests.support.processes import serving
from tests.support.programs import needs

pytestmark = pytest.mark.slow

MANY = 100_000
BUSY = 8.0  # seconds more for as many channels, where other tests have most of the machine


@pytest.fixture(params=["valkey", "redis"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of Valkey, and one of Redis as the distribution has it."""
    if request.param == "redis":
        needs("redis-server")
    with Cluster(tmp_path, binary="redis-server" if request.param == "redis" else None) as cluster:
        yield cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path) as cluster:
        yield cluster


def subscribers(machine: Machine, channel: str) -> int:
    """Return how many connections have a channel at a machine."""
    return int(machine.command("PUBSUB", "SHARDNUMSUB", channel)[1])


async def test_slots_that_move_under_load(either: Cluster) -> None:
    async with rig(either) as it:
        (source, own), (target, _), _ = it.shards.items()
        moving = own[: len(own) // 2]
        began = time.monotonic()
        for pattern in moving:
            await asyncio.to_thread(either.move_slot, slot_of(pattern.channel), target)
            moved = time.monotonic()
            took = max(0.0, await it.restored([pattern]) - moved)
            note("Cluster: a slot moves, until its channels are in force at the new owner and told", took, "s")
            assert took < WITHIN
        await it.flows()
        it.check(moving, gone=began)
        assert it.source.refused == 0
        assert all(subscribers(target, pattern.channel) == 1 for pattern in moving)
        assert [subscribers(source, pattern.channel) for pattern in own[len(moving) :]] == [1] * (
            len(own) - len(moving)
        )


async def test_slots_that_valkey_moves_at_once(cluster: Cluster) -> None:
    async with rig(cluster) as it:
        (_, own), (target, _), _ = it.shards.items()
        moving, began = own[:2], time.monotonic()
        for pattern in moving:
            await asyncio.to_thread(cluster.migrate, slot_of(pattern.channel), target)
        took = max(0.0, await it.restored(moving) - time.monotonic())
        assert took < WITHIN
        await it.flows()
        it.check(moving, gone=began)
        assert it.source.refused == 0


async def test_a_primary_that_is_killed(either: Cluster) -> None:
    async with rig(either) as it:
        primary, own = next(iter(it.shards.items()))
        others = [pattern for pattern in it.patterns if pattern not in own]
        gone = time.monotonic()
        await asyncio.to_thread(either.kill_primary, primary)
        promoted = time.monotonic()
        took = max(0.0, await it.restored(own) - promoted)
        note("Cluster: a primary is killed, until its replica takes over", promoted - gone, "s")
        note("Cluster: a primary is killed, from its replica's promotion until all is in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        missed = it.check(own, gone=gone)
        note("Cluster: a primary is killed, messages of its shard that were missed and told", missed, "")
        assert all(entry.taken for pattern in others for entry in it.source.sent[pattern.id] if entry.ended)
        note("Cluster: a primary is killed, slowest publication of another shard", it.slowest(others, gone), "s")


@pytest.mark.parametrize("relay", ["off", "on"])
async def test_a_primary_that_is_killed_under_workers(cluster: Cluster, relay: str) -> None:
    """Each worker subscribes at the machines by itself, or the relay does for all."""
    with serving("--redis", cluster.url, "--workers", "2", "--relay", relay) as server:
        async with rig(cluster, server.ws) as it:
            primary, own = next(iter(it.shards.items()))
            gone = time.monotonic()
            await asyncio.to_thread(cluster.kill_primary, primary)
            took = max(0.0, await it.restored(own) - time.monotonic())
            note(
                f"Cluster: the same, two workers, relay {relay}, from the promotion until in force and told", took, "s"
            )
            assert took < WITHIN
            await it.flows()
            it.check(own, gone=gone)
            if relay == "on":
                other = next(machine for machine in it.shards if machine is not primary)
                assert [each["name"] for each in other.clients("TYPE", "pubsub")].count("realizehit-relay") == 1


async def test_a_replica_that_takes_over_by_command(cluster: Cluster) -> None:
    async with rig(cluster) as it:
        primary, own = next(iter(it.shards.items()))
        began = time.monotonic()
        await asyncio.to_thread(cluster.failover, primary)
        took = max(0.0, await it.restored(own) - time.monotonic())
        note("Cluster: a replica takes over by command, until all is in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        it.check(own, gone=began)
        assert it.source.refused == 0


async def test_a_primary_that_is_added_and_removed(cluster: Cluster) -> None:
    async with rig(cluster) as it:
        own = next(iter(it.shards.values()))
        moving = own[: len(own) // 2]
        added = await asyncio.to_thread(cluster.add_primary)
        for pattern in moving:
            await asyncio.to_thread(cluster.move_slot, slot_of(pattern.channel), added)
        took = max(0.0, await it.restored(moving) - time.monotonic())
        note("Cluster: a primary is added, until its channels are in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        it.check(moving)
        await asyncio.to_thread(cluster.remove_primary, added)
        removed = time.monotonic()
        took = max(0.0, await it.restored(moving, times=2) - removed)
        note("Cluster: a primary is removed, until its channels are in force and told", took, "s")
        assert took < WITHIN
        await it.flows()
        it.check(moving, times=2)


async def test_a_primary_that_stops_and_comes_back_as_a_replica(cluster: Cluster) -> None:
    async with rig(cluster) as it:
        primary, own = next(iter(it.shards.items()))
        candidates, gone = cluster.replicas(primary), time.monotonic()
        primary.pause()
        await asyncio.to_thread(cluster.promoted, candidates)
        promoted = time.monotonic()
        took = max(0.0, await it.restored(own) - promoted)
        note(
            "Cluster: a primary stops (SIGSTOP), from its replica's promotion until all is in force and told", took, "s"
        )
        assert took < WITHIN
        await it.flows()
        primary.resume()
        await asyncio.to_thread(cluster.settle)
        await it.flows()
        it.check(own, gone=gone)


async def test_a_primary_that_the_others_cannot_reach(tmp_path: Path) -> None:
    """It goes on serving its clients until it notices; with this setting it then refuses them."""
    with Cluster(tmp_path, separable=True, cluster_allow_pubsubshard_when_down="no") as cluster:
        async with rig(cluster) as it:
            primary, own = next(iter(it.shards.items()))
            candidates, gone = cluster.replicas(primary), time.monotonic()
            await asyncio.to_thread(cluster.cut_off, primary)
            await asyncio.to_thread(cluster.promoted, candidates)
            promoted = time.monotonic()
            assert primary in cluster.owners(primary)
            took = max(0.0, await it.restored(own) - promoted)
            note("Cluster: the others cannot reach a primary, from the promotion until all is in force", took, "s")
            assert took < WITHIN
            await it.flows()
            await asyncio.to_thread(cluster.rejoin, primary)
            await asyncio.to_thread(cluster.settle)
            await it.flows()
            it.check(own, gone=gone)


async def test_what_has_a_log_is_not_missed(cluster: Cluster) -> None:
    """Slots that move, and a replica that takes over by command, lose nothing at the broker."""
    async with rig(cluster, history=True) as it:
        (primary, own), (target, _), _ = it.shards.items()
        for pattern in own[:3]:
            await asyncio.to_thread(cluster.move_slot, slot_of(pattern.channel), target)
            await it.flows(own[:3])
        await asyncio.to_thread(cluster.failover, primary)
        await it.flows()
        it.check([])
        assert it.source.refused == 0
        for pattern in it.patterns:
            taken = len([entry for entry in it.source.sent[pattern.id] if entry.taken])
            log = await it.source.bus.read_log(pattern.channel.encode())
            assert taken <= log.last <= len(it.source.sent[pattern.id])


async def test_publications_with_keys_while_a_slot_is_open(either: Cluster) -> None:
    """Half of the keys have moved: scripts are answered with ASK and TRYAGAIN until the rest follows."""
    (first, target), bus = either.primaries[:2], open_bus(either.url, publish_timeout=10.0)
    (pattern,) = patterns_of(first, either, 1, kept="yes")
    channel, slot = pattern.channel.encode(), slot_of(pattern.channel)
    await bus.start(None)
    try:
        await bus.write_rules(KEPT)
        for number in range(10):
            await bus.publish(Publication(channel, b"%d" % number, b"key-%d" % number))
        source = await asyncio.to_thread(either.begin_move, slot, target)
        sent = [
            asyncio.create_task(bus.publish(Publication(channel, b"%d" % number, b"key-%d" % number)))
            for number in range(10, 20)
        ]
        await asyncio.wait(sent, timeout=0.2)  # no event shows that one of them waits
        await asyncio.to_thread(either.move_keys, slot, source, target)
        again = [
            asyncio.create_task(bus.publish(Publication(channel, b"%d" % number, b"key-%d" % number)))
            for number in range(20)
        ]
        await asyncio.wait(again, timeout=0.2)
        await asyncio.to_thread(either.move_keys, slot, source, target)
        await asyncio.to_thread(either.end_move, slot, source, target)
        first_answers, answers = await asyncio.gather(*sent), await asyncio.gather(*again)
        assert len({answer.at for answer in answers}) == 20
        assert {answer.at for answer in first_answers} <= {answer.at for answer in answers}
        log = await bus.read_log(channel, after=0)
        assert sorted(int(payload) for _, payload in log.messages) == list(range(20))
    finally:
        await bus.close()


async def test_many_channels_of_a_primary_that_is_killed(cluster: Cluster) -> None:
    bus, recorder = open_bus(cluster.url), Recorder()
    await bus.start(recorder)
    try:
        began = time.monotonic()
        channels = [f"many:{number}" for number in range(MANY)]
        for channel in channels:
            bus.subscribe(Interest(channel.encode()))
        await recorder.until(lambda: len(recorder.confirmed) == MANY, 60)
        note(f"Cluster: {MANY:,} channels, until all are in force", time.monotonic() - began, "s")
        primary = cluster.primaries[0]
        own = cluster.channels(primary, channels)
        replica = await asyncio.to_thread(cluster.kill_primary, primary)
        promoted = time.monotonic()
        await recorder.until(lambda: recorder.gaps, 60)
        took = time.monotonic() - promoted
        note(f"Cluster: {len(own):,} channels of a killed primary, from the promotion until in force", took, "s")
        assert took < WITHIN + BUSY
        assert len(await asyncio.to_thread(replica.command, "PUBSUB", "SHARDCHANNELS")) == len(own)
        assert [len(channels) for _, channels in recorder.regains] == [len(own)]
        assert len(set(recorder.confirmed)) == MANY
    finally:
        await bus.close()


async def test_many_channels_of_all_connections_that_are_killed(cluster: Cluster) -> None:
    bus, recorder = open_bus(cluster.url), Recorder()
    await bus.start(recorder)
    try:
        for number in range(MANY):
            bus.subscribe(Interest(b"many:%d" % number))
        await recorder.until(lambda: len(recorder.confirmed) == MANY, 60)
        for machine in cluster.primaries:
            machine.command("CLIENT", "KILL", "TYPE", "pubsub")
        killed, cpu = time.monotonic(), time.process_time()
        await recorder.until(lambda: sum(len(channels) for _, channels in recorder.regains) == MANY, 60)
        took = time.monotonic() - killed
        note(f"Cluster: all connections are killed, until {MANY:,} channels are in force", took, "s")
        assert time.process_time() - cpu < WITHIN  # what it takes where this process has a core
        assert took < WITHIN + BUSY
        buffers = [int(each["tot-mem"]) for machine in cluster.primaries for each in machine.clients("TYPE", "pubsub")]
        note("Cluster: the largest connection at a broker afterwards", max(buffers) / 1024, "KiB")
        assert sum(len(machine.command("PUBSUB", "SHARDCHANNELS")) for machine in cluster.primaries) == MANY
    finally:
        await bus.close()


async def test_publications_of_other_shards_do_not_wait(cluster: Cluster) -> None:
    """One call publishes to all shards: those of the stopped primary fail in time, and the others are published."""
    bus = open_bus(cluster.url, publish_timeout=1.0)
    await bus.start(None)
    try:
        primary, *others = cluster.primaries
        (lost,) = patterns_of(primary, cluster, 1)
        kept = [pattern for machine in others for pattern in patterns_of(machine, cluster, 1)]
        primary.pause()
        began = time.monotonic()
        single = asyncio.create_task(bus.publish(Publication(lost.channel.encode(), b"1")))
        for pattern in kept:
            assert await bus.publish(Publication(pattern.channel.encode(), b"1")) == Published(0)
        assert not single.done()
        outcomes = await bus.publish_many(
            [Publication(each.channel.encode(), b"2") for each in (kept[0], lost, kept[1])]
        )
        assert [isinstance(outcome, Published) for outcome in outcomes] == [True, False, True]
        with pytest.raises(BrokerUnavailable):
            await single
        assert time.monotonic() - began < 5.0
    finally:
        primary.resume()
        await bus.close()
