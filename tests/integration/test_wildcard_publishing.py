"""What every way to publish does for wildcard subscriptions: the API, both Publishers, memory://, and who may not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from realizehit import Publisher, sync
from realizehit.broker.base import Interest
from realizehit.broker.memory import MemoryBus
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.registry import CONTROL, KEY
from realizehit.client.messages import PublishResult
from realizehit.errors import BrokerRefused, BrokerUnavailable, PublishUnclear
from realizehit.pattern import Pattern, project
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_broker_publisher import peer
from tests.integration.test_shapes_following import (
    NEWS,
    SHAPE,
    ScriptedBroker,
    Subscriber,
    add_shape,
    bulk,
    subscriber_at,
)
from tests.support.bus_recorder import Recorder
from tests.support.programs import needs
from tests.support.redis_server import RedisServer
from tests.support.valkey import Valkey

PATTERN = {"kind": "news", "channel": "CNN"}
WILDCARD = b"channel:*|kind:news"
OPEN, OPEN_SHAPE = b"*:*|kind:news", b"*:*|kind:="
JSON = {"Content-Type": "application/json"}


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A broker of the test's own: Valkey, or Redis as the distribution has it."""
    if request.param == "redis":
        needs("redis-server")
    with (RedisServer if request.param == "redis" else Valkey)(tmp_path) as server:
        yield server


