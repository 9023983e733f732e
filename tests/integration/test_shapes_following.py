"""Publishing to wildcard subscriptions: on a real Valkey, and on a broker that answers in every order there may be."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
import redis.asyncio

from realizehit.broker.projections import labelled
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.broker.publisher import WINDOW_MESSAGES
from realizehit.broker.shapes.following import FollowingPipeline
from realizehit.broker.shapes.registry import CONTROL, KEY, MAX_SHAPES, register
from realizehit.broker.url import Address
from realizehit.errors import BrokerRefused, BrokerUnavailable, PublishUnclear
from realizehit.pattern import Pattern, project
from tests.integration.test_broker_publisher import log_in, peer
from tests.integration.test_shapes_registrar import eventually
from tests.support.valkey import Valkey

NEWS = b"channel:CNN|kind:news"
SHAPE = b"channel:*|kind:="


@asynccontextmanager
async def publisher_to(url: str, **options: Any) -> AsyncIterator[FollowingPipeline]:
    publisher = FollowingPipeline(Address(url), **{"timeout": 20.0, **options})
    try:
        yield publisher
    finally:
        await publisher.close()


class Subscriber:
    """Someone who is subscribed to some channels at the broker."""

    def __init__(self, pubsub: redis.asyncio.client.PubSub) -> None:
        self._pubsub = pubsub

    async def add(self, channel: bytes) -> None:
        await self._pubsub.subscribe(channel)
        while (answer := await self._pubsub.get_message(timeout=20))["type"] != "subscribe":
            pass  # what comes on the channels that it has already
        assert answer["channel"] == channel

    async def next(self) -> tuple[bytes, bytes]:
        message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=20)
        assert message is not None, "nothing came"
        return message["channel"], message["data"]


@asynccontextmanager
async def subscriber_at(valkey: Valkey, *channels: bytes) -> AsyncIterator[Subscriber]:
    async with redis.asyncio.Redis(unix_socket_path=str(valkey.socket)) as client, client.pubsub() as pubsub:
        subscriber = Subscriber(pubsub)
        for channel in channels:
            await subscriber.add(channel)
        yield subscriber


def add_shape(valkey: Valkey, shape: bytes, lease: float = 60.0) -> None:
    valkey.command(*register([shape], lease, MAX_SHAPES))


# --- on a real broker


async def test_a_message_reaches_those_who_subscribed_to_a_wildcard(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    add_shape(valkey, b"*:*|kind:=")
    async with (
        subscriber_at(valkey, NEWS, b"channel:*|kind:news", b"*:*|kind:news", b"channel:*|kind:sport") as subscriber,
        publisher_to(valkey.url) as publisher,
    ):
        assert await publisher.publish(Publication(NEWS, b'{"n":"?"}')) == Published(3)  # one node, thrice
        assert set(publisher.shapes) == {SHAPE, b"*:*|kind:="}
        assert await subscriber.next() == (NEWS, b'{"n":"?"}')
        labels = {await subscriber.next(), await subscriber.next()}
        text = b'@c=channel:CNN|kind:news?{"n":"?"}'
        assert labels == {(b"channel:*|kind:news", text), (b"*:*|kind:news", text)}
        assert await publisher.publish(Publication(b"kind:news", b"2")) == Published(1)
        assert await subscriber.next() == (b"*:*|kind:news", b"@c=kind:news?2")
        assert await publisher.publish_many(
            [Publication(b"a:1", b"3"), Publication(b"channel:BBC|kind:sport", b"4")]
        ) == [Published(0), Published(1)]
        assert await subscriber.next() == (b"channel:*|kind:sport", b"@c=channel:BBC|kind:sport?4")


async def test_a_new_shape_is_known_at_once_and_one_that_lapsed_is_forgotten(valkey: Valkey) -> None:
    async with (
        subscriber_at(valkey, b"channel:*|kind:news") as subscriber,
        publisher_to(valkey.url, read_interval=0.05) as publisher,
    ):
        assert await publisher.publish(Publication(NEWS, b"1")) == Published(0)
        assert publisher.shapes == ()
        add_shape(valkey, SHAPE)
        assert await publisher.publish(Publication(NEWS, b"2")) == Published(1)
        assert await subscriber.next() == (b"channel:*|kind:news", labelled(Publication(NEWS, b"2")))
        valkey.command("ZADD", KEY, "1", SHAPE)
        await eventually(lambda: publisher.shapes == ())
        assert await publisher.publish(Publication(NEWS, b"3")) == Published(0)
        add_shape(valkey, SHAPE)
        assert await publisher.publish(Publication(NEWS, b"4")) == Published(1)
        assert await subscriber.next() == (b"channel:*|kind:news", labelled(Publication(NEWS, b"4")))


async def test_without_a_shape_that_applies_a_message_is_one_command(valkey: Valkey) -> None:
    add_shape(valkey, b"*:*|user:=")
    async with publisher_to(valkey.url) as publisher:
        before = valkey.calls("publish")
        assert await publisher.publish_many([Publication(NEWS, b"%d" % n) for n in range(100)]) == [Published(0)] * 100
        assert valkey.calls("publish") == before + 100


async def test_texts_that_are_not_shapes_are_ignored(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    valkey.command("ZADD", KEY, "inf", b"kind:=", "inf", b"\xff\r\n", "inf", SHAPE)
    async with publisher_to(valkey.url) as publisher:
        await publisher.ping()
        assert publisher.shapes == (SHAPE,)
        valkey.command("PUBLISH", CONTROL, b"kind:=")
        valkey.command("PUBLISH", CONTROL, b"")
        await publisher.ping()
        assert publisher.shapes == (SHAPE,)
    assert "ignored 2 shapes of the registry" in caplog.text
    assert publisher.projected.malformed == 4


async def test_another_broker_has_other_shapes(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    async with publisher_to(valkey.url) as publisher:
        assert await publisher.publish(Publication(NEWS, b"1")) == Published(0)
        assert publisher.shapes == (SHAPE,)
        valkey.command("FLUSHALL")
        valkey.kill()
        await eventually(lambda: publisher.shapes == ())
        valkey.start()
        add_shape(valkey, b"*:*")
        async with subscriber_at(valkey, b"*:*") as subscriber:
            assert await publisher.publish(Publication(NEWS, b"2")) == Published(1)
            assert await subscriber.next() == (b"*:*", labelled(Publication(NEWS, b"2")))
        assert publisher.connects == 2


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        (["resetchannels"], "channel"),
        (["-eval"], "eval"),
        (["resetkeys"], "key"),
    ],
)
async def test_a_user_who_may_not_follow(valkey: Valkey, rights: list[str], said: str) -> None:
    valkey.command("ACL", "SETUSER", "who", "on", ">secret", "~*", "&*", "+@all", *rights)
    async with publisher_to(f"unix://who:secret@{valkey.socket}") as publisher:
        with pytest.raises(BrokerRefused) as refused:
            await publisher.publish(Publication(NEWS, b"1"))
    text = str(refused.value)
    assert said in text.lower()
    assert "needs the rights to HELLO, to SUBSCRIBE to realizehit:control" in text
    assert "EVAL, TIME and ZRANGEBYSCORE with the key realizehit:shapes" in text
    assert "secret" not in text


async def test_a_projection_that_is_refused_is_the_outcome(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    valkey.command("ACL", "SETUSER", "who", "on", "nopass", "~*", "resetchannels", f"&{CONTROL.decode()}")
    valkey.command("ACL", "SETUSER", "who", "+@all", b"&" + NEWS, "&kind:*")
    async with publisher_to(f"unix://who:x@{valkey.socket}") as publisher, subscriber_at(valkey, NEWS) as subscriber:
        refused, fine = await publisher.publish_many([Publication(NEWS, b"1"), Publication(b"kind:news", b"2")])
        assert isinstance(refused, BrokerRefused)
        assert fine == Published(0)
        assert await subscriber.next() == (NEWS, b"1")


async def test_the_window_counts_projections(valkey: Valkey) -> None:
    for n in range(20):
        add_shape(valkey, b"*:*|kind:=" if n == 0 else b"*:*|k%02d:*|kind:=" % n)
    async with publisher_to(valkey.url) as publisher, subscriber_at(valkey, b"*:*|kind:news") as subscriber:
        channel = b"|".join(b"k%02d:v" % n for n in range(1, 16)) + b"|kind:news"
        messages = [Publication(channel, b"%d" % n) for n in range(3000)]
        most = 0
        publishing = asyncio.ensure_future(publisher.publish_many(messages))
        while not publishing.done():
            most = max(most, publisher._messages_under_way)
            await asyncio.sleep(0)
        assert await publishing == [Published(1)] * 3000
        assert 0 < most <= WINDOW_MESSAGES + 512 * 21
        assert publisher._messages_under_way == publisher._bytes_under_way == 0
        assert [(await subscriber.next())[1].rpartition(b"?")[2] for _ in range(3000)] == [
            b"%d" % n for n in range(3000)
        ]


# --- shapes that come and go under load

PATTERNS = [
    Pattern(a=1, b="*"),
    Pattern({"a": "*", "b": 1}),
    Pattern({"a": "*", "b": "*", "*": "*"}),
    Pattern({"b": 2, "*": "*"}),
    Pattern({"a": "*", "b": 2, "c": "*"}),
]

KINDS = [b"a:%d|b:%d" % pair for pair in itertools.product((1, 2), (1, 2))]
KINDS += [kind + b"|c:3" for kind in KINDS]


class Load:
    """Publishes without a pause.

    Attributes:
        published: how many messages; the payload of each is its number.
        answered: how many of them have their outcome.
        errors: those outcomes that are some.
    """

    def __init__(self, publisher: FollowingPipeline, *, keyed: bool = False) -> None:
        self._publisher = publisher
        self._keyed = keyed
        self.published = 0
        self.answered = 0
        self.errors: list[Outcome] = []

    async def run(self) -> None:
        for turn in itertools.count():
            while self.published - self.answered > 500:
                await asyncio.sleep(0)
            if turn % 10 == 0:
                outcomes = await self._publisher.publish_many([self._next() for _ in range(200)])
                for outcome in outcomes:
                    self._answered(outcome)
            for _ in range(turn % 60):
                self._publisher.publish_soon(self._next(), self._answered)
            await asyncio.sleep(0)

    def _next(self) -> Publication:
        self.published += 1
        payload = b"%d" % self.published
        return Publication(KINDS[self.published * 7 % len(KINDS)], payload, payload if self._keyed else b"")

    def _answered(self, outcome: Outcome) -> None:
        self.answered += 1
        if not isinstance(outcome, Published):
            self.errors.append(outcome)


async def come_and_go(valkey: Valkey, load: Load, publisher: FollowingPipeline, pattern: Pattern, rounds: int) -> None:
    """Register a shape and subscribe, again and again, and hold what comes against what the broker carried out.

    One connection has all that is published and the news of shapes, in the order in which the broker carried it out.
    """
    shape, channel = pattern.shape.encode(), pattern.channel.encode()
    async with redis.asyncio.Redis(unix_socket_path=str(valkey.socket)) as client:
        for _ in range(rounds):
            async with subscriber_at(valkey, channel, CONTROL, *KINDS) as subscriber:
                await client.execute_command(*register([shape], 60.0, MAX_SHAPES))  # type: ignore[no-untyped-call]
                while await subscriber.next() != (CONTROL, shape):
                    pass
                expected: list[bytes] = []
                received: list[bytes] = []
                while len(received) < 300:
                    own, text = await subscriber.next()
                    if own == channel:
                        received.append(text)
                    elif own != CONTROL and project(own, shape) == channel:
                        expected.append(labelled(Publication(own, text)))
                # Nothing is missed, nothing comes twice, all of it in order.
                assert received == expected[: len(received)]
            await client.zrem(KEY, shape)
            await eventually(lambda: shape not in publisher.shapes)


@pytest.mark.parametrize("keyed", [False, True], ids=["plain", "with keys"])
@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
async def test_from_its_registration_on_nothing_is_missed_or_comes_twice(
    valkey: Valkey, rounds: int, keyed: bool
) -> None:
    async with publisher_to(valkey.url, read_interval=0.02) as publisher:
        await publisher.ping()
        load = Load(publisher, keyed=keyed)
        running = asyncio.create_task(load.run())
        try:
            async with asyncio.TaskGroup() as group:
                for pattern in PATTERNS:
                    group.create_task(come_and_go(valkey, load, publisher, pattern, rounds))
        finally:
            running.cancel()
            await asyncio.wait({running})
        assert running.cancelled(), running.exception()
        assert not load.errors


# --- every place among the replies at which the news of a shape may stand

Serve = Callable[["ScriptedBroker"], Awaitable[None]]


class ScriptedBroker:
    """A broker that carries out commands in their order, and adds a shape when the test says so.

    Attributes:
        published: what it was told to publish, in order.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shapes: list[bytes], rules: bytes = b""
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = hiredis.Reader()
        self._shapes = shapes
        self._rules = rules
        self.published: list[Publication] = []

    async def command(self) -> list[bytes]:
        while (command := self._parser.gets()) is False:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionResetError
            self._parser.feed(data)
        assert isinstance(command, list)
        return command

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def log_in(self) -> None:
        """Answer all that is said before anything is published."""
        while True:
            kind, *_ = await self.command()
            if kind == b"HELLO":
                self.send(b"%1\r\n+proto\r\n:3\r\n")
            elif kind == b"SUBSCRIBE":
                self.send(b">3\r\n+subscribe\r\n$18\r\nrealizehit:control\r\n:1\r\n")
            elif kind == b"EVAL":
                self.send(b"*%d\r\n" % len(self._shapes) + b"".join(map(bulk, self._shapes)))
            elif kind == b"GET":
                self.send(bulk(self._rules))
                return
            else:
                self.send(b"+OK\r\n")

    async def take(self, count: int) -> list[bytes]:
        """Carry out so many PUBLISH commands and return their replies: each reached one node."""
        replies = []
        for _ in range(count):
            kind, channel, payload = await self.command()
            assert kind == b"PUBLISH"
            self.published.append(Publication(channel, payload))
            replies.append(b":1\r\n")
        return replies


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def news_of(shape: bytes) -> bytes:
    return b">3\r\n+message\r\n" + bulk(CONTROL) + bulk(shape)


