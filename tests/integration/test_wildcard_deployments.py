"""One message to a wildcard subscription, over HTTP and through a whole server, for each way to deploy one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.pattern import Pattern
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.support.processes import Server, private_tmp, serving
from tests.support.valkey import Valkey
from tests.support.wire import act, client, unique

SECONDS = 20


async def reaches(api: str, ws_url: str, **options: Any) -> None:
    """Subscribe to two wildcards and a pattern, publish, and expect one message for each."""
    pattern = {**unique("deployment"), "topic": "a?b"}
    own = {"test": pattern["test"], "n": pattern["n"]}
    wildcards = [{**own, "topic": "*"}, {**own, "*": "*"}]
    payload = orjson.dumps({"text": "?" * 2000}).decode()  # large enough to be compressed
    async with client(ws_url, **options) as ws, httpx2.AsyncClient(timeout=SECONDS) as http:
        for subscription in (pattern, *wildcards):
            assert (await act(ws, "sub", subscription))["ret"] == Pattern(subscription).id
        body = {"pattern": pattern, "payload": orjson.loads(payload)}
        answer = await http.post(api, json=body)
        assert answer.json() == {"status": "queued", "id": Pattern(pattern).id, "nodes": answer.json()["nodes"]}
        assert answer.json()["nodes"] >= 3
        label = f"@c={Pattern(pattern).channel}?"
        expected = {Pattern(one).id + (label if one in wildcards else "?") for one in (pattern, *wildcards)}
        texts = [str(await asyncio.wait_for(ws.recv(), SECONDS)) for _ in expected]
        assert {text[: -len(payload)] for text in texts} == expected
        assert {text[-len(payload) :] for text in texts} == {payload}
        assert (await act(ws, "ping"))["ret"] == "pong"  # and nothing came twice
        assert (await http.post(api, json={"pattern": own, "payload": 1})).json()["status"] == "queued"
        assert await asyncio.wait_for(ws.recv(), SECONDS) == Pattern(wildcards[1]).id + f"@c={Pattern(own).channel}?1"


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_websocket_and_one_that_compresses(shared_valkey: Valkey, compression: str | None) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        await reaches(node.api_url, node.ws_url, compression=compression)


async def test_a_broker_in_memory() -> None:
    async with serve(Settings(port=0, redis="memory://")) as node:
        await reaches(node.api_url, node.ws_url)


async def test_four_workers_and_their_relay(shared_valkey: Valkey) -> None:
    def start() -> Server:
        return Server("--redis", shared_valkey.url, "--workers", "4", "--drain-seconds", "0.1")

    server = await asyncio.to_thread(start)
    try:
        await asyncio.gather(*(reaches(server.api, server.ws) for _ in range(4)))
    finally:
        await asyncio.to_thread(server.stop)


async def test_an_embedded_broker() -> None:
    with private_tmp() as tmp, serving("--drain-seconds", "0.1", env=tmp) as server:
        await reaches(server.api, server.ws)
