"""The admin API over several processes: who is there, and what is done to clients by their identity."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realizehit import __version__
from realizehit.access.keys import generate
from realizehit.node import fleet
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.valkey import Valkey
from tests.support.wire import unique

IDENTIFIED: dict[str, Any] = {"identify": ("user=X-User", "device=X-Device"), "trusted_proxies": ("127.0.0.1",)}


class Deployment:
    """Some processes on one broker; the last one only publishes."""

    def __init__(self, nodes: list[Node], key: str) -> None:
        self.nodes = nodes
        self.key = key
        self.http = httpx2.AsyncClient(timeout=15, headers={"Authorization": f"Bearer {key}"})

    def url(self, path: str, node: int = -1) -> str:
        return self.nodes[node].api_url + path

    async def get(self, path: str, node: int = -1) -> Any:
        answer = await self.http.get(self.url(path, node))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, node: int = -1, **body: Any) -> Any:
        answer = await self.http.post(self.url(path, node), json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def client(self, node: int, user: str, device: str) -> ClientConnection:
        headers = {"X-User": user, "X-Device": device}
        return await websockets.connect(self.nodes[node].ws_url, additional_headers=headers)


@asynccontextmanager
async def deployed(url: str, directory: Path, count: int = 3) -> AsyncIterator[Deployment]:
    admin, first = generate("operator")
    _, second = generate("app")
    keys = directory / "keys.toml"
    keys.write_text(f"{first}admin = true\n{second}")
    async with contextlib.AsyncExitStack() as stack:
        roles: list[Literal["all", "api"]] = [*["all"] * (count - 1), "api"]  # type: ignore[list-item]
        nodes = [
            await stack.enter_async_context(serve(Settings(port=0, redis=url, keys=str(keys), role=role, **IDENTIFIED)))
            for role in roles
        ]
        deployment = Deployment(nodes, admin)
        await stack.enter_async_context(deployment.http)
        yield deployment


async def receive(client: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(client.recv(), 15))


async def test_all_processes_are_listed_and_one_that_died_as_gone(valkey: Valkey, tmp_path: Path) -> None:
    async with deployed(valkey.url, tmp_path) as deployment:
        client = await deployment.client(0, "42", "phone")
        rows = (await deployment.get("nodes"))["nodes"]
        assert sorted(row["role"] for row in rows) == ["all", "all", "api"]
        assert len({row["node"] for row in rows}) == 3
        assert sum(row["connections"] for row in rows) == 1
        assert {row["broker"] for row in rows} == {"up"}
        assert all(row["version"] and "shapes" in row and "gone" not in row for row in rows)
        assert all((row["worker"], row["parent"]) == (None, None) for row in rows)
        dead, ended = deployment.nodes[:2]
        await die(dead)
        rows = (await deployment.get("nodes"))["nodes"]
        assert [row["node"] for row in rows if "gone" in row] == [dead._name]
        assert len(rows) == 3
        # One that ends as it should is not missed.
        await ended.close()
        rows = (await deployment.get("nodes"))["nodes"]
        assert ended._name not in [row["node"] for row in rows]
        assert len(rows) == 2
        await client.close()


async def test_one_that_died_unseen_is_gone_for_all_that_it_announced_itself_to(
    valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "ANNOUNCE", 0.05)
    async with deployed(valkey.url, tmp_path) as deployment:
        dead = deployment.nodes[0]
        async with asyncio.timeout(15):
            while not all(dead._name in known(node) for node in deployment.nodes):
                await asyncio.sleep(0.01)
        await die(dead)
        for asked in (1, 2):
            rows = (await deployment.get("nodes", asked))["nodes"]
            (gone,) = [row for row in rows if "gone" in row]
            assert gone["gone"] < 15
            assert gone["node"] == dead._name
            assert (gone["host"], gone["pid"], gone["role"]) == (socket.gethostname(), os.getpid(), "all")
            assert gone["version"] == __version__


async def test_a_broker_that_refuses_announcements_is_logged_once(
    valkey: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "ANNOUNCE", 0.01)
    valkey.command("ACL", "SETUSER", "ann", "on", ">s3cret", "resetchannels", "&open:*", "+@all", "~*")
    url = valkey.url.replace("unix://", "unix://ann:s3cret@")

    def rejected() -> int:
        found = re.search(r"cmdstat_publish:.*rejected_calls=(\d+)", valkey.command("INFO", "commandstats").decode())
        return int(found[1]) if found else 0

    async with serve(Settings(port=0, redis=url, wildcards=False)), asyncio.timeout(15):
        while rejected() < 3:
            await asyncio.sleep(0.01)
    assert caplog.text.count("this process is not seen by other servers of the deployment") == 1
    assert "s3cret" not in caplog.text


def known(node: Node) -> Collection[str]:
    """The processes that a process has heard of."""
    assert node._fleet is not None
    return node._fleet._seen


async def die(node: Node) -> None:
    """Have a process fall silent among the others, without a word."""
    assert node._fleet is not None
    await node._fleet.close(leaving=False)


async def test_clients_are_found_by_a_pattern_of_their_identity(valkey: Valkey, tmp_path: Path) -> None:
    async with deployed(valkey.url, tmp_path) as deployment:
        clients = [
            await deployment.client(node, user, device)
            for node, user, device in ((0, "42", "phone"), (1, "42", "phone"), (1, "42", "tablet"), (0, "7", "phone"))
        ]
        found = await deployment.get("clients?identity=user=42,device=*")
        assert found == {
            "connections": 3,
            "clients": [
                {"identity": {"user": "42", "device": "phone"}, "connections": 2},
                {"identity": {"user": "42", "device": "tablet"}, "connections": 1},
            ],
            "after": None,
        }
        assert (await deployment.get("clients?identity=**"))["connections"] == 4
        assert (await deployment.get("clients?identity=user=42"))["connections"] == 0  # without a device
        assert (await deployment.get('clients?identity={"user":7,"device":"phone"}'))["connections"] == 1
        for client in clients:
            await client.close()


async def test_a_user_is_disconnected_wherever_it_is_connected(valkey: Valkey, tmp_path: Path) -> None:
    async with deployed(valkey.url, tmp_path) as deployment:
        gone = [await deployment.client(node, "42", device) for node in (0, 1) for device in ("phone", "tablet")]
        kept = await deployment.client(0, "7", "phone")
        await deployment.get("nodes")
        outcome = await deployment.post("clients/disconnect", identity={"user": "42", "device": "*"}, reason="banned")
        assert outcome == {"connections": 4, "nodes": 3}
        for client in gone:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 15)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4502, "banned")
        await kept.send('{"id": "p", "act": "ping"}')
        assert await receive(kept) == {"id": "p", "ret": "pong"}
        again = await deployment.client(1, "42", "phone")
        outcome = await deployment.post("clients/disconnect", identity={"user": 42, "device": "phone"}, code=4009)
        assert outcome["connections"] == 1
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(again.recv(), 15)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4009


async def test_a_subscription_ends_and_a_note_is_sent_by_identity(valkey: Valkey, tmp_path: Path) -> None:
    async with deployed(valkey.url, tmp_path) as deployment:
        pattern = unique("admin")
        clients = [await deployment.client(node, user, "phone") for node in (0, 1) for user in ("42", "7")]
        for client in clients:
            await client.send(json.dumps({"id": "s", "act": "sub", "pat": pattern}))
            label = (await receive(client))["ret"]
        identity = {"user": "42", "device": "*"}
        outcome = await deployment.post("clients/unsubscribe", identity=identity, pattern=pattern, reason="moved")
        assert outcome["connections"] == 2
        assert (await deployment.post("clients/unsubscribe", identity=identity, pattern=pattern))["connections"] == 0
        outcome = await deployment.post("clients/note", identity={"*": "*"}, note={"text": "maintenance at 10"})
        assert outcome["connections"] == 4
        for client, user in zip(clients, ("42", "7") * 2, strict=True):
            if user == "42":
                assert await receive(client) == {
                    "evt": "unsubscribed", "ids": [label], "code": "forbidden", "reason": "moved",
                }  # fmt: skip
            assert await receive(client) == {"evt": "note", "note": {"text": "maintenance at 10"}}
            await client.close()


async def test_grants_are_read_again_everywhere(valkey: Valkey, tmp_path: Path) -> None:
    async with deployed(valkey.url, tmp_path) as deployment:
        keys = tmp_path / "keys.toml"
        other, lines = generate("new")
        keys.write_text(keys.read_text() + lines)
        body = {"pattern": unique("reload"), "payload": 1}
        headers = {"Authorization": f"Bearer {other}"}
        statuses = [
            (await deployment.http.post(node.api_url, json=body, headers=headers)).status_code
            for node in deployment.nodes
        ]
        assert statuses == [401] * 3
        assert await deployment.post("reload") == {"nodes": 3}
        statuses = [
            (await deployment.http.post(node.api_url, json=body, headers=headers)).status_code
            for node in deployment.nodes
        ]
        assert statuses == [200] * 3


@pytest.mark.parametrize(
    ("path", "body", "code", "text"),
    [
        ("clients/disconnect", '{"identity": {"user": ""}}', "bad-pattern", "empty"),
        ("clients/disconnect", '{"identity": 3}', "bad-request", "identity"),
        ("clients/disconnect", "{", "bad-json", "not JSON"),
        ("clients/disconnect", '{"identity": {"user": 1}, "code": 1000}', "bad-request", "4000 to 4999"),
        ("clients/disconnect", '{"identity": {"user": 1}, "note": 1}', "bad-request", "note means nothing"),
        ("clients/disconnect", '{"identity": {"user": 1}, "reason": "%s"}' % ("x" * 101), "bad-request", "reason"),
        ("clients/disconnect", '{"identity": {"user": 1}, "code": 4502.5}', "bad-request", "code is not an integer"),
        ("clients/disconnect", '{"identity": {"user": 1}, "colour": 1}', "bad-request", "colour"),
        ("clients/unsubscribe", '{"identity": {"user": 1}}', "bad-request", "pattern is missing"),
        ("clients/note", '{"identity": {"user": 1}}', "bad-request", "note is missing"),
        ("clients/note", '{"identity": {"user": 1}, "note": "%s"}' % ("x" * 66_000), "too-large", "65536"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    path: str, body: str, code: str, text: str, valkey: Valkey, tmp_path: Path
) -> None:
    async with deployed(valkey.url, tmp_path, 1) as deployment:
        answer = await deployment.http.post(deployment.url(path), content=body)
        assert (answer.status_code // 100, answer.json()["code"]) == (4, code), answer.text
        assert text in answer.json()["detail"]


async def test_only_an_admin_key_opens_it(valkey: Valkey, tmp_path: Path) -> None:
    other, lines = generate("other")
    async with deployed(valkey.url, tmp_path, 1) as deployment:
        keys = tmp_path / "keys.toml"
        keys.write_text(keys.read_text() + lines)
        await deployment.post("reload")
        for path in ("nodes", "clients?identity=**"):
            answer = await deployment.http.get(deployment.url(path), headers={"Authorization": f"Bearer {other}"})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert "admin = true" in answer.json()["detail"]
            answer = await deployment.http.get(deployment.url(path), headers={"Authorization": "Bearer rh_x"})
            assert answer.status_code == 401


async def test_insecure_publish_does_not_open_it_to_other_machines(valkey: Valkey) -> None:
    settings = Settings(port=0, redis=valkey.url, insecure_publish=True, trusted_proxies=("127.0.0.1",))
    async with serve(settings) as node, httpx2.AsyncClient(timeout=15) as http:
        assert (await http.get(node.api_url + "nodes")).status_code == 200
        answer = await http.get(node.api_url + "nodes", headers={"Origin": "http://example.org"})
        assert answer.status_code == 403
