"""The publisher of a cluster alone: machines, moving slots, projections, keys, logs, and what fails."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.publisher import ClusterPublisher
from realizehit.broker.cluster.slot_address import SlotAddress
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.history.rules import Rule, Rules
from realizehit.broker.history.scripts import log_key
from realizehit.broker.idempotency import key_name
from realizehit.broker.names import CLUSTER
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.registry import MAX_SHAPES, VIEW_SETTLE, register
from realizehit.cli.history_rules import show_rules
from realizehit.client.sync_cluster import ClusterSender
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear
from realizehit.pattern import shape_of
from tests.support.cluster import Cluster
from tests.support.cluster_machine import Machine
from tests.support.sharded import subscriber_at

_numbers = itertools.count()


@asynccontextmanager
async def publisher_to(cluster: Cluster, **options: Any) -> AsyncIterator[ClusterPublisher]:
    address = ClusterAddress(cluster.url)
    watch = TopologyWatch(address)
    await watch.start()
    publisher = ClusterPublisher(address, watch, **options)
    try:
        yield publisher
    finally:
        await publisher.close()
        await watch.close()


def channel_at(machine: Machine, cluster: Cluster) -> bytes:
    """A channel of a machine that no other test uses."""
    owned = set(cluster.owners()[machine])
    return next(channel for n in _numbers if slot_of(channel := b"test:%d" % n) in owned)


def add_shape(cluster: Cluster, shape: bytes) -> int:
    """Register a shape; return the number of its registration."""
    reply = cluster.owner(CLUSTER.shapes).command(*register([shape], 60.0, MAX_SHAPES, CLUSTER))
    return int(reply[3])


def remove_shape(cluster: Cluster, shape: bytes) -> None:
    owner = cluster.owner(CLUSTER.shapes)
    owner.command("ZREM", CLUSTER.shapes, shape)
    owner.command("HDEL", CLUSTER.registrations, shape)


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


# ---- machines and slots


async def test_messages_reach_each_machine_by_one_connection(shared_cluster: Cluster) -> None:
    channels = [channel_at(machine, shared_cluster) for machine in shared_cluster.primaries]
    async with publisher_to(shared_cluster, name="one-each") as publisher:
        for machine, channel in zip(shared_cluster.primaries, channels, strict=True):
            async with subscriber_at(machine, channel) as subscriber:
                assert await publisher.publish(Publication(channel, b"1")) == Published(1)
                assert await subscriber.take(1) == [(channel, b"1")]
                assert await publisher.nodes([b"nobody:has", channel]) == [0, 1]
            names = [client["name"] for client in machine.clients()]
            assert names.count("one-each") == 1
        outcomes = await publisher.publish_many([Publication(channel, b"2") for channel in channels * 700])
        assert outcomes == [Published(0)] * 2100
        assert publisher.connects == 3
        await publisher.ping()


async def test_order_is_kept_while_a_slot_moves(shared_cluster: Cluster) -> None:
    first, second, _ = shared_cluster.primaries
    channel = channel_at(first, shared_cluster)
    slot = slot_of(channel)
    async with publisher_to(shared_cluster) as publisher, subscriber_at(first, channel) as before:
        assert await publisher.publish(Publication(channel, b"-1")) == Published(1)
        outcomes: list[Any] = []
        moved = asyncio.create_task(asyncio.to_thread(shared_cluster.move_slot, slot, second))
        number = 0
        while not moved.done() or number % 100:
            publisher.publish_soon(Publication(channel, b"%d" % number), outcomes.append)
            number += 1
            if number % 10 == 0:
                await asyncio.sleep(0)
        async with subscriber_at(second, channel) as after:
            wanted = number + 100
            for last in range(number, wanted):
                publisher.publish_soon(Publication(channel, b"%d" % last), outcomes.append)
            await eventually(lambda: len(outcomes) == wanted)
            assert {type(outcome) for outcome in outcomes} == {Published}
            late = [int(payload) for _, payload in await after.take(100)]
        early = [int(payload) for _, payload in before.messages]
        assert early == list(range(-1, len(early) - 1))
        assert late == list(range(late[0], wanted))
    await asyncio.to_thread(shared_cluster.move_slot, slot, first)


async def test_a_batch_in_which_a_slot_has_moved_unnoticed(shared_cluster: Cluster) -> None:
    first, second, _ = shared_cluster.primaries
    moving, staying = channel_at(first, shared_cluster), channel_at(first, shared_cluster)
    async with publisher_to(shared_cluster) as publisher:
        assert await publisher.publish(Publication(moving, b"0")) == Published(0)
        await asyncio.to_thread(shared_cluster.move_slot, slot_of(moving), second)
        async with subscriber_at(second, moving) as one, subscriber_at(first, staying) as two:
            batch = [Publication(channel, b"%d" % n) for n in range(600) for channel in (moving, staying)]
            assert await publisher.publish_many(batch) == [Published(1)] * 1200
            for subscriber in (one, two):
                assert [int(payload) for _, payload in await subscriber.take(600)] == list(range(600))
    await asyncio.to_thread(shared_cluster.move_slot, slot_of(moving), first)


# ---- projections


async def test_projections_go_to_the_machines_of_their_channels(shared_cluster: Cluster) -> None:
    key = b"wild%d" % next(_numbers)
    wildcard = b"%b:a|z:*" % key
    add_shape(shared_cluster, shape_of(wildcard))
    async with (
        publisher_to(shared_cluster) as publisher,
        subscriber_at(shared_cluster.owner(wildcard), wildcard) as subscriber,
    ):
        channels = [b"%b:a|z:%d" % (key, number) for number in range(20)]
        assert await publisher.publish_many([Publication(channel, b"1") for channel in channels]) == [Published(1)] * 20
        assert await subscriber.take(20) == [(wildcard, labelled(Publication(channel, b"1"))) for channel in channels]
        assert publisher.projected.publications == 20
    remove_shape(shared_cluster, shape_of(wildcard))


@pytest.mark.slow
async def test_what_is_published_after_a_registration_has_settled_is_projected(shared_cluster: Cluster) -> None:
    key = b"wild%d" % next(_numbers)
    wildcard, channel = b"%b:*" % key, b"%b:a" % key
    outcomes: list[Any] = []
    async with (
        publisher_to(shared_cluster) as publisher,
        subscriber_at(shared_cluster.owner(wildcard), wildcard) as subscriber,
    ):
        assert await publisher.publish(Publication(channel, b"0")) == Published(0)
        settled = 0.0
        number = owed_from = 0
        while not settled or asyncio.get_running_loop().time() < settled + 0.1:
            number += 1
            publisher.publish_soon(Publication(channel, b"%d" % number), outcomes.append)
            if number == 20:
                add_shape(shared_cluster, shape_of(wildcard))
                settled = asyncio.get_running_loop().time() + VIEW_SETTLE
            if settled and not owed_from and asyncio.get_running_loop().time() > settled:
                owed_from = number
            await asyncio.sleep(0.005)
        await eventually(lambda: len(outcomes) == number)
        numbers = [int(payload.partition(b"?")[2]) for _, payload in await subscriber.take(number - owed_from)]
        assert numbers == list(range(numbers[0], number + 1))  # in order, none twice, none missing
        assert 0 < numbers[0] <= owed_from
    remove_shape(shared_cluster, shape_of(wildcard))


@pytest.mark.slow
@pytest.mark.parametrize("registry_answers", [True, False])
async def test_an_answer_waits_for_a_view_that_covers_it(shared_cluster: Cluster, registry_answers: bool) -> None:
    """A machine answers late, and a shape was registered meanwhile; perhaps the view has become too old, too."""
    key = b"wild%d" % next(_numbers)
    wildcard, registry = b"%b:*" % key, shared_cluster.owner(CLUSTER.shapes)
    channel = next(
        channel for n in itertools.count() if shared_cluster.owner(channel := b"%b:%d" % (key, n)) is not registry
    )
    async with (
        publisher_to(shared_cluster) as publisher,
        subscriber_at(shared_cluster.owner(wildcard), wildcard) as subscriber,
    ):
        assert await publisher.publish(Publication(channel, b"0")) == Published(0)
        shared_cluster.owner(channel).command("CLIENT", "PAUSE", "1200", "ALL")
        waiting = asyncio.create_task(publisher.publish(Publication(channel, b"1")))
        await asyncio.sleep(0)
        add_shape(shared_cluster, shape_of(wildcard))
        if not registry_answers:
            registry.command("CLIENT", "PAUSE", "1500", "ALL")
        assert await waiting == Published(1)
        assert await subscriber.take(1) == [(wildcard, labelled(Publication(channel, b"1")))]
    remove_shape(shared_cluster, shape_of(wildcard))


# ---- keys


async def test_a_repetition_publishes_what_is_missing_and_nothing_twice(shared_cluster: Cluster) -> None:
    key = b"wild%d" % next(_numbers)
    wildcard, one, two = b"%b:*" % key, b"%b:a" % key, b"%b:b" % key
    async with (
        publisher_to(shared_cluster) as publisher,
        subscriber_at(shared_cluster.owner(wildcard), wildcard) as subscriber,
    ):
        assert await publisher.publish(Publication(one, b"1", b"k")) == Published(0)
        add_shape(shared_cluster, shape_of(wildcard))
        await eventually(lambda: shape_of(wildcard) in publisher.registered)
        assert await publisher.publish(Publication(one, b"1", b"k")) == Published(1, duplicate=True)
        assert await publisher.publish(Publication(one, b"1", b"k")) == Published(1, duplicate=True)
        assert await publisher.publish(Publication(two, b"2", b"k")) == Published(1)  # another channel, the same key
        messages = [labelled(Publication(one, b"1")), labelled(Publication(two, b"2"))]
        assert [payload for _, payload in await subscriber.take(2)] == messages
    remove_shape(shared_cluster, shape_of(wildcard))


# ---- logs


async def test_logs_of_channels_and_of_wildcards(shared_cluster: Cluster) -> None:
    key = b"kept%d" % next(_numbers)
    wildcard, channel = b"%b:*" % key, b"%b:a" % key
    shape = shape_of(wildcard)
    number = add_shape(shared_cluster, shape)
    async with publisher_to(shared_cluster) as publisher:
        rules = Rules((Rule({key.decode(): None}, 100, 60.0),))
        assert await publisher.write_rules(rules) is None
        await eventually(lambda: _is_known(publisher, rules))
        outcomes = await publisher.publish_many([Publication(channel, b"%d" % n) for n in range(5)])
        epoch = outcomes[0].at.partition(".")[0]  # type: ignore[union-attr]
        assert [outcome.at for outcome in outcomes] == [f"{epoch}.{n}" for n in range(1, 6)]  # type: ignore[union-attr]
        keyed = [await publisher.publish(Publication(channel, b"5", b"k")) for _ in range(2)]
        assert keyed == [Published(0, at=f"{epoch}.6"), Published(0, duplicate=True, at=f"{epoch}.6")]
        part = await publisher.read_log(channel, after=0, last=None, most=10)
        assert [payload for _, payload in part.messages] == [b"%d" % n for n in range(6)]
        wild = await publisher.read_log(wildcard, after=None, last=10, most=10)
        assert [payload for _, payload in wild.messages] == [
            labelled(Publication(channel, b"%d" % n)) for n in range(6)
        ]

        # Another registration begins the log of the wildcard anew; a publisher that knows an older one does not.
        remove_shape(shared_cluster, shape)
        again = add_shape(shared_cluster, shape)
        assert again > number
        await eventually(lambda: publisher._view.registrations.get(shape) == b"%d" % again)
        assert await publisher.publish(Publication(channel, b"6")) == Published(0, at=f"{epoch}.7")
        new = await publisher.read_log(wildcard, after=0, last=None, most=10)
        assert (new.epoch != wild.epoch, len(new.messages), new.last) == (True, 1, 1)
        publisher._view.registrations[shape] = b"%d" % number
        await publisher.publish(Publication(channel, b"7"))
        same = await publisher.read_log(wildcard, after=0, last=None, most=10)
        assert (same.epoch, same.last) == (new.epoch, 2)

        remove_shape(shared_cluster, shape)
        await eventually(lambda: shape not in publisher.registered)
        assert (await publisher.read_log(wildcard, after=0, last=None, most=10)).last == 0
        assert await publisher.write_rules(Rules()) is not None
        assert await publisher.remove_logs(Rules()) == 2


async def test_the_command_shows_the_rules_and_the_logs_of_all_machines(
    shared_cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"shown{next(_numbers)}"
    rules = Rules((Rule({key: None}, 100, 60.0),))
    async with publisher_to(shared_cluster) as publisher:
        await publisher.write_rules(rules)
        await eventually(lambda: _is_known(publisher, rules))
        await publisher.publish_many([Publication(b"%b:%d" % (key.encode(), n), b"1") for n in range(30)])
        assert await show_rules(shared_cluster.url, 5.0, as_json=True) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["pattern"], shown["logs"], shown["messages"]) == ({key: None}, 30, 30)
        await publisher.write_rules(Rules())
        assert await publisher.remove_logs(Rules()) == 30


def _is_known(publisher: ClusterPublisher, rules: Rules) -> bool:
    publisher._view.is_young(asyncio.get_running_loop().time())
    return publisher.rules.version == rules.version


@pytest.mark.parametrize("channel", [b"a:1", b"k:{tag}|x:1", b"a{b", b"{a}{b}", b"channel:*|kind:news"])
def test_keys_have_the_slot_of_their_channel(channel: bytes) -> None:
    assert slot_of(log_key(channel)) == slot_of(channel)
    assert slot_of(key_name(Publication(channel, b"", b"k}{k"))) == slot_of(channel)


# ---- failures


async def test_a_stopped_registry_holds_back_what_is_published(shared_cluster: Cluster) -> None:
    """Nothing is published without a young view of the registry: it is not sent, so the failure is clear."""
    registry = shared_cluster.owner(CLUSTER.shapes)
    other = next(machine for machine in shared_cluster.primaries if machine is not registry)
    channel = channel_at(other, shared_cluster)
    async with publisher_to(shared_cluster, timeout=0.3) as publisher:
        registry.command("CLIENT", "PAUSE", "600", "ALL")
        async with subscriber_at(other, channel) as subscriber:
            with pytest.raises(BrokerUnavailable) as caught:
                await publisher.publish(Publication(channel, b"1"))
            assert not isinstance(caught.value, BrokerUnclear)
            await eventually(lambda: publisher._view.read_at > 0)
            assert await publisher.publish(Publication(channel, b"2")) == Published(1)
            assert await subscriber.take(1) == [(channel, b"2")]


async def test_without_wildcards_a_stopped_registry_holds_back_nothing(shared_cluster: Cluster) -> None:
    registry = shared_cluster.owner(CLUSTER.shapes)
    other = next(machine for machine in shared_cluster.primaries if machine is not registry)
    async with publisher_to(shared_cluster, timeout=0.3, project=False) as publisher:
        assert await publisher.publish(Publication(channel_at(other, shared_cluster), b"1")) == Published(0)
        publisher._view.read_at -= 100.0
        registry.command("CLIENT", "PAUSE", "600", "ALL")
        assert await publisher.publish(Publication(channel_at(other, shared_cluster), b"1")) == Published(0)
        registry.command("CLIENT", "UNPAUSE")


async def test_a_connection_that_is_lost_fails_what_was_sent_and_sends_the_rest(shared_cluster: Cluster) -> None:
    machine = shared_cluster.primaries[0]
    channel = channel_at(machine, shared_cluster)
    async with publisher_to(shared_cluster, name="to-be-killed") as publisher:
        await publisher.publish(Publication(channel, b"0"))
        machine.command("CLIENT", "PAUSE", "200", "ALL")
        sent = asyncio.create_task(publisher.publish(Publication(channel, b"1")))
        keyed = asyncio.create_task(publisher.publish(Publication(channel, b"2", b"k")))
        await asyncio.sleep(0.01)  # they are written
        publisher._shards.at(machine.place)._keeper.connection.drop("by the test")  # type: ignore[union-attr]
        later = asyncio.create_task(publisher.publish(Publication(channel, b"3")))
        with pytest.raises(BrokerUnclear):
            await sent
        assert (await keyed).nodes == 0
        assert await later == Published(0)


async def test_a_caller_that_gives_up_leaves_no_trace(shared_cluster: Cluster) -> None:
    registry = shared_cluster.owner(CLUSTER.shapes)
    channel = channel_at(registry, shared_cluster)
    async with publisher_to(shared_cluster) as publisher, subscriber_at(registry, channel) as subscriber:
        held = asyncio.create_task(publisher.publish(Publication(channel, b"1")))  # waits for the first view
        await asyncio.sleep(0)
        held.cancel()
        assert await publisher.publish(Publication(channel, b"2")) == Published(1)
        assert await subscriber.take(1) == [(channel, b"2")]


async def test_a_user_without_rights_to_the_registry_is_refused(shared_cluster: Cluster) -> None:
    for machine in shared_cluster.primaries:
        machine.command(
            "ACL", "SETUSER", "narrow", "on", "nopass", "resetchannels", "allchannels", "~{realizehit}:history",
            "+spublish", "+get", "+cluster|slots", "+cluster|nodes", "+cluster|info", "+ping", "+eval",
        )  # fmt: skip
    hosts = shared_cluster.url.partition("://")[2]
    address = ClusterAddress(f"redis+cluster://narrow:x@{hosts}")
    watch = TopologyWatch(address)
    await watch.start()
    strict, plain = ClusterPublisher(address, watch), ClusterPublisher(address, watch, project=False)
    try:
        with pytest.raises(BrokerRefused, match="without wildcards"):
            await strict.publish(Publication(b"a:1", b"1"))
        assert await plain.publish(Publication(b"a:1", b"1")) == Published(0)
    finally:
        await strict.close()
        await plain.close()
        await watch.close()


async def test_after_the_end_everything_fails(shared_cluster: Cluster) -> None:
    async with publisher_to(shared_cluster) as publisher:
        await publisher.publish(Publication(b"a:1", b"1"))
        await publisher.close()
        with pytest.raises(BrokerUnavailable, match="closed"):
            await publisher.publish(Publication(b"a:1", b"1"))


# ---- the registrar


class Heard:
    """What a registrar reported: shapes, and when."""

    def __init__(self) -> None:
        self.registered: dict[bytes, float] = {}

    def shape_registered(self, shape: bytes) -> None:
        self.registered[shape] = asyncio.get_running_loop().time()

    def shape_refused(self, shape: bytes, error: BrokerError) -> None:
        raise AssertionError(error)

    def bridge_had_gap(self, seconds: float) -> None:
        raise AssertionError

    def shape_lapsed(self, shape: bytes, seconds: float) -> None:
        raise AssertionError


@pytest.mark.slow
async def test_a_registrar_waits_until_all_publishers_know_a_new_shape(shared_cluster: Cluster) -> None:
    new, old = b"new%d:*" % next(_numbers), b"old%d:*" % next(_numbers)
    began = add_shape(shared_cluster, old)
    shared_cluster.owner(CLUSTER.shapes).command("HSET", CLUSTER.registrations, old, began - 60_000)
    address = ClusterAddress(shared_cluster.url)
    watch = TopologyWatch(address)
    await watch.start()
    heard = Heard()
    registrar = Registrar(
        SlotAddress(address, watch, slot_of(CLUSTER.control)), heard, names=CLUSTER, settle=VIEW_SETTLE
    )
    try:
        asked = asyncio.get_running_loop().time()
        assert not registrar.register(new)
        assert not registrar.register(old)
        await eventually(lambda: len(heard.registered) == 2)
        assert heard.registered[old] < heard.registered[new]
        assert heard.registered[new] - asked >= VIEW_SETTLE
        assert registrar.is_registered(new)
    finally:
        await registrar.close()
        await watch.close()
        remove_shape(shared_cluster, new)
        remove_shape(shared_cluster, old)


async def test_a_watch_that_is_closed_while_it_starts_does_not_go_on() -> None:
    def accept(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        """Say nothing."""

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    watch = TopologyWatch(ClusterAddress(f"redis+cluster://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    starting = asyncio.create_task(watch.start())
    await asyncio.sleep(0)
    await watch.close()
    await asyncio.wait_for(starting, 10)
    assert [task.get_name() for task in asyncio.all_tasks() if "topology" in task.get_name()] == []
    server.close()


def test_calls_of_other_threads_end_when_a_publisher_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sender = ClusterSender(
            f"redis+cluster://127.0.0.1:{silent.getsockname()[1]}", timeout=30, retries=0, wildcards=False, window=120
        )
        errors: list[Exception] = []

        def ping() -> None:
            try:
                sender.ping()
            except BrokerUnavailable as error:
                errors.append(error)

        threads = [threading.Thread(target=ping) for _ in range(4)]
        for thread in threads:
            thread.start()
        connection, _ = silent.accept()  # so a call is under way
        sender.close()
        for thread in threads:
            thread.join(10)
        connection.close()
        assert not any(thread.is_alive() for thread in threads)
        assert len(errors) == 4
