"""Logs at the broker: written with each publication, read, renewed, trimmed; on real Valkey and Redis."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import hiredis
import pytest

from realizehit import sync
from realizehit.broker.base import Bus, Interest
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import Rule, Rules
from realizehit.broker.history.scripts import SHAPES_KEY, log_key
from realizehit.broker.open import open_bus
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication, Published
from realizehit.broker.publish_script import PublishScript
from realizehit.broker.shapes import bridge as bridge_module
from realizehit.broker.shapes.bridge import Bridge
from realizehit.broker.shapes.registry import CONTROL
from realizehit.broker.url import Address
from realizehit.client.messages import Message, PublishResult
from realizehit.common.position import Position
from realizehit.errors import BrokerRefused, BrokerUnavailable
from realizehit.pattern import is_wildcard, project
from tests.integration.test_idempotency import RIGHTS, WILDCARD, bus_at
from tests.integration.test_shapes_following import (
    MESSAGES,
    NEW,
    NEWS,
    OLD,
    SHAPE,
    ScriptedBroker,
    add_shape,
    bulk,
    news_of,
    publisher_to,
    scripted,
    subscriber_at,
)
from tests.integration.test_shapes_registrar import eventually
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.ports import free_port
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


async def until_answered(read: Callable[[], Awaitable[LogPart]]) -> LogPart:
    """Read a log from a broker that begins to answer."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await read()
            except BrokerUnavailable:
                await asyncio.sleep(0.01)


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
        part = await bus.read_log(NEWS)
        assert part.last == 2
        assert 0.0 < part.expires_in <= 300.0
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


async def test_a_restart_of_the_broker_begins_an_epoch(tmp_path: Path) -> None:
    with Valkey(tmp_path, appendonly="yes", appendfsync="always") as valkey:
        set_rules(valkey)
        async with bus_at(valkey.url) as bus, bus_at(valkey.url) as reader:
            at = position(await bus.publish(Publication(NEWS, b"1")))
            await bus.publish(Publication(b"kind:news", b"x"))
            valkey.kill()
            valkey.start()
            part = await until_answered(lambda: bus.read_log(b"kind:news", last=1))
            assert (part.last, [old.offset for old in part.before]) == (1, [1])
            after = position(await bus.publish(Publication(NEWS, b"2")))
            assert (after.offset, after.epoch != at.epoch) == (2, True)
            part = await until_answered(lambda: reader.read_log(NEWS, after=1))
            assert (part.epoch, part.before, part.messages) == (after.epoch, [at], [(2, b"2")])
            assert part.covers(at)
            assert not part.covers(at._replace(offset=2))  # it was published and lost


async def test_a_failover_to_a_replica(tmp_path: Path) -> None:
    port = free_port()
    with (
        Valkey(tmp_path / "a", port, repl_diskless_sync_delay="0") as master,
        Valkey(tmp_path / "b", replicaof=f"127.0.0.1 {port}") as replica,
    ):
        set_rules(master)
        async with bus_at(master.url) as bus:
            at = position(await bus.publish(Publication(NEWS, b"1")))
        await eventually(lambda: replica.command("EXISTS", log_key(NEWS)))
        with pytest.raises(BrokerUnavailable, match="READONLY"):
            async with bus_at(replica.url) as bus:
                await bus.publish(Publication(NEWS, b"2"))
        replica.command("REPLICAOF", "NO", "ONE")
        async with bus_at(replica.url) as bus:  # it has never had the scripts
            after = position(await bus.publish(Publication(NEWS, b"3")))
            assert after == Position(after.epoch, 2)
            part = await bus.read_log(NEWS, after=0)
            assert part.before == [at]
            assert part.messages == [(1, b"1"), (2, b"3")]


