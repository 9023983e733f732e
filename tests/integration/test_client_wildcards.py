"""Wildcard subscriptions of the Python clients and of ``realizehit subscribe``, against a scripted server."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from realizehit import Pattern, WSClient
from realizehit.client.ws import ReceivedMessage
from realizehit.errors import ClientError, Rejected
from realizehit.sync import Subscriber
from tests.support.processes import SCRIPTS, SECONDS, running
from tests.support.scripted_server import Script, Scripted, reply, scripted

ANY_CHANNEL = {"kind": "news", "channel": "*"}
ID = Pattern(ANY_CHANNEL).id
CNN = {"channel": "CNN", "kind": "news"}


def publishes(*messages: str, then_close: int | None = None) -> Script:
    """Confirm a subscription with its real id, send these messages, then answer whatever comes."""

    async def script(server: Scripted, socket: ServerConnection) -> None:
        action = await server.next_action(socket)
        await reply(socket, action, ret=Pattern(action["pat"]).id)
        for message in messages:
            await socket.send(message)
        if then_close is not None:
            await socket.close(then_close)
            return
        while True:
            action = await server.next_action(socket)
            pat = action.get("pat")
            await reply(socket, action, ret=Pattern(pat).id if pat else "pong")

    return script


def refuses(code: str) -> Script:
    async def script(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), err="the server says why", code=code)
        await socket.wait_closed()

    return script


def connected(server: Scripted, **options: Any) -> WSClient:
    return WSClient(server.url, proxy=None, backoff_base=0.01, backoff_cap=0.02, **options)


async def take(messages: Any, count: int) -> list[Any]:
    async with asyncio.timeout(10):
        return [await anext(messages) for _ in range(count)]


@pytest.mark.parametrize(
    ("pattern", "sent"),
    [
        (ANY_CHANNEL, ANY_CHANNEL),
        (Pattern.parse("kind=news,channel=*"), ANY_CHANNEL),
        (Pattern.parse("user=42,**"), {"user": "42", "*": "*"}),
    ],
)
async def test_a_wildcard_is_sent_unchanged(pattern: Any, sent: dict[str, str]) -> None:
    async with scripted(publishes()) as server, connected(server) as client:
        subscription = await client.subscribe(pattern)
        assert subscription.id == Pattern(sent).id
    assert server.actions[0]["pat"] == sent


async def test_each_message_tells_what_it_was_published_to() -> None:
    messages = (
        f'{ID}@c=channel:CNN|kind:news?{{"title":"what?"}}',
        f"{ID}@o=17&c=channel:a%20%7C%3D%C3%A9|kind:news&later=x=y?1.50",  # other fields are ignored
    )
    async with scripted(publishes(*messages)) as server, connected(server) as client:
        subscription = await client.subscribe(ANY_CHANNEL)
        first, second = await take(subscription.messages(), 2)
    assert isinstance(first, ReceivedMessage)
    assert (first.pattern, first.payload, first.text) == (CNN, {"title": "what?"}, '{"title":"what?"}')
    assert (second.pattern, second.raw, second.text) == ({"channel": "a |=é", "kind": "news"}, b"1.50", "1.50")
    assert "CNN" in repr(first)


async def test_payloads_alone_come_as_for_any_subscription() -> None:
    message = f"{ID}@c=channel:CNN|kind:news?[1]"
    async with scripted(publishes(message, message)) as server, connected(server) as client:
        assert await take(await client.subscribe(ANY_CHANNEL), 2) == [[1], [1]]
    async with scripted(publishes(message)) as server, connected(server) as client:
        assert await take(await client.subscribe(ANY_CHANNEL, raw=True), 1) == [b"[1]"]


async def test_callbacks_get_messages_or_payloads() -> None:
    message = f"{ID}@c=channel:CNN|kind:news?[1]"
    seen: list[Any] = []
    both = asyncio.Event()

    async def on_message(received: ReceivedMessage) -> None:
        seen.append(received.pattern)

    def on_payload(payload: Any) -> None:
        seen.append(payload)
        both.set()

    async with scripted(publishes(message)) as server, connected(server) as client:
        subscription = await client.subscribe(ANY_CHANNEL)
        subscription.on("message", on_message)
        subscription.on("payload", on_payload)
        async with asyncio.timeout(10):
            await both.wait()
        with pytest.raises(RuntimeError, match="has a callback"):
            await anext(subscription.messages())
    assert seen == [CNN, [1]]


async def test_messages_of_an_exact_subscription_have_its_own_pattern() -> None:
    exact = Pattern(CNN)
    messages = (f"{exact.id}?1", f"{exact.id}@o=17?2", f"{exact.id}?oops")
    async with scripted(publishes(*messages)) as server, connected(server) as client:
        subscription = await client.subscribe(CNN)
        received = await take(subscription.messages(), 3)
    assert [message.pattern for message in received] == [CNN] * 3
    assert [message.payload for message in received[:2]] == [1, 2]
    with pytest.raises(ClientError):
        received[2].payload  # noqa: B018


MALFORMED = (
    f"{ID}?1",  # without the channel that it was published to
    f"{ID}@?2",
    f"{ID}@o=17?3",
    f"{ID}@c=?4",
    f"{ID}@c=channel:*|kind:news?5",
    f"{ID}@c=channel:%FF|kind:news?6",
    f"{ID}@c=channel:a&c=channel:b?7",
)


async def test_malformed_labels_are_reported_once_and_end_nothing() -> None:
    good = f"{ID}@c=channel:CNN|kind:news?8"
    errors: list[Exception] = []
    async with scripted(publishes(*MALFORMED, good)) as server, connected(server) as client:
        subscription = await client.subscribe(ANY_CHANNEL)
        subscription.on("error", errors.append)
        assert await take(subscription, 1) == [8]
        assert await client.ping() >= 0
    assert len(errors) == 1
    assert isinstance(errors[0], ClientError)
    assert "malformed label" in str(errors[0])
    assert "the field c is missing" in str(errors[0]) or "empty" in str(errors[0])


async def test_a_message_of_an_unknown_subscription_is_ignored() -> None:
    messages = ("ffffffff@c=channel:CNN|kind:news?1", "@c=a:b?2", f"{ID}@c=channel:CNN|kind:news?3")
    async with scripted(publishes(*messages)) as server, connected(server) as client:
        assert await take(await client.subscribe(ANY_CHANNEL), 1) == [3]


async def test_a_wildcard_comes_back_after_the_connection_was_lost() -> None:
    scripts = [
        publishes(f"{ID}@c=channel:CNN|kind:news?1", then_close=1012),
        publishes(f"{ID}@c=channel:BBC|kind:news?2"),
    ]
    async with scripted(*scripts) as server, connected(server) as client:
        subscription = await client.subscribe(ANY_CHANNEL)
        received = await take(subscription.messages(), 2)
    assert [message.pattern["channel"] for message in received] == ["CNN", "BBC"]
    assert subscription.gaps == 1


@pytest.mark.parametrize("code", ["too-many-shapes", "wildcard-unsupported"])
async def test_a_server_that_refuses_a_wildcard(code: str) -> None:
    async with scripted(refuses(code)) as server:
        async with connected(server) as client:
            with pytest.raises(Rejected, match="the server says why") as refused:
                await client.subscribe(ANY_CHANNEL)
            assert refused.value.code == code
        server.scripts = [refuses(code)]
        with pytest.raises(Rejected) as refused:
            await asyncio.to_thread(Subscriber(server.url, ANY_CHANNEL, proxy=None).connect)
        assert refused.value.code == code


async def test_the_synchronous_subscriber() -> None:
    errors: list[ClientError] = []
    messages = (*MALFORMED, f"{ID}@o=1&c=channel:CNN|kind:news?[1]", f"{ID}@c=channel:BBC|kind:news?[2]")

    def follow(url: str) -> tuple[list[ReceivedMessage], list[Any]]:
        with Subscriber(url, ANY_CHANNEL, proxy=None, on_error=errors.append) as subscriber:
            received = subscriber.messages()
            return [next(received)], [next(subscriber)]

    async with scripted(publishes(*messages)) as server, asyncio.timeout(10):
        [message], payloads = await asyncio.to_thread(follow, server.url)
    assert (message.pattern, message.payload, payloads) == (CNN, [1], [[2]])
    assert len(errors) == 1
    assert "malformed label" in str(errors[0])


async def test_the_synchronous_subscriber_ends_when_it_is_closed() -> None:
    def follow(url: str) -> list[ReceivedMessage]:
        with Subscriber(url, CNN, proxy=None) as subscriber:
            seen = []
            for message in subscriber.messages():
                seen.append(message)
                subscriber.close()
            return seen

    async with scripted(publishes(f"{Pattern(CNN).id}?1")) as server, asyncio.timeout(10):
        [message] = await asyncio.to_thread(follow, server.url)
    assert (message.pattern, message.payload) == (CNN, 1)


def printed(url: str, filters: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """What ``realizehit subscribe`` writes to standard output and to standard error."""
    with running("realizehit", "subscribe", "--url", url, "--count", str(count), *filters) as process:
        assert process.wait() == 0
    return process.out, process.err


async def test_the_command_prints_a_line_of_pattern_and_payload() -> None:
    messages = (*MALFORMED, f'{ID}@c=channel:a%22%2C%C3%A9|kind:news?{{"n": 1.50}}', f"{ID}@c=channel:CNN|kind:news?2")
    async with scripted(publishes(*messages)) as server:
        out, err = await asyncio.to_thread(printed, server.url, ["kind=news,channel=*"], 2)
    assert out == [
        '{"pattern":{"channel":"a\\",é","kind":"news"},"payload":{"n": 1.50}}',
        '{"pattern":{"channel":"CNN","kind":"news"},"payload":2}',
    ]
    assert err[0].startswith(f"subscribed to channel:*|kind:news ({ID}) at ")
    assert sum("malformed label" in line for line in err) == 1


async def test_the_command_prints_what_publish_reads(tmp_path: Any) -> None:
    message = f"{ID}@c=channel:CNN|kind:news?[2.50]"
    async with scripted(publishes(message)) as server:
        [line], _ = await asyncio.to_thread(printed, server.url, ["kind=news", "channel=*"], 1)
    from realizehit.cli.publish_file import _reader

    read = _reader(None)(line.encode())
    assert read is not None
    assert read.message is not None
    assert (read.message[0], read.message[1].text) == (CNN, b"[2.50]")


async def test_on_a_terminal_the_pattern_is_above_the_payload() -> None:
    message = f"{ID}@c=channel:a%2C%20%1B|kind:news?[1]"

    def shown(url: str) -> str:
        ours, theirs = pty.openpty()
        command = [str(SCRIPTS / "realizehit"), "subscribe", "--url", url, "--count", "1", "kind=news", "channel=*"]
        env = {**os.environ, "TERM": "xterm", "NO_COLOR": "1"}
        with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=env) as process:
            os.close(theirs)
            assert process.wait(SECONDS) == 0
            text = os.read(ours, 4096).decode()
        os.close(ours)
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    async with scripted(publishes(message)) as server:
        text = await asyncio.to_thread(shown, server.url)
    assert text == "channel=a%2C%20%1B,kind=news\r\n[\r\n  1\r\n]\r\n"