@asynccontextmanager
async def scripted(
    serve: Serve, shapes: list[bytes], rules: bytes = b""
) -> AsyncIterator[tuple[str, list[ScriptedBroker]]]:
    brokers: list[ScriptedBroker] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker = ScriptedBroker(reader, writer, shapes, rules)
        brokers.append(broker)
        with contextlib.suppress(ConnectionError):
            await broker.log_in()
            await serve(broker)

    async with peer(talk) as url:
        yield url, brokers


CHANNELS = [b"a:1|b:1", b"a:2|b:1", b"c:1", b"a:1|b:2", b"a:1|b:1"]
MESSAGES = [Publication(channel, b"%d" % n) for n, channel in enumerate(CHANNELS)]
OLD, NEW = b"*:*|b:=", b"a:=|b:*"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("known", [[], [OLD], [OLD, NEW]], ids=["none", "another", "both"])
@pytest.mark.parametrize("split", [False, True])
async def test_the_news_of_a_shape_at_every_place(together: bool, known: list[bytes], split: bool) -> None:
    commands = len(MESSAGES) + sum(project(channel, shape) is not None for channel in CHANNELS for shape in known)
    for place in range(commands + 1):
        done = asyncio.Event()

        async def serve(broker: ScriptedBroker, place: int = place, done: asyncio.Event = done) -> None:
            replies = await broker.take(commands)
            replies.insert(place, news_of(NEW))
            if split:  # a read for each
                for reply in replies:
                    broker.send(reply)
                    await asyncio.sleep(0.001)
            else:
                broker.send(b"".join(replies))
            carried_out = [message for message in broker.published[place:] if message in MESSAGES]
            owed = [message for message in carried_out if NEW not in known and project(message.channel, NEW)]
            broker.send(b"".join(await broker.take(len(owed))))
            expected = [Publication(project(message.channel, NEW) or b"", labelled(message)) for message in owed]
            assert broker.published[commands:] == expected
            done.set()
            await broker.take(1)  # nothing else comes

        async with scripted(serve, known) as (url, brokers), publisher_to(url) as publisher:
            outcomes: list[Outcome] = []
            if together:
                outcomes = await publisher.publish_many(MESSAGES)
            else:
                outcomes = list(await asyncio.gather(*(publisher.publish(message) for message in MESSAGES)))
            await asyncio.wait_for(done.wait(), 20)
            (broker,) = brokers
            projected = [message.payload for message in broker.published if message.payload.startswith(b"@c=")]
            assert outcomes == [Published(1 + projected.count(labelled(message))) for message in MESSAGES]
            assert publisher.shapes == tuple(dict.fromkeys([*known, NEW]))
            assert not publisher._books
            assert not publisher._under_way
            assert publisher._messages_under_way == publisher._bytes_under_way == 0