async def test_a_master_without_the_replicas_that_it_needs_keeps_nothing(broker: Valkey) -> None:
    rules = set_rules(broker)
    assert rules.rule_of(b"kind:chat") is None
    async with bus_at(broker.url) as bus, subscriber_at(broker, NEWS) as subscriber:
        at = position(await bus.publish(Publication(NEWS, b"1")))
        broker.command("CONFIG", "SET", "min-replicas-to-write", "1")
        for message in (Publication(NEWS, b"2"), Publication(NEWS, b"2", b"k"), Publication(b"kind:chat", b"2", b"k")):
            with pytest.raises(BrokerUnavailable, match="NOREPLICAS"):
                await bus.publish(message)
        await bus.publish(Publication(b"kind:chat", b"2"))  # is no write
        assert (await bus.read_log(NEWS)).last == 1
        broker.command("CONFIG", "SET", "min-replicas-to-write", "0")
        after = position(await bus.publish(Publication(NEWS, b"2", b"k")))
        assert after == at._replace(offset=2)
        assert [await subscriber.next() for _ in range(2)] == [
            (NEWS, b"@o=%b?%b" % (str(each).encode(), payload)) for each, payload in ((at, b"1"), (after, b"2"))
        ]


@pytest.mark.parametrize("project", [False, True], ids=["plain", "wildcards"])
async def test_scripts_that_are_flushed_under_load(broker: Valkey, project: bool) -> None:
    set_rules(broker, size=10_000)
    add_shape(broker, SHAPE)
    count, rounds = 300, 4
    async with bus_at(broker.url, project=project) as bus, subscriber_at(broker, NEWS, WILDCARD) as subscriber:
        positions: list[Position] = []
        for turn in range(rounds):
            numbers = range(turn * count, turn * count + count)
            publishing = asyncio.ensure_future(bus.publish_many([Publication(NEWS, b"%d" % n) for n in numbers]))
            await asyncio.sleep(0)
            await asyncio.to_thread(broker.command, "SCRIPT", "FLUSH")
            outcomes = await publishing
            positions += [position(outcome) for outcome in outcomes]  # type: ignore[arg-type]
        assert [at.offset for at in positions] == list(range(1, count * rounds + 1))  # in order, each once
        assert b"errorstat_NOSCRIPT" in broker.command("INFO", "errorstats")
        got = [await subscriber.next() for _ in range(count * rounds * (2 if project else 1))]
        for channel in (NEWS, WILDCARD) if project else (NEWS,):
            texts = [text.rpartition(b"?")[2] for where, text in got if where == channel]
            assert texts == [b"%d" % n for n in range(count * rounds)]


async def test_a_shape_that_is_new_under_load_is_in_its_log_once(valkey: Valkey) -> None:
    set_rules(valkey, size=10_000)
    async with bus_at(valkey.url) as bus, subscriber_at(valkey, NEWS, WILDCARD):
        publishing = asyncio.ensure_future(bus.publish_many([Publication(NEWS, b"%d" % n) for n in range(2000)]))
        await asyncio.sleep(0)
        await asyncio.to_thread(add_shape, valkey, SHAPE)
        await publishing
        await bus.publish(Publication(NEWS, b"2000"))
        part = await bus.read_log(WILDCARD, after=0, most=10_000)
        numbers = [int(payload.rpartition(b"?")[2]) for _, payload in part.messages]
        assert numbers == list(range(numbers[0], 2001))


