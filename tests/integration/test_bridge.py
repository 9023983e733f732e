"""The bridge on whole nodes, over a real Valkey: publishers that know nothing of shapes reach wildcards, once."""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from realizehit import Pattern
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes import bridge as bridge_module
from realizehit.broker.shapes.bridge import Bridge
from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.registry import done, end, hold, register
from realizehit.broker.url import Address
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import act, client

NEWS: dict[str, Any] = {"kind": "news", "channel": "*"}
CNN: dict[str, Any] = {"kind": "news", "channel": "CNN"}
CHANNEL = Pattern(CNN).channel.encode()
SECONDS = 30


@asynccontextmanager
async def bridging(valkey: Valkey, count: int = 1) -> AsyncIterator[list[Node]]:
    """Nodes that may be the bridge, of which one is."""
    async with AsyncExitStack() as stack:
        settings = Settings(port=0, redis=valkey.url, bridge=True)
        nodes = [await stack.enter_async_context(serve(settings)) for _ in range(count)]
        await eventually(lambda: any(node.bus.is_bridge for node in nodes))
        yield nodes


async def eventually(holds: Any) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


async def payload(ws: Any) -> str:
    text = await asyncio.wait_for(ws.recv(), SECONDS)
    assert isinstance(text, str)
    return text


async def test_the_bridge_projects_plain_publications_and_api_ones_arrive_once(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "SETTLE", 0.0)
    async with bridging(valkey) as (node,), client(node.ws_url) as ws, httpx2.AsyncClient() as http:
        assert "ret" in await act(ws, "sub", NEWS)
        assert "ret" in await act(ws, "sub", {"*": "*", "kind": "news"})
        valkey.command("PUBLISH", CHANNEL, b"1")
        expected = {Pattern(NEWS).id, Pattern({"*": "*", "kind": "news"}).id}
        for number in ("1", "2"):
            texts = [await payload(ws) for _ in range(2)]
            assert set(texts) == {f"{one}@c={Pattern(CNN).channel}?{number}" for one in expected}
            if number == "1":
                answer = await http.post(node.api_url, json={"pattern": CNN, "payload": 2})
                assert answer.status_code == 200
        # A glob matches too much, and what is reserved or no channel at all matches nothing.
        for channel in ("kind:news|superkind:x", "channel:x|kind:news|realizehit:1", "a|kind:news:", "kind:news?"):
            valkey.command("PUBLISH", channel, b"3")
        valkey.command("PUBLISH", CHANNEL, b"4")
        texts = [await payload(ws) for _ in range(3)]
        assert sorted(text.rpartition("?")[2] for text in texts) == ["3", "4", "4"]  # superkind is a further filter
        shown = (await http.get(node.api_url.rstrip("/") + "/metrics")).text
        assert "realizehit_bridge 1.0" in shown


async def test_the_first_subscription_of_a_shape_waits_until_the_bridge_listens(valkey: Valkey) -> None:
    async with bridging(valkey) as (node,), client(node.ws_url) as ws:
        for number in range(20):
            pattern = {f"key{number}": "*", "n": number}
            assert "ret" in await act(ws, "sub", pattern)
            valkey.command("PUBLISH", Pattern({f"key{number}": "x", "n": number}).channel, b"%d" % number)
            assert (await payload(ws)).endswith(f"?{number}")


async def test_starting_and_stopping_a_bridge_under_load_is_exactly_once(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "SETTLE", 0.5)
    publisher = open_bus(valkey.url)
    await publisher.start(None)
    numbers = itertools.count()
    running = True

    async def publish() -> None:
        while running:
            batch = [Publication(CHANNEL, b"%d" % next(numbers)) for _ in range(20)]
            outcomes = await publisher.publish_many(batch)
            assert all(isinstance(outcome, Published) for outcome in outcomes)
            await asyncio.sleep(0.002)

    async with serve(Settings(port=0, redis=valkey.url)) as node, client(node.ws_url) as ws:
        await act(ws, "sub", NEWS)
        publishing = [asyncio.create_task(publish())]
        got: list[int] = []

        async def receive() -> None:
            while True:
                got.append(int(str(await ws.recv()).rpartition("?")[2]))

        receiving = asyncio.create_task(receive())
        projected = []
        for _ in range(2):
            bridge = Bridge(Address(valkey.url))
            bridge.start()
            await eventually(lambda bridge=bridge: bridge.runs)
            reached = len(got)
            await eventually(lambda bridge=bridge, reached=reached: bridge.projected > 500 and len(got) > reached + 500)
            await bridge.close()
            projected.append(bridge.projected)
            await asyncio.sleep(0.1)  # the publishers project again
        running = False
        await asyncio.gather(*publishing)
        count = next(numbers)
        await eventually(lambda: len(got) >= count)
        receiving.cancel()
    await publisher.close()
    assert got == list(range(count))
    assert sum(projected) < count


