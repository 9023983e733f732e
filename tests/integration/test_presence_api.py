"""``GET {prefix}presence``, its metrics, and ``realizehit presence``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.access.keys import generate
from realizehit.node import presence
from tests.integration.test_api import problem
from tests.support.presence import QUICK, User, events_of, has_members, node_at, read, room, rules_file
from tests.support.processes import running, serving
from tests.support.valkey import Valkey


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "TIMES", QUICK)


async def test_pages_and_counts(shared_valkey: Valkey, tmp_path: Path) -> None:
    pattern = room("quick")
    rules = rules_file(tmp_path)
    async with (
        node_at(shared_valkey.url, rules) as node,
        node_at(shared_valkey.url, rules, role="api") as api,  # it serves no clients
    ):
        users = [await User.at(node, pattern, user=str(number)) for number in range(7)]
        users.append(await User.at(node, pattern))
        members = [{"user": str(number)} for number in range(7)]
        await has_members(api, pattern, *members, anonymous=1)
        assert await read(api, pattern, count=1) == {"id": (await read(api, pattern))["id"], "count": 7, "anonymous": 1}
        found: list[Any] = []
        after: Any = ""
        while after is not None:
            page = await read(api, pattern, limit=3, **({"after": after} if after else {}))
            assert page["count"] == 7
            found.append(page["members"])
            after = page["after"]
        assert found == [members[:3], members[3:6], members[6:]]
        async with httpx2.AsyncClient(base_url=node.api_url) as http:
            metrics = (await http.get("metrics")).text
        assert "realizehit_presence_members 7.0" in metrics
        assert "realizehit_presence_channels 1.0" in metrics
        assert 'realizehit_presence_events_total{event="join"} 7.0' in metrics
        assert "realizehit_presence_registrations_total 1.0" in metrics
        for user in users:
            await user.leave()
        await has_members(api, pattern)
        assert node.presence is not None
        assert node.presence.counts.leaves >= 7  # and those of nodes of other tests that died


@pytest.mark.parametrize(
    ("query", "status", "code", "text"),
    [
        ("", 400, "bad-request", "names no patterns"),
        ("pat=a=b&pat=a=c", 400, "bad-request", "names 2 patterns"),
        ("pat=a", 400, "bad-pattern", "'a'"),
        ("pat={", 400, "bad-json", "the pattern is not JSON"),
        ("pat=kind=other", 404, "no-presence", "no rule of presence of this server contains this pattern"),
        ("pat=kind=chat,room=*", 404, "no-presence", "no rule"),
        ("pat=kind=chat,room=1,realizehit=presence", 403, "forbidden", "realizehit is reserved"),
        ("pat=kind=chat,room=1&last=2", 400, "bad-request", "unknown field 'last'; known are pat, after, limit, count"),
        ("pat=kind=chat,room=1&limit=0", 400, "bad-request", "limit must be a number from 1 to 1000"),
        ("pat=kind=chat,room=1&limit=1001", 400, "bad-request", "limit must be"),
        ("pat=kind=chat,room=1&limit=%C2%B2", 400, "bad-request", "limit must be"),
        ("pat=kind=chat,room=1&count=2", 400, "bad-request", "count takes only the value 1"),
        ("pat=kind=chat,room=1&count=1&limit=2", 400, "bad-request", "count does not go with"),
        ("pat=kind=chat,room=1&after=x&after=y", 400, "bad-request", "after more than once"),
        (f"pat=kind=chat,room=1&after={'x' * 8193}", 400, "bad-request", "after is over 8192 bytes"),
    ],
)
async def test_wrong_requests(tmp_path: Path, query: str, status: int, code: str, text: str) -> None:
    async with (
        node_at(f"memory://{tmp_path}", rules_file(tmp_path)) as node,
        httpx2.AsyncClient(base_url=node.api_url) as http,
    ):
        assert text in problem(await http.get(f"presence?{query}"), status, code)


async def test_a_server_without_rules_says_so(tmp_path: Path) -> None:
    async with (
        node_at(f"memory://{tmp_path}", None) as node,  # type: ignore[arg-type]
        httpx2.AsyncClient(base_url=node.api_url) as http,
    ):
        problem(await http.get("presence?pat=kind=chat,room=1"), 404, "no-presence")
        assert "realizehit_presence" not in (await http.get("metrics")).text


async def test_who_may_ask(tmp_path: Path) -> None:
    chat, chat_lines = generate("chat")
    news, news_lines = generate("news")
    keys = tmp_path / "keys.toml"
    keys.write_text(chat_lines + 'grants = [{kind = "chat"}]\n' + news_lines + 'grants = [{kind = "news"}]\n')
    async with (
        node_at(f"memory://{tmp_path}", rules_file(tmp_path), keys=str(keys)) as node,
        httpx2.AsyncClient(base_url=node.api_url) as http,
    ):
        problem(await http.get("presence?pat=kind=chat,room=1"), 401, "not-authenticated")
        answer = await http.get("presence?pat=kind=chat,room=1", headers={"Authorization": f"Bearer {news}"})
        problem(answer, 403, "forbidden")
        answer = await http.get("presence?pat=kind=chat,room=1", headers={"Authorization": f"Bearer {chat}"})
        assert answer.json()["members"] == []
        # Only servers publish joins and leaves.
        body = {"pattern": events_of({"kind": "chat", "room": 1}), "payload": {"event": "join"}}
        problem(await http.post("", json=body, headers={"Authorization": f"Bearer {chat}"}), 403, "forbidden")


async def test_a_broker_that_is_away(valkey: Valkey, tmp_path: Path) -> None:
    async with (
        node_at(valkey.url, rules_file(tmp_path)) as node,
        httpx2.AsyncClient(base_url=node.api_url, timeout=30) as http,
    ):
        valkey.kill()
        answer = await http.get("presence?pat=kind=chat,room=1")
        problem(answer, 503, "unavailable")
        valkey.start()


async def test_the_command(shared_valkey: Valkey, tmp_path: Path) -> None:
    pattern = room()
    words = [f"kind={pattern['kind']}", f"room={pattern['room']}"]
    server_words = ["--redis", shared_valkey.url, "--presence", rules_file(tmp_path), "--insecure-publish"]
    server_words += ["--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", "--drain-seconds", "0"]
    with serving(*server_words) as server:
        users = [await User.at(server.ws, pattern, user=name) for name in ("ann", "bob")]
        await has_members(server.api, pattern, {"user": "ann"}, {"user": "bob"})

        def run(*more: str) -> tuple[int, list[str], list[str]]:
            with running("realizehit", "presence", *words, "--url", server.api, *more) as command:
                return command.wait(), command.out, command.err

        note = "2 members, and 0 connections without an identity"
        assert run() == (0, ['{"user": "ann"}', '{"user": "bob"}'], [note])
        status, out, err = run("--limit", "1")
        assert (status, out) == (0, ['{"user": "ann"}'])
        assert err == [note, """there are more; go on with --after '{"user":"ann"}'"""]
        assert run("--after", '{"user":"ann"}')[1] == ['{"user": "bob"}']
        assert run("--count") == (0, [note], [])
        (line,) = run("--count", "--json")[1]
        assert orjson.loads(line)["count"] == 2
        assert run("--count", "--limit", "1")[0] == 2
        for user in users:
            await user.leave()
        with running("realizehit", "presence", "kind=other", "--url", server.api) as command:
            assert command.wait() == 1
            assert "no rule of presence" in command.output