async def test_rules_that_change_while_messages_are_published(valkey: Valkey) -> None:
    told: list[Rules] = []
    bus = open_bus(valkey.url, project=False)
    bus.on_rules = told.append
    recorder = Recorder()
    await bus.start(recorder)
    try:
        bus.subscribe(Interest(NEWS))
        await recorder.until(lambda: recorder.confirmed)
        assert [rules.version for rules in told] == [""]  # before the channel was in force
        assert (await bus.publish(Publication(NEWS, b"1"))).at == ""
        set_rules(valkey)
        await eventually(lambda: bool(bus.rules))
        assert (await bus.publish(Publication(NEWS, b"2"))).at.endswith(".1")
        valkey.command("SET", "realizehit:history", "no rules")
        valkey.command("PUBLISH", CONTROL, "history")
        assert (await bus.publish(Publication(NEWS, b"3"))).at.endswith(".2")  # what makes no sense changes nothing
        valkey.command("DEL", "realizehit:history")
        valkey.command("PUBLISH", CONTROL, "history")
        await eventually(lambda: not bus.rules)
        assert (await bus.publish(Publication(NEWS, b"4"))).at == ""
        assert [bool(rules) for rules in told] == [False, True, False]
        await recorder.until(lambda: len(recorder.delivered) == 4)
    finally:
        await bus.close()


@pytest.mark.parametrize("channel", [NEWS, WILDCARD])
async def test_the_rules_are_known_before_a_channel_is_in_force(tmp_path: Path, channel: bytes) -> None:
    order: list[object] = []

    class Noting(Recorder):
        def subscribed(self, channel: Interest) -> None:
            order.append(channel)
            super().subscribed(channel)

    valkey = Valkey(tmp_path, appendonly="yes", appendfsync="always")
    with valkey:
        set_rules(valkey)
    bus = open_bus(valkey.url, max_shapes=64, link=QUICK)
    bus.on_rules = lambda rules: order.append(bool(rules))
    recorder = Noting()
    await bus.start(recorder)
    try:
        assert bus.subscribe(Interest(channel)) is False
        with valkey:
            await recorder.until(lambda: recorder.confirmed)
            assert order == [True, channel]
            assert bus.subscribe(Interest(channel)) is True
    finally:
        await bus.close()


async def test_a_full_broker_publishes_nothing_under_a_rule(tmp_path: Path) -> None:
    with Valkey(tmp_path, maxmemory="1", maxmemory_policy="noeviction") as valkey:
        valkey.command("CONFIG", "SET", "maxmemory", "0")
        set_rules(valkey)
        async with subscriber_at(valkey, NEWS) as subscriber, bus_at(valkey.url) as bus:
            first = position(await bus.publish(Publication(NEWS, b"1")))
            valkey.command("CONFIG", "SET", "maxmemory", "1")
            for key in (b"", b"k"):
                with pytest.raises(BrokerRefused, match="memory"):
                    await bus.publish(Publication(NEWS, b"2", key))
            valkey.command("CONFIG", "SET", "maxmemory", "0")
            assert position(await bus.publish(Publication(NEWS, b"3", b"k"))) == first._replace(offset=2)
            assert [(await subscriber.next())[1][-2:] for _ in range(2)] == [b"?1", b"?3"]
            assert (await bus.read_log(NEWS, after=0)).messages == [(1, b"1"), (2, b"3")]


async def test_logs_that_are_evicted(tmp_path: Path) -> None:
    with Valkey(tmp_path, maxmemory_policy="volatile-ttl") as valkey:
        set_rules(valkey)
        async with bus_at(valkey.url, project=False) as bus:
            at = position(await bus.publish(Publication(NEWS, b"1")))
            used = int(valkey.command("INFO", "memory").decode().partition("used_memory:")[2].partition("\r\n")[0])
            valkey.command("CONFIG", "SET", "maxmemory", str(used + 300_000))
            others = [Publication(b"kind:news|n:%d" % n, b'"%b"' % (b"x" * 1000)) for n in range(1000)]
            assert all(isinstance(outcome, Published) for outcome in await bus.publish_many(others))
            assert not valkey.command("EXISTS", log_key(NEWS))  # the least time to live
            part = await bus.read_log(NEWS, after=1)
            assert not part.covers(at)


