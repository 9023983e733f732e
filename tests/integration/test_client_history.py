"""How the Python clients use positions: what they ask for, resuming after a lost connection, gaps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from websockets.asyncio.server import ServerConnection

from realizehit.client.subscription import Subscription
from realizehit.errors import RequestError
from tests.integration.test_client_sync_ws import call, make
from tests.integration.test_client_ws import connect, record, until
from tests.support.processes import running
from tests.support.scripted_server import Script, Scripted, answer_all, reply, scripted

NEWS = {"kind": "news"}


def stage(
    *messages: str, close: bool = True, event: dict[str, Any] | None = None, **answer: Any
) -> Callable[[Scripted, ServerConnection], Any]:
    """Answer ``sub`` with the id ``abc`` and more, tell an event, send messages, and perhaps end the connection."""

    async def script(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), ret="abc", **answer)
        if event is not None:
            await socket.send(orjson.dumps(event).decode())
        for message in messages:
            await socket.send(message)
        if close:
            await socket.close(4001, "delay=20")
        await answer_all(server, socket)

    return script


def asked(server: Scripted) -> list[dict[str, Any]]:
    """What each ``sub`` asked for besides its pattern."""
    return [
        {key: value for key, value in action.items() if key not in ("id", "act", "pat")}
        for action in server.actions
        if action["act"] == "sub"
    ]


async def positions(subscription: Subscription, count: int) -> list[tuple[Any, str | None]]:
    messages = subscription.messages()
    async with asyncio.timeout(15):
        return [(message.payload, message.position) for message in [await anext(messages) for _ in range(count)]]


@pytest.mark.parametrize(
    "wish", [{"offsets": True}, {"last": 2}, {"since": "aaaaaaaa.3"}], ids=["offsets", "last", "since"]
)
async def test_it_resumes_after_its_last_message(wish: dict[str, Any]) -> None:
    more: dict[str, Any] = {"recovered": True} if "since" in wish else {}
    first = stage("abc@o=4?4", "abc@o=5?5", at="aaaaaaaa.3", **more)
    second = stage("abc@o=6?6", "abc@o=bbbbbbbb.7?7", at="aaaaaaaa.5", recovered=True)
    third = stage("abc@o=8?8", close=False, at="bbbbbbbb.7", recovered=True)
    async with scripted(first, second, third) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS, **wish)
        told = record(news, "gap", "recovered")
        assert news.recovered is (True if "since" in wish else None)
        # The reader begins only now: what waits in the queue neither comes again nor is lost.
        await until(lambda: told == ["recovered"] * 2)
        await until(lambda: news.waiting == 5)
        assert news.position == "aaaaaaaa.3"
        assert await positions(news, 5) == [
            (4, "aaaaaaaa.4"),
            (5, "aaaaaaaa.5"),
            (6, "aaaaaaaa.6"),
            (7, "bbbbbbbb.7"),
            (8, "bbbbbbbb.8"),
        ]
        assert asked(server) == [wish, {"since": "aaaaaaaa.5"}, {"since": "bbbbbbbb.7"}]
        assert (news.gaps, news.recovered, news.position) == (0, True, "bbbbbbbb.8")


async def test_what_is_lost_is_a_gap_and_the_position_is_the_servers() -> None:
    first = stage("abc@o=4?4", at="aaaaaaaa.3")
    second = stage(at="bbbbbbbb.9", recovered=False)
    third = stage("abc@o=10?10", close=False, at="bbbbbbbb.9", recovered=True)
    async with scripted(first, second, third) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS, offsets=True)
        told = record(news, "gap", "recovered")
        assert await positions(news, 2) == [(4, "aaaaaaaa.4"), (10, "bbbbbbbb.10")]
        assert asked(server) == [{"offsets": True}, {"since": "aaaaaaaa.4"}, {"since": "bbbbbbbb.9"}]
        assert [told[0][0], told[1]] == ["gap", "recovered"]
        assert told[0][1] > 0


@pytest.mark.parametrize("answer", [{"recovered": False}, {}], ids=["no-rule", "no-history"])
async def test_a_position_that_the_server_does_not_know_is_a_gap_at_once(answer: dict[str, Any]) -> None:
    first = stage("abc?1", **answer)
    second = stage("abc?2", close=False)
    async with scripted(first, second) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS, since="aaaaaaaa.3")
        assert (news.recovered, news.gaps, news.position) == (False, 1, None)
        assert await positions(news, 2) == [(1, None), (2, None)]
        assert news.gaps == 2
        assert asked(server) == [{"since": "aaaaaaaa.3"}, {"offsets": True}]


async def test_a_gap_that_the_server_tells_moves_the_position() -> None:
    event = {"evt": "gap", "ids": ["abc"], "seconds": 1.5, "at": {"abc": "bbbbbbbb.20"}}
    first = stage(event=event, at="aaaaaaaa.3")
    second = stage("abc@o=21?21", close=False, at="bbbbbbbb.20", recovered=True)
    async with scripted(first, second) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS, offsets=True)
        assert await positions(news, 1) == [(21, "bbbbbbbb.21")]
        assert asked(server) == [{"offsets": True}, {"since": "bbbbbbbb.20"}]
        assert news.gaps == 1


async def test_a_subscription_without_positions_is_as_before() -> None:
    first, second = stage("abc@o=4?4"), stage("abc?5", close=False)
    async with scripted(first, second) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS)
        assert await positions(news, 2) == [(4, None), (5, None)]
        assert asked(server) == [{}, {}]
        assert (news.gaps, news.recovered, news.position) == (1, None, None)


async def test_a_wildcard_has_the_positions_of_its_own_log() -> None:
    script = stage("abc@o=4&c=kind:news?4", "abc@o=5&c=kind:sport?5", close=False, at="aaaaaaaa.3")
    async with scripted(script) as server, connect(server.url) as client:
        every = await client.subscribe({"kind": "*"}, offsets=True)
        messages = every.messages()
        read = [await anext(messages) for _ in range(2)]
        assert [(each.position, each.pattern["kind"]) for each in read] == [
            ("aaaaaaaa.4", "news"),
            ("aaaaaaaa.5", "sport"),
        ]


async def test_subscriptions_to_one_pattern_share_its_place() -> None:
    release = asyncio.Event()

    async def script(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), ret="abc", at="aaaaaaaa.3")
        await socket.send("abc@o=4?4")
        await release.wait()
        await socket.send("abc@o=5?5")
        await answer_all(server, socket)

    async with scripted(script) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS, offsets=True)
        assert await positions(news, 1) == [(4, "aaaaaaaa.4")]
        twin = await client.subscribe(NEWS, offsets=True)
        third = await client.subscribe(NEWS)
        assert twin.position == "aaaaaaaa.4"
        release.set()
        assert [await positions(each, 1) for each in (news, twin, third)] == [[(5, "aaaaaaaa.5")]] * 3
        for wish in ({"since": "aaaaaaaa.1"}, {"last": 1}):
            with pytest.raises(RequestError, match="only the first subscription to a pattern"):
                await client.subscribe(NEWS, **wish)
        assert asked(server) == [{"offsets": True}]
        assert client.subscriptions == [news, twin, third]


async def test_positions_must_be_asked_for_at_first() -> None:
    async with scripted(answer_all) as server, connect(server.url) as client:
        await client.subscribe(NEWS)
        with pytest.raises(RequestError, match="is subscribed to already"):
            await client.subscribe(NEWS, offsets=True)
        with pytest.raises(RequestError, match="last is 0"):
            await client.subscribe({"kind": "sport"}, last=0)
        assert asked(server) == [{}]


async def test_what_a_full_queue_drops_is_told_as_a_gap_and_not_asked_for_again() -> None:
    first = stage(*(f"abc@o={n}?{n}" for n in range(4, 14)), at="aaaaaaaa.3")
    second = stage("abc@o=14?14", close=False, at="aaaaaaaa.13", recovered=True)
    async with scripted(first, second) as server, connect(server.url) as client:
        news = await client.subscribe(NEWS, offsets=True, maxsize=2)
        told = record(news, "gap", "recovered")
        await until(lambda: "recovered" in told)
        await until(lambda: news.dropped == 9)
        assert await positions(news, 2) == [(13, "aaaaaaaa.13"), (14, "aaaaaaaa.14")]
        assert ("gap", 0.0) in told
        assert 2 <= news.gaps <= 9
        assert asked(server)[1] == {"since": "aaaaaaaa.13"}


def resuming() -> list[Script]:
    return [
        stage("abc@o=4?4", at="aaaaaaaa.3", recovered=True),
        stage("abc@o=5?5", at="aaaaaaaa.4", recovered=True),
        stage("abc@o=10?10", close=False, at="bbbbbbbb.9", recovered=False),
    ]


async def test_a_subscriber_resumes_after_its_last_message() -> None:
    told: list[object] = []
    async with scripted(*resuming()) as server:
        subscriber = make(
            server.url, NEWS, since="aaaaaaaa.3", on_gap=told.append, on_recovered=lambda: told.append("recovered")
        )

        def read() -> list[tuple[Any, str | None]]:
            with subscriber:
                assert (subscriber.position, subscriber.recovered) == ("aaaaaaaa.3", True)
                messages = subscriber.messages()
                return [(each.payload, each.position) for each in [next(messages) for _ in range(3)]]

        assert await call(read) == [(4, "aaaaaaaa.4"), (5, "aaaaaaaa.5"), (10, "bbbbbbbb.10")]
        assert asked(server) == [{"since": f"aaaaaaaa.{n}"} for n in (3, 4, 5)]
        assert told[0] == "recovered"
        assert isinstance(told[1], float)
        assert (len(told), subscriber.gaps, subscriber.recovered) == (2, 1, False)
        assert subscriber.position == "bbbbbbbb.10"


async def test_a_subscriber_whose_position_is_not_known() -> None:
    event = {"evt": "gap", "ids": ["abc"], "seconds": 1.5, "at": {"abc": "cccccccc.8"}}
    script = stage("abc@o=9?9", event=event, close=False, at="bbbbbbbb.9", recovered=False)
    gaps: list[float] = []
    async with scripted(script) as server:
        subscriber = make(server.url, NEWS, since="aaaaaaaa.3", on_gap=gaps.append)
        await call(subscriber.connect)
        assert (gaps, subscriber.gaps, subscriber.position) == ([0.0], 1, "bbbbbbbb.9")
        assert await call(next, subscriber) == 9
        assert (gaps, subscriber.position) == ([0.0, 1.5], "cccccccc.9")
        await call(subscriber.close)
        with pytest.raises(RequestError, match="last is -1"):
            make(server.url, NEWS, last=-1)


def printed(url: str, *arguments: str, status: int = 0) -> tuple[list[str], list[str]]:
    """What ``realizehit subscribe`` writes to standard output and, without its first line, to standard error."""
    with running("realizehit", "subscribe", "--url", url, *arguments) as process:
        assert process.wait() == status
    return process.out, process.err[1:]


async def test_the_command_prints_positions_and_goes_on_after_its_last_message() -> None:
    async with scripted(*resuming()) as server:
        out, err = await asyncio.to_thread(
            printed, server.url, "kind=news", "--last", "2", "--positions", "--count", "3"
        )
    assert [json.loads(line) for line in out] == [
        {"pattern": NEWS, "position": position, "payload": payload}
        for position, payload in (("aaaaaaaa.4", 4), ("aaaaaaaa.5", 5), ("bbbbbbbb.10", 10))
    ]
    assert asked(server) == [{"last": 2}, {"since": "aaaaaaaa.4"}, {"since": "aaaaaaaa.5"}]
    asks = "disconnected: the server is closing and asks to connect again in 0.0 s; trying again"
    assert err[:3] == [asks, "connected again: nothing is missing", asks]
    assert [line.endswith("messages may be missing") for line in err[3:]] == [True]


async def test_the_command_tells_what_the_server_cannot_give() -> None:
    lost, absent = stage("abc@o=9?9", close=False, at="b.8", recovered=False), stage("abc?1", close=False)
    async with scripted(lost, absent) as server:
        since = await asyncio.to_thread(printed, server.url, "kind=news", "--since", "a.3", "--count", "1")
        last = await asyncio.to_thread(printed, server.url, "kind=news", "--last", "3", "--count", "1")
    assert since == (["9"], ["the server does not have all messages after a.3: messages may be missing"])
    assert last == (["1"], ["the server keeps no history of this pattern"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--since", "17"), "since is '17'; a position is a text <epoch>.<offset>"),
        (("--since", "a.1", "--last", "3"), "since and last were both given"),
        (("--last", "0"), "0 is not in the range x>=1"),
    ],
)
def test_arguments_that_the_command_refuses(arguments: tuple[str, ...], text: str) -> None:
    _, err = printed("ws://127.0.0.1:1/ws", "kind=news", *arguments, status=2)
    assert any(text in line for line in err)
