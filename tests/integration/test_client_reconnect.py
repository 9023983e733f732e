"""The WebSocket client and servers that close, stall or answer oddly."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from realizehit import Pattern
from realizehit.errors import Disconnected, Rejected, ResponseTimeout, ServerUnavailable
from tests.integration.test_client_ws import connect, record, take, until
from tests.support.scripted_server import Scripted, answer_all, answer_then_close, reply, scripted


@pytest.mark.parametrize(("base", "delay"), [(0.01, 600), (60.0, 50)])
async def test_the_delay_of_4001_is_obeyed(base: float, delay: int) -> None:
    # The back-off alone would come back within 10 ms, or after half a minute.
    async with (
        scripted(answer_then_close(1, 4001, f"delay={delay}"), answer_all) as server,
        connect(server.url, backoff_base=base, backoff_cap=60.0) as client,
    ):
        subscription = await client.subscribe({"kind": "news"})
        await until(lambda: len(server.arrivals) == 2)
        assert delay / 1000 <= server.arrivals[1] - server.arrivals[0] < delay / 1000 + 10
        await until(lambda: subscription.gaps)


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4999])
async def test_it_never_comes_back_after_these_codes(code: int) -> None:
    async with scripted(answer_then_close(2, code, "no more"), answer_all) as server:
        client = await connect(server.url).connect()
        failures = record(client, "error")
        subscription = await client.subscribe({"kind": "news"})
        called: list[Any] = []
        other = await client.subscribe({"kind": "other"}, callback=called.append)
        told = record(other, "error")
        for waiting in (client.wait_closed(), anext(subscription), anext(subscription)):
            with pytest.raises(Disconnected, match="no more") as caught:
                await asyncio.wait_for(waiting, 15)
            assert caught.value.close_code == code
        for act in (client.subscribe({"kind": "third"}), client.ping()):
            with pytest.raises(Disconnected):
                await act
        assert subscription.state == other.state == "unsubscribed"
        assert [error.close_code for _, error in (*failures, *told)] == [code, code]
        await client.close()
        assert len(server.arrivals) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4002, 4003])
async def test_it_reconnects_after_these_codes_and_resubscribes_in_order(code: int) -> None:
    async with scripted(answer_then_close(3, code), answer_all) as server, connect(server.url) as client:
        subscriptions = [await client.subscribe({"kind": kind}) for kind in ("a", "b", "c")]
        await until(lambda: all(subscription.gaps for subscription in subscriptions))
        assert [action["pat"]["kind"] for action in server.actions] == ["a", "b", "c"] * 2


async def test_all_actions_are_sent_before_any_is_answered() -> None:
    async def collect(server: Scripted, socket: ServerConnection) -> None:
        actions = [await server.next_action(socket) for _ in range(200)]
        for action in actions:
            await reply(socket, action, ret=str(action["pat"]["kind"]))
        await socket.wait_closed()

    async with scripted(answer_then_close(200, 1001), collect) as server, connect(server.url) as client:
        kinds = [str(n) for n in range(200)]
        subscriptions = await asyncio.gather(*(client.subscribe({"kind": kind}) for kind in kinds))
        await until(lambda: all(subscription.gaps for subscription in subscriptions))


async def test_a_final_refusal_of_the_handshake_ends_the_client() -> None:
    async with scripted(answer_then_close(1, 1001)) as server:
        client = await connect(server.url).connect()
        server.status = HTTPStatus.FORBIDDEN
        subscription = await client.subscribe({"kind": "news"})
        with pytest.raises(Rejected, match="HTTP 403") as caught:
            await take(subscription, 1)
        assert caught.value.status == 403
        assert server.refused == 1
        await client.close()


async def test_a_temporary_failure_of_the_handshake_is_retried_and_reported() -> None:
    async with scripted(answer_then_close(1, 1001), answer_all) as server, connect(server.url) as client:
        failures = record(client, "error")
        server.status = HTTPStatus.SERVICE_UNAVAILABLE
        subscription = await client.subscribe({"kind": "news"})
        await until(lambda: server.refused >= 2)
        server.status = HTTPStatus.NOT_FOUND  # a deployment under way
        refused = server.refused
        await until(lambda: server.refused >= refused + 2)
        server.status = None
        await until(lambda: subscription.gaps)
        kinds = {type(error) for _, error in failures}
        assert kinds == {ServerUnavailable, Rejected}


async def test_the_first_handshake_is_not_tried_again() -> None:
    async with scripted(answer_all) as server:
        for status, error in (
            (HTTPStatus.SERVICE_UNAVAILABLE, ServerUnavailable),
            (HTTPStatus.TOO_MANY_REQUESTS, ServerUnavailable),
            (HTTPStatus.UNAUTHORIZED, Rejected),
        ):
            server.status = status
            with pytest.raises(error, match=f"HTTP {status.value}"):
                await connect(server.url).connect()
        assert server.refused == 3


async def test_no_answer() -> None:
    async def silent(server: Scripted, socket: ServerConnection) -> None:
        while True:
            await server.next_action(socket)

    async with scripted(silent) as server, connect(server.url, response_timeout=0.1) as client:
        with pytest.raises(ResponseTimeout, match="no answer to sub within"):
            await client.subscribe({"kind": "news"})
        assert client.subscriptions == []
        with pytest.raises(ResponseTimeout, match="no answer to ping within"):
            await client.ping()
        await until(lambda: len(server.actions) == 3)
        assert [action["act"] for action in server.actions] == ["sub", "unsub", "ping"]  # it takes the sub back


async def test_an_unanswered_unsubscribe_ends_the_subscription_anyway() -> None:
    async def answer_sub_only(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), ret="x")
        await server.next_action(socket)
        await socket.send("x?1")
        await socket.wait_closed()

    async with scripted(answer_sub_only) as server, connect(server.url, response_timeout=0.1) as client:
        subscription = await client.subscribe({"kind": "news"})
        with pytest.raises(ResponseTimeout, match="no answer to unsub"):
            await subscription.unsubscribe()
        assert [payload async for payload in subscription] == []
        assert subscription.state == "unsubscribed"


async def test_a_connection_lost_with_answers_pending() -> None:
    async def close_at_ping(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), ret="x")
        await server.next_action(socket)
        socket.transport.abort()

    async with scripted(close_at_ping, answer_all) as server, connect(server.url) as client:
        subscription = await client.subscribe({"kind": "news"})
        with pytest.raises(Disconnected, match="lost") as caught:
            await client.ping()
        assert caught.value.close_code is None
        await until(lambda: subscription.gaps)


async def test_a_pending_subscribe_moves_to_the_next_connection() -> None:
    async def close_at_sub(server: Scripted, socket: ServerConnection) -> None:
        await server.next_action(socket)
        socket.transport.abort()

    async with scripted(close_at_sub, answer_all) as server, connect(server.url) as client:
        subscription = await client.subscribe({"kind": "news"})
        assert (subscription.state, subscription.gaps) == ("subscribed", 0)
        assert len(server.actions) == 2


async def test_a_resubscription_may_be_refused() -> None:
    async def forbid(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), err="not any more", code="forbidden")
        await answer_all(server, socket)

    async with scripted(answer_then_close(1, 1001), forbid) as server, connect(server.url) as client:
        subscription = await client.subscribe({"kind": "news"})
        with pytest.raises(Rejected, match="not any more") as caught:
            await take(subscription, 1)
        assert caught.value.code == "forbidden"
        assert client.subscriptions == []
        await client.ping()


async def test_a_server_that_tells_no_ids() -> None:
    pattern = Pattern(kind="news")

    async def without_ret(server: Scripted, socket: ServerConnection) -> None:
        action = await server.next_action(socket)
        for odd in ("", "?", "nobody?1", "[]", "{", '{"id":"unknown","ret":"x"}', f"{pattern.id}@o=1?1"):
            await socket.send(odd)  # ignored
        await reply(socket, action)
        await socket.send(pattern.id + '?{"early": "?"}')
        while True:
            await reply(socket, await server.next_action(socket))

    async with scripted(without_ret) as server, connect(server.url) as client:
        subscription = await client.subscribe(pattern)
        assert subscription.id == pattern.id
        assert await take(subscription, 1) == [{"early": "?"}]
        await client.subscribe({"user": 25442})
        with pytest.raises(Rejected, match="use another connection") as caught:
            await client.subscribe({"user": 28322})
        assert caught.value.code == "id-collision"


async def test_a_connection_that_went_silent_is_given_up() -> None:
    async def stop_reading(server: Scripted, socket: ServerConnection) -> None:
        await reply(socket, await server.next_action(socket), ret="x")
        if len(server.arrivals) == 1:
            socket.transport.pause_reading()  # no pong any more
            await until(lambda: len(server.arrivals) == 2)  # it has come back without a word from here
            socket.transport.abort()
        await socket.wait_closed()

    async with scripted(stop_reading) as server, connect(server.url, heartbeat=0.1) as client:
        subscription = await client.subscribe({"kind": "news"})
        gaps = record(subscription, "gap")
        await until(lambda: gaps)
        assert gaps[0][1] >= 0.1  # counted from the last sign of life