async def test_a_bridge_writes_the_logs_of_wildcards(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_module, "SETTLE", 0.0)
    set_rules(valkey)
    add_shape(valkey, SHAPE)
    add_shape(valkey, b"a:*")
    bridge = Bridge(Address(valkey.url))
    bridge.start()
    try:
        await eventually(lambda: bridge.runs)
        async with bus_at(valkey.url) as bus, subscriber_at(valkey, WILDCARD, b"a:*") as subscriber:
            assert (await bus.publish(Publication(NEWS, b"1"))).at.endswith(".1")
            valkey.command("SCRIPT", "FLUSH")
            valkey.command("PUBLISH", NEWS, b"2")  # by somebody who knows nothing of logs
            valkey.command("PUBLISH", OTHER, b"3")
            got = [await subscriber.next() for _ in range(3)]
            epoch = (await bus.read_log(WILDCARD)).epoch.encode()
            assert sorted(got) == [
                (b"a:*", b"@c=a:1?3"),
                *[(WILDCARD, b"@o=%b.%d&c=%b?%d" % (epoch, n, NEWS, n)) for n in (1, 2)],
            ]
            part = await bus.read_log(WILDCARD, after=0)
            assert part.messages == [(n, labelled(Publication(NEWS, b"%d" % n))) for n in (1, 2)]
            assert (await bus.read_log(NEWS)).last == 1
    finally:
        await bridge.close()


@pytest.mark.parametrize("wildcards", [False, True], ids=["plain", "wildcards"])
async def test_the_synchronous_publisher_writes_logs(broker: Valkey, wildcards: bool) -> None:
    set_rules(broker)
    pattern = {"kind": "news", "channel": "CNN"}

    def publish() -> None:
        with sync.Publisher(broker.url, wildcards=wildcards) as publisher:
            first = publisher.publish(pattern, 1)
            assert first.at is not None
            at = Position.parse(first.at)
            assert at is not None
            broker.command("SCRIPT", "FLUSH")
            add_shape(broker, SHAPE)
            messages: list[Message] = [(pattern, 2), ({"a": 1}, 0), (pattern, 3, "k"), (pattern, 3, "k"), (pattern, 4)]
            results = [result for result in publisher.publish_many(messages) if isinstance(result, PublishResult)]
            offsets = [2, None, 3, 3, 4]
            assert [result.at for result in results] == [
                None if offset is None else str(at._replace(offset=offset)) for offset in offsets
            ]
            assert [result.duplicate for result in results] == [False, False, False, True, False]

    async with subscriber_at(broker, NEWS), bus_at(broker.url) as bus:
        await asyncio.to_thread(publish)
        part = await bus.read_log(NEWS, after=0)
        assert [payload for _, payload in part.messages] == [b"1", b"2", b"3", b"4"]
        part = await bus.read_log(WILDCARD, after=0)
        expected = [labelled(Publication(NEWS, payload)) for payload in (b"2", b"3", b"4")]
        assert [payload for _, payload in part.messages] == (expected if wildcards else [])


