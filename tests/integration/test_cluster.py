"""A node and all kinds of publishers on a cluster: each message once, from the one machine that owns its channel."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from realizehit import APIClient, Publisher, sync
from realizehit.broker.base import Interest
from realizehit.broker.history.rules import Rules
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication
from realizehit.errors import BrokerRefused, SettingsError
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_client_ws import connect, take
from tests.integration.test_wildcards_end_to_end import publishers, told
from tests.support import presence
from tests.support.bus_recorder import Recorder
from tests.support.cluster import Cluster, slot_of
from tests.support.cluster_rig import KEPT, patterns_of
from tests.support.history import SECONDS, Client, label
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.wire import unique

_numbers = itertools.count()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster for tests that break nothing; each uses channels of its own."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@asynccontextmanager
async def node_at(cluster: Cluster, **settings: Any) -> AsyncIterator[Node]:
    async with serve(Settings(port=0, redis=cluster.url, **settings)) as node:
        yield node


def each_shard(cluster: Cluster, count: int = 3) -> list[Pattern]:
    """Patterns of every primary."""
    return [pattern for machine in cluster.primaries for pattern in patterns_of(machine, cluster, count)]


async def write_rules(cluster: Cluster, rules: Rules) -> None:
    """Set the rules of history for the nodes that start from now on."""
    bus = open_bus(cluster.url)
    await bus.start(None)
    await bus.write_rules(rules)
    await bus.close()


def filters(pattern: Pattern) -> dict[str, Any]:
    return dict(pattern)


async def test_each_message_comes_once_from_each_kind_of_publisher(cluster: Cluster) -> None:
    patterns = each_shard(cluster)
    async with (
        node_at(cluster) as node,
        publishers(node.api_url, cluster.url) as ways,
        connect(node.ws_url) as client,
    ):
        subscriptions = [await client.subscribe(dict(pattern)) for pattern in patterns]
        for number, publish in enumerate(ways.values()):
            for pattern in patterns:
                assert (await publish(filters(pattern), number)).nodes == 1
        for subscription in subscriptions:
            assert await take(subscription, len(ways)) == list(range(len(ways)))
        for machine in cluster.primaries:
            own = {pattern.channel for pattern in patterns} & set(machine.command("PUBSUB", "SHARDCHANNELS"))
            assert own == {pattern.channel for pattern in patterns if cluster.owner(pattern.channel) is machine}
            names = [each["name"] for each in machine.clients() if each["name"].startswith("realizehit")]
            assert names.count("realizehit") == 1


async def test_a_batch_to_all_shards_is_answered_in_order(cluster: Cluster) -> None:
    patterns = each_shard(cluster)
    async with node_at(cluster) as node, connect(node.ws_url) as client, Publisher(cluster.url) as publisher:
        subscriptions = [await client.subscribe(dict(pattern)) for pattern in patterns[::2]]
        wanted = [(dict(pattern), number) for number in range(200) for pattern in patterns]
        outcomes = await publisher.publish_many(wanted)
        assert [getattr(outcome, "nodes", None) for outcome in outcomes] == [
            int(index % len(patterns) % 2 == 0) for index in range(len(wanted))
        ]
        for subscription in subscriptions:
            assert await take(subscription, 200) == list(range(200))


async def test_nodes_get_what_they_need_and_nothing_else(cluster: Cluster) -> None:
    pattern, other = each_shard(cluster, 1)[:2]
    async with node_at(cluster) as one, node_at(cluster) as two:
        first, second = await Client.connect(one.ws_url), await Client.connect(two.ws_url)
        assert "ret" in await first.ask(dict(pattern))
        assert "ret" in await second.ask(dict(other))
        for number in range(50):
            assert (await one.bus.publish(Publication(pattern.channel.encode(), b"%d" % number))).nodes == 1
        await first.take(50)
        assert (await two.bus.publish(Publication(other.channel.encode(), b"1"))).nodes == 1
        assert await second.take(1) == [f"{other.id}?1".encode()]
        assert (one.bus.messages_received, two.bus.messages_received) == (50, 1)
        assert await two.bus.nodes([pattern.channel.encode(), b"nobody:has", other.channel.encode()]) == [1, 0, 1]
        first.transport.abort()
        second.transport.abort()


async def test_wildcards(cluster: Cluster) -> None:
    """The registry is in one shard, each projection in the shard of its own channel."""
    key = f"kind{next(_numbers)}"
    async with (
        node_at(cluster) as near,
        node_at(cluster) as far,
        publishers(near.api_url, cluster.url) as ways,
        connect(near.ws_url) as one,
        connect(far.ws_url) as two,
    ):
        for publish in ways.values():  # each knows the registry before the shapes are there
            assert (await publish({"before": key}, 0)).nodes == 0
        wild, exact = await one.subscribe({key: "a", "n": "*"}), await one.subscribe({key: "a", "n": "1"})
        other = await two.subscribe({key: "*", "*": "*"})
        expected = []
        for number, publish in enumerate(ways.values()):
            for n in ("1", "2"):
                pattern = {key: "a", "n": n}
                assert (await publish(pattern, number)).nodes == (3 if n == "1" else 2)
                expected.append((pattern, number))
        assert await told(wild, len(expected)) == expected
        assert await told(other, len(expected)) == expected
        assert await take(exact, len(ways)) == list(range(len(ways)))


async def test_history_and_keys(cluster: Cluster) -> None:
    pattern, wildcard = {"kept": "yes", **unique("cluster")}, {"kept": "yes", "test": "cluster", "n": "*"}
    await write_rules(cluster, KEPT)
    async with node_at(cluster) as node, APIClient(node.api_url, trust_env=False) as api:
        client: Client = await Client.connect(node.ws_url)
        replies = [await client.ask(each, offsets=True) for each in (pattern, wildcard)]
        assert all("at" in reply for reply in replies), replies
        begin, wild = (reply["at"] for reply in replies)
        results = [await api.publish(pattern, number, idempotency_key=f"k{number}") for number in range(5)]
        again = [await api.publish(pattern, number, idempotency_key=f"k{number}") for number in range(5)]
        assert [one.at for one in again] == [one.at for one in results]
        assert all(one.duplicate for one in again)
        with sync.Publisher(cluster.url) as blocking:
            same = await asyncio.to_thread(blocking.publish, pattern, 0, idempotency_key="k0")
            assert same.duplicate
            assert (await asyncio.to_thread(blocking.publish, pattern, 5)).at == f"{begin.partition('.')[0]}.6"
        texts = await client.take(12)
        assert [text for text in texts if text.startswith(label(pattern).encode())] == [
            f"{label(pattern)}@o={number + 1}?{number}".encode() for number in range(6)
        ]
        assert len({text for text in texts if text.startswith(label(wildcard).encode())}) == 6
        client.transport.abort()

        back: Client = await Client.connect(node.ws_url)
        reply = await back.ask(pattern, since=begin)
        assert reply["recovered"]
        assert [text.partition(b"?")[2] for text in await back.take(6)] == [b"%d" % number for number in range(6)]
        assert (await back.ask(wildcard, since=wild))["recovered"]
        assert [text.partition(b"?")[2] for text in await back.take(6)] == [b"%d" % number for number in range(6)]
        back.transport.abort()
        keys = [key for machine in cluster.primaries for key in machine.command("KEYS", "*")]
        assert "realizehit:log:{kept:yes|n:*|test:cluster}" in keys
        assert {"{realizehit}:shapes", "{realizehit}:history"} <= set(keys)
        await node.bus.remove_logs(Rules())
    await write_rules(cluster, Rules())


async def test_a_slot_that_moves_is_told_to_its_clients_and_to_no_others(cluster: Cluster) -> None:
    first, second, third = cluster.primaries
    (moving, stays), (other,) = patterns_of(first, cluster, 2), patterns_of(second, cluster, 1)
    async with node_at(cluster) as node:
        client: Client = await Client.connect(node.ws_url)
        for pattern in (moving, stays, other):
            assert "ret" in await client.ask(dict(pattern))
        await asyncio.to_thread(cluster.move_slot, slot_of(moving.channel), third)
        (event,) = await client.take(1)
        assert event.startswith(b'{"evt":"gap"')
        assert f'"ids":["{moving.id}"]'.encode() in event
        for pattern in (moving, stays, other):
            assert (await node.bus.publish(Publication(pattern.channel.encode(), b"1"))).nodes == 1
        assert await client.take(3) == [f"{pattern.id}?1".encode() for pattern in (moving, stays, other)]
        client.transport.abort()


async def test_the_address_of_one_machine_is_refused(cluster: Cluster) -> None:
    """Messages of classic pub/sub would go to every machine of the cluster."""
    url = f"redis://127.0.0.1:{cluster.machines[0].port}"
    with pytest.raises(BrokerRefused, match=r"redis\+cluster://"):
        async with serve(Settings(port=0, redis=url)):
            pass
    async with Publisher(url) as publisher:
        with pytest.raises(BrokerRefused, match=r"redis\+cluster://"):
            await publisher.publish({"a": 1}, 1)
    with sync.Publisher(url) as blocking, pytest.raises(BrokerRefused, match=r"redis\+cluster://"):
        await asyncio.to_thread(blocking.publish, {"a": 1}, 1)


async def test_subscriptions_are_answered_where_the_registry_may_not_be_read(cluster: Cluster) -> None:
    for machine in cluster.primaries:
        machine.command(
            "ACL", "SETUSER", "narrow", "on", "nopass", "allkeys", "allchannels", "+@all", "-eval", "-evalsha"
        )
    bus, node = open_bus(cluster.url.replace("://", "://narrow:x@")), Recorder()
    channel = Interest(f"narrow:{next(_numbers)}".encode())
    await bus.start(node)
    try:
        if not bus.subscribe(channel):
            await node.until(lambda: channel in node.confirmed)
        assert not bus.rules.rules
    finally:
        await bus.close()


async def test_a_broker_that_is_no_cluster_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Valkey(tmp_path_factory.mktemp("v"), port=free_port()) as valkey:
        url = valkey.tcp_url.replace("redis://", "redis+cluster://")
        with pytest.raises(BrokerRefused, match="redis://"):
            await open_bus(url).start(None)


def test_a_bridge_is_refused() -> None:
    """Sharded pub/sub has no subscriptions to globs."""
    with pytest.raises(SettingsError, match="bridge"):
        open_bus("redis+cluster://127.0.0.1:1", bridge=True)


async def test_status_and_metrics(cluster: Cluster) -> None:
    async with node_at(cluster) as node, httpx2.AsyncClient(base_url=node.api_url, timeout=SECONDS) as api:
        assert (await api.get("/readyz")).status_code == 200
        assert "realizehit_broker_up 1" in (await api.get("/metrics")).text


async def test_presence(cluster: Cluster, tmp_path: Path) -> None:
    """Members, joins and leaves of a pattern are at the machine that owns it; the leases may be at another one."""
    rules = presence.rules_file(tmp_path)
    async with (
        presence.node_at(cluster.url, rules) as a,
        presence.node_at(cluster.url, rules) as b,
    ):
        for _ in range(4):  # likely of several machines
            pattern = presence.room("quick")
            watcher = await presence.User.at(a, presence.events_of(pattern))
            one, two = [await presence.User.at(node, pattern, user="1") for node in (a, b)]
            await presence.has_members(b, pattern, {"user": "1"})
            await one.leave()
            await two.leave()
            events = await watcher.joins_and_leaves(2)
            assert events == [("join", {"user": "1"}, 1), ("leave", {"user": "1"}, 0)]
            await watcher.leave()
