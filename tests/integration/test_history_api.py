"""``GET {prefix}history`` and positions in the answers to publications."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from realizehit.access.keys import generate
from realizehit.broker.publication import Publication
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_api import subscribed
from tests.support.valkey import Valkey

RULES = """
[[history]]
pattern = {kind = "chat", room = "*"}
size = 5
ttl = "1m"
[[history]]
pattern = {kind = "long"}
size = 1000
ttl = "1m"
"""
CHAT = {"kind": "chat", "room": 7}
PAT = "kind=chat,room=7"


@asynccontextmanager
async def served(tmp_path: Path, redis: str = "", **options: Any) -> AsyncIterator[Node]:
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    async with serve(Settings(port=0, redis=redis or f"memory://{tmp_path}", history=str(rules), **options)) as node:
        yield node


@asynccontextmanager
async def asking(tmp_path: Path, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        served(tmp_path, **options) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=20) as http,
    ):
        yield http


async def publish(http: httpx2.AsyncClient, *payloads: Any, pattern: Any = CHAT) -> str:
    for payload in payloads:
        answer = (await http.post("", json={"pattern": pattern, "payload": payload})).json()
    return str(answer["at"])


async def ask(http: httpx2.AsyncClient, **query: object) -> Any:
    answer = await http.get("history", params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def offsets(answer: Any) -> list[int]:
    assert all(message["at"].startswith(answer["at"][:9]) for message in answer["messages"])
    return [int(message["at"][9:]) for message in answer["messages"]]


@pytest.fixture(params=["memory", "valkey"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path}" if request.param == "memory" else str(request.getfixturevalue("valkey").url)


async def test_positions_of_publications(tmp_path: Path, redis: str) -> None:
    async with asking(tmp_path, redis=redis) as http:
        epoch, _, offset = (await publish(http, 1)).partition(".")
        assert offset == "1"
        message = {"pattern": CHAT, "payload": 2, "key": "k"}
        news = {"pattern": {"kind": "news"}, "payload": 3}
        answer = (await http.post("batch", json={"messages": [message, news, message]})).json()
        queued = {"status": "queued", "id": "b566483a", "nodes": 0}
        assert answer["results"] == [
            {**queued, "at": f"{epoch}.2"},
            {**queued, "id": "bc86961b"},
            {**queued, "at": f"{epoch}.2", "duplicate": True},
        ]
        answer = await http.post("", json={"pattern": CHAT, "payload": 2}, headers={"Idempotency-Key": "k"})
        assert answer.json()["at"] == f"{epoch}.2"
        assert answer.json()["duplicate"] is True
        metrics = (await http.get("metrics")).text
        assert "realizehit_logged_publications_total 2.0" in metrics


async def test_the_last_messages(tmp_path: Path, redis: str) -> None:
    async with asking(tmp_path, redis=redis) as http:
        empty = await ask(http, pat=PAT, last=3)
        assert (empty["first"], empty["messages"], empty["more"]) == (1, [], False)
        assert empty["at"].endswith(".0")
        await publish(http, *range(1, 6))
        raw = '{"pattern":{"kind":"chat","room":7},"payload":{"b": 1.50,  "a":[1e2, "\\u00e4"]}}'
        at = (await http.post("", content=raw, headers={"Content-Type": "application/json"})).json()["at"]
        answer = await http.get("history", params={"pat": PAT, "last": "2"})
        assert answer.json() == {
            "id": empty["id"],
            "pattern": {"kind": "chat", "room": "7"},
            "at": at,
            "first": 2,
            "more": False,
            "messages": [{"at": f"{at[:8]}.5", "payload": 5}, {"at": at, "payload": {"b": 1.5, "a": [100.0, "ä"]}}],
        }
        assert '"payload":{"b": 1.50,  "a":[1e2, "\\u00e4"]}' in answer.text  # the text that was published
        assert offsets(await ask(http, pat='{"kind": "chat", "room": 7.0}', last=100)) == [2, 3, 4, 5, 6]
        assert offsets(await ask(http, pat=PAT)) == []


async def test_the_messages_since_a_position(tmp_path: Path, redis: str) -> None:
    async with asking(tmp_path, redis=redis) as http:
        at = await publish(http, *range(1, 8))
        epoch = at[:8]
        for since, recovered, expected, more in (
            (f"{epoch}.5", True, [6, 7], False),
            (f"{epoch}.2", True, [3, 4, 5], True),
            (f"{epoch}.7", True, [], False),
            (f"{epoch}.1", False, [3, 4, 5], True),  # trimmed
            (f"{epoch}.8", False, [3, 4, 5], True),  # was never published
            ("aaaaaaaa.6", False, [3, 4, 5], True),
        ):
            answer = await ask(http, pat=PAT, since=since, limit=3)
            assert (answer["recovered"], offsets(answer), answer["more"]) == (recovered, expected, more), since
            assert (answer["at"], answer["first"]) == (at, 3)
        rest = await ask(http, pat=PAT, since=f"{epoch}.5", limit=1)
        assert (offsets(rest), rest["more"]) == ([6], True)
        rest = await ask(http, pat=PAT, since=rest["messages"][-1]["at"], limit=1)
        assert (offsets(rest), rest["more"]) == ([7], False)


async def test_a_long_history_is_read_in_parts(tmp_path: Path, redis: str) -> None:
    async with asking(tmp_path, redis=redis, max_batch_bytes=20_000) as http:
        messages = [{"pattern": {"kind": "long"}, "payload": number} for number in range(1, 601)]
        for start in range(0, 600, 200):
            await http.post("batch", json={"messages": messages[start : start + 200]})
        answer = await ask(http, pat="kind=long", last=1000)
        assert (offsets(answer), answer["more"]) == (list(range(1, 601)), False)
        assert offsets(await ask(http, pat="kind=long", last=599)) == list(range(2, 601))
        answer = await ask(http, pat="kind=long", since=f"{answer['at'][:8]}.0", limit=300)
        assert (offsets(answer), answer["more"]) == (list(range(1, 301)), True)
        for _ in range(3):
            await publish(http, "x" * 8_000, pattern={"kind": "long"})
        answer = await ask(http, pat="kind=long", last=3)
        assert (offsets(answer), answer["more"]) == ([601, 602, 603], False)
        await publish(http, "x" * 8_000, pattern={"kind": "long"})
        answer = await ask(http, pat="kind=long", last=4)
        assert (offsets(answer), answer["more"]) == ([601, 602, 603], True)  # the third is over the bound


async def test_the_history_of_a_wildcard(tmp_path: Path, redis: str) -> None:
    async with (
        served(tmp_path, redis=redis) as node,
        subscribed(node, {"kind": "chat", "room": "*"}),
        httpx2.AsyncClient(base_url=node.api_url) as http,
    ):
        await publish(http, "a", pattern={"kind": "chat", "room": "x y"})
        await node.bus.publish(Publication(b"kind:chat|room:%C3%A4", b'"b"'))
        answer = await ask(http, pat="kind=chat,room=*", last=5)
        assert answer["pattern"] == {"kind": "chat", "room": "*"}
        assert answer["messages"] == [
            {"at": f"{answer['at'][:8]}.1", "pattern": {"kind": "chat", "room": "x y"}, "payload": "a"},
            {"at": f"{answer['at'][:8]}.2", "pattern": {"kind": "chat", "room": "ä"}, "payload": "b"},
        ]


@pytest.mark.parametrize(
    ("query", "status", "code", "said"),
    [
        ("", 400, "bad-request", "names no patterns"),
        ("pat=kind=news", 404, "no-history", "no rule of history contains this pattern"),
        ("pat=kind=chat,room=*,**&last=x", 400, "bad-request", "last must be a number from 1 to 10000"),
        (f"pat={PAT}&last=0", 400, "bad-request", "last must be a number"),
        (f"pat={PAT}&last=10001", 400, "bad-request", "last must be a number"),
        (f"pat={PAT}&since=x", 400, "bad-request", 'since must be a position such as "k3f09a2c.17"'),
        (f"pat={PAT}&since=k3f09a2c.1&limit=-1", 400, "bad-request", "limit must be a number"),
        (f"pat={PAT}&since=k3f09a2c.1&last=1", 400, "bad-request", "since and last were both given"),
        (f"pat={PAT}&limit=1", 400, "bad-request", "limit goes with since"),
        (f"pat={PAT}&last=1&last=2", 400, "bad-request", "has last more than once"),
        (f"pat={PAT}&sinse=k3f09a2c.1", 400, "bad-request", "unknown field 'sinse'"),
        ("pat=realizehit=stats", 403, "forbidden", "reserved"),
        ("pat=[]", 400, "bad-pattern", "is not a filter"),
        ("pat={", 400, "bad-json", "not JSON"),
    ],
)
async def test_a_bad_question_is_named(tmp_path: Path, query: str, status: int, code: str, said: str) -> None:
    async with asking(tmp_path) as http:
        answer = await http.get(f"history?{query}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert said in answer.json()["detail"]
        outcome = {"forbidden": "invalid", "no-history": "no_history"}.get(code, "invalid")
        assert f'realizehit_history_requests_total{{outcome="{outcome}"}} 1.0' in (await http.get("metrics")).text


async def test_methods(tmp_path: Path) -> None:
    async with asking(tmp_path) as http:
        answer = await http.head("history", params={"pat": PAT})
        assert (answer.status_code, answer.content) == (200, b"")
        answer = await http.post("history", json={"pattern": CHAT, "payload": 1})
        assert answer.status_code == 405
        assert "GET" in answer.headers["allow"]


async def test_it_takes_a_key_that_may_publish_there(tmp_path: Path) -> None:
    key, lines = generate("app")
    file = tmp_path / "keys.toml"
    file.write_text(lines + 'grants = [{kind = "chat", room = ["7"]}]\nrate = 3\n')
    async with asking(tmp_path, keys=str(file), prefix="/api/") as http:
        assert (await http.get("history", params={"pat": PAT})).status_code == 401
        login = {"Authorization": f"Bearer {key}"}
        for pattern, status in ((PAT, 200), ("kind=chat,room=8", 403), ("kind=chat,room=*", 403), (PAT, 429)):
            answer = await http.get("history", params={"pat": pattern}, headers=login)
            assert answer.status_code == status, (pattern, answer.text)
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_page_of_a_stranger_learns_nothing(tmp_path: Path) -> None:
    async with asking(tmp_path) as http:
        answer = await http.get("history", params={"pat": PAT}, headers={"origin": "https://elsewhere.example"})
        assert answer.status_code == 403


async def test_a_broker_that_is_away(valkey: Valkey, tmp_path: Path) -> None:
    async with asking(tmp_path, redis=valkey.url, publish_timeout=2) as http:
        valkey.kill()
        answer = await http.get("history", params={"pat": PAT})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert str(valkey.socket) not in answer.text
