"""Logs of wildcards end with the registration of their shape: what is published without it comes into none of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from realizehit.broker.base import Bus
from realizehit.broker.history.rules import Rules
from realizehit.broker.history.scripts import SHAPES_KEY, log_key
from realizehit.broker.publication import Publication
from realizehit.broker.shapes.bridge import Bridge
from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.registry import KEY, register
from realizehit.broker.url import Address
from realizehit.common.position import Position
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_history_node import node_at
from tests.integration.test_idempotency import bus_at
from tests.integration.test_shapes_registrar import eventually, registrar_at
from tests.integration.test_sse import http
from tests.support.history import CHAT, SECONDS, Client, label, publish, set_rules
from tests.support.ports import free_port
from tests.support.valkey import Valkey

SHAPE = b"kept:=|room:*"
WILDCARD = b"kept:chat|room:*"
ROOM = b"kept:chat|room:1"
ANY: dict[str, Any] = {"kept": "chat", "room": "*"}
LABELLED = b"@c=kept:chat|room:1?%d"


def lapse(broker: Valkey) -> None:
    """Have all registrations lapse, as if nobody had renewed them for their whole lease."""
    for shape in broker.command("ZRANGE", KEY, "0", "-1"):
        broker.command("ZADD", KEY, "1", shape)


def add(broker: Valkey, shape: bytes = SHAPE) -> None:
    broker.command(*register([shape], 60.0, 64))


def register_unheard(broker: Valkey) -> None:
    """Have the registration lost, and made again by a node whose news does not arrive."""
    script = "redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]); redis.call('HINCRBY', KEYS[2], ARGV[2], 1)"
    lapses, _ = broker.command("TIME")
    broker.command("EVAL", script, "2", KEY, SHAPES_KEY, str(int(lapses) * 1000 + 60_000), SHAPE)


@asynccontextmanager
async def stranger(broker: Valkey) -> AsyncIterator[Bus]:
    """A publisher that reads the registry now."""
    async with bus_at(broker.url) as bus:
        await bus.ping()
        yield bus


async def leave(node: Node, *clients: Client) -> None:
    for client in clients:
        client.transport.abort()
    async with asyncio.timeout(SECONDS):
        while node.bus.shapes:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("held", [False, True], ids=["the shape lapses", "another node holds the shape"])
async def test_a_client_that_comes_back_hears_whether_messages_are_missing(valkey: Valkey, held: bool) -> None:
    set_rules(valkey, CHAT)
    async with node_at(valkey) as (node, _), node_at(valkey) as (other, _):
        client, holder = await Client.connect(node.ws_url), await Client.connect(other.ws_url)
        at = (await client.ask(ANY, offsets=True))["at"]
        if held:
            await holder.ask(ANY)
        await leave(node, client)
        if not held:
            lapse(valkey)
        async with stranger(valkey) as bus:
            await bus.publish_many([Publication(ROOM, b"%d" % number) for number in range(100)])
            back = await Client.connect(node.ws_url)
            reply = await back.ask(ANY, since=at)
            assert reply["recovered"] == held
            missed = 100 if held else 0
            assert reply["at"] == at if held else not reply["at"].startswith(at[:8])
            await bus.publish(Publication(ROOM, b"100"))
            texts = await back.take(missed + 1)
            assert [int(text.partition(b"?")[2]) for text in texts] == [*range(missed), 100]
            assert f"@o={missed + 1}&" in texts[-1].decode()


async def test_a_log_begins_with_the_registration_of_its_shape(valkey: Valkey) -> None:
    set_rules(valkey, CHAT)
    add(valkey)
    async with stranger(valkey) as bus:
        await bus.publish(Publication(ROOM, b"1"))
        old = await bus.read_log(WILDCARD, last=10)
        assert old.messages == [(1, LABELLED % 1)]
        add(valkey)  # renewed
        again = await bus.read_log(WILDCARD, last=10)
        assert (again.epoch, again.messages) == (old.epoch, old.messages)

        lapse(valkey)
        gone = await bus.read_log(WILDCARD, last=10)  # nobody registered it: what is published now would be missing
        assert (gone.last, gone.before, gone.messages) == (0, [], [])
        assert (await bus.read_log(WILDCARD)).epoch == gone.epoch

        add(valkey)
        await bus.publish(Publication(ROOM, b"2"))  # before the first read
        new = await bus.read_log(WILDCARD, last=10)
        assert new.messages == [(1, LABELLED % 2)]
        assert len({old.epoch, gone.epoch, new.epoch}) == 3
        assert not new.covers(Position(old.epoch, 1))
        assert (await bus.read_log(ROOM, last=10)).messages == [(1, b"1"), (2, b"2")]  # a log of its own


async def test_a_log_in_which_messages_are_missing_is_not_gone_on_with(valkey: Valkey) -> None:
    set_rules(valkey, CHAT)
    add(valkey)
    async with stranger(valkey) as bus:
        await bus.publish(Publication(ROOM, b"1"))
        old = await bus.read_log(WILDCARD)
        lapse(valkey)
        async with stranger(valkey) as other:
            await other.publish(Publication(ROOM, b"2"))
        add(valkey)
        # Nobody has read the log since.
        await bus.publish(Publication(ROOM, b"3"))
        part = await bus.read_log(WILDCARD, after=1)
        assert not part.covers(Position(old.epoch, 1))
        assert (part.first, part.last, part.before) == (1, 1, [])


async def test_a_registry_that_is_lost_and_its_times_too(valkey: Valkey) -> None:
    set_rules(valkey, CHAT)
    add(valkey)
    async with stranger(valkey) as bus:
        await bus.publish(Publication(ROOM, b"1"))
        epochs = [(await bus.read_log(WILDCARD)).epoch]
        for key in (KEY, SHAPES_KEY):
            valkey.command("DEL", key)
            add(valkey)
            epochs.append((await bus.read_log(WILDCARD)).epoch)
            assert (await bus.read_log(WILDCARD)).epoch == epochs[-1]
        assert len(set(epochs)) == 3


@pytest.mark.parametrize("lapsed", [False, True], ids=["registered", "lapsed"])
async def test_a_failover_to_a_replica(tmp_path: Path, lapsed: bool) -> None:
    port = free_port()
    with (
        Valkey(tmp_path / "a", port, repl_diskless_sync_delay="0") as master,
        Valkey(tmp_path / "b", replicaof=f"127.0.0.1 {port}") as replica,
    ):
        set_rules(master, CHAT)
        add(master)
        async with stranger(master) as bus:
            await bus.publish(Publication(ROOM, b"1"))
            old = await bus.read_log(WILDCARD)
        await eventually(lambda: replica.command("EXISTS", log_key(WILDCARD)))
        replica.command("REPLICAOF", "NO", "ONE")
        if lapsed:
            lapse(replica)
        add(replica)
        async with stranger(replica) as bus:
            await bus.publish(Publication(ROOM, b"2"))
            part = await bus.read_log(WILDCARD, after=1)
            assert part.covers(Position(old.epoch, 1)) != lapsed
            assert part.last == (1 if lapsed else 2)


async def test_times_of_shapes_that_lapsed_are_forgotten(valkey: Valkey) -> None:
    for number in range(10):
        add(valkey, b"a%d:*" % number)
    lapse(valkey)
    add(valkey)
    assert set(valkey.command("HKEYS", SHAPES_KEY)) == {SHAPE}


async def test_a_node_that_was_away_for_long_while_another_held_the_shape_missed_nothing(valkey: Valkey) -> None:
    async with registrar_at(valkey.url) as (first, heard), registrar_at(valkey.url) as (second, others):
        second.register(SHAPE)
        await others.until(1)
        first.register(SHAPE)
        await heard.until(1)
        connection = first._connection
        assert connection is not None
        first._wanted[SHAPE] = connection.loop.time() - 100.0  # when its last registration was sent
        connection.drop("it was away")
        assert (await heard.until(2))[1] == ("registered", SHAPE)


async def test_a_registration_that_another_node_made_while_this_one_was_away_is_a_gap(valkey: Valkey) -> None:
    async with registrar_at(valkey.url, renew_interval=0.05) as (registrar, heard):
        registrar.register(SHAPE)
        await heard.until(1)
        register_unheard(valkey)
        assert (await heard.until(2))[1][:2] == ("lapsed", SHAPE)


@pytest.mark.parametrize("first", ["message", "news"])
async def test_subscribers_are_told_where_a_registry_was_lost(
    valkey: Valkey, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a message of the new log arrives before the news of the registration."""
    set_rules(valkey, CHAT)
    if first == "message":
        monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=1.0))
    async with node_at(valkey) as (node, _):
        plain, placed = [await Client.connect(node.ws_url) for _ in range(2)]
        await plain.ask(ANY)
        at = (await placed.ask(ANY, offsets=True))["at"]
        clients = plain, placed
        async with stranger(valkey) as bus:
            if first == "message":
                register_unheard(valkey)
                await bus.publish(Publication(ROOM, b"1"))
                for client in clients:
                    assert (await client.take(1))[0].endswith(b"?1")
            else:
                valkey.command("ZREM", KEY, SHAPE)
                add(valkey)
            for client in clients:
                gap = orjson.loads((await client.take(1))[0])
                assert (gap["evt"], gap["ids"]) == ("gap", [label(ANY)])
                assert ("at" in gap) == (client is placed)
            await bus.publish(Publication(ROOM, b"2"))
            for client in clients:
                (text,) = await client.settled()
                assert text.endswith(b"?2")
            back = await Client.connect(node.ws_url)
            assert not (await back.ask(ANY, since=at))["recovered"]