@pytest.mark.slow
async def test_another_bridge_takes_over_a_dead_one_and_clients_get_a_gap(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=0.2))
    async with bridging(valkey, 2) as nodes, client(nodes[0].ws_url) as ws, client(nodes[0].ws_url) as exact:
        await act(ws, "sub", NEWS)
        await act(exact, "sub", CNN)
        first = next(node for node in nodes if node.bus.is_bridge)
        second = next(node for node in nodes if node is not first)
        died: Bridge = first.bus._bridge  # type: ignore[attr-defined]
        assert died._task is not None
        died._task.cancel()
        assert died._connection is not None
        died._connection.drop("it dies")
        began = time.monotonic()
        valkey.command("PUBLISH", CHANNEL, b'"lost"')
        event = orjson.loads(await payload(ws))
        assert (event["evt"], event["ids"]) == ("gap", [Pattern(NEWS).id])
        assert 0 <= event["seconds"] - (time.monotonic() - began) < 3  # since the last sign of life
        await eventually(lambda: second.bus.is_bridge)
        assert time.monotonic() - began < 10
        valkey.command("PUBLISH", CHANNEL, b'"found"')
        text = await payload(ws)
        if text.startswith("{"):  # a node noticed before the other bridge: until that began, others had none
            assert orjson.loads(text)["evt"] == "gap"
            text = await payload(ws)
        assert text.endswith('?"found"')
        for text in ('"lost"', '"found"'):
            assert await payload(exact) == f"{Pattern(CNN).id}?{text}"


async def test_a_bridge_without_the_rights_says_which_it_needs(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.command("ACL", "SETUSER", "plain", "on", ">secret", "&*", "+@pubsub", "+@connection")
    bridge = Bridge(Address(valkey.url.replace("unix://", "unix://plain:secret@")))
    bridge.start()
    await eventually(lambda: "realizehit:bridged" in caplog.text)  # after what it says of the rules of history
    await bridge.close()
    assert "NOPERM" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.slow
async def test_after_a_bridge_died_alone_the_publishers_project_again(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=0.2))
    async with serve(Settings(port=0, redis=valkey.url)) as node, client(node.ws_url) as ws:
        await act(ws, "sub", NEWS)
        bridge = Bridge(Address(valkey.url))
        bridge.start()
        await eventually(lambda: bridge.runs)
        assert (await node.bus.publish(Publication(CHANNEL, b"1"))).nodes == 1  # the bridge, which projects it
        assert (await payload(ws)).endswith("?1")
        assert node.bus.projected.publications == 0
        assert bridge._task is not None
        bridge._task.cancel()
        assert bridge._connection is not None
        bridge._connection.drop("it dies")
        assert orjson.loads(await payload(ws))["evt"] == "gap"
        assert (await node.bus.publish(Publication(CHANNEL, b"2"))).nodes == 1  # the projection
        assert node.bus.projected.publications == 1
        assert (await payload(ws)).endswith("?2")


async def test_another_bridge_follows_one_that_shut_down_and_reports_the_gap(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=0.2))
    async with serve(Settings(port=0, redis=valkey.url)) as node, client(node.ws_url) as ws:
        await act(ws, "sub", NEWS)
        first, second = Bridge(Address(valkey.url)), Bridge(Address(valkey.url))
        first.start()
        await eventually(lambda: first.runs)
        second.start()
        await eventually(lambda: valkey.calls("eval") > 4)
        began = time.monotonic()
        await first.close()
        await eventually(lambda: second.runs)
        event = orjson.loads(await payload(ws))
        assert event["evt"] == "gap"
        assert event["seconds"] <= time.monotonic() - began + 0.1  # the clocks differ, and it is rounded up
        await second.close()