@pytest.mark.parametrize("lost", [False, True], ids=["with the script", "without"])
@pytest.mark.parametrize("known", [[], [OLD]], ids=["none", "another"])
async def test_the_news_of_a_shape_between_messages_with_keys(lost: bool, known: list[bytes]) -> None:
    messages = [Publication(message.channel, message.payload, message.payload) for message in MESSAGES]
    for place in range(len(messages)):
        published: dict[bytes, set[bytes]] = {}  # by payload: the projections
        late: set[bytes] = set()  # those that were carried out after the news

        async def serve(
            broker: ScriptedBroker,
            place: int = place,
            published: dict[bytes, set[bytes]] = published,
            late: set[bytes] = late,
        ) -> None:
            for number in itertools.count():
                if number == place:
                    broker.send(news_of(NEW))
                kind, _, _, _, _, _, _, payload, *projections = await broker.command()
                if kind == b"EVALSHA" and lost and number < len(messages):
                    broker.send(b"-NOSCRIPT No matching script.\r\n")
                    continue
                seen = payload in published
                done = published.setdefault(payload, set())
                done |= set(projections)
                if not seen and number >= place:
                    late.add(payload)
                broker.send(b":%d\r\n" % (-2 - len(done) if seen else 1 + len(done)))

        async with scripted(serve, known) as (url, _), publisher_to(url) as publisher:
            outcomes = await publisher.publish_many(messages)
            assert len(published) == len(messages)
            for message, outcome in zip(messages, outcomes, strict=True):
                done = published[message.payload]
                shapes = [*known, NEW] if message.payload in late else known
                assert done >= {project(message.channel, shape) for shape in shapes} - {None}
                assert outcome == Published(1 + len(done))
            assert not publisher._books
            assert not publisher._under_way
            assert publisher._messages_under_way == publisher._bytes_under_way == 0


