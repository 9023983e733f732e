"""Logs at the broker: written with each publication, read, renewed, trimmed; on real Valkey and Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from realizehit.broker.history.rules import Rule, Rules
from realizehit.broker.history.scripts import log_key
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.registry import CONTROL
from realizehit.common.position import Position
from realizehit.errors import BrokerRefused
from tests.integration.test_idempotency import WILDCARD, bus_at
from tests.integration.test_shapes_following import NEWS, SHAPE, add_shape, subscriber_at
from tests.integration.test_shapes_registrar import eventually
from tests.support.programs import needs
from tests.support.redis_server import RedisServer
from tests.support.valkey import Valkey

OTHER = b"a:1"


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A broker of the test's own: Valkey, or Redis as the distribution has it."""
    if request.param == "redis":
        needs("redis-server")
    with (RedisServer if request.param == "redis" else Valkey)(tmp_path) as server:
        yield server


def set_rules(broker: Valkey, size: int = 100, ttl: float = 300.0) -> Rules:
    """Have all news kept."""
    rules = Rules((Rule({"kind": ("news",)}, size, ttl),))
    broker.command("SET", "realizehit:history", rules.to_json())
    broker.command("PUBLISH", CONTROL, "history")
    return rules


def position(published: Published) -> Position:
    found = Position.parse(published.at)
    assert found is not None
    return found


@pytest.mark.parametrize("project", [False, True], ids=["plain", "wildcards"])
async def test_what_is_published_is_kept_and_has_a_position(broker: Valkey, project: bool) -> None:
    set_rules(broker, size=3)
    add_shape(broker, SHAPE)
    async with bus_at(broker.url, project=project) as bus, subscriber_at(broker, NEWS, WILDCARD, OTHER) as subscriber:
        nodes = 2 if project else 1
        first = await bus.publish(Publication(NEWS, b"1"))
        epoch = position(first).epoch
        assert first == Published(nodes, at=f"{epoch}.1")
        assert await subscriber.next() == (NEWS, b"@o=%b.1?1" % epoch.encode())
        if project:
            channel, text = await subscriber.next()
            label, _, payload = text.partition(b"&")
            assert (channel, payload) == (WILDCARD, b"c=channel:CNN|kind:news?1")
            assert label.startswith(b"@o=")
            assert label.endswith(b".1")
        batch = [Publication(NEWS, b"2"), Publication(OTHER, b"x"), Publication(NEWS, b"3"), Publication(NEWS, b"4")]
        outcomes = await bus.publish_many(batch)
        assert outcomes == [
            Published(nodes, at=f"{epoch}.2"),
            Published(1),
            Published(nodes, at=f"{epoch}.3"),
            Published(nodes, at=f"{epoch}.4"),
        ]
        part = await bus.read_log(NEWS, after=0)
        assert (part.epoch, part.first, part.last, part.before) == (epoch, 2, 4, [])
        assert part.messages == [(2, b"2"), (3, b"3"), (4, b"4")]
        assert (await bus.read_log(NEWS, after=2, most=1)).messages == [(3, b"3")]
        assert (await bus.read_log(NEWS, last=2)).messages == [(3, b"3"), (4, b"4")]
        assert (await bus.read_log(NEWS, last=9)).messages == part.messages
        for nothing in (await bus.read_log(NEWS), await bus.read_log(NEWS, after=4), await bus.read_log(NEWS, after=9)):
            assert (nothing.last, nothing.messages) == (4, [])
        wildcard = await bus.read_log(WILDCARD, last=2)
        expected = [labelled(publication) for publication in batch if publication.channel == NEWS][-2:]
        assert [payload for _, payload in wildcard.messages] == (expected if project else [])
        with pytest.raises(BrokerRefused, match="no rule of history contains a:1"):
            await bus.read_log(OTHER)
    assert 200_000 < broker.command("PTTL", log_key(NEWS)) <= 300_000


