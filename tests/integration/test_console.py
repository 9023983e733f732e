"""The console's page and who gets it, the reserved patterns, and the figures that nodes publish."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import httpx2
import orjson
import pytest
from starlette.applications import Starlette

from realizehit import _fanout
from realizehit.access.peers import is_loopback
from realizehit.broker.history.rules import Rule
from realizehit.broker.memory import MemoryBus
from realizehit.broker.open import open_bus
from realizehit.http import console
from realizehit.http.api import create_app
from realizehit.node.figures import STATS, Figures
from realizehit.node.history_figures import HistoryFigures
from realizehit.node.hub import Hub
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.history import kill_link, publish, room, set_rules
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, unique

JSON = {"Content-Type": "application/json"}
PATIENCE = 20.0


@contextlib.asynccontextmanager
async def node(valkey: Valkey, **settings: Any) -> AsyncIterator[Node]:
    async with serve(Settings(port=0, redis=valkey.url, **{"console": True, **settings})) as node:
        yield node


@contextlib.asynccontextmanager
async def http(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=node.api_url, timeout=PATIENCE) as client:
        yield client


@contextlib.asynccontextmanager
async def subscribed(node: Node, *patterns: dict[str, Any]) -> AsyncIterator[RawClient]:
    client = await RawClient.connect(node.ws_url)
    try:
        for pattern in patterns:
            client.act(id="s", act="sub", pat=pattern)
        await client.wait_for(len(patterns), PATIENCE)
        yield client
    finally:
        client.transport.abort()
        await client.closed.wait()


async def figures(client: RawClient, wanted: Any) -> dict[str, Any]:
    """Wait until figures come that are as wanted, and return them."""
    label = Pattern(STATS).id.encode() + b"?"
    async with asyncio.timeout(PATIENCE):
        seen = 0
        while True:
            for text in client.texts[seen:]:
                if text.startswith(label):
                    told: dict[str, Any] = orjson.loads(text.removeprefix(label))
                    if wanted(told):
                        return told
            seen = len(client.texts)
            await client.wait_for(seen + 1, PATIENCE)


def said_no(response: httpx2.Response) -> str:
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    return detail


# --- the page


async def test_no_console_by_default(shared_valkey: Valkey) -> None:
    async with node(shared_valkey, console=False) as off, http(off) as client:
        assert (await client.get("/console")).status_code == 404
        assert (await client.get("/console/console.js")).status_code == 404
        assert (await client.get("/console/nodes")).status_code == 404


async def test_the_page_has_no_inline_or_foreign_content(
    shared_valkey: Valkey,
) -> None:
    async with node(shared_valkey) as on, http(on) as client:
        page = await client.get("/console")
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        named = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
        assert named == {"console/icon.svg", "console/console.css", "console/console.js"}
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", page.text)
        types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
        for file in (files("realizehit") / "static" / "console").iterdir():
            if file.name == "console.html":
                continue
            response = await client.get(f"/console/{file.name}")
            assert response.status_code == 200, file.name
            assert response.headers["content-type"] == f"{types[file.name.split('.')[1]]}; charset=utf-8"
            text = response.text.replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|url\(", text), file.name
            for module in re.findall(r'from "([^"]+)"', text):
                assert (await client.get(f"/console/{module}".replace("/console/../", "/"))).status_code == 200, module
        for response in (page, await client.get("/console/console.js")):
            policy = response.headers["content-security-policy"].split("; ")
            assert "default-src 'self'" in policy
            assert not any("unsafe" in part or part.startswith(("script-src", "style-src")) for part in policy)
            assert "frame-ancestors 'none'" in policy
            assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:80", "[::1]:8080", "127.1.2.3"])
async def test_local_hosts_are_accepted(shared_valkey: Valkey, host: str) -> None:
    async with node(shared_valkey) as on, http(on) as client:
        assert (await client.get("/console", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example:8080", "localhost.evil.example", "192.0.2.7", "[::2]"],
)
async def test_foreign_hosts_are_refused(shared_valkey: Valkey, host: str) -> None:
    async with node(shared_valkey) as on, http(on) as client:
        for path in ("/console", "/console/console.js", "/console/nodes"):
            detail = said_no(await client.get(path, headers={"Host": host}))
            assert host in detail
            assert "ssh -L" in detail


async def test_malformed_hosts_are_refused(shared_valkey: Valkey) -> None:
    async with node(shared_valkey) as on, http(on) as client:
        assert (await client.get("/console", headers={"Host": "x@127.0.0.1"})).status_code == 400


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
async def test_requests_through_a_proxy_are_refused(shared_valkey: Valkey, header: str) -> None:
    async with node(shared_valkey) as on, http(on) as client:
        for path in ("/console", "/console/nodes"):
            assert "proxy" in said_no(await client.get(path, headers={header: "192.0.2.7"}))


async def test_remote_peers_are_refused() -> None:
    settings = Settings(console=True)
    app: Starlette = create_app(MemoryBus(), settings, more=console.routes(settings, lambda: 8080))
    for peer, status in (("192.0.2.7", 403), ("::ffff:192.0.2.7", 403), ("127.0.0.1", 200), ("::ffff:127.0.0.1", 200)):
        transport = httpx2.ASGITransport(app, client=(peer, 1234))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as client:
            response = await client.get("/console")
            assert response.status_code == status, peer
            if status == 403:
                assert "ssh -L" in said_no(response)


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.255.0.1", "::1", "::ffff:127.0.0.1"]))
    assert not any(map(is_loopback, ["", "localhost", "0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "testclient"]))


async def test_the_page_redirects_to_the_port_of_the_websocket_server(shared_valkey: Valkey) -> None:
    async with node(shared_valkey, ws_port=0, api_port=0) as on, http(on) as client:
        port = on.ws_url.removesuffix("/ws").rpartition(":")[2]
        response = await client.get("/console")
        assert response.status_code == 307
        assert response.headers["location"] == f"http://127.0.0.1:{port}/console"
        page = await client.get(response.headers["location"])
        assert 'data-api="/"' in page.text


async def test_the_redirect_keeps_the_scheme() -> None:
    app: Starlette = create_app(MemoryBus(), Settings(console=True), more=console.routes(Settings(), lambda: 8081))
    transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1234))
    async with httpx2.AsyncClient(transport=transport, base_url="https://127.0.0.1:8080") as client:
        assert (await client.get("/console")).headers["location"] == "https://127.0.0.1:8081/console"


@pytest.mark.parametrize(("settings", "api"), [({"prefix": "/publish"}, "/publish/"), ({"role": "ws"}, "")])
async def test_the_page_knows_where_to_publish(shared_valkey: Valkey, settings: dict[str, Any], api: str) -> None:
    async with node(shared_valkey, **settings) as on, httpx2.AsyncClient(timeout=PATIENCE) as client:
        page = await client.get(on.ws_url.replace("ws://", "http://").removesuffix("/ws") + "/console")
        assert f'data-api="{api}"' in page.text


async def test_a_server_without_websockets_has_no_console(shared_valkey: Valkey) -> None:
    async with node(shared_valkey, role="api") as on, http(on) as client:
        assert (await client.get("/console")).status_code == 404


# --- the reserved patterns


async def test_publishing_to_reserved_patterns_is_refused(shared_valkey: Valkey) -> None:
    reserved = [STATS, {"realizehit": 1}, {"a": "b", "realizehit": "x", "z": "y"}]
    fine = [unique("reserved"), {"not-realizehit": "stats"}, {"a": "realizehit:stats"}, {"Realizehit": "stats"}]
    async with node(shared_valkey) as on, http(on) as client:
        for pattern in reserved:
            response = await client.post("/", json={"pattern": pattern, "payload": 1})
            assert "reserved" in said_no(response)
            assert response.json()["code"] == "forbidden"
        for pattern in fine:
            assert (await client.post("/", json={"pattern": pattern, "payload": 1})).status_code == 200, pattern
        items = [{"pattern": pattern, "payload": 1} for pattern in [fine[0], reserved[0], fine[1]]]
        expected = ["queued", "forbidden", "queued"]
        batch = await client.post("/batch", json={"messages": items})
        assert [item.get("code", item["status"]) for item in batch.json()["results"]] == expected
        lines = b"\n".join(map(orjson.dumps, items))
        batch = await client.post("/batch", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert [item.get("code", item["status"]) for item in batch.json()["results"]] == expected


async def test_only_the_figures_can_be_subscribed_to_and_only_with_the_console(
    shared_valkey: Valkey,
) -> None:
    async with node(shared_valkey, console=False) as off, subscribed(off, STATS, {"realizehit": "x"}) as client:
        assert [orjson.loads(text)["code"] for text in client.texts] == ["forbidden", "forbidden"]
    async with node(shared_valkey) as on, subscribed(on, STATS, {"realizehit": "x"}, {"a": "b", **STATS}) as client:
        replies = [orjson.loads(text) for text in client.texts[:3]]
        # The refusals are known at once; the broker is asked first for the other one.
        assert [reply.get("code") for reply in replies] == ["forbidden", "forbidden", None]
        assert replies[2] == {"id": "s", "ret": Pattern(STATS).id}


# --- the figures


async def test_a_node_publishes_figures_while_subscribed_to(shared_valkey: Valkey) -> None:
    mine = unique("figures")
    channel = Pattern(mine).channel
    async with node(shared_valkey) as on, http(on) as api, subscribed(on, STATS, mine) as client:
        ours = next(iter(on.engine.handles()))
        told = await figures(client, lambda told: told["latency_ms"] is not None and told["pid"])
        assert told["role"] == "all"
        assert told["broker"] == "up"
        assert told["interval"] == 1.0
        assert 0 < told["latency_ms"] < PATIENCE * 1000
        assert told["uptime"] > 0
        # The node's own connection, over which it measures, is not among what it tells.
        assert len(on.engine.handles()) == 2
        assert (told["connections"], told["subscriptions"], told["channels"]) == (1, 2, 2)
        assert (told["queued_messages"], told["queued_bytes"]) == (0, 0)
        published = told["published"]
        for n in range(5):
            await api.post("/", json={"pattern": mine, "payload": n})
        told = await figures(client, lambda told: any(busy["channel"] == channel for busy in told["busiest"]))
        assert all(not busy["channel"].startswith("realizehit") for busy in told["busiest"])
        (busy,) = [busy for busy in told["busiest"] if busy["channel"] == channel]
        assert busy["subscribers"] == 1
        assert 0 < busy["rate"] <= 5.5
        told = await figures(client, lambda told: told["published"] == published + 5)
        assert told["messages"] >= 5
        assert told["deliveries"] >= 5
        assert on.engine.is_open(ours)


async def test_figures_of_all_nodes_reach_each_subscriber(shared_valkey: Valkey) -> None:
    async with node(shared_valkey) as one, node(shared_valkey, role="api") as other, subscribed(one, STATS) as client:
        told = await figures(client, lambda told: told["role"] == "api" and told["interval"] == 1.0)
        assert told["connections"] == 0
        assert told["latency_ms"] is None
        assert other.engine.handles() == []


async def test_the_page_gets_the_figures_of_processes_without_the_console_too(shared_valkey: Valkey) -> None:
    mine = unique("fleet")
    channel = Pattern(mine).channel
    async with (
        node(shared_valkey) as one,
        node(shared_valkey, console=False) as other,
        node(shared_valkey, console=False, role="api") as api,
        http(one) as client,
        http(api) as publisher,
        subscribed(other, mine),
    ):
        names = {each._name: each for each in (one, other, api)}

        async def asked() -> dict[str, dict[str, Any]]:
            response = await client.get("/console/nodes")
            assert response.headers["cache-control"] == "no-store"
            return {row["node"]: row for row in response.json()["nodes"] if row["node"] in names}

        async with asyncio.timeout(PATIENCE):
            while (row := (await asked())[other._name])["latency_ms"] is None or not row["busiest"]:
                await publisher.post("/", json={"pattern": mine, "payload": 1})
                await asyncio.sleep(0.1)
        assert [busy["channel"] for busy in row["busiest"]] == [channel]
        assert (row["connections"], row["subscriptions"], row["channels"]) == (1, 1, 1)
        rows = await asked()
        assert rows.keys() == names.keys()
        assert rows[api._name]["latency_ms"] is None
        # Nobody watches any more.
        async with asyncio.timeout(PATIENCE):
            while one.engine.handles() or len(other.engine.handles()) > 1:
                await asyncio.sleep(0.02)


async def test_figures_are_the_same_for_all_who_ask_at_once(shared_valkey: Valkey) -> None:
    async with node(shared_valkey) as on, http(on) as client:
        asked = ("/console/nodes", "/nodes", "/console/nodes")
        times = []
        for path in asked:
            rows = (await client.get(path)).json()["nodes"]
            times += [row["time"] for row in rows if row["node"] == on._name]
        assert len(times) == len(asked)
        assert len(set(times)) == 1


async def test_pages_from_elsewhere_do_not_get_the_figures(shared_valkey: Valkey) -> None:
    async with node(shared_valkey, allow_origin=("https://app.example",)) as on, http(on) as client:
        for origin in ("https://app.example", "https://evil.example"):
            assert (await client.get("/console/nodes", headers={"Origin": origin})).status_code == 403
        assert (await client.get("/console/nodes", headers={"Origin": on.api_url.rstrip("/")})).status_code == 200


async def test_without_the_broker_the_page_gets_the_figures_of_its_own_process(valkey: Valkey) -> None:
    async with node(valkey, publish_timeout=0.2) as on, node(valkey, console=False) as other, http(on) as client:
        rows = (await client.get("/console/nodes")).json()["nodes"]
        assert {row["node"] for row in rows} == {on._name, other._name}
        valkey.kill()
        document = (await client.get("/console/nodes")).json()
        assert [row["node"] for row in document["nodes"]] == [on._name]
        assert "broker" in document["error"]
        assert valkey.url not in document["error"]


async def test_the_figures_tell_of_history(valkey: Valkey) -> None:
    set_rules(
        valkey,
        Rule({"kept": ("chat",), "room": None}, 100, 300.0),
        *[Rule({"n": (str(n),)}, 1, 1.0) for n in range(24)],
    )
    mine, unknown = room(), "aaaaaaaa.1"
    channel = Pattern(mine).channel
    async with node(valkey) as on, http(on) as api, subscribed(on, STATS) as client:
        since = await publish(api, mine, 0)
        for number in range(1, 4):
            at = await publish(api, mine, number)
        client.act(id="one", act="sub", pat=mine, since=since)
        told = await figures(client, lambda told: told["replayed"] == 3)
        history = told["history"]
        pattern = {"kept": ["chat"], "room": None}
        assert history["rules"][0] == {"pattern": pattern, "size": 100, "ttl": 300.0}
        assert (len(history["rules"]), history["more_rules"]) == (20, 5)
        assert (history["logs"], history["logs_to_read"], history["replays"]) == (1, 0, 0)
        assert history["messages"] >= 3
        assert history["bytes"] > 0
        assert (history["reads"], history["repaired"]) == (on.hub.logs.counts.reads, 0)
        assert (told["recovered"], told["not_recovered"], told["gaps"]) == (1, 0, 0)
        assert sum(history["recovered_from"].values()) == 1
        assert history["last_gaps"] == []
        async with subscribed(on) as other:
            other.act(id="other", act="sub", pat=mine, since=unknown)
            told = await figures(client, lambda told: told["not_recovered"] == 1)
        (gap,) = told["history"]["last_gaps"]
        assert (gap["reason"], gap["channel"], gap["seconds"]) == ("unknown_position", channel, None)
        assert told["history"]["not_recovered_for"]["unknown_position"] == 1
        at = await publish(api, mine, 4)
        told = await figures(client, lambda told: any(busy["at"] == at for busy in told["busiest"]))
        assert [busy["channel"] for busy in told["busiest"] if busy["at"]] == [channel]


async def test_a_lost_connection_is_among_the_last_gaps(valkey: Valkey) -> None:
    mine = unique("lost")
    async with node(valkey) as on, subscribed(on, STATS, mine) as client:
        kill_link(valkey)
        told = await figures(client, lambda told: told["gaps"] == 1)
        (gap,) = told["history"]["last_gaps"]
        assert (gap["reason"], gap["channel"], gap["count"]) == ("connection", None, 1)
        assert gap["seconds"] > 0


async def test_a_node_stops_measuring_without_subscribers(shared_valkey: Valkey) -> None:
    async with node(shared_valkey) as on:
        async with subscribed(on, STATS) as client:
            await figures(client, lambda told: told["latency_ms"] is not None)
        async with asyncio.timeout(PATIENCE):
            while on.engine.handles():
                await asyncio.sleep(0.01)


async def test_a_drain_counts_the_clients_only(shared_valkey: Valkey) -> None:
    async with node(shared_valkey, drain_seconds=0.1) as on, subscribed(on, STATS) as client:
        await figures(client, lambda told: told["latency_ms"] is not None)
        await on.drain()
        await asyncio.wait_for(client.closed.wait(), PATIENCE)
        assert client.close_code == 4001
        assert on.engine.handles() == []


async def test_a_broker_that_refuses_the_figures_is_logged_once(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.command("ACL", "SETUSER", "ann", "on", ">s3cret", "resetchannels", "&open:*", "+@all")
    bus = open_bus(valkey.url.replace("unix://", "unix://ann:s3cret@"), project=False)
    await bus.start(None)
    engine = _fanout.Engine(asyncio.get_running_loop().call_soon, lambda error: None)
    hub = Hub(engine, bus, clock=time.monotonic, call_soon=asyncio.get_running_loop().call_soon)
    told = Figures(engine, bus, HistoryFigures(engine, bus, hub), node="n", role="all", published=int, interval=0.01)

    def rejected() -> int:
        found = re.search(r"cmdstat_publish:.*rejected_calls=(\d+)", valkey.command("INFO", "commandstats").decode())
        return int(found[1]) if found else 0

    task = asyncio.create_task(told.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while rejected() < 3:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await bus.close()
        engine.close()
    assert task.cancelled()
    assert caplog.text.count("the console has no figures of this node") == 1
    assert "s3cret" not in caplog.text