async def test_a_shape_that_lapsed_and_came_back_while_a_message_was_on_its_way() -> None:
    read = asyncio.Event()

    async def serve(broker: ScriptedBroker) -> None:
        assert (await broker.command())[0] == b"EVAL"
        assert (await broker.command())[0] == b"GET"
        read.set()
        replies = await broker.take(2)  # projected, since the answer to that is not there yet
        broker.send(b"*0\r\n" + news_of(NEW) + b"$-1\r\n" + b"".join(replies))
        broker.send(b"".join(await broker.take(2)))
        await broker.take(1)

    async with scripted(serve, [NEW]) as (url, brokers), publisher_to(url, read_interval=0.01) as publisher:
        await publisher._keeper._connect()
        await asyncio.wait_for(read.wait(), 20)
        assert await publisher.publish(Publication(b"a:1|b:1", b"0")) == Published(2)
        assert await publisher.publish(Publication(b"a:1|b:1", b"1")) == Published(2)
        once = [Publication(b"a:1|b:*", b"@c=a:1|b:1?%d" % n) for n in range(2)]
        assert [message for message in brokers[0].published if message.channel == b"a:1|b:*"] == once


async def test_news_that_comes_right_behind_the_registry() -> None:
    async def serve(broker: ScriptedBroker) -> None:
        broker.send(news_of(NEW))
        broker.send(b"".join(await broker.take(2)))
        await broker.take(1)

    async with scripted(serve, []) as (url, brokers), publisher_to(url) as publisher:
        assert await publisher.publish(Publication(b"a:1|b:1", b"1")) == Published(2)
        assert brokers[0].published[:2] == [
            Publication(b"a:1|b:1", b"1"),
            Publication(b"a:1|b:*", b"@c=a:1|b:1?1"),
        ]