@asynccontextmanager
async def http(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client:
        yield client


async def both(subscriber: Subscriber, payload: bytes) -> None:
    """Take a publication and its projections."""
    assert await subscriber.next() == (NEWS, payload)
    text = labelled(Publication(NEWS, payload))
    assert {await subscriber.next(), await subscriber.next()} == {(WILDCARD, text), (OPEN, text)}


@pytest.mark.parametrize("access_log", [False, True], ids=["directly", "through ASGI"])
async def test_the_api_publishes_projections(broker: Valkey, access_log: bool) -> None:
    add_shape(broker, SHAPE)
    settings = Settings(port=0, redis=broker.url, role="api", access_log=access_log)
    async with (
        subscriber_at(broker, NEWS, WILDCARD, OPEN) as subscriber,
        serve(settings) as node,
        http(node) as api,
    ):
        body = b'{"pattern": {"kind": "news", "channel": "CNN"}, "payload": "?%d"}'
        await api.get("/readyz")
        add_shape(broker, OPEN_SHAPE)  # while the server is connected
        answer = await api.post("/", content=body % 1, headers=JSON)
        assert answer.json() == {"status": "queued", "id": "3bf1d979", "nodes": 3}
        await both(subscriber, b'"?1"')
        batch = b'{"messages": [%b, {"pattern": {"other": 1}, "payload": 2}]}' % (body % 2)
        answer = await api.post("/batch", content=batch, headers=JSON)
        assert [result["nodes"] for result in answer.json()["results"]] == [3, 0]
        await both(subscriber, b'"?2"')
        lines = await api.post("/batch", content=body % 3, headers={"Content-Type": "application/x-ndjson"})
        assert [result["nodes"] for result in lines.json()["results"]] == [3]
        await both(subscriber, b'"?3"')
        metrics = (await api.get("/metrics")).text
        assert "realizehit_publisher_shapes 2.0" in metrics
        assert "realizehit_projected_publications_total 3.0" in metrics
        assert f'realizehit_projections_total{{shape="{SHAPE.decode()}"}} 3.0' in metrics


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
async def test_publishers_publish_projections(broker: Valkey, synchronous: bool) -> None:
    add_shape(broker, SHAPE)
    publisher: Any = sync.Publisher(broker.url + "?db=3") if synchronous else Publisher(broker.url)

    async def call(method: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(method, *arguments) if synchronous else await method(*arguments)

    async with subscriber_at(broker, NEWS, WILDCARD, OPEN) as subscriber:
        assert await call(publisher.publish, PATTERN, 0) == PublishResult("3bf1d979", 2)
        assert await subscriber.next() == (NEWS, b"0")
        assert await subscriber.next() == (WILDCARD, b"@c=channel:CNN|kind:news?0")
        add_shape(broker, OPEN_SHAPE)  # the publisher has not heard of it when it sends the next message
        assert (await call(publisher.publish, Pattern(PATTERN), 1)).nodes == 3
        await both(subscriber, b"1")
        outcomes = await call(publisher.publish_many, [(PATTERN, 2), ({"other": 1}, 3), (PATTERN, 4)])
        assert [outcome.nodes for outcome in outcomes] == [3, 0, 3]
        await both(subscriber, b"2")
        await both(subscriber, b"4")
        await call(publisher.close)


async def test_without_wildcards_the_registry_is_left_alone(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    valkey.command("ACL", "SETUSER", "few", "on", ">x", "resetchannels", "&*", "+publish", "+auth", "+ping", "+client")
    url = f"unix://few:x@{valkey.socket}"
    with sync.Publisher(url, wildcards=False) as synchronous:
        assert (await asyncio.to_thread(synchronous.publish, PATTERN, 1)).nodes == 0
    async with Publisher(url, wildcards=False) as publisher:
        assert (await publisher.publish(PATTERN, 1)).nodes == 0
    async with serve(Settings(port=0, redis=url, role="api", wildcards=False)) as node:
        async with http(node) as api:
            assert (await api.get("/readyz")).status_code == 200
        assert await node.bus.publish(Publication(NEWS, b"1")) == Published(0)
        assert node.bus.followed_shapes == ()
    publications = 3 + 1 + 1  # the fourth is that of `add_shape`, and by the fifth the server says that it leaves
    assert (valkey.calls("publish"), valkey.calls("zrange"), valkey.calls("eval")) == (publications, 0, 1)


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
async def test_a_publisher_without_the_rights_is_told_which(valkey: Valkey, synchronous: bool) -> None:
    valkey.command("ACL", "SETUSER", "few", "on", ">secret", "resetchannels", "&*", "+publish", "+auth", "+ping")
    url = f"unix://few:secret@{valkey.socket}"
    publisher: Any = sync.Publisher(url) if synchronous else Publisher(url)
    with pytest.raises(BrokerRefused) as refused:
        await (asyncio.to_thread(publisher.publish, PATTERN, 1) if synchronous else publisher.publish(PATTERN, 1))
    await (asyncio.to_thread(publisher.close) if synchronous else publisher.close())
    assert "permissions" in str(refused.value)
    assert "realizehit:shapes" in str(refused.value)
    assert "wildcards=False" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert valkey.calls("publish") == 0


async def test_a_server_without_the_rights_says_which_in_its_log(
    valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    rights = ["resetchannels", "&a:*", "allkeys", "+@all"]
    valkey.command("ACL", "SETUSER", "few", "on", ">secret", *rights)
    async with serve(Settings(port=0, redis=f"unix://few:secret@{valkey.socket}")) as node, http(node) as api:
        assert (await api.get("/readyz")).status_code == 503
        for _ in range(3):
            answer = await api.post("/", json={"pattern": {"a": 1}, "payload": 1})
            assert (answer.status_code, answer.json()["code"]) == (502, "broker-refused")
    refusals = [record.getMessage() for record in caplog.records if "refused a request" in record.getMessage()]
    assert len(refusals) == 1
    assert "SUBSCRIBE to realizehit:control" in refusals[0]
    assert "--no-wildcards" in refusals[0]
    assert "secret" not in caplog.text


# Exactly what docs/access.md asks for.
COMMON = ["+hello", "+auth", "+client|setname", "+ping", "+publish"]
RIGHTS = {False: [*COMMON, "+subscribe", "+eval", "+time", "+zrangebyscore"], True: [*COMMON, "+zrange"]}


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
async def test_the_rights_that_are_documented_are_enough(broker: Valkey, synchronous: bool) -> None:
    add_shape(broker, SHAPE)
    user = ["ACL", "SETUSER", "app", "on", ">secret", "resetchannels", "&*", "~realizehit:shapes"]
    broker.command(*user, *RIGHTS[synchronous])
    url = f"unix://app:secret@{broker.socket}"
    async with subscriber_at(broker, WILDCARD):
        if synchronous:
            with sync.Publisher(url) as blocking:
                assert (await asyncio.to_thread(blocking.publish, PATTERN, 1)).nodes == 1
        else:
            async with Publisher(url) as publisher:
                assert (await publisher.publish(PATTERN, 1)).nodes == 1


async def test_one_failure_of_several_is_an_error(valkey: Valkey) -> None:
    add_shape(valkey, SHAPE)
    rights: list[str | bytes] = ["resetchannels", f"&{CONTROL.decode()}", b"&" + NEWS, "&kind:*", "+@all", "~*"]
    valkey.command("ACL", "SETUSER", "who", "on", ">x", *rights)
    url = f"unix://who:x@{valkey.socket}"
    with sync.Publisher(url) as publisher:
        refused, fine = await asyncio.to_thread(publisher.publish_many, [(PATTERN, 1), ({"kind": "news"}, 2)])
    assert isinstance(refused, BrokerRefused)
    assert isinstance(fine, PublishResult)
    settings = Settings(port=0, redis=url, role="api")
    async with serve(settings) as node, http(node) as api:
        answer = await api.post("/", json={"pattern": PATTERN, "payload": 1})
        assert (answer.status_code, answer.json()["code"]) == (502, "broker-refused")


# ---- the synchronous publisher


async def test_shapes_that_come_and_go_while_a_synchronous_publisher_publishes(valkey: Valkey) -> None:
    """From a registration on nothing is missed, nothing comes twice, and the order is kept."""
    over = threading.Event()

    def publish() -> int:
        count = 0
        with sync.Publisher(valkey.url) as publisher:
            while not over.is_set():
                block = [(PATTERN, count + n) for n in range(1 + count % 50)]
                count += len(block)
                assert all(isinstance(outcome, PublishResult) for outcome in publisher.publish_many(block))
        return count

    publishing = asyncio.create_task(asyncio.to_thread(publish))
    try:
        for _ in range(4):
            async with subscriber_at(valkey, WILDCARD, CONTROL, NEWS) as subscriber:
                add_shape(valkey, SHAPE)
                while await subscriber.next() != (CONTROL, SHAPE):
                    pass
                expected: list[bytes] = []
                received: list[bytes] = []
                while len(received) < 300:
                    own, text = await subscriber.next()
                    if own == WILDCARD:
                        received.append(text)
                    elif own == NEWS:
                        expected.append(labelled(Publication(own, text)))
                # It may also get what was published in the pipeline during which the shape came.
                start = received.index(expected[0])
                assert received[start:] == expected[: len(received) - start]
                assert len(set(received)) == len(received)
            valkey.command("ZREM", KEY, SHAPE)
            async with subscriber_at(valkey, WILDCARD) as subscriber:
                before = valkey.calls("publish")
                while valkey.calls("publish") < before + 200:
                    await asyncio.sleep(0.001)
    finally:
        over.set()
        assert await publishing > 0


async def shaken_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ScriptedBroker:
    """Answer what the library says of itself, up to the first read of the registry."""
    broker = ScriptedBroker(reader, writer, [])
    while (await broker.command())[0] != b"ZRANGE":
        broker.send(b"+OK\r\n")
    return broker


async def test_a_connection_that_breaks_before_a_projection_is_answered() -> None:
    published: list[Publication] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker = await shaken_hands(reader, writer)
        broker.send(b"*2\r\n" + bulk(SHAPE) + bulk(b"1"))
        assert (await broker.command())[0] == b"GET"
        broker.send(b"$-1\r\n")  # no rules of history
        replies = await broker.take(2)
        published.extend(broker.published)
        broker.send(replies[0])  # to the message; its projection is not answered

    async with peer(talk) as url:
        with sync.Publisher(url, retries=0, timeout=5) as publisher, pytest.raises(PublishUnclear):
            await asyncio.to_thread(publisher.publish, PATTERN, 1)
    assert published == [Publication(NEWS, b"1"), Publication(WILDCARD, b"@c=channel:CNN|kind:news?1")]


async def test_a_broker_that_answers_the_read_with_something_else() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (await shaken_hands(reader, writer)).send(b":7\r\n")
        await reader.read()

    async with peer(talk) as url:
        with (
            sync.Publisher(url, retries=0, timeout=5) as publisher,
            pytest.raises(BrokerRefused, match="ZRANGE answered 7"),
        ):
            await asyncio.to_thread(publisher.publish, PATTERN, 1)


async def test_what_others_write_to_the_registry_is_ignored(broker: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    broker.command("ZADD", KEY, "inf", b"kind:=", "inf", b"\xff\r\n", "inf", b"a" * 2000, "inf", SHAPE)
    async with subscriber_at(broker, WILDCARD):
        with sync.Publisher(broker.url) as synchronous:
            assert (await asyncio.to_thread(synchronous.publish, PATTERN, 1)).nodes == 1
        async with Publisher(broker.url) as publisher:
            assert (await publisher.publish(PATTERN, 1)).nodes == 1
    assert "ignored 3 members of the registry of shapes" in caplog.text
    assert "ignored 3 shapes of the registry" in caplog.text


async def test_a_registry_key_of_another_type(valkey: Valkey) -> None:
    valkey.command("SET", KEY, "x")
    with sync.Publisher(valkey.url) as synchronous, pytest.raises(BrokerRefused, match="WRONGTYPE"):
        await asyncio.to_thread(synchronous.publish, PATTERN, 1)
    async with Publisher(valkey.url) as publisher:
        with pytest.raises(BrokerRefused, match="WRONGTYPE"):
            await publisher.publish(PATTERN, 1)


# ---- memory://


async def test_a_bus_in_memory_projects_by_its_own_subscriptions() -> None:
    bus, recorder = MemoryBus("wild"), Recorder()
    await bus.start(recorder)
    for channel in (NEWS, WILDCARD, b"channel:*|kind:sport", OPEN):
        bus.subscribe(Interest(channel))
    assert bus.followed_shapes == (SHAPE, OPEN_SHAPE)
    assert await bus.publish(Publication(NEWS, b"1")) == Published(3)
    assert await bus.publish_many([Publication(b"kind:news", b"2"), Publication(b"a:1", b"3")]) == [
        Published(1),
        Published(0),
    ]
    text = labelled(Publication(NEWS, b"1"))
    await recorder.until(lambda: len(recorder.delivered) == 4)
    assert recorder.delivered == [(NEWS, b"1"), (WILDCARD, text), (OPEN, text), (OPEN, b"@c=kind:news?2")]
    assert await bus.nodes([NEWS, OPEN, b"a:1"]) == [1, 1, 0]
    assert (bus.projected.publications, dict(bus.projected.by_shape)) == (2, {SHAPE: 1, OPEN_SHAPE: 2})
    bus.unsubscribe(Interest(WILDCARD))
    assert bus.followed_shapes == (SHAPE, OPEN_SHAPE)  # another channel has the shape
    bus.unsubscribe(Interest(b"channel:*|kind:sport"))
    bus.unsubscribe(Interest(OPEN))
    assert not bus.followed_shapes
    assert await bus.publish(Publication(NEWS, b"4")) == Published(1)
    plain = MemoryBus("wild", project=False)
    await plain.start(None)
    bus.subscribe(Interest(OPEN))
    assert await plain.publish(Publication(NEWS, b"5")) == Published(1)
    await bus.close()
    with pytest.raises(BrokerUnavailable):
        await bus.nodes([NEWS])
    await plain.close()


def test_the_projections_of_these_tests() -> None:
    assert project(NEWS, SHAPE) == WILDCARD
    assert project(NEWS, OPEN_SHAPE) == OPEN
