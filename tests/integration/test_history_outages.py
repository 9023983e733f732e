"""History while brokers, workers and nodes come and go, over a real Valkey."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest

from realizehit.broker.base import BusState
from realizehit.broker.history.log import LogPart
from realizehit.common.position import Position
from realizehit.node.names import RegistryKey
from realizehit.pattern import Pattern
from realizehit.process.server import Node
from realizehit.settings import Settings
from tests.integration.test_command_workers import worker_pids
from tests.integration.test_history_node import node_at
from tests.integration.test_sse import http
from tests.support.history import CHAT, SECONDS, SHORT, Client, kill_link, label, numbers, publish, room, set_rules
from tests.support.processes import serving
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey


async def until_up(node: Node, reconnects: int) -> None:
    async with asyncio.timeout(SECONDS):
        while node.bus.reconnects < reconnects or node.bus.state is not BusState.UP:
            await asyncio.sleep(0.005)


@pytest.mark.slow
async def test_workers_behind_a_relay_read_logs_by_themselves(valkey: Valkey) -> None:
    set_rules(valkey, CHAT)
    pattern = room()
    words = ("--redis", valkey.url, "--workers", "4", "--relay", "on", "--drain-seconds", "0.2")
    with serving(*words) as server:
        worker_pids(server, 4)
        async with http(server.api) as api:
            clients = [await Client.connect(server.ws) for _ in range(24)]
            for index, client in enumerate(clients):
                await client.ask(pattern, **({"offsets": True} if index % 2 else {}))
            at = [await publish(api, pattern, number) for number in range(10)]
            for client in clients:
                await client.wait_for(10, SECONDS)
            assert valkey.command("PUBSUB", "NUMSUB", Pattern(pattern).channel)[1] == 1

            for connection in valkey.clients():  # the relay's
                if connection["name"] == "realizehit-relay":
                    valkey.command("CLIENT", "KILL", "ID", connection["id"])
            for number in range(10, 40):
                await publish(api, pattern, number)
            for index, client in enumerate(clients):
                await client.wait_for(40, SECONDS)
                assert numbers(await client.settled(), pattern, positions=bool(index % 2)) == list(range(40))

            back = [await Client.connect(server.ws) for _ in range(24)]
            for index, client in enumerate(back):
                reply = await client.ask(pattern, since=at[index % 10])
                assert reply["recovered"]
            for index, client in enumerate(back):
                await client.wait_for(39 - index % 10, SECONDS)
                assert numbers(await client.settled(), pattern, positions=True) == list(range(index % 10 + 1, 40))
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0


@pytest.mark.parametrize("keeps", [True, False], ids=["keeps its data", "loses its data"])
async def test_a_broker_that_is_restarted(tmp_path: Path, keeps: bool) -> None:
    pattern, count = room(), 50
    with Valkey(tmp_path) as broker:
        set_rules(broker, CHAT)
        async with node_at(broker) as (node, api):
            plain, placed = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
            await plain.ask(pattern)
            await placed.ask(pattern, offsets=True)
            at = [await publish(api, pattern, number) for number in range(count)]
            for each in (plain, placed):
                await each.take(count)
            if not keeps:
                broker.command("FLUSHALL")
            broker.command("SAVE")
            broker.kill()
            broker.start()
            await until_up(node, 1)
            if not keeps:
                for each in (plain, placed):
                    gap = orjson.loads((await each.take(1))[0])
                    assert (gap["evt"], gap["ids"]) == ("gap", [label(pattern)])
            set_rules(broker, CHAT)
            key = RegistryKey(Pattern(pattern).channel.encode())
            async with asyncio.timeout(SECONDS):
                while key not in node.hub.logs or node.hub.logs.position(key) is None:
                    await asyncio.sleep(0.005)
            new = await publish(api, pattern, "new")
            assert new.partition(".")[0] != at[0].partition(".")[0]  # the broker may have lost the end of the log
            assert new.partition(".")[2] == (str(count + 1) if keeps else "1")
            assert await plain.take(1) == [f'{label(pattern)}?"new"'.encode()]
            assert await placed.take(1) == [f'{label(pattern)}@o={new}?"new"'.encode()]
            assert await placed.settled() == []
            back = await Client.connect(node.ws_url)
            reply = await back.ask(pattern, since=at[-2])
            assert reply["recovered"] == keeps
            if keeps:
                assert numbers((await back.take(2))[:1], pattern, positions=True) == [count - 1]


async def test_a_broker_that_lost_its_rules_is_told_when_the_channel_is_in_force_again(tmp_path: Path) -> None:
    pattern = room()
    with Valkey(tmp_path) as broker:
        set_rules(broker, CHAT)
        async with node_at(broker) as (node, api):
            client = await Client.connect(node.ws_url)
            await client.ask(pattern, offsets=True)
            await publish(api, pattern, 1)
            await client.take(1)
            broker.command("FLUSHALL")
            broker.command("SAVE")
            broker.kill()
            broker.start()
            assert orjson.loads((await client.take(1))[0])["evt"] == "gap"
            assert broker.command("PUBSUB", "NUMSUB", Pattern(pattern).channel)[1] == 1
            assert await client.settled() == []  # no second gap


async def test_the_log_cannot_be_read_and_then_it_can(tmp_path: Path) -> None:
    pattern = room()
    with Valkey(tmp_path) as broker:
        broker.command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all", "-evalsha", "-eval")
        set_rules(broker, CHAT)
        async with node_at(broker, wildcards=False, subscribe_timeout=0.5) as (node, _):
            plain, placed = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
            assert await plain.ask(pattern) == {"id": "ask", "ret": label(pattern)}
            assert (await placed.ask(pattern, offsets=True))["code"] == "unavailable"
            channel = Pattern(pattern).channel
            assert broker.command("PUBLISH", channel, "@o=aaaaaaaa.1?1") == 1
            assert await plain.take(1) == [f"{label(pattern)}?1".encode()]
            broker.command("ACL", "SETUSER", "default", "+@all")
            async with asyncio.timeout(SECONDS):
                while True:
                    reply = await placed.ask(pattern, offsets=True)
                    if "at" in reply:
                        break
            assert broker.command("PUBLISH", channel, "2") == 1
            assert await plain.take(1) == [f"{label(pattern)}?2".encode()]
            assert await placed.take(1) == [f"{label(pattern)}?2".encode()]


async def test_a_client_is_drained_and_resumes_at_another_node(valkey: Valkey) -> None:
    set_rules(valkey, CHAT)
    pattern = room()
    async with node_at(valkey, drain_seconds=0.2) as (node, _), node_at(valkey) as (other, api):
        client = await Client.connect(node.ws_url)
        await client.ask(pattern, offsets=True)
        await publish(api, pattern, 0)
        await client.take(1)
        await node.drain()
        await client.closed.wait()
        assert client.close_code == 4001
        for number in range(1, 4):
            at = await publish(api, pattern, number)
        back = await Client.connect(other.ws_url)
        reply = await back.ask(pattern, since=at.partition(".")[0] + ".1")
        assert reply["recovered"]
        await back.wait_for(3, SECONDS)
        assert numbers(await back.settled(), pattern, positions=True) == [1, 2, 3]


async def test_a_new_subscriber_during_an_outage_gets_nothing_from_before_its_answer(tmp_path: Path) -> None:
    pattern = room()
    with Valkey(tmp_path) as broker:
        set_rules(broker, CHAT)
        async with node_at(broker) as (node, _), node_at(broker, role="api") as (_, api):
            old, new = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
            await old.ask(pattern)
            await publish(api, pattern, 0)
            await old.wait_for(1)
            kill_link(broker)
            await publish(api, pattern, 1)
            async with asyncio.timeout(SECONDS):
                while node.bus.state is BusState.UP and node.bus.reconnects == 0:
                    await asyncio.sleep(0)
            await new.ask(pattern)
            await publish(api, pattern, 2)
            assert numbers(await old.take(3), pattern, positions=False) == [0, 1, 2]
            assert numbers(await new.settled(), pattern, positions=False) == [2]


async def test_rules_that_are_lost_with_the_broker_are_no_end_of_a_gap(valkey: Valkey) -> None:
    """The rules can be known to be gone before the channel is in force: a client that is told then would miss more."""
    pattern = room()
    set_rules(valkey, CHAT)
    async with Proxy(valkey.socket) as proxy:
        node = Node(Settings(port=0, redis=valkey.url), valkey.url, relay_url=proxy.url)
        await node.start()
        try:
            async with http(node.api_url) as api:
                clients = plain, placed = [await Client.connect(node.ws_url) for _ in range(2)]
                await plain.ask(pattern)
                await placed.ask(pattern, offsets=True)
                await publish(api, pattern, 0)
                for each in clients:
                    await each.take(1)
                proxy.swallow = True
                await proxy.cut()
                async with asyncio.timeout(SECONDS):
                    while node.bus.state is BusState.UP:
                        await asyncio.sleep(0.005)
                set_rules(valkey)
                async with asyncio.timeout(SECONDS):
                    while len(node.hub.logs):
                        await asyncio.sleep(0.005)
                await publish(api, pattern, "lost")
                for each in clients:
                    assert await each.settled() == []
                proxy.swallow = False
                await proxy.cut()
                for each in clients:
                    gap = orjson.loads((await each.take(1))[0])
                    assert (gap["evt"], gap["ids"]) == ("gap", [label(pattern)])
                await publish(api, pattern, "new")
                for each in clients:
                    assert await each.settled() == [f'{label(pattern)}?"new"'.encode()]
        finally:
            await node.close()


async def test_a_gap_is_told_before_what_follows_it(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that had what follows, and was not told, would resume after it and never learn of the gap."""
    set_rules(valkey, SHORT)
    pattern = {"kept": "short", "room": "told first"}
    channel = Pattern(pattern).channel.encode()
    async with node_at(valkey) as (node, api):
        plain, placed = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
        await plain.ask(pattern)
        await placed.ask(pattern, offsets=True)
        first = await publish(api, pattern, 0)
        for each in (plain, placed):
            await each.take(1)
        read_log = node.bus.read_log

        async def read(key: bytes, **keys: Any) -> LogPart:
            """Read, and have one more message come before the answer does."""
            part = await read_log(key, **keys)
            monkeypatch.undo()
            kept = node.engine.stats()["kept_back"]
            await publish(api, pattern, "after")
            async with asyncio.timeout(SECONDS):
                while node.engine.stats()["kept_back"] == kept:
                    await asyncio.sleep(0.005)
            return part

        node.engine.hold(channel, True)
        for number in range(1, 2 * SHORT.size):
            await publish(api, pattern, number)
        async with asyncio.timeout(SECONDS):
            while node.engine.stats()["dropped_unclaimed"] < 2 * SHORT.size - 1:
                await asyncio.sleep(0.005)
        node.engine.hold(channel, False)
        monkeypatch.setattr(node.bus, "read_log", read)
        at = Position(first.partition(".")[0], 2 * SHORT.size + 1)
        await publish(api, pattern, "follows not")
        for each, text in ((plain, b'?"after"'), (placed, b'@o=%d?"after"' % (at.offset + 1))):
            gap, after = await each.take(2)
            event = orjson.loads(gap)
            assert (event["evt"], event["ids"]) == ("gap", [label(pattern)])
            assert event.get("at") == ({label(pattern): str(at)} if each is placed else None)
            assert after == label(pattern).encode() + text
            assert await each.settled() == []
        assert node.hub.logs.counts.unrepaired == 1


async def test_another_copy_of_a_log_that_comes_back_is_a_gap(valkey: Valkey) -> None:
    """A node was at a new log for a moment, as at a server without its data: nothing comes twice afterwards."""
    set_rules(valkey, CHAT)
    pattern = room()
    channel = Pattern(pattern).channel
    key = f"realizehit:log:{{{channel}}}"
    async with node_at(valkey) as (node, api):
        client = await Client.connect(node.ws_url)
        await client.ask(pattern, offsets=True)
        for number in range(3):
            await publish(api, pattern, number)
        assert numbers(await client.take(3), pattern, positions=True) == [0, 1, 2]
        valkey.command("RENAME", key, "copy")
        other = await publish(api, pattern, "other")  # in a log that begins anew
        assert await client.take(1) == [f'{label(pattern)}@o={other}?"other"'.encode()]
        valkey.command("RENAME", "copy", key)
        at = await publish(api, pattern, 3)
        gap = orjson.loads((await client.take(1))[0])
        assert (gap["evt"], gap["at"]) == ("gap", {label(pattern): at})
        assert await client.settled() == []
        after = await publish(api, pattern, 4)
        assert await client.take(1) == [f"{label(pattern)}@o={after}?4".encode()]