async def test_a_connection_that_breaks_before_a_projection_is_answered() -> None:
    async def serve(broker: ScriptedBroker) -> None:
        first, second, third = await broker.take(3)
        broker.send(first + news_of(NEW) + second + third)
        await broker.take(1)

    async with scripted(serve, []) as (url, _), publisher_to(url) as publisher:
        outcomes = await publisher.publish_many(
            [Publication(b"a:1|b:1", b"0"), Publication(b"a:1|b:1", b"1"), Publication(b"c:1", b"2")]
        )
        assert (outcomes[0], outcomes[2]) == (Published(1), Published(1))
        assert isinstance(outcomes[1], PublishUnclear)  # it was published, its projection may not have been
        assert publisher.shapes == ()
        assert not publisher._books


async def test_a_broker_that_answers_a_projection_too_late() -> None:
    async def serve(broker: ScriptedBroker) -> None:
        replies = await broker.take(3)
        broker.send(b"".join(replies[:2]))
        await broker.take(1)

    async with scripted(serve, [NEW, b"*:*"]) as (url, _), publisher_to(url, timeout=0.3) as publisher:
        with pytest.raises(PublishUnclear, match=r"no answer within 0.3 seconds; it may have taken the message"):
            await publisher.publish(Publication(b"a:1|b:1", b"0"))


