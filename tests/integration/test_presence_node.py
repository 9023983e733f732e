"""Presence as clients and backends see it: nodes that come, go and die, and brokers that lose everything."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jwt
import pytest

from realizehit.node import presence
from realizehit.node.presence_registrar import Times
from realizehit.pattern import channel_of
from tests.support.presence import (
    QUICK,
    User,
    events_of,
    has_members,
    node_at,
    read,
    room,
    rules_file,
    until,
)
from tests.support.processes import serving
from tests.support.valkey import Valkey

ONE, TWO = {"user": "1"}, {"user": "2"}
NODES = b"realizehit:presence:{%b}:nodes"
SECRET = "a secret of more than 32 bytes, for tests"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "TIMES", QUICK)


@pytest.fixture
def rules(tmp_path: Path) -> str:
    return rules_file(tmp_path)


@pytest.fixture(params=["memory", "valkey"])
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory://{tmp_path}" if request.param == "memory" else str(request.getfixturevalue("shared_valkey").url)


async def test_members_join_and_leave(redis: str, rules: str) -> None:
    pattern = room("quick")
    async with node_at(redis, rules) as a, node_at(redis, rules) as b:
        watcher = await User.at(a, events_of(pattern))
        first = await User.at(a, pattern, user="1")
        assert await watcher.joins_and_leaves(1) == [("join", ONE, 1)]
        second = await User.at(b, pattern, user="2", device="x y|é")
        joined = {"device": "x y|é", "user": "2"}
        await watcher.joins_and_leaves(2)
        guest = await User.at(b, pattern)
        await has_members(a, pattern, joined, ONE, anonymous=1)
        await has_members(b, pattern, joined, ONE, anonymous=1)
        assert (await second.ask("unsub", pattern))["ret"]
        assert await watcher.joins_and_leaves(3) == [("join", ONE, 1), ("join", joined, 2), ("leave", joined, 1)]
        await first.leave()
        assert (await watcher.joins_and_leaves(4))[3] == ("leave", ONE, 0)
        await guest.leave()
        await has_members(a, pattern)
        await until(lambda: not a.presence.members.present and len(a.presence.members) == 0)  # type: ignore[union-attr]
        await watcher.leave()
        await second.leave()


async def test_a_reconnect_is_no_leave(shared_valkey: Valkey, rules: str) -> None:
    pattern = room()  # it has the usual 5 seconds
    channel = channel_of(pattern)
    async with node_at(shared_valkey.url, rules) as a, node_at(shared_valkey.url, rules) as b:
        assert a.presence is not None
        watcher = await User.at(b, events_of(pattern))
        await (await User.at(a, pattern, user="1")).leave()
        await (await User.at(a, pattern, user="1")).leave()
        await until(lambda: a.engine.subscribers(channel) == 0)
        back = await User.at(b, pattern, user="1")
        await until(lambda: len(shared_valkey.command("SMEMBERS", NODES % channel_of(events_of(pattern)))) == 2)
        a.presence.tick(a._loop.time() + 4.9)
        assert channel in a.presence.members
        a.presence.tick(a._loop.time() + 5.1)
        await until(lambda: len(a.presence.members) == 0)  # type: ignore[union-attr]
        await has_members(a, pattern, ONE)
        marker = await User.at(a, pattern, user="2")
        assert await watcher.joins_and_leaves(2) == [("join", ONE, 1), ("join", TWO, 2)]
        for user in (watcher, back, marker):
            await user.leave()


async def test_subscriptions_of_one_identity_are_one_member(redis: str, rules: str) -> None:
    pattern = room("quick")
    async with node_at(redis, rules) as a, node_at(redis, rules) as b:
        watcher = await User.at(a, events_of(pattern))
        users = [await User.at(node, pattern, user="1") for node in (a, a, b)]
        assert (await users[0].ask("sub", pattern))["ret"]  # again
        await has_members(a, pattern, ONE)
        await users[0].leave()
        await users[2].leave()
        await until(lambda: len(b.presence.members) == 0)  # type: ignore[union-attr]
        await has_members(b, pattern, ONE)
        await users[1].leave()
        assert await watcher.joins_and_leaves(2) == [("join", ONE, 1), ("leave", ONE, 0)]
        await watcher.leave()


async def test_patterns_without_a_rule_and_wildcards_have_no_members(redis: str, rules: str) -> None:
    pattern = room()
    async with node_at(redis, rules) as node:
        await User.at(node, {**pattern, "room": "*"}, {"kind": "other"}, {"kind": "chat"}, user="1")
        assert len(node.presence.members) == 0  # type: ignore[union-attr]
        watcher = await User.at(node)
        for refused in ({**pattern, "realizehit": "x"}, events_of({"kind": "other"}), events_of({**pattern, "*": "*"})):
            assert (await watcher.ask("sub", refused))["code"] == "forbidden"


async def test_clients_are_counted_where_the_engine_lets_clients_join(redis: str, rules: str, tmp_path: Path) -> None:
    """Without identities and grants, clients join channels in force without Python, but not those with presence."""
    pattern, later = room("quick"), {"kind": "later"}
    async with node_at(redis, rules, identify=(), trusted_proxies=()) as node:
        users = [await User.at(node, pattern, later) for _ in range(4)]
        await has_members(node, pattern, anonymous=4)
        rules_file(tmp_path, '[[presence]]\npattern = {kind = "later"}\nleave-after = 0')
        node.reload()
        await has_members(node, later, anonymous=4)
        users.append(await User.at(node, later))
        await has_members(node, later, anonymous=5)
        for user in users:
            await user.leave()
        await has_members(node, later)


async def test_a_client_that_identifies_itself_later(shared_valkey: Valkey, rules: str) -> None:
    pattern = room("quick")
    tokens = {
        "jwt_secret": SECRET,
        "jwt_algorithms": ("HS256",),
        "jwt_claims": ("user=sub",),
        "identify": (),
        "trusted_proxies": (),
    }

    def token(user: str) -> str:
        return jwt.encode({"sub": user, "exp": 4_000_000_000}, SECRET, algorithm="HS256")

    async with node_at(shared_valkey.url, rules, **tokens) as node:
        watcher = await User.at(node, events_of(pattern))
        client = await User.at(node, pattern)
        await has_members(node, pattern, anonymous=1)
        assert (await client.ask("auth", token=token("1")))["ret"] == "ok"
        await has_members(node, pattern, ONE)
        assert (await client.ask("auth", token=token("2")))["ret"] == "ok"
        await has_members(node, pattern, TWO)
        events = await watcher.joins_and_leaves(3)
        assert events == [("join", ONE, 1), ("join", TWO, 2), ("leave", ONE, 1)]
        await client.leave()
        await watcher.leave()


async def test_a_node_that_hangs_loses_its_members_and_gets_them_back(
    shared_valkey: Valkey, rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = room("quick")
    async with node_at(shared_valkey.url, rules) as b, AsyncExitStack() as stack:
        monkeypatch.setattr(presence, "TIMES", QUICK._replace(lease=2.0))
        a = await stack.enter_async_context(node_at(shared_valkey.url, rules))
        watcher = await User.at(b, events_of(pattern))
        users = [await User.at(a, pattern, user="1"), await User.at(a, pattern)]
        users += [await User.at(a, pattern, user="2"), await User.at(b, pattern, user="2")]
        await has_members(b, pattern, ONE, TWO, anonymous=1)
        assert a.presence is not None
        for task in a.presence._tasks:
            task.cancel()
        await asyncio.wait(a.presence._tasks)
        events = await watcher.joins_and_leaves(3)
        assert events[2] == ("leave", ONE, 1)
        await has_members(b, pattern, TWO)
        a.presence.start()
        await has_members(b, pattern, ONE, TWO, anonymous=1)
        assert (await watcher.joins_and_leaves(4))[3:] == [("join", ONE, 2)]
        for user in (*users, watcher):
            await user.leave()


async def test_members_of_a_server_that_ends_come_back_elsewhere(shared_valkey: Valkey, rules: str) -> None:
    pattern = room("quick")
    async with node_at(shared_valkey.url, rules) as b:
        watcher = await User.at(b, events_of(pattern))
        async with node_at(shared_valkey.url, rules) as a:
            for number in "12":
                await User.at(a, pattern, user=number)
            await watcher.joins_and_leaves(2)
        back = await User.at(b, pattern, user="1")
        await has_members(b, pattern, ONE)
        assert (await watcher.joins_and_leaves(3))[2] == ("leave", TWO, 1)
        assert len(watcher.events) == 3
        await back.leave()
        await watcher.leave()


@pytest.mark.parametrize("how", ["emptied", "restarted empty", "one key"])
async def test_members_return_after_a_broker_lost_them(valkey: Valkey, rules: str, how: str) -> None:
    pattern = room()
    async with node_at(valkey.url, rules) as a, node_at(valkey.url, rules) as b:
        users = [await User.at(a, pattern, user="1"), await User.at(b, pattern, user="2"), await User.at(b, pattern)]
        await has_members(a, pattern, ONE, TWO, anonymous=1)
        if how == "emptied":
            valkey.command("FLUSHALL")
        elif how == "restarted empty":
            valkey.kill()
            for file in valkey.directory.glob("**/*.rdb"):
                file.unlink()
            for file in valkey.directory.glob("**/*.aof"):
                file.unlink()
            valkey.start()
            valkey.command("FLUSHALL")
        else:
            (key,) = valkey.command("KEYS", "realizehit:presence:*:members")
            valkey.command("DEL", key)
            assert (await read(a, pattern))["count"] == 0
        await has_members(a, pattern, ONE, TWO, anonymous=1)
        for user in users:
            await user.leave()


async def test_changes_wait_for_a_broker_that_is_away(valkey: Valkey, rules: str) -> None:
    pattern = room("quick")
    async with node_at(valkey.url, rules, publish_timeout=1.0) as node:
        stays, goes = await User.at(node, pattern, user="1"), await User.at(node, pattern, user="2")
        await has_members(node, pattern, ONE, TWO)
        valkey.pause()
        await goes.leave()
        await until(lambda: channel_of(pattern) in node.presence.members.changed)  # type: ignore[union-attr]
        valkey.resume()
        await has_members(node, pattern, ONE)
        await stays.leave()


async def test_rules_are_read_again(redis: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pattern, other = room("quick"), {"kind": "other"}
    rules = rules_file(tmp_path)
    async with node_at(redis, rules) as node:
        users = [await User.at(node, pattern, other, user=number) for number in "12"]
        await has_members(node, pattern, ONE, TWO)
        rules_file(tmp_path, '[[presence]]\npattern = {kind = "other"}\nleave-after = 0')
        node.reload()
        await has_members(node, other, ONE, TWO)
        await until(lambda: len(node.presence.members) == 1)  # type: ignore[union-attr]
        rules_file(tmp_path, "[[presence]]\npattern = 1")
        node.reload()
        assert "the rules of presence are unchanged" in caplog.text
        await users[0].leave()
        await has_members(node, other, TWO)
        users.append(await User.at(node, other, user="3"))  # the engine lets nobody join without being counted
        await has_members(node, other, TWO, {"user": "3"})
        await users[1].leave()
        await users[2].leave()


async def test_grants_decide_who_sees_joins_and_leaves(shared_valkey: Valkey, rules: str, tmp_path: Path) -> None:
    mine, others = room(), room()
    grants = tmp_path / "grants.toml"
    grants.write_text(f'[[grant]]\npattern = {{kind = "chat", room = {mine["room"]}}}\n')
    async with node_at(shared_valkey.url, rules, grants=str(grants), console=True) as node:
        user = await User.at(node, mine, events_of(mine), user="1")
        assert await user.joins_and_leaves(1) == [("join", ONE, 1)]
        assert (await user.ask("sub", events_of(others)))["code"] == "forbidden"
        await user.leave()


async def test_workers_behind_a_relay_are_nodes_of_their_own(shared_valkey: Valkey, rules: str) -> None:
    pattern = room("quick")
    words = ["--workers", "2", "--relay", "on", "--redis", shared_valkey.url, "--presence", rules, "--insecure-publish"]
    words += ["--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", "--drain-seconds", "0"]
    with serving(*words) as server:
        watcher = await User.at(server.ws, events_of(pattern))
        users = [await User.at(server.ws, pattern, user=str(number)) for number in range(8)]
        await has_members(server.api, pattern, *({"user": str(number)} for number in range(8)))
        assert len(await watcher.joins_and_leaves(8)) == 8
        for user in (*users, watcher):
            await user.leave()


@pytest.mark.slow
async def test_members_leave_within_the_lease_of_a_killed_server(
    shared_valkey: Valkey, rules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "TIMES", Times())
    pattern = room("quick")
    words = ["--redis", shared_valkey.url, "--presence", rules]
    words += ["--identify", "user=X-User", "--trusted-proxies", "127.0.0.1", "--drain-seconds", "0"]
    async with node_at(shared_valkey.url, rules) as node:
        watcher = await User.at(node, events_of(pattern))
        with serving(*words) as server:
            for number in "12":
                await User.at(server.ws, pattern, user=number)
            await watcher.joins_and_leaves(2)
            server.signal(signal.SIGKILL)
            back = await User.at(node, pattern, user="1")
            events: Any = await watcher.joins_and_leaves(3)
            assert events[2:] == [("leave", TWO, 1)]
        await back.leave()
        await watcher.leave()
