"""Clients that say who they are by tokens, and renew them: against a real node and a scripted server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import orjson
import pytest
from websockets.asyncio.server import ServerConnection

from realizehit.errors import Disconnected, Rejected, TokenUnavailable
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_access import TOKENS, token
from tests.integration.test_client_sync_ws import call, make, take
from tests.integration.test_client_ws import connect, record, until
from tests.support.processes import Process
from tests.support.scripted_server import Script, Scripted, answer_all, reply, scripted
from tests.support.valkey import Valkey
from tests.support.wire import unique


@asynccontextmanager
async def guarded(valkey: Valkey, **more: Any) -> AsyncIterator[Node]:
    async with serve(Settings(port=0, redis=valkey.url, **{**TOKENS, **more})) as node:
        yield node


class Issuer:
    """Gives out ``token-1``, ``token-2``, …, and fails where its script says so."""

    def __init__(self, *fails: int) -> None:
        self.asked = 0
        self._fails = fails

    def __call__(self) -> str:
        self.asked += 1
        if self.asked in self._fails:
            raise OSError("the login is away")
        return f"token-{self.asked}"

    async def later(self) -> str:
        await asyncio.sleep(0)
        return self()


def bearer(socket: ServerConnection) -> str:
    assert socket.request is not None
    return socket.request.headers.get("Authorization", "").removeprefix("Bearer ")


def expiring(seconds: float) -> str:
    return orjson.dumps({"evt": "expiring", "seconds": seconds}).decode()


async def test_a_token_is_sent_and_never_logged(shared_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    mine, newer = token("42"), token("42", 700)
    pattern = {"user": "42", **unique("token")}
    async with guarded(shared_valkey) as node, connect(node.ws_url, token=mine) as client:
        await client.subscribe(pattern)
        with pytest.raises(Rejected) as caught:
            await client.subscribe({"user": "43"})
        assert caught.value.code == "forbidden"
        await client.authenticate(newer)
        assert mine not in repr(client) + repr(vars(client.subscriptions[0]))
    written = caplog.text
    assert "Authorization: ***" in written
    assert "an auth action" in written
    for secret in (mine, newer):
        assert secret[-20:] not in written
        assert secret[:20] not in written


async def test_a_client_without_a_token_can_authenticate_later(shared_valkey: Valkey) -> None:
    pattern = {"user": "42", **unique("auth")}
    async with guarded(shared_valkey) as node, connect(node.ws_url) as client:
        with pytest.raises(Rejected):
            await client.subscribe(pattern)
        with pytest.raises(Rejected) as caught:
            await client.authenticate("no.token.atall")
        assert caught.value.code == "not-authenticated"
        await client.authenticate(lambda: token("42"))
        await client.subscribe(pattern)


async def test_a_bad_token_ends_the_first_attempt(shared_valkey: Valkey) -> None:
    async with guarded(shared_valkey) as node:
        with pytest.raises(Rejected) as caught:
            await connect(node.ws_url, token="no.token.atall").connect()
        assert caught.value.status == HTTPStatus.UNAUTHORIZED
        with pytest.raises(TokenUnavailable, match="the login is away"):
            await connect(node.ws_url, token=Issuer(1)).connect()
        with pytest.raises(TokenUnavailable, match="the login is away"):
            await call(make(node.ws_url, {"a": 1}, token=Issuer(1)).connect)


def renews(tokens: list[str], *, then_close: bool) -> Script:
    """Answer the subscription, tell that the token expires, take the new one, and drain."""

    async def script(server: Scripted, socket: ServerConnection) -> None:
        tokens.append(bearer(socket))
        await reply(socket, await server.next_action(socket), ret="id")
        await socket.send(expiring(0.02))
        action = await server.next_action(socket)
        tokens.append(action["token"])
        await reply(socket, action, ret="ok")
        if then_close:
            await socket.close(4001, "delay=0.01")
        else:
            await socket.send("id?1")
            await answer_all(server, socket)

    return script


@asynccontextmanager
async def renewing() -> AsyncIterator[tuple[str, list[str]]]:
    """Run a server that sends its first connection away; give its address, and the tokens that it is sent."""
    tokens: list[str] = []
    async with scripted(renews(tokens, then_close=True), renews(tokens, then_close=False)) as server:
        yield server.url, tokens


@pytest.mark.parametrize("way", ["function", "coroutine"])
async def test_it_renews_and_comes_back_with_a_fresh_one(way: str) -> None:
    issuer = Issuer()
    async with (
        renewing() as (url, tokens),
        connect(url, token=issuer if way == "function" else issuer.later) as client,
    ):
        told = record(client, "expiring", "error")
        subscription = await client.subscribe({"a": 1})
        assert await asyncio.wait_for(anext(subscription), 20) == 1
        assert tokens == ["token-1", "token-2", "token-3", "token-4"]
        assert told == [("expiring", 0.02)] * 2
        assert subscription.gaps == 1


async def test_a_failing_token_function_is_called_again() -> None:
    issuer = Issuer(2, 4)
    async with renewing() as (url, tokens), connect(url, token=issuer) as client:
        told = record(client, "error")
        subscription = await client.subscribe({"a": 1})
        assert await asyncio.wait_for(anext(subscription), 20) == 1
        assert tokens == ["token-1", "token-3", "token-5", "token-6"]
        assert [type(error) for _, error in told] == [TokenUnavailable] * 2


async def test_an_expiring_token_given_as_text_is_reported_and_ends_the_client() -> None:
    async def script(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), ret="id")
        await socket.send(expiring(5))
        await reply(socket, await server.next_action(socket), ret="pong")
        await socket.close(4501, "the token has expired")

    async with scripted(script) as server, connect(server.url, token="text") as client:
        told = record(client, "expiring")
        await client.subscribe({"a": 1})
        await until(lambda: told)
        await client.ping()  # and no auth came before it
        with pytest.raises(Disconnected, match="has expired"):
            await asyncio.wait_for(client.wait_closed(), 20)
        assert [action["act"] for action in server.actions] == ["sub", "ping"]


def ends_tokens(tokens: list[str], times: int) -> Any:
    """A server that closes with 4501 so many times, and then serves."""

    async def script(server: Scripted, socket: ServerConnection) -> None:
        assert socket.request is not None
        tokens.append(socket.request.headers["Authorization"].removeprefix("Bearer "))
        await reply(socket, await server.next_action(socket), ret="id")
        if len(tokens) <= times:
            await socket.close(4501, "the token has expired")
        else:
            await socket.send("id?1")
            await socket.wait_closed()

    return script


async def test_with_a_function_it_comes_back_after_its_token_has_ended() -> None:
    tokens: list[str] = []
    async with scripted(ends_tokens(tokens, 2)) as server, connect(server.url, token=Issuer()) as client:
        subscription = await client.subscribe({"a": 1})
        assert await asyncio.wait_for(anext(subscription), 20) == 1
        assert tokens == ["token-1", "token-2", "token-3"]
        assert subscription.gaps == 2


async def test_with_a_function_the_synchronous_subscriber_comes_back_too() -> None:
    tokens: list[str] = []
    async with scripted(ends_tokens(tokens, 2)) as server:

        def follow() -> tuple[list[Any], int]:
            with make(server.url, {"a": 1}, token=Issuer()) as subscriber:
                return take(subscriber, 1), subscriber.gaps

        assert await call(follow) == ([1], 2)
    assert tokens == ["token-1", "token-2", "token-3"]


async def test_a_real_server_lets_a_renewed_token_go_on(shared_valkey: Valkey) -> None:
    lifetimes: Iterator[float] = itertools.chain([3], itertools.repeat(600))
    pattern = {"user": "42", **unique("renewed")}
    async with (
        guarded(shared_valkey, expiry_warning=3600.0) as node,
        connect(node.ws_url, token=lambda: token("42", next(lifetimes))) as client,
    ):
        told = record(client, "expiring", "disconnect", "error")
        await client.subscribe(pattern)
        await until(lambda: len(told) == 2)  # the second token too ends within the warning; its renewal can wait
        assert [name for name, _ in told] == ["expiring", "expiring"]
        await client.ping()


@pytest.mark.parametrize("away", [False, True])
async def test_the_synchronous_subscriber(away: bool) -> None:
    issuer, told = Issuer(3) if away else Issuer(), list[float]()
    async with renewing() as (url, tokens):

        def follow() -> tuple[list[Any], int]:
            with make(url, {"a": 1}, token=issuer, on_expiring=told.append) as subscriber:
                return take(subscriber, 1), subscriber.gaps

        assert await call(follow) == ([1], 1)
    assert tokens == [f"token-{n}" for n in ([1, 2, 4, 5] if away else [1, 2, 3, 4])]
    assert told == [0.02] * 2


async def test_the_synchronous_subscriber_gets_it_before_its_first_answer_too() -> None:
    sent: list[dict[str, Any]] = []

    async def script(server: Scripted, socket: ServerConnection) -> None:
        action = await server.next_action(socket)
        await socket.send(expiring(0.02))
        await reply(socket, action, ret="id")
        sent.append(await server.next_action(socket))
        await socket.send("id?1")

    async with scripted(script) as server:

        def follow() -> list[Any]:
            with make(server.url, {"a": 1}, token=Issuer()) as subscriber:
                return take(subscriber, 1)

        assert await call(follow) == [1]
    assert [(action["act"], action["token"]) for action in sent] == [("auth", "token-2")]


async def test_the_command_takes_one(shared_valkey: Valkey) -> None:
    mine = token("42")
    async with guarded(shared_valkey) as node:
        process = Process("realizehit", "subscribe", "--url", node.ws_url, "user=42", env={"REALIZEHIT_TOKEN": mine})
        try:
            await asyncio.to_thread(process.find, "^subscribed to user:42 ")
        finally:
            await asyncio.to_thread(process.stop)
    assert mine not in process.output