async def test_without_the_right_to_read_the_rules_there_is_no_history(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    set_rules(valkey)
    rights = ["+publish", "+auth", "+ping", "+client|setname"]
    valkey.command("ACL", "SETUSER", "few", "on", ">secret", "resetchannels", "&*", *rights)
    url = f"unix://few:secret@{valkey.socket}"

    def publish() -> None:
        with sync.Publisher(url, wildcards=False) as publisher:
            assert publisher.publish({"kind": "news"}, 1).at is None
            assert "published without history: NOPERM" in caplog.text

    for more in ([], ["+hello"], ["+hello", "+subscribe"]):
        valkey.command("ACL", "SETUSER", "few", *more)
        caplog.clear()
        async with bus_at(url, project=False) as bus:
            assert await bus.publish(Publication(NEWS, b"1")) == Published(0)
            assert await bus.publish_many([Publication(NEWS, b"1")] * 3) == [Published(0)] * 3
            assert len([one for one in caplog.records if "rules of history cannot be read" in one.message]) == 1
            assert "secret" not in caplog.text
    caplog.clear()
    await asyncio.to_thread(publish)
    valkey.command("ACL", "SETUSER", "few", "+get", "~realizehit:history")
    async with bus_at(url, project=False) as bus:
        with pytest.raises(BrokerRefused, match=r"history needs the rights to EVAL, .* keys realizehit:log:\*"):
            await bus.publish(Publication(NEWS, b"1"))
        assert await bus.publish(Publication(OTHER, b"1")) == Published(0)


async def test_the_rights_that_are_documented_are_enough(broker: Valkey) -> None:
    set_rules(broker)
    add_shape(broker, SHAPE)
    keys = ["realizehit:shapes", "realizehit:once:*", "realizehit:history", "realizehit:log:*"]
    rights = ["+info", "+lindex", "+lset", "+rpush", "+rpop", "+ltrim", "+llen", "+lrange", "+pexpire", "+pttl"]
    user = ["ACL", "SETUSER", "app", "on", ">secret", "resetchannels", f"&{NEWS.decode()}", f"&{CONTROL.decode()}"]
    broker.command(*user, *[f"~{key}" for key in keys], *RIGHTS, *rights)
    async with bus_at(f"unix://app:secret@{broker.socket}", project=False) as bus:
        at = position(await bus.publish(Publication(NEWS, b"1", b"k")))
        assert (await bus.read_log(NEWS, last=1)).messages == [(1, b"1")]
        with pytest.raises(BrokerRefused):  # the user may not publish there
            await bus.publish(Publication(b"kind:news", b"1"))
        assert not broker.command("EXISTS", log_key(b"kind:news"))  # nor is it kept
        broker.command("ACL", "SETUSER", "app", "resetchannels", f"&{CONTROL.decode()}")
        with pytest.raises(BrokerRefused):
            await bus.publish(Publication(NEWS, b"2"))
        broker.command("ACL", "SETUSER", "app", f"&{NEWS.decode()}")
        assert position(await bus.publish(Publication(NEWS, b"3"))) == at._replace(offset=2)


def test_all_keys_of_a_publication_have_one_hash_tag() -> None:
    publication = Publication(NEWS, b"1", b"a}b{c")
    script = PublishScript(120.0, project=False)
    script.rules = Rules((Rule({"kind": ("news",)}, 100, 300.0),))
    parser = hiredis.Reader()
    parser.feed(script.pack([publication]))
    _, _, count, *rest = parser.gets()
    names = rest[: int(count)]
    assert len(names) == 2
    assert {name.partition(b"{")[2].partition(b"}")[0] for name in names} == {NEWS}


@pytest.mark.parametrize("lost", [False, True], ids=["with the script", "without"])
@pytest.mark.parametrize("known", [[], [OLD]], ids=["none", "another"])
async def test_the_news_of_a_shape_between_messages_with_logs(lost: bool, known: list[bytes]) -> None:
    """Each message and each of its projections is published once, also if the broker lacked the script."""
    rules = Rules((Rule({}, 10, 60.0),))
    for place in range(len(MESSAGES)):
        published: list[tuple[bytes, bytes]] = []  # channel and payload
        late: set[bytes] = set()  # payloads that were carried out after the news

        async def serve(
            broker: ScriptedBroker,
            place: int = place,
            published: list[tuple[bytes, bytes]] = published,
            late: set[bytes] = late,
        ) -> None:
            kind, *_ = await broker.command()
            assert kind == b"INFO"
            broker.send(bulk(b"run_id:" + b"a" * 40))
            for number in itertools.count():
                if number == place:
                    broker.send(news_of(NEW))
                kind, _, count, *rest = await broker.command()
                keys, arguments = rest[: int(count)], rest[int(count) :]
                if kind == b"EVALSHA" and lost and number < len(MESSAGES):
                    broker.send(b"-NOSCRIPT No matching script.\r\n")
                    continue
                window, channel, payload, _, run_id, mode, *_ = arguments
                channels = arguments[8::3]
                assert (window, run_id) == (b"0", b"a" * 16)
                if mode == b"-":
                    channels.insert(0, channel)
                    if number >= place:
                        late.add(payload)
                shapes_key = [SHAPES_KEY.encode()] if any(map(is_wildcard, channels)) else []
                assert keys == [log_key(one) for one in channels] + shapes_key
                published += [(one, payload) for one in channels]
                position = b"abcdefgh.%d" % number
                own = mode == b"-"
                broker.send(b"*2\r\n:%d\r\n" % len(channels) + bulk(position) if own else b":%d\r\n" % len(channels))

        async with scripted(serve, known, rules.to_json()) as (url, _), publisher_to(url) as publisher:
            outcomes = await publisher.publish_many(MESSAGES)
            assert len(published) == len(set(published))
            for message, outcome in zip(MESSAGES, outcomes, strict=True):
                done = {channel for channel, payload in published if payload == message.payload}
                shapes = [*known, NEW] if message.payload in late else known
                assert done >= {message.channel, *(project(message.channel, shape) for shape in shapes)} - {None}
                assert isinstance(outcome, Published)
                assert outcome.at.startswith("abcdefgh.")
                assert outcome.nodes == len(done) or lost
            assert not publisher._books
            assert not publisher._under_way
            assert publisher._messages_under_way == publisher._bytes_under_way == 0


async def test_logs_while_shapes_come_and_scripts_go(valkey: Valkey) -> None:
    set_rules(valkey, size=10_000)
    done = threading.Event()
    counts = [0, 0, 0]  # messages by each publisher
    wildcards = {SHAPE: WILDCARD, b"*:*|kind:=": b"*:*|kind:news"}

    def publish_synchronously() -> None:
        with sync.Publisher(valkey.url) as publisher:
            while not done.is_set():
                numbers = range(counts[0], counts[0] + 20)
                publisher.publish_many(({"kind": "news", "channel": "CNN"}, [0, n]) for n in numbers)
                counts[0] += 20

    async def publish(bus: Bus, by: int) -> None:
        while not done.is_set():
            numbers = range(counts[by], counts[by] + 20)
            await bus.publish_many([Publication(NEWS, b"[%d,%d]" % (by, n)) for n in numbers])
            counts[by] += 20

    def all_went_on(since: list[int]) -> bool:
        return all(now > before for now, before in zip(counts, since, strict=True))

    async with bus_at(valkey.url) as one, bus_at(valkey.url) as two, subscriber_at(valkey, *wildcards.values()) as live:
        publishing = [
            asyncio.ensure_future(asyncio.to_thread(publish_synchronously)),
            *(asyncio.ensure_future(publish(bus, by)) for by, bus in enumerate((one, two), 1)),
        ]
        try:
            for shape in (*wildcards, b"channel:=|kind:*"):  # the rule does not contain the last one
                await asyncio.to_thread(add_shape, valkey, shape)
                await asyncio.to_thread(valkey.command, "SCRIPT", "FLUSH")
                await eventually(partial(all_went_on, list(counts)))
        finally:
            done.set()
        await asyncio.gather(*publishing)
        parts = {channel: await one.read_log(channel, after=0, most=10_000) for channel in wildcards.values()}
        came: dict[bytes, list[bytes]] = {channel: [] for channel in wildcards.values()}
        for _ in range(sum(part.last for part in parts.values())):
            channel, text = await live.next()
            came[channel].append(text)
    for channel, part in parts.items():
        label = part.epoch.encode()
        assert came[channel] == [b"@o=%b.%d&%b" % (label, offset, text[1:]) for offset, text in part.messages]
        assert len(part.messages) == part.last
        for by in range(3):
            numbers = [n for _, text in part.messages for who, n in [json.loads(text.partition(b"?")[2])] if who == by]
            assert numbers == list(range(numbers[0], counts[by]))