async def test_two_publishers_leave_no_hole(valkey: Valkey) -> None:
    set_rules(valkey, size=1000)
    async with bus_at(valkey.url) as one, bus_at(valkey.url, project=False) as two:
        batches = await asyncio.gather(
            *(bus.publish_many([Publication(NEWS, b"%d" % n) for n in range(200)]) for bus in (one, two))
        )
        positions = [[position(outcome) for outcome in outcomes] for outcomes in batches]  # type: ignore[arg-type]
        assert sorted(at.offset for ats in positions for at in ats) == list(range(1, 401))
        assert len({at.epoch for ats in positions for at in ats}) == 1
        kept = dict((await one.read_log(NEWS, after=0, most=1000)).messages)
        for ats in positions:
            assert [kept[at.offset] for at in ats] == [b"%d" % n for n in range(200)]


async def test_a_key_has_the_position_of_the_first_time(broker: Valkey) -> None:
    set_rules(broker)
    async with bus_at(broker.url) as bus, subscriber_at(broker, NEWS, WILDCARD) as subscriber:
        message = Publication(NEWS, b"1", b"k")
        first = await bus.publish(message)
        assert (first.nodes, first.duplicate) == (1, False)
        await bus.publish(Publication(NEWS, b"2"))
        add_shape(broker, SHAPE)
        await eventually(lambda: bus.followed_shapes == (SHAPE,))
        for _ in range(2):  # the first one publishes the projection
            assert await bus.publish(message) == Published(2, duplicate=True, at=first.at)
        assert await subscriber.next() == (NEWS, b"@o=%b?1" % first.at.encode())
        await subscriber.next()
        assert (await subscriber.next())[0] == WILDCARD
        assert (await bus.read_log(NEWS)).last == 2
        assert (await bus.read_log(WILDCARD, last=9)).messages == [(1, labelled(message))]


async def test_a_log_that_is_gone_begins_anew(valkey: Valkey) -> None:
    set_rules(valkey)
    async with bus_at(valkey.url) as bus:
        before = position(await bus.publish(Publication(NEWS, b"1")))
        valkey.command("DEL", log_key(NEWS))
        after = position(await bus.publish(Publication(NEWS, b"2")))
        assert after.epoch != before.epoch
        assert after.offset == 1
        part = await bus.read_log(NEWS, after=0)
        assert (part.before, part.messages) == ([], [(1, b"2")])
        assert not part.covers(before)


async def test_a_log_expires_after_its_last_message(valkey: Valkey) -> None:
    set_rules(valkey, ttl=1.0)
    async with bus_at(valkey.url) as bus:
        before = position(await bus.publish(Publication(NEWS, b"1")))
        await eventually(lambda: not valkey.command("EXISTS", log_key(NEWS)))
        assert position(await bus.publish(Publication(NEWS, b"2"))) != before
        empty = await bus.read_log(WILDCARD)  # a read begins a log, which expires as others do
        assert (empty.first, empty.last) == (1, 0)
        assert 0 < valkey.command("PTTL", log_key(WILDCARD)) <= 1000


async def test_another_epoch_where_the_end_of_a_log_is_lost(valkey: Valkey) -> None:
    set_rules(valkey)
    async with bus_at(valkey.url) as bus:
        at = position(await bus.publish(Publication(NEWS, b"1")))
        same = await bus.renew_log(NEWS, at)
        assert (same.epoch, same.last, same.before) == (at.epoch, 1, [])
        seen = at._replace(offset=5)
        renewed = await bus.renew_log(NEWS, seen)
        assert renewed.epoch != at.epoch
        assert (renewed.first, renewed.last, renewed.messages, renewed.before) == (1, 1, [], [at])
        assert (await bus.renew_log(NEWS, seen)).epoch == renewed.epoch
        following = position(await bus.publish(Publication(NEWS, b"2")))
        assert following == Position(renewed.epoch, 2)
        part = await bus.read_log(NEWS, after=1)
        assert part.messages == [(2, b"2")]
        assert part.covers(at)
        assert not part.covers(seen)
        for _ in range(10):
            await bus.renew_log(NEWS, Position((await bus.read_log(NEWS)).epoch, 9))
        part = await bus.read_log(NEWS, after=0)
        assert len(part.before) == 8
        assert [payload for _, payload in part.messages] == [b"1", b"2"]