@pytest.mark.parametrize("ends", [True, False])
async def test_a_bridge_that_lost_its_connection_had_a_gap_since_the_last_message_that_it_read(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """The broker closes a connection that is read too slowly: what waited is lost, also after the bridge ended."""
    monkeypatch.setattr("realizehit.broker.redis.Registrar", partial(Registrar, renew_interval=0.1))
    monkeypatch.setattr(bridge_module, "BRIDGE_INTERVAL", 0.05)
    monkeypatch.setattr(bridge_module, "end", partial(end, lease=0.1))
    bridge = Bridge(Address(valkey.url))
    lost_at = 0  # by the broker's clock, in milliseconds

    def lose_a_message() -> None:
        nonlocal lost_at
        assert bridge._connection is not None
        assert bridge._connection._transport is not None
        bridge._connection._transport.pause_reading()
        seconds, microseconds = map(int, valkey.command("TIME"))
        lost_at = seconds * 1000 + microseconds // 1000
        valkey.command("PUBLISH", CHANNEL, b'"lost"')
        time.sleep(0.005)  # so that a renewal is certainly later

    def hold_after_loss(name: str, projected: int, shapes: list[bytes]) -> tuple[bytes | str, ...]:
        if bridge.runs and not ends and not lost_at:
            lose_a_message()
        return hold(name, projected, shapes, lease=1.0)

    def score() -> Any:
        return valkey.command("ZSCORE", "realizehit:shapes", "bridge")

    monkeypatch.setattr(bridge_module, "hold", hold_after_loss)
    async with serve(Settings(port=0, redis=valkey.url)) as node, client(node.ws_url) as ws:
        await act(ws, "sub", NEWS)
        bridge.start()
        await eventually(lambda: bridge.runs)
        connection, task = bridge._connection, bridge._task
        assert connection is not None
        assert task is not None
        if ends:
            lose_a_message()
            closing = asyncio.create_task(bridge.close())
            await eventually(lambda: score() is None)
        else:  # a renewal, which the broker carries out after the message
            held = score()
            await eventually(lambda: lost_at and score() != held)
            task.cancel()
            closing = asyncio.create_task(bridge.close())
        connection.drop("it was read too slowly")
        await closing
        event = orjson.loads(await payload(ws))
        assert (event["evt"], event["ids"]) == ("gap", [Pattern(NEWS).id])
    assert lost_at - 3000 < int(valkey.command("HGET", "realizehit:bridge", "since")) <= lost_at


async def test_a_bridge_that_ended_in_time_had_no_gap(valkey: Valkey) -> None:
    def gaps() -> int:
        return int(valkey.command(*register([b"channel:*|kind:="], 60, 64))[0])

    valkey.command(*hold("first", 0, [], lease=5))
    valkey.command(*end("first", 0, lease=0.01))
    assert valkey.command(*done("first")) == 1
    await asyncio.sleep(0.02)
    assert gaps() == 0
    valkey.command(*hold("second", 0, [b"channel:*|kind:="], lease=5))
    assert gaps() == 1  # since the first one ended
    valkey.command(*end("second", 0, lease=0.01))
    assert valkey.command(*done("first")) == 0
    await eventually(lambda: gaps() == 2)
    assert valkey.command(*done("second")) == 0


def rights(valkey: Valkey, name: str, *rows: str) -> str:
    """Make a user with the rights that the documentation gives to some parts; return the broker's URL for it."""
    page = Path(__file__).parents[2].joinpath("docs", "access.md").read_text(encoding="utf-8")
    commands, keys = set(), set()
    for row in rows:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row} |")][:1]
        _, _, said, _, names, _ = line.split("|")
        commands |= set(re.findall(r"`([A-Z]+)`", said))
        keys |= set(re.findall(r"`([a-z:]+)`", names))
    words = [f"+{command.lower()}" for command in sorted(commands)] + [f"~{key}" for key in sorted(keys)]
    valkey.command("ACL", "SETUSER", name, "on", ">secret", "resetchannels", "&*", "+auth", "+ping", *words)
    return valkey.url.replace("unix://", f"unix://{name}:secret@")


async def test_the_rights_that_the_documentation_names_are_enough(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "SETTLE", 0.0)
    node_rows = "a server with WebSocket clients", "with wildcards"
    served = rights(valkey, "node", *node_rows)
    bridged = rights(valkey, "bridge", *node_rows, "with `--bridge`")
    bridge = Bridge(Address(bridged))
    async with serve(Settings(port=0, redis=served, role="ws")) as node, client(node.ws_url) as ws:
        bridge.start()
        await eventually(lambda: bridge.runs)
        assert "ret" in await act(ws, "sub", NEWS)
        valkey.command("PUBLISH", CHANNEL, b"1")
        assert (await payload(ws)).endswith("?1")
        await bridge.close()
        assert valkey.command("ZRANGE", "realizehit:shapes", "0", "-1") == [b"channel:*|kind:="]


async def test_a_lapsed_shape_is_ignored_until_it_is_registered_again(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "SETTLE", 0.0)
    monkeypatch.setattr(bridge_module, "BRIDGE_INTERVAL", 0.1)
    valkey.command("ZADD", "realizehit:shapes", "+inf", "a:=|b:*", "+inf", "a:*|b:=", "+inf", "no shape")
    async with bridging(valkey) as (node,), client(node.ws_url) as ws:
        assert valkey.command("PUBSUB", "NUMPAT") == 1  # both have one glob
        valkey.command("ZREM", "realizehit:shapes", "a:=|b:*")
        await eventually(lambda: set(valkey.command("SMEMBERS", "realizehit:bridged")) == {b"a:*|b:=", b"no shape"})
        assert valkey.command("PUBSUB", "NUMPAT") == 1
        valkey.command("ZREM", "realizehit:shapes", "a:*|b:=", "no shape")
        await eventually(lambda: valkey.command("PUBSUB", "NUMPAT") == 0)
        assert "ret" in await act(ws, "sub", {"a": "*", "b": 1})
        valkey.command("PUBLISH", "a:x|b:1", b"1")
        assert (await payload(ws)).endswith("?1")