async def test_a_gap_of_a_bridge_is_told_though_the_log_has_no_hole(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=0.1))
    set_rules(valkey, CHAT)
    async with node_at(valkey) as (node, _):
        first, second = Bridge(Address(valkey.url)), Bridge(Address(valkey.url))
        first.start()
        await eventually(lambda: first.runs)
        client = await Client.connect(node.ws_url)
        at = (await client.ask(ANY, offsets=True))["at"]
        valkey.command("PUBLISH", ROOM, b"1")
        assert (await client.take(1))[0].endswith(b"?1")
        await first.close()
        valkey.command("PUBLISH", ROOM, b"2")  # by somebody who knows nothing of shapes
        second.start()
        await eventually(lambda: second.runs)
        gap = orjson.loads((await client.take(1))[0])
        assert (gap["evt"], gap["ids"]) == ("gap", [label(ANY)])
        back = await Client.connect(node.ws_url)
        assert (await node.bus.read_log(WILDCARD, last=10)).messages == []
        assert (await back.ask(ANY, since=gap["at"][label(ANY)]))["recovered"]
        other = await Client.connect(node.ws_url)
        assert not (await other.ask(ANY, since=at))["recovered"]
        await second.close()


async def test_in_one_process_too() -> None:
    settings = Settings(port=0, redis="memory://wildcards")
    async with serve(settings) as node, http(node.api_url) as api:
        await node.bus.write_rules(Rules((CHAT,)))
        client, holder = [await Client.connect(node.ws_url) for _ in range(2)]
        at = (await client.ask(ANY, offsets=True))["at"]
        await holder.ask(ANY)
        client.transport.abort()
        await publish(api, {"kept": "chat", "room": 1}, 1)
        back = await Client.connect(node.ws_url)
        assert (await back.ask(ANY, since=at))["recovered"]
        assert (await back.take(1))[0].endswith(b"?1")
        await leave(node, back, holder)
        await publish(api, {"kept": "chat", "room": 1}, 2)
        assert (await node.bus.read_log(WILDCARD, last=10)).last == 0
        await publish(api, {"kept": "chat", "room": 1}, 3)
        again = await Client.connect(node.ws_url)
        assert not (await again.ask(ANY, since=at))["recovered"]
