"""``realizehit admin`` and ``realizehit top``, against servers with several processes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from realizehit import __version__
from realizehit.access.keys import generate
from tests.integration.test_command_workers import worker_pids
from tests.support.processes import Server, running, serving
from tests.support.valkey import Valkey

IDENTIFIED = ("--identify", "user=X-User", "--trusted-proxies", "127.0.0.1")


async def command(server: Server, key: str, *words: str, status: int = 0) -> list[str]:
    def run() -> tuple[int, list[str]]:
        with running("realizehit", *words, "--url", server.api, env={"REALIZEHIT_KEY": key}) as process:
            code = process.wait()
            return code, process.out if code == 0 else process.err

    code, lines = await asyncio.to_thread(run)
    assert code == status, lines
    return lines


@pytest.mark.slow
async def test_an_operator_sees_and_steers_the_clients_of_all_processes(shared_valkey: Valkey, tmp_path: Path) -> None:
    key, lines = generate("operator")
    other, more = generate("app")
    keys = tmp_path / "keys.toml"
    keys.write_text(f"{lines}admin = true\n{more}")
    words = ("--redis", shared_valkey.url, "--drain-seconds", "0.1", "--keys", str(keys), *IDENTIFIED)
    with serving(*words, "--workers", "2") as server:
        worker_pids(server, 2)
        clients = [
            await websockets.connect(server.ws, additional_headers={"X-User": user}) for user in ("42", "42", "7")
        ]
        assert await command(server, key, "admin", "clients") == [
            "user=42  2 connections", "user=7  1 connection", "3 connections",
        ]  # fmt: skip
        row = json.loads((await command(server, key, "admin", "clients", "user=7", "--json"))[0])
        assert row == {"identity": {"user": "7"}, "connections": 1}
        (line,) = await command(server, key, "admin", "note", "user=7", '{"text": "hello"}')
        assert line == "1 connection were sent the note; 2 processes asked"
        assert json.loads(await clients[2].recv()) == {"evt": "note", "note": {"text": "hello"}}
        await clients[2].send('{"id": "s", "act": "sub", "pat": {"kind": "news"}}')
        await clients[2].recv()
        (line,) = await command(server, key, "admin", "unsubscribe", "user=7", "kind=news", "--reason", "moved")
        assert line.startswith("1 connection lost the subscription")
        assert json.loads(await clients[2].recv())["reason"] == "moved"
        (line,) = await command(server, key, "admin", "disconnect", "user=42", "--reason", "banned")
        assert line == "2 connections disconnected; 2 processes asked"
        for client in clients[:2]:
            with pytest.raises(ConnectionClosed, match="banned"):
                await asyncio.wait_for(client.recv(), 15)
        assert await command(server, key, "admin", "reload") == ["2 processes read the files again"]
        rows = [json.loads(line) for line in await command(server, key, "top", "--json")]
        assert [row["connections"] for row in rows] in ([0, 1], [1, 0])
        assert {row["version"] for row in rows} == {__version__}
        table = "\n".join(await command(server, key, "top", "--once", "--interval", "0.1"))
        assert "2 processes" in table
        refused = await command(server, other, "admin", "clients", status=1)
        assert "admin = true" in refused[-1]
        wrong = await command(server, key, "admin", "disconnect", "user=", status=2)
        assert "empty" in wrong[-1]
        await clients[2].close()


@pytest.mark.slow
async def test_a_server_that_died_is_gone_and_the_others_are_still_steered(valkey: Valkey, tmp_path: Path) -> None:
    key, lines = generate("operator")
    keys = tmp_path / "keys.toml"
    keys.write_text(f"{lines}admin = true\n")
    words = ("--redis", valkey.url, "--drain-seconds", "0.1", "--keys", str(keys), *IDENTIFIED, "--workers", "2")
    with serving(*words) as one, serving(*words) as two, serving(*words) as three:
        for server in (one, two, three):
            await asyncio.to_thread(worker_pids, server, 2)
        clients = {
            server: [await websockets.connect(server.ws, additional_headers={"X-User": "42"}) for _ in range(4)]
            for server in (one, two, three)
        }
        servers = {one.pid, two.pid, three.pid}
        for _ in range(24):  # all by one worker of the server: once in 8 million runs
            async with httpx2.AsyncClient(timeout=15, headers={"Authorization": f"Bearer {key}"}) as http:
                rows = (await http.get(f"{one.api}nodes")).json()["nodes"]
            assert {(row["parent"], row["worker"]) for row in rows} == {(pid, n) for pid in servers for n in (0, 1)}
        assert sum(row["connections"] for row in rows) == 12
        await asyncio.to_thread(three.die)
        rows = [json.loads(line) for line in await command(one, key, "top", "--json")]
        assert {row["parent"] for row in rows if "gone" not in row} == {one.pid, two.pid}
        assert [(row["parent"], row["worker"]) for row in rows if "gone" in row] == [(three.pid, 0), (three.pid, 1)]
        (line,) = await command(two, key, "admin", "disconnect", "user=42", "--reason", "banned")
        assert line == "8 connections disconnected; 4 processes asked"
        for server in (one, two):
            for client in clients[server]:
                with pytest.raises(ConnectionClosed, match="banned"):
                    await asyncio.wait_for(client.recv(), 15)