@pytest.mark.parametrize("garbage", [b":1\r\n", b"+OK\r\n", b"*0\r\n"])
async def test_a_reply_that_nothing_asked_for(garbage: bytes) -> None:
    async def serve(broker: ScriptedBroker) -> None:
        broker.send(b"".join(await broker.take(1)) + garbage)
        await broker.take(1)

    async with scripted(serve, []) as (url, brokers), publisher_to(url) as publisher:
        assert await publisher.publish(Publication(b"a:1", b"0")) == Published(1)
        await eventually(lambda: publisher._keeper.connection is None)
        assert await publisher.publish(Publication(b"a:1", b"0")) == Published(1)
        assert len(brokers) == 2


async def test_a_broker_that_says_nothing_to_the_first_words() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await log_in(reader, writer)
        await reader.read()

    async with peer(silent) as url, publisher_to(url, timeout=0.3) as publisher:
        with pytest.raises(BrokerUnavailable, match=r"no answer within 0.3 seconds"):
            await publisher.publish(Publication(NEWS, b"1"))


async def test_a_broker_that_knows_no_resp3() -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await log_in(reader, writer)
        await reader.readuntil(b"EVAL")
        writer.write(b"-ERR unknown command 'HELLO'\r\n*3\r\n+subscribe\r\n+realizehit:control\r\n:1\r\n*0\r\n")
        await reader.read()

    async with peer(old) as url, publisher_to(url) as publisher:
        with pytest.raises(BrokerRefused, match="unknown command 'HELLO'; to reach wildcard subscriptions"):
            await publisher.publish(Publication(NEWS, b"1"))
