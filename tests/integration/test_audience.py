"""Who would get a publication: ``GET {prefix}audience`` and ``realizehit audience``."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from realizehit.access.keys import generate
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.integration.test_api import subscribed
from tests.integration.test_shapes_following import SHAPE, add_shape, subscriber_at
from tests.support.processes import running, serving
from tests.support.valkey import Valkey

PATTERN = {"kind": "news", "channel": "CNN"}


async def ask(url: str, pattern: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=url, timeout=20) as http:
        return await http.get("audience", params={"pat": pattern}, headers=headers)


def own(nodes: int, subscribers: int | None) -> dict[str, Any]:
    return {
        "channel": "channel:CNN|kind:news",
        "id": "3bf1d979",
        "shape": None,
        "nodes": nodes,
        "subscribers": subscribers,
    }


async def test_each_channel_with_its_nodes_and_the_subscribers_here(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    add_shape(valkey, b"user:=|x:*")
    async with (
        serve(Settings(port=0, redis=valkey.url, prefix="/api/")) as node,
        serve(Settings(port=0, redis=valkey.url, role="api")) as api,
        subscriber_at(valkey, b"channel:*|kind:news"),
    ):
        assert (await ask(api.api_url, "kind=news,channel=CNN")).json()["nodes"] == 1
        wild = {"channel": "channel:*|kind:news", "id": "bd3769cd", "shape": SHAPE.decode(), "nodes": 1}
        expected: dict[str, Any] = {"channel": "channel:CNN|kind:news", "id": "3bf1d979", "nodes": 2}
        expected["shapes"] = ["channel:*|kind:=", "user:=|x:*"]
        async with subscribed(node, PATTERN) as one, subscribed(node, PATTERN):
            for text in ("kind=news,channel=CNN", json.dumps(PATTERN)):
                answer = await ask(node.api_url, text)
                assert answer.headers["cache-control"] == "no-store"
                assert answer.json() == {**expected, "channels": [own(1, 2), {**wild, "subscribers": 0}]}
            answer = await ask(api.api_url, "kind=news,channel=CNN")
            assert answer.json() == {**expected, "channels": [own(1, None), {**wild, "subscribers": None}]}
            assert valkey.calls("publish") == 2  # of `add_shape`
            assert not one.texts


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("", "bad-request", "names no patterns"),
        ("pat=a=1&pat=b=1", "bad-request", "names 2 patterns"),
        ("pat=", "bad-pattern", "write key=value"),
        ("pat={", "bad-json", "not JSON"),
        ("pat=[]", "bad-pattern", "is not a filter"),
        ("pat=a=*", "bad-pattern", "only subscriptions can have wildcards"),
        ("pat=realizehit=stats", "forbidden", "reserved"),
        ("pat=%FF", "bad-request", "cannot be read"),
    ],
)
async def test_a_bad_question_is_named(shared_valkey: Valkey, query: str, code: str, text: str) -> None:
    async with (
        serve(Settings(port=0, redis=shared_valkey.url)) as node,
        httpx2.AsyncClient(base_url=node.api_url) as http,
    ):
        answer = await http.get(f"audience?{query}")
    assert answer.status_code == (403 if code == "forbidden" else 400)
    assert answer.json()["code"] == code
    assert text in answer.json()["detail"]


async def test_it_takes_a_key_that_may_publish_there(shared_valkey: Valkey, tmp_path: Path) -> None:
    key, lines = generate("app")
    file = tmp_path / "keys.toml"
    file.write_text(lines + 'grants = [{kind = ["news"]}]\n')
    async with serve(Settings(port=0, redis=shared_valkey.url, keys=str(file))) as node:
        missing = await ask(node.api_url, "kind=news")
        assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
        assert (await ask(node.api_url, "kind=news", authorization=f"Bearer {key}")).status_code == 200
        other = await ask(node.api_url, "kind=sport", authorization=f"Bearer {key}")
        assert (other.status_code, other.json()["code"]) == (403, "forbidden")


async def test_a_page_of_a_stranger_learns_nothing(shared_valkey: Valkey) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        answer = await ask(node.api_url, "kind=news", origin="https://elsewhere.example")
        assert answer.status_code == 403
        answer = await ask(node.api_url, "kind=news", **{"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
        assert answer.status_code == 403


async def test_a_broker_that_is_away_or_does_not_tell(valkey: Valkey) -> None:
    valkey.command("ACL", "SETUSER", "few", "on", ">x", "allkeys", "allchannels", "+@all", "-pubsub")
    async with serve(Settings(port=0, redis=f"unix://few:x@{valkey.socket}", publish_timeout=2)) as node:
        answer = await ask(node.api_url, "kind=news")
        assert (answer.status_code, answer.json()["code"]) == (502, "broker-refused")
        assert "pubsub" in answer.json()["detail"]
        await asyncio.to_thread(valkey.kill)
        answer = await ask(node.api_url, "kind=news")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert str(valkey.socket) not in answer.text


async def test_without_wildcards_it_is_the_channel_alone(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    async with serve(Settings(port=0, redis=valkey.url, wildcards=False)) as node:
        answer = (await ask(node.api_url, "kind=news,channel=CNN")).json()
    assert (answer["channels"], answer["shapes"]) == ([own(0, 0)], [])


def test_the_command(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    add_shape(valkey, b"user:=|x:*")
    with serving("--redis", valkey.url, "--drain-seconds", "0.2") as server:
        environment = {"ENDPOINT_API": server.api}
        with running("realizehit", "audience", "kind=news", "channel=CNN", env=environment) as process:
            assert process.wait() == 0
        assert process.out == [
            "a publication would go to 2 channels, and 0 times to a node:",
            "  channel:CNN|kind:news  3bf1d979  0 nodes, 0 subscribers of this server",
            "  channel:*|kind:news    bd3769cd  0 nodes, 0 subscribers of this server  (shape channel:*|kind:=)",
            "1 shape in use that does not apply: user:=|x:*",
        ]
        with running("realizehit", "audience", "kind=news", "--json", env=environment) as process:
            assert process.wait() == 0
        assert json.loads(process.out[0])["channels"][0]["channel"] == "kind:news"
        with running("realizehit", "audience", "kind=*", env=environment) as process:
            assert process.wait() == 1
        assert "only subscriptions can have wildcards  (bad-pattern)" in process.err[-1]
    with running("realizehit", "audience", "kind=news", env=environment) as process:
        assert process.wait() == 1
    assert "cannot connect" in process.err[-1]
