"""Registering shapes at a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.registry import CONTROL, KEY
from realizehit.broker.url import Address
from realizehit.errors import BrokerError, BrokerRefused, RegistryFull
from tests.support.valkey import Valkey

SHAPE = b"channel:*|kind:="
OTHER = b"*:*|user:="


class Heard:
    """A listener that can be waited for.

    Attributes:
        events: what came, in order.
    """

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._news = asyncio.Event()

    def shape_registered(self, shape: bytes) -> None:
        self._take("registered", shape)

    def bridge_had_gap(self, seconds: float) -> None:
        self._take("bridge had gap", seconds)

    def shape_refused(self, shape: bytes, error: BrokerError) -> None:
        self._take("refused", shape, error)

    def shape_lapsed(self, shape: bytes, seconds: float) -> None:
        self._take("lapsed", shape, seconds)

    def _take(self, *event: Any) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, count: int) -> list[tuple[Any, ...]]:
        async with asyncio.timeout(20):
            while len(self.events) < count:
                self._news.clear()
                await self._news.wait()
        return self.events


@asynccontextmanager
async def registrar_at(url: str, **options: Any) -> AsyncIterator[tuple[Registrar, Heard]]:
    heard = Heard()
    registrar = Registrar(Address(url), heard, **options)
    try:
        yield registrar, heard
    finally:
        await registrar.close()


@asynccontextmanager
async def announcements(valkey: Valkey) -> AsyncIterator[Callable[[], Any]]:
    async with redis.asyncio.Redis(unix_socket_path=str(valkey.socket)) as client, client.pubsub() as pubsub:
        await pubsub.subscribe(CONTROL)
        assert (await pubsub.get_message(timeout=10))["type"] == "subscribe"

        async def following() -> bytes:
            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=10)
            assert message is not None
            return bytes(message["data"])

        yield following


def members(valkey: Valkey) -> dict[bytes, float]:
    words = valkey.command("ZRANGE", KEY, "0", "-1", "WITHSCORES")
    return dict(zip(words[::2], map(float, words[1::2]), strict=True))


def now(valkey: Valkey) -> float:
    seconds, micros = valkey.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_shape_is_registered_once_for_its_lease_and_announced(valkey: Valkey) -> None:
    async with announcements(valkey) as following, registrar_at(valkey.url) as (one, heard):
        assert not one.register(SHAPE)
        assert await heard.until(1) == [("registered", SHAPE)]
        assert one.register(SHAPE)
        assert await following() == SHAPE
        lapses = members(valkey)[SHAPE] - now(valkey)
        assert 50_000 < lapses <= 60_000
        async with registrar_at(valkey.url) as (other, others):  # the next node: no news
            other.register(SHAPE)
            other.register(OTHER)
            assert await others.until(2) == [("registered", SHAPE), ("registered", OTHER)]
        assert await following() == OTHER
        assert set(members(valkey)) == {SHAPE, OTHER}
        assert heard.events == [("registered", SHAPE)]


async def test_without_a_shape_it_has_no_connection(valkey: Valkey) -> None:
    async with registrar_at(valkey.url) as (registrar, _):
        await asyncio.sleep(0)
        assert registrar.connects == 0
    assert not [client for client in valkey.clients() if client["name"] == "realizehit-registrar"]


async def test_wanted_shapes_are_renewed_and_others_lapse(valkey: Valkey) -> None:
    async with registrar_at(valkey.url, lease=2.0, renew_interval=0.05) as (registrar, heard):
        registrar.register(SHAPE)
        registrar.register(OTHER)
        await heard.until(2)
        registrar.leave(OTHER)
        first = members(valkey)
        await eventually(lambda: members(valkey)[SHAPE] > first[SHAPE] + 200)
        assert members(valkey).get(OTHER, 0) <= first[OTHER] + 100  # a renewal may have been on its way
        await eventually(lambda: set(members(valkey)) == {SHAPE})
        assert len(heard.events) == 2
        assert registrar.connects == 1


async def test_a_shape_that_lapsed_is_announced_again(valkey: Valkey) -> None:
    async with announcements(valkey) as following, registrar_at(valkey.url) as (registrar, heard):
        valkey.command("ZADD", KEY, str(now(valkey) - 1), SHAPE)
        registrar.register(SHAPE)
        await heard.until(1)
        assert await following() == SHAPE


async def test_a_registry_that_is_full(valkey: Valkey) -> None:
    async with registrar_at(valkey.url, most=2) as (registrar, heard):
        valkey.command("ZADD", KEY, str(now(valkey) + 60_000), b"a:*", str(now(valkey) - 1), b"b:*")
        registrar.register(SHAPE)  # in the place of the one that has lapsed
        assert await heard.until(1) == [("registered", SHAPE)]
        registrar.register(OTHER)
        kind, shape, error = (await heard.until(2))[1]
        assert (kind, shape) == ("refused", OTHER)
        assert isinstance(error, RegistryFull)
        assert "holds 2 shapes and has no room for another" in str(error)
        assert set(members(valkey)) == {b"a:*", SHAPE}
        assert registrar.register(SHAPE)  # what was there is renewed all the same
        valkey.command("ZREM", KEY, b"a:*")
        registrar.register(OTHER)  # it can be tried again
        assert (await heard.until(3))[2] == ("registered", OTHER)


async def test_a_forgotten_shape_is_registered_again_and_reported(valkey: Valkey) -> None:
    async with registrar_at(valkey.url, lease=30.0, renew_interval=0.05) as (registrar, heard):
        registrar.register(SHAPE)
        await heard.until(1)
        async with announcements(valkey) as following:
            valkey.command("FLUSHALL")
            assert await following() == SHAPE
        kind, shape, seconds = (await heard.until(2))[1]
        assert (kind, shape) == ("lapsed", SHAPE)
        assert 0 < seconds < 20
        assert set(members(valkey)) == {SHAPE}
        assert registrar.connects == 1


async def test_a_lost_shape_that_another_node_adds_is_a_gap_at_once(valkey: Valkey) -> None:
    async with registrar_at(valkey.url) as (first, heard), registrar_at(valkey.url) as (second, others):
        first.register(SHAPE)
        await heard.until(1)
        valkey.command("DEL", KEY)
        second.register(SHAPE)
        assert await others.until(1) == [("registered", SHAPE)]
        kind, shape, seconds = (await heard.until(2))[1]
        assert (kind, shape) == ("lapsed", SHAPE)
        assert 0 < seconds < 20
        first.register(OTHER)
        second.register(OTHER)
        assert (await heard.until(3))[2] == ("registered", OTHER)  # nothing was lost of a first registration
        assert (await others.until(2))[1] == ("registered", OTHER)


async def test_a_shape_that_another_node_added_while_a_renewal_was_on_its_way(valkey: Valkey) -> None:
    async with registrar_at(valkey.url, renew_interval=0.05) as (registrar, heard):
        registrar.register(SHAPE)
        await heard.until(1)
        script = (
            "redis.call('DEL', KEYS[1]); redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2]); "
            "redis.call('PUBLISH', ARGV[3], ARGV[2])"
        )
        for count in range(2, 12):
            valkey.command("EVAL", script, "1", KEY, str(now(valkey) + 60_000), SHAPE, CONTROL)
            assert (await heard.until(count))[-1][:2] == ("lapsed", SHAPE)
        assert registrar.register(SHAPE)


async def test_a_broker_that_comes_back_without_its_data(valkey: Valkey) -> None:
    async with registrar_at(valkey.url) as (registrar, heard):
        registrar.register(SHAPE)
        registrar.register(OTHER)
        await heard.until(2)
        valkey.command("FLUSHALL")
        valkey.kill()
        await eventually(lambda: not registrar.register(SHAPE))  # it is not in force now
        valkey.start()
        events = (await heard.until(4))[2:]
        assert sorted(event[:2] for event in events) == [("lapsed", OTHER), ("lapsed", SHAPE)]
        assert set(members(valkey)) == {SHAPE, OTHER}
        assert registrar.connects == 2
        assert registrar.register(SHAPE)


async def test_a_lost_connection_within_the_lease_is_not_a_gap(valkey: Valkey) -> None:
    async with registrar_at(valkey.url) as (registrar, heard):
        registrar.register(SHAPE)
        await heard.until(1)
        valkey.command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        assert (await heard.until(2))[1] == ("registered", SHAPE)
        assert registrar.connects == 2


async def test_a_broker_that_answers_too_late_is_given_up(valkey: Valkey) -> None:
    async with registrar_at(valkey.url, timeout=0.2) as (registrar, heard):
        registrar.register(SHAPE)
        await heard.until(1)
        valkey.pause()
        registrar.register(OTHER)
        await eventually(lambda: registrar.connects == 1 and not registrar.register(SHAPE))
        valkey.resume()
        await heard.until(3)
        assert {event[:2] for event in heard.events} >= {("registered", OTHER), ("registered", SHAPE)}


async def test_a_user_who_may_not(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    valkey.command("ACL", "SETUSER", "node", "on", ">secret", "~*", "&*", "+@all", "-eval")
    valkey.command("ACL", "SETUSER", "narrow", "on", ">secret", "~other", "&*", "+@all")
    valkey.command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "resetchannels", "&other", "+@all")
    for user in ("node", "narrow", "deaf"):
        url = f"unix://{user}:secret@{valkey.socket}"
        async with registrar_at(url) as (registrar, heard):
            registrar.register(SHAPE)
            kind, shape, error = (await heard.until(1))[0]
            assert (kind, shape) == ("refused", SHAPE)
            assert isinstance(error, BrokerRefused)
            assert not isinstance(error, RegistryFull)
            assert "refused to register a shape" in str(error)
            assert "secret" not in str(error)
            # With the right, another try works.
            assert "Grant them, or serve without" in str(error)
            valkey.command("ACL", "SETUSER", user, "+eval", "~*", "&*")
            registrar.register(SHAPE)
            assert (await heard.until(2))[1] == ("registered", SHAPE)
    assert "secret" not in caplog.text


async def test_leaving_before_the_answer(valkey: Valkey) -> None:
    async with registrar_at(valkey.url) as (registrar, heard):
        registrar.register(SHAPE)
        registrar.leave(SHAPE)
        registrar.register(OTHER)
        assert await heard.until(1) == [("registered", OTHER)]
        valkey.pause()
        registrar.register(SHAPE)
        await asyncio.sleep(0)
        registrar.leave(SHAPE)
        valkey.resume()
        registrar.register(b"c:*")
        assert (await heard.until(2))[1:] == [("registered", b"c:*")]


def test_renewals_must_fit_into_the_lease() -> None:
    with pytest.raises(ValueError, match="renew_interval of 30 seconds is not less than half of 60"):
        Registrar(Address("redis://localhost"), Heard(), lease=60, renew_interval=30)
