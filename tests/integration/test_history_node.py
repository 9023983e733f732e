"""History as clients see it: what a node replays, repairs and tells, over a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.broker.base import BusState
from realizehit.node.logs import PART
from realizehit.node.names import RegistryKey
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_sse import http, streaming
from tests.support.history import (
    CHAT,
    SECONDS,
    SHORT,
    Client,
    kill_link,
    label,
    numbering,
    numbers,
    publish,
    room,
    set_rules,
)
from tests.support.valkey import Valkey
from tests.support.wire import client


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("history")) as valkey:
        set_rules(valkey, CHAT, SHORT)
        yield valkey


@asynccontextmanager
async def node_at(broker: Valkey, **settings: Any) -> AsyncIterator[tuple[Node, httpx2.AsyncClient]]:
    async with (
        asyncio.timeout(120),
        serve(Settings(port=0, redis=broker.url, **settings)) as node,
        http(node.api_url) as api,
    ):
        yield node, api


async def test_a_client_that_comes_back_gets_what_it_missed(broker: Valkey) -> None:
    pattern = room()
    async with node_at(broker) as (node, api):
        first = await Client.connect(node.ws_url)
        reply = await first.ask(pattern, offsets=True)
        at = [await publish(api, pattern, number) for number in range(3)]
        epoch = at[0].partition(".")[0]
        assert at == [f"{epoch}.{number}" for number in (1, 2, 3)]
        assert reply == {"id": "ask", "ret": label(pattern), "at": f"{epoch}.0"}
        assert await first.take(3) == [f"{label(pattern)}@o={n + 1}?{n}".encode() for n in range(3)]
        first.transport.abort()
        for number in range(3, 6):
            await publish(api, pattern, number)
        back = await Client.connect(node.ws_url)
        reply = await back.ask(pattern, since=at[-1])
        assert reply == {"id": "ask", "ret": label(pattern), "at": at[-1], "recovered": True}
        await publish(api, pattern, 6)
        assert await back.take(4) == [f"{label(pattern)}@o={n + 1}?{n}".encode() for n in range(3, 7)]
        counts = node.hub.logs.counts
        assert counts.recovered_from_ring + counts.recovered_from_broker == 1
        back.transport.abort()


async def test_another_node_replays_from_the_broker(broker: Valkey) -> None:
    pattern = room()
    async with node_at(broker) as (_, api), node_at(broker) as (other, _):
        at = [await publish(api, pattern, number) for number in range(5)]
        clients = [await Client.connect(other.ws_url) for _ in range(20)]
        replies = await asyncio.gather(*(client.ask(pattern, since=at[1]) for client in clients))
        assert {reply["recovered"] for reply in replies} == {True}
        for client in clients:
            assert await client.take(3) == [f"{label(pattern)}@o={n + 1}?{n}".encode() for n in range(2, 5)]
        assert other.hub.logs.counts.reads <= 2
        for client in clients:
            client.transport.abort()


@pytest.mark.parametrize("last", [1, 3, 100])
async def test_the_last_messages(broker: Valkey, last: int) -> None:
    pattern = room()
    async with node_at(broker) as (node, api):
        at = [await publish(api, pattern, number) for number in range(5)]
        client = await Client.connect(node.ws_url)
        reply = await client.ask(pattern, last=last)
        begin = max(0, 5 - last)
        assert reply["at"] == f"{at[0].partition('.')[0]}.{begin}"
        assert "recovered" not in reply
        await publish(api, pattern, 5)
        assert await client.take(6 - begin) == [f"{label(pattern)}@o={n + 1}?{n}".encode() for n in range(begin, 6)]
        again = await client.ask(pattern, last=2)  # changes nothing
        assert again["at"] == f"{at[0].partition('.')[0]}.6"
        assert await client.settled() == []
        client.transport.abort()


async def test_what_is_not_kept_is_not_half_recovered(broker: Valkey) -> None:
    pattern = {"kept": "short", "room": next(numbering)}
    async with node_at(broker) as (node, api):
        at = [await publish(api, pattern, number) for number in range(20)]
        client = await Client.connect(node.ws_url)
        reply = await client.ask(pattern, since=at[5])
        assert (reply["recovered"], reply["at"]) == (False, at[-1])
        other = await Client.connect(node.ws_url)
        reply = await other.ask(pattern, since=at[9])
        assert (reply["recovered"], reply["at"]) == (True, at[9])
        assert len(await other.take(10)) == 10
        for since in ("aaaaaaaa.3", at[-1].partition(".")[0] + ".99"):
            stranger = await Client.connect(node.ws_url)
            reply = await stranger.ask(pattern, since=since)
            assert (reply["recovered"], reply["at"]) == (False, at[-1])
            stranger.transport.abort()
        assert await client.settled() == []
        client.transport.abort()
        other.transport.abort()


async def test_without_a_rule_there_are_no_positions(broker: Valkey) -> None:
    pattern = {"other": next(numbering)}
    async with node_at(broker) as (node, api):
        client = await Client.connect(node.ws_url)
        assert await client.ask(pattern, offsets=True) == {"id": "ask", "ret": label(pattern)}
        second = await Client.connect(node.ws_url)
        reply = await second.ask(pattern, since="aaaaaaaa.3")
        assert reply == {"id": "ask", "ret": label(pattern), "recovered": False}
        third = await Client.connect(node.ws_url)
        assert await third.ask(pattern, last=3) == {"id": "ask", "ret": label(pattern)}
        assert await publish(api, pattern, 1) == ""
        for each in (client, second, third):
            assert await each.take(1) == [f"{label(pattern)}?1".encode()]
            each.transport.abort()


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"since": 3}, "since"),
        ({"since": "abc"}, "since"),
        ({"last": 0}, "last"),
        ({"last": True}, "last"),
        ({"last": "3"}, "last"),
        ({"offsets": 1}, "offsets"),
        ({"since": "aaaaaaaa.1", "last": 1}, "since and last"),
    ],
)
async def test_wrong_keys_are_named(broker: Valkey, keys: dict[str, Any], word: str) -> None:
    async with node_at(broker) as (node, _):
        client = await Client.connect(node.ws_url)
        reply = await client.ask(room(), **keys)
        assert reply["code"] == "bad-request"
        assert word in reply["err"]
        client.transport.abort()


async def test_a_wildcard_with_positions(broker: Valkey) -> None:
    pattern, number = room(), next(numbering)
    wildcard = {"kept": "chat", "n": number, "room": "*"}
    concrete = {**pattern, "n": number}
    async with node_at(broker) as (node, api):
        client = await Client.connect(node.ws_url)
        reply = await client.ask(wildcard, offsets=True)
        await publish(api, concrete, 1)
        await publish(api, concrete, 2)
        name = Pattern(concrete).channel
        assert await client.take(2) == [f"{label(wildcard)}@o={n}&c={name}?{n}".encode() for n in (1, 2)]
        back = await Client.connect(node.ws_url)
        reply = await back.ask(wildcard, since=reply["at"])
        assert reply["recovered"]
        assert await back.take(2) == [f"{label(wildcard)}@o={n}&c={name}?{n}".encode() for n in (1, 2)]
        client.transport.abort()
        back.transport.abort()


async def test_nothing_is_missed_when_the_link_to_the_broker_is_lost_under_load(tmp_path: Path) -> None:
    pattern, other = room(), {"other": 1}
    with Valkey(tmp_path) as broker:
        set_rules(broker, CHAT)
        async with node_at(broker) as (node, _), node_at(broker, role="api") as (_, api):
            plain, placed = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
            await plain.ask(pattern)
            await plain.ask(other)
            await placed.ask(pattern, offsets=True)
            count = 600
            reconnects = 0

            async def load() -> None:
                for number in range(count):
                    await publish(api, pattern, number)

            loading = asyncio.create_task(load())
            while not loading.done():
                await plain.wait_for(min(count, len(plain.texts) + 40), SECONDS)
                before = node.bus.reconnects
                kill_link(broker)
                reconnects += 1
                async with asyncio.timeout(SECONDS):
                    while node.bus.reconnects == before or node.bus.state is not BusState.UP:
                        await asyncio.sleep(0.005)
            await loading
            assert reconnects > 1
            await placed.wait_for(count, SECONDS)
            await plain.wait_for(count, SECONDS)
            gaps = [orjson.loads(text) for text in plain.texts if text.startswith(b"{")]
            assert {tuple(gap["ids"]) for gap in gaps} <= {(label(other),)}
            assert gaps
            payloads = [text for text in plain.texts if not text.startswith(b"{")]
            assert numbers(payloads, pattern, positions=False) == list(range(count))
            assert numbers(placed.texts, pattern, positions=True) == list(range(count))
            assert node.hub.logs.counts.repaired >= 1
            assert node.hub.logs.counts.unrepaired == 0


async def test_a_broker_that_lost_the_log_is_told(tmp_path: Path) -> None:
    pattern = room()
    with Valkey(tmp_path) as broker:
        set_rules(broker, CHAT)
        async with node_at(broker) as (node, api):
            plain, placed = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
            await plain.ask(pattern)
            reply = await placed.ask(pattern, offsets=True)
            for number in range(3):
                await publish(api, pattern, number)
            await placed.take(3)
            await plain.take(3)
            broker.command("CLIENT", "PAUSE", "1", "ALL")
            broker.command("FLUSHALL")
            set_rules(broker, CHAT)
            kill_link(broker)
            for each in (plain, placed):
                gap = orjson.loads((await each.take(1))[0])
                assert (gap["evt"], gap["ids"]) == ("gap", [label(pattern)])
            epoch = gap["at"][label(pattern)].partition(".")[0]
            assert epoch != reply["at"].partition(".")[0]
            at = await publish(api, pattern, "new")
            assert at == f"{epoch}.1"
            assert await placed.take(1) == [f'{label(pattern)}@o={at}?"new"'.encode()]
            assert await plain.take(1) == [f'{label(pattern)}?"new"'.encode()]


async def test_a_log_that_expires_begins_anew_and_nothing_is_missed(tmp_path: Path) -> None:
    pattern = room()
    with Valkey(tmp_path) as broker:
        set_rules(broker, CHAT)
        async with node_at(broker) as (node, api):
            placed = await Client.connect(node.ws_url)
            reply = await placed.ask(pattern, offsets=True)
            for _ in range(3):
                at = await publish(api, pattern, 1)
                for key in broker.command("KEYS", "realizehit:log:*"):
                    broker.command("DEL", key)
                follows = at.partition(".")[0] == reply["at"].partition(".")[0]
                said = at.partition(".")[2] if follows else at
                assert await placed.take(1) == [f"{label(pattern)}@o={said}?1".encode()]
            assert await placed.settled() == []
            assert node.hub.logs.counts.renewed == 2


async def test_a_hole_is_repaired(broker: Valkey) -> None:
    pattern = room()
    channel = Pattern(pattern).channel
    async with node_at(broker) as (node, api):
        plain, placed = await Client.connect(node.ws_url), await Client.connect(node.ws_url)
        await plain.ask(pattern)
        await placed.ask(pattern, offsets=True)
        first = await publish(api, pattern, 0)
        await plain.take(1)
        await placed.take(1)
        # Another publisher's message is in the log, and its PUBLISH is lost.
        node.engine.hold(channel.encode(), True)
        await publish(api, pattern, 1)
        async with asyncio.timeout(SECONDS):
            while node.engine.stats()["dropped_unclaimed"] == 0:
                await asyncio.sleep(0.005)
        node.engine.hold(channel.encode(), False)
        await publish(api, pattern, 2)
        assert await plain.take(2) == [f"{label(pattern)}?{n}".encode() for n in (1, 2)]
        assert await placed.take(2) == [f"{label(pattern)}@o={n + 1}?{n}".encode() for n in (1, 2)]
        assert first
        assert node.hub.logs.counts.repaired == 1
        plain.transport.abort()
        placed.transport.abort()


async def test_a_replay_larger_than_the_queue_to_a_slow_reader(broker: Valkey) -> None:
    pattern = room()
    count, size = 3 * PART, 4000
    async with node_at(broker, max_queue_messages=50, max_queue_bytes=100_000, slow_grace=0.0) as (node, api):
        messages = [{"pattern": pattern, "payload": f"{number}:" + "x" * size} for number in range(count)]
        for start in range(0, count, 20):
            answer = await api.post("batch", json={"messages": messages[start : start + 20]})
            assert answer.json()["queued"] == 20 or start + 20 > count
        client = await Client.connect(node.ws_url)
        client.transport.pause_reading()
        client.act(id="s", act="sub", pat=pattern, last=count)
        await asyncio.sleep(0)
        client.transport.resume_reading()
        await client.wait_for(count + 1, SECONDS)
        assert orjson.loads(client.texts[0])["ret"] == label(pattern)
        assert [int(text.partition(b"?")[2][1:].partition(b":")[0]) for text in client.texts[1:]] == list(range(count))
        assert client.close_code is None
        client.transport.abort()


async def test_rules_that_come_and_go_while_subscribed(tmp_path: Path) -> None:
    pattern = room()
    with Valkey(tmp_path) as broker:
        async with node_at(broker) as (node, api):
            plain = await Client.connect(node.ws_url)
            await plain.ask(pattern)
            expected = []
            for number, rules in enumerate([(), (CHAT,), (), (CHAT,)]):
                set_rules(broker, *rules)
                wanted = bool(rules)
                async with asyncio.timeout(SECONDS):
                    while bool(await publish(api, pattern, number)) != wanted:
                        expected.append(number)
                expected.append(number)
                await plain.wait_for(len(expected), SECONDS)

            assert [int(text.partition(b"?")[2]) for text in plain.texts] == expected
            async with asyncio.timeout(SECONDS):
                while node.hub.logs.position(RegistryKey(Pattern(pattern).channel.encode())) is None:
                    await asyncio.sleep(0.005)
            placed = await Client.connect(node.ws_url)
            reply = await placed.ask(pattern, last=1)
            assert "at" in reply
            assert (await placed.take(1))[0].endswith(b"?3")


async def test_an_event_stream_resumes(broker: Valkey) -> None:
    one, two = room(), room()
    async with node_at(broker) as (_, api):
        at = [await publish(api, one, number) for number in range(3)]
        query = httpx2.QueryParams([("pat", orjson.dumps(one).decode()), ("since", at[0])])
        async with streaming(api, f"/sse?{query}") as stream:
            assert await stream.subscribed() == {"ids": [label(one)], "at": [at[0]], "recovered": [True]}
            events = [await stream.event() for _ in range(2)]
            assert [event and event["id"] for event in events] == [f"{label(one)}@o={each}" for each in at[1:]]
        query = httpx2.QueryParams(
            [("pat", orjson.dumps(one).decode()), ("pat", orjson.dumps(two).decode()), ("offsets", "1")]
        )
        resumed = {"Last-Event-ID": f"{label(one)}@o={at[1]}"}
        async with streaming(api, f"/sse?{query}", headers=resumed) as stream:
            data = await stream.subscribed()
            assert (data["at"][0], data["recovered"]) == (at[1], [True, False])
            events = [await stream.event() for _ in range(2)]
            assert [event and event.get("event") for event in events] in (["gap", None], [None, "gap"])
            assert [event["id"] for event in events if event and "id" in event] == [f"{label(one)}@o={at[2]}"]


async def test_an_engineio_client_resumes(broker: Valkey) -> None:
    pattern = room()
    async with node_at(broker) as (node, api):
        at = [await publish(api, pattern, f"{number}?") for number in range(3)]
        async with client(node.ws_url + "/?EIO=4&transport=websocket") as ws:
            await ws.recv()
            await ws.send("4" + orjson.dumps({"id": 1, "act": "sub", "pat": pattern, "since": at[0]}).decode())
            reply = orjson.loads(str(await ws.recv())[1:])
            assert reply == {"id": 1, "ret": label(pattern), "at": at[0], "recovered": True}
            for number in (1, 2):
                assert await ws.recv() == f'4{label(pattern)}@o={number + 1}?"{number}\\u003f"'


async def test_metrics_tell_what_was_recovered(broker: Valkey) -> None:
    pattern = room()
    async with node_at(broker) as (node, api):
        at = await publish(api, pattern, 1)
        for since in (at, "aaaaaaaa.1"):
            one = await Client.connect(node.ws_url)
            await one.ask(pattern, since=since)
        text = (await api.get("/metrics")).text
        assert 'realizehit_history_not_recovered_total{reason="unknown_position"} 1.0' in text
        assert "realizehit_history_logs 1.0" in text
        assert 'realizehit_history_recovered_total{source="memory"} 1.0' in text
        assert 'realizehit_history_replayed_total{source="memory"} 0.0' in text
        assert "realizehit_publish_script_seconds_count 1.0" in text
        assert f"realizehit_history_log_read_seconds_count {node.hub.logs.counts.reads:.1f}" in text
        assert node.hub.logs.counts.reads
        (gap,) = node.hub.gaps.recent.take()
        assert (gap["reason"], gap["channel"]) == ("unknown_position", Pattern(pattern).channel)


@pytest.mark.slow
async def test_a_crowd_that_comes_back_costs_few_reads(broker: Valkey) -> None:
    logs, clients, missed = 50, 2000, 20
    patterns = [room() for _ in range(logs)]
    async with node_at(broker) as (node, _), node_at(broker, role="api") as (_, api):
        since = [await publish(api, pattern, 0) for pattern in patterns]
        for start in range(1, missed + 1):
            messages = [{"pattern": pattern, "payload": start} for pattern in patterns]
            assert (await api.post("batch", json={"messages": messages})).json()["queued"] == logs
        crowd = [await Client.connect(node.ws_url) for _ in range(clients)]
        for index, each in enumerate(crowd):
            each.act(id="s", act="sub", pat=patterns[index % logs], since=since[index % logs])
        for each in crowd:
            await each.wait_for(1 + missed, SECONDS)
        for index, each in enumerate(crowd):
            reply = orjson.loads(each.texts.pop(0))
            assert reply["recovered"]
            assert numbers(each.texts, patterns[index % logs], positions=True) == list(range(1, missed + 1))
            each.transport.abort()
        assert node.hub.logs.counts.reads <= 2 * logs


async def test_history_is_for_those_who_may_subscribe(broker: Valkey, tmp_path: Path) -> None:
    mine, theirs = room(), room()
    grants = tmp_path / "grants.toml"
    grants.write_text(f'[[grant]]\npattern = {{kept = "chat", room = "{mine["room"]}"}}\n')
    async with node_at(broker) as (_, api), node_at(broker, grants=str(grants)) as (node, guarded):
        at = await publish(api, theirs, "secret")
        await publish(api, mine, "open")
        one = await Client.connect(node.ws_url)
        for keys in ({"since": at.partition(".")[0] + ".0"}, {"last": 1}, {"offsets": True}):
            assert (await one.ask(theirs, **keys))["code"] == "forbidden"
        assert (await one.ask(mine, last=1))["at"].endswith(".0")
        assert await one.settled() == [f'{label(mine)}@o=1?"open"'.encode()]
        query = httpx2.QueryParams([("pat", orjson.dumps(theirs).decode()), ("last", "1")])
        assert (await guarded.get(f"/sse?{query}")).json()["errors"][0]["code"] == "forbidden"
