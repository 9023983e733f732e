"""Publications with an idempotency key are published once: over every way, on real Valkey and Redis."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from realizehit import Publisher, sync
from realizehit.broker.base import Bus, Interest
from realizehit.broker.history.rules import Rule
from realizehit.broker.memory import MAX_KEYS, MemoryBus, _spaces
from realizehit.broker.open import open_bus
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.registry import BRIDGE, BRIDGE_DONE, BRIDGE_ENDS, CONTROL, KEY
from realizehit.client.messages import PublishResult
from realizehit.errors import BrokerRefused, SettingsError
from realizehit.http.api import Application
from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_shapes_following import NEWS, SHAPE, add_shape, subscriber_at
from tests.integration.test_shapes_registrar import eventually
from tests.support.bus_recorder import Recorder
from tests.support.history import set_rules
from tests.support.programs import needs
from tests.support.redis_server import RedisServer
from tests.support.valkey import Valkey

PATTERN = {"kind": "news", "channel": "CNN"}
WILDCARD = b"channel:*|kind:news"
ID = Pattern(PATTERN).id
JSON = {"Content-Type": "application/json"}
BODY = b'{"pattern": {"kind": "news", "channel": "CNN"}, "payload": %d}'


@pytest.fixture(params=["valkey", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Valkey]:
    """A broker of the test's own: Valkey, or Redis as the distribution has it."""
    if request.param == "redis":
        needs("redis-server")
    with (RedisServer if request.param == "redis" else Valkey)(tmp_path) as server:
        yield server


@asynccontextmanager
async def bus_at(url: str, **options: Any) -> AsyncIterator[Bus]:
    bus = open_bus(url, **options)
    await bus.start(None)
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def http(node: Node) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=node.api_url, timeout=20) as client:
        yield client


@pytest.mark.parametrize("directly", [True, False], ids=["directly", "through ASGI"])
async def test_the_api_publishes_a_key_once(broker: Valkey, directly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not directly:
        monkeypatch.setattr(Application, "direct", {})
    add_shape(broker, SHAPE)
    settings = Settings(port=0, redis=broker.url, role="api")
    async with subscriber_at(broker, NEWS, WILDCARD) as subscriber, serve(settings) as node, http(node) as api:

        async def comes(payload: bytes) -> None:
            assert await subscriber.next() == (NEWS, payload)
            assert await subscriber.next() == (WILDCARD, labelled(Publication(NEWS, payload)))

        first = {"status": "queued", "id": ID, "nodes": 2}
        again = {**first, "duplicate": True}
        for answer in (first, again, again):
            response = await api.post("/", content=BODY % 1, headers={**JSON, "Idempotency-Key": "order 17"})
            assert response.json() == answer
        other = await api.post(
            "/",
            content=b'{"pattern": {"kind": "other"}, "payload": 1}',
            headers={**JSON, "Idempotency-Key": "order 17"},
        )
        assert "duplicate" not in other.json()  # a key is one of its pattern
        keyed = BODY[:-1] + b', "key": "%b"}'
        batch = b", ".join([keyed % (2, b"order 17"), keyed % (2, b"b"), keyed % (2, b"b"), BODY % 3, keyed % (4, b"")])
        response = await api.post("/batch", content=b'{"messages": [%b]}' % batch, headers=JSON)
        *results, refused = response.json()["results"]
        assert results == [again, first, again, first]
        assert (refused["code"], refused["index"]) == ("bad-request", 4)
        assert "key has 0 characters" in refused["detail"]
        lines = b"\n".join([keyed % (2, b"b"), keyed % (5, b"l"), keyed % (5, b"l")])
        response = await api.post("/batch", content=lines, headers={"Content-Type": "application/x-ndjson"})
        assert response.json() == {"results": [again, first, again], "queued": 3, "failed": 0}
        await api.post("/", content=BODY % 6, headers=JSON)
        for payload in (b"1", b"2", b"3", b"5", b"6"):
            await comes(payload)
        metrics = (await api.get("/metrics")).text
        assert 'realizehit_publications_total{outcome="duplicate"} 6.0' in metrics
        assert 'realizehit_publications_total{outcome="queued"} 6.0' in metrics
        for name in broker.command("KEYS", "realizehit:once:*"):
            assert 100_000 < broker.command("PTTL", name) <= 120_000


@pytest.mark.parametrize("directly", [True, False], ids=["directly", "through ASGI"])
async def test_keys_that_cannot_be_used(directly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not directly:
        monkeypatch.setattr(Application, "direct", {})
    async with serve(Settings(port=0, redis="memory://", role="api")) as node, http(node) as api:
        for key in (b"x" * 65, b"\xe9", b"", b"a\tb"):
            headers = [(b"content-type", b"application/json"), (b"idempotency-key", key)]
            response = await api.post("/", content=BODY % 1, headers=headers)
            assert (response.status_code, response.json()["code"]) == (400, "bad-request")
            assert "the header Idempotency-Key" in response.json()["detail"]
        twice = [(b"content-type", b"application/json"), *[(b"idempotency-key", b"k")] * 2]
        response = await api.post("/", content=BODY % 1, headers=twice)
        assert response.status_code == 400
        assert "more than once" in response.json()["detail"]
        both = BODY[:-1] % 1 + b', "key": "other"}'
        response = await api.post("/", content=both, headers={**JSON, "Idempotency-Key": "k"})
        assert "differ" in response.json()["detail"]
        batch = b'{"messages": [%b]}' % (BODY % 1)
        response = await api.post("/batch", content=batch, headers={**JSON, "Idempotency-Key": "k"})
        assert response.status_code == 400
        assert "each message of a batch" in response.json()["detail"]


async def test_pages_of_an_allowed_origin_may_send_the_header() -> None:
    origin = "https://app.example"
    settings = Settings(port=0, redis="memory://", role="api", allow_origin=(origin,))
    async with serve(settings) as node, http(node) as api:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = await api.options("/", headers={**asked, "Access-Control-Request-Headers": "idempotency-key"})
        assert answer.status_code == 200
        assert "Idempotency-Key" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
@pytest.mark.parametrize("wildcards", [False, True], ids=["plain", "wildcards"])
async def test_publishers_publish_a_key_once(broker: Valkey, synchronous: bool, wildcards: bool) -> None:
    add_shape(broker, SHAPE)
    kind: Any = sync.Publisher if synchronous else Publisher
    publisher = kind(broker.url, wildcards=wildcards, idempotency_window=30.0)

    async def call(method: Any, *arguments: Any, **options: Any) -> Any:
        if synchronous:
            return await asyncio.to_thread(method, *arguments, **options)
        return await method(*arguments, **options)

    nodes = 2 if wildcards else 1
    first, again = PublishResult(ID, nodes), PublishResult(ID, nodes, duplicate=True)
    async with subscriber_at(broker, NEWS, WILDCARD) as subscriber:
        assert await call(publisher.publish, PATTERN, 1, idempotency_key="a") == first
        assert await call(publisher.publish, PATTERN, 1, idempotency_key="a") == again
        broker.command("SCRIPT", "FLUSH")
        messages = [(PATTERN, 1, "a"), (PATTERN, 2), (PATTERN, 3, "b"), (PATTERN, 3, "b"), (PATTERN, 4, None)]
        assert await call(publisher.publish_many, messages) == [again, first, first, again, first]
        await call(publisher.close)
        expected = [b"1", b"2", b"3", b"4"]
        got = [await subscriber.next() for _ in range(nodes * 4)]
        # The message that met the flush comes later than what was sent meanwhile.
        assert sorted(text for channel, text in got if channel == NEWS) == expected
        labels = sorted(text for channel, text in got if channel == WILDCARD)
        assert labels == ([labelled(Publication(NEWS, payload)) for payload in expected] if wildcards else [])
        assert 0 < broker.command("PTTL", "realizehit:once:{channel:CNN|kind:news}:a") <= 30_000


@pytest.mark.parametrize("project", [False, True], ids=["plain", "wildcards"])
async def test_scripts_that_are_flushed_under_load(broker: Valkey, project: bool) -> None:
    add_shape(broker, SHAPE)
    count, rounds = 400, 5
    async with bus_at(broker.url, project=project) as bus, subscriber_at(broker, NEWS, WILDCARD) as subscriber:
        for turn in range(rounds):
            numbers = range(turn * count, turn * count + count)
            messages = [Publication(NEWS, b"%d" % n, b"%d" % n) for n in numbers for _ in range(2)]
            publishing = asyncio.ensure_future(bus.publish_many(messages))
            await asyncio.sleep(0)
            await asyncio.to_thread(broker.command, "SCRIPT", "FLUSH")
            outcomes = await publishing
            nodes = 2 if project else 1
            assert outcomes == [Published(nodes), Published(nodes, duplicate=True)] * count
            got = [await subscriber.next() for _ in range(count * nodes)]
            assert {text for channel, text in got if channel == NEWS} == {b"%d" % n for n in numbers}
            assert len(set(got)) == len(got)


async def test_a_shape_that_is_new_when_a_key_is_repeated(valkey: Valkey) -> None:
    """A first attempt may have ended before its projection by a new shape, so the repetition publishes that, once."""
    message = Publication(NEWS, b"1", b"k")
    async with bus_at(valkey.url) as bus, subscriber_at(valkey, NEWS, WILDCARD) as subscriber:
        assert await bus.publish(message) == Published(1)
        add_shape(valkey, SHAPE)
        await eventually(lambda: bus.followed_shapes == (SHAPE,))
        assert await bus.publish(message) == Published(2, duplicate=True)
        assert await bus.publish(message) == Published(2, duplicate=True)
        await bus.publish(Publication(NEWS, b"2"))
        got = [await subscriber.next() for _ in range(4)]
        assert got == [
            (NEWS, b"1"),
            (WILDCARD, labelled(message)),
            (NEWS, b"2"),
            (WILDCARD, labelled(Publication(NEWS, b"2"))),
        ]


async def test_a_repetition_after_the_end_of_a_bridge_has_no_projections(valkey: Valkey) -> None:
    message = Publication(NEWS, b"1", b"k")
    add_shape(valkey, SHAPE)
    valkey.command("ZADD", KEY, "inf", BRIDGE)
    async with bus_at(valkey.url) as bus, subscriber_at(valkey, NEWS, WILDCARD) as subscriber:
        assert await bus.publish(message) == Published(1)  # the bridge publishes the projection
        valkey.command("ZREM", KEY, BRIDGE)
        valkey.command("PUBLISH", CONTROL, BRIDGE_ENDS)
        valkey.command("PUBLISH", CONTROL, BRIDGE_DONE)
        assert await bus.publish(Publication(NEWS, b"2")) == Published(2)
        assert await bus.publish(message) == Published(1, duplicate=True)
        await bus.publish(Publication(NEWS, b"3"))
        got = [await subscriber.next() for _ in range(5)]
        assert [text for channel, text in got if channel == NEWS] == [b"1", b"2", b"3"]
        assert labelled(message) not in [text for _, text in got]


PROGRAM = """
import asyncio, sys
from realizehit import Publisher

async def main():
    async with Publisher(sys.argv[1], timeout=60) as publisher:
        await publisher.ping()
        print("ready", flush=True)
        sys.stdin.readline()
        publishing = asyncio.create_task(publisher.publish({"kind": "news", "channel": "CNN"}, 1, idempotency_key="k"))
        await asyncio.sleep(0.1)  # the command is in the socket after some turns of the loop
        print("sent", flush=True)
        await publishing

asyncio.run(main())
"""


async def test_a_publisher_that_is_killed_before_its_answer(broker: Valkey) -> None:
    async with subscriber_at(broker, NEWS) as subscriber:
        words = (sys.executable, "-c", PROGRAM, broker.url)
        process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE)
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert await process.stdout.readline() == b"ready\n"
            broker.pause()
            process.stdin.write(b"go\n")
            assert await process.stdout.readline() == b"sent\n"
        finally:
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            broker.resume()
        assert await subscriber.next() == (NEWS, b"1")  # the broker carried the command out, and nobody was told
        async with Publisher(broker.url) as publisher:
            result = await publisher.publish(PATTERN, 1, idempotency_key="k")
            assert result == PublishResult(ID, 1, duplicate=True)
            await publisher.publish(PATTERN, 2)
        assert await subscriber.next() == (NEWS, b"2")


async def test_a_publisher_of_history_that_is_killed_before_its_answer(broker: Valkey) -> None:
    """Sent again with its key, it is in the log once, and the answer has its position."""
    set_rules(broker, Rule({"kind": ("news",)}, 10, 300.0))
    async with subscriber_at(broker, NEWS) as subscriber:
        words = (sys.executable, "-c", PROGRAM, broker.url)
        process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE)
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert await process.stdout.readline() == b"ready\n"
            broker.pause()
            process.stdin.write(b"go\n")
            assert await process.stdout.readline() == b"sent\n"
        finally:
            process.kill()
            assert await process.wait() == -signal.SIGKILL
            broker.resume()
        channel, text = await subscriber.next()
        assert (channel, text[:3], text[-2:]) == (NEWS, b"@o=", b"?1")
        at = text[3:-2].decode()
        async with Publisher(broker.url) as publisher:
            result = await publisher.publish(PATTERN, 1, idempotency_key="k")
            assert result == PublishResult(ID, 1, duplicate=True, at=at)
            result = await publisher.publish(PATTERN, 2)
            assert result.at == at.partition(".")[0] + ".2"
        assert await subscriber.next() == (NEWS, b"@o=%b?2" % str(result.at).encode())


@pytest.mark.slow
async def test_the_memory_for_many_keys_a_second_is_bounded(valkey: Valkey) -> None:
    """10,000 keys a second for several windows: the broker holds those of one window, and in the end none."""
    rate, window, windows = 10_000, 2.0, 4

    def used() -> int:
        text = valkey.command("INFO", "memory").decode()
        return int(text.partition("used_memory:")[2].partition("\r\n")[0])

    sizes: list[int] = []
    published = 0
    async with bus_at(valkey.url, project=False, idempotency_window=window) as bus:
        await bus.ping()
        before = used()
        began = asyncio.get_running_loop().time()
        while (passed := asyncio.get_running_loop().time() - began) < window * windows:
            if published > passed * rate:
                await asyncio.sleep(0.01)
                continue
            keys = [b"%022d" % n for n in range(published, published + rate // 10)]
            outcomes = await bus.publish_many([Publication(b"a:1", b"1", key) for key in keys])
            assert outcomes == [Published(0)] * len(keys)
            published += len(keys)
            sizes.append(valkey.command("DBSIZE"))
        # The broker looks for expired keys ten times a second and leaves some of them for later.
        assert max(sizes) < 2 * rate * window
        assert max(sizes[len(sizes) // 2 :]) < 1.5 * max(sizes[: len(sizes) // 2])
        assert used() - before < 400 * max(sizes)
        await eventually(lambda: valkey.command("DBSIZE") == 0)
        await eventually(lambda: used() - before < 20 * published)


async def test_the_brokers_memory_is_given_back(broker: Valkey) -> None:
    def used() -> int:
        text = broker.command("INFO", "memory").decode()
        return int(text.partition("used_memory:")[2].partition("\r\n")[0])

    count = 10_000
    async with bus_at(broker.url, project=False, idempotency_window=3.0) as bus:
        await bus.ping()
        before = used()
        outcomes = await bus.publish_many([Publication(b"a:1", b"1", b"%022d" % n) for n in range(count)])
        assert outcomes == [Published(0)] * count
        if broker.command("DBSIZE") == count:  # unless the machine took longer than the window
            assert used() - before < 400 * count
        await eventually(lambda: broker.command("DBSIZE") == 0)
        await eventually(lambda: used() - before < 100 * count)
        assert await bus.publish(Publication(b"a:1", b"1", b"%022d" % 1)) == Published(0)  # it was forgotten


async def test_without_the_rights_only_keys_are_refused(valkey: Valkey) -> None:
    rights = ["+publish", "+auth", "+ping", "+client|setname"]
    valkey.command("ACL", "SETUSER", "few", "on", ">secret", "resetchannels", "&*", *rights)
    url = f"unix://few:secret@{valkey.socket}"
    settings = Settings(port=0, redis=url, role="api", wildcards=False)
    async with serve(settings) as node, http(node) as api:
        assert (await api.post("/", content=BODY % 1, headers=JSON)).status_code == 200
        response = await api.post("/", content=BODY % 1, headers={**JSON, "Idempotency-Key": "k"})
        assert (response.status_code, response.json()["code"]) == (502, "broker-refused")
        assert "EVALSHA" in response.json()["detail"]
        assert "realizehit:once:*" in response.json()["detail"]
        assert "secret" not in response.text

    def publish() -> None:
        with sync.Publisher(url, wildcards=False) as publisher:
            publisher.publish(PATTERN, 1)
            with pytest.raises(BrokerRefused, match="EVALSHA"):
                publisher.publish(PATTERN, 1, idempotency_key="k")

    await asyncio.to_thread(publish)


# Exactly what docs/access.md asks for.
RIGHTS = ["+hello", "+auth", "+client|setname", "+ping", "+publish", "+subscribe", "+eval", "+time", "+zrangebyscore"]
RIGHTS += ["+zrange", "+evalsha", "+get", "+set", "+del", "+zscore"]


@pytest.mark.parametrize("synchronous", [False, True], ids=["async", "sync"])
async def test_the_rights_that_are_documented_are_enough(broker: Valkey, synchronous: bool) -> None:
    add_shape(broker, SHAPE)
    user = ["ACL", "SETUSER", "app", "on", ">secret", "resetchannels", f"&{NEWS.decode()}", f"&{WILDCARD.decode()}"]
    broker.command(*user, f"&{CONTROL.decode()}", "~realizehit:shapes", "~realizehit:once:*", *RIGHTS)
    url = f"unix://app:secret@{broker.socket}"

    def publish() -> tuple[Any, Any]:
        with sync.Publisher(url) as publisher:
            with pytest.raises(BrokerRefused):
                publisher.publish({"another": "channel"}, 1, idempotency_key="k")
            return tuple(publisher.publish(PATTERN, 1, idempotency_key="k") for _ in range(2))  # type: ignore[return-value]

    async with subscriber_at(broker, WILDCARD):
        if synchronous:
            results = await asyncio.to_thread(publish)
        else:
            async with Publisher(url) as publisher:
                with pytest.raises(BrokerRefused):
                    await publisher.publish({"another": "channel"}, 1, idempotency_key="k")
                results = (
                    await publisher.publish(PATTERN, 1, idempotency_key="k"),
                    await publisher.publish(PATTERN, 1, idempotency_key="k"),
                )
        assert results == (PublishResult(ID, 1), PublishResult(ID, 1, duplicate=True))
    # What was refused is not remembered as published.
    assert broker.command("KEYS", "realizehit:once:*") == [b"realizehit:once:{channel:CNN|kind:news}:k"]


async def test_a_full_broker_publishes_nothing_by_a_key(tmp_path: Path) -> None:
    with Valkey(tmp_path, maxmemory="1", maxmemory_policy="noeviction") as valkey:
        async with subscriber_at(valkey, NEWS) as subscriber, bus_at(valkey.url, project=False) as bus:
            with pytest.raises(BrokerRefused, match="memory"):
                await bus.publish(Publication(NEWS, b"1", b"k"))
            assert await bus.publish(Publication(NEWS, b"2")) == Published(1)
            assert await subscriber.next() == (NEWS, b"2")
            valkey.command("CONFIG", "SET", "maxmemory", "0")
            assert await bus.publish(Publication(NEWS, b"1", b"k")) == Published(1)


async def test_memory_publishes_a_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("realizehit.broker.memory.time.monotonic", lambda: now)
    bus, recorder = MemoryBus("once", idempotency_window=10.0), Recorder()
    await bus.start(recorder)
    for channel in (NEWS, WILDCARD):
        bus.subscribe(Interest(channel))
    first, again = Published(2), Published(2, duplicate=True)
    message = Publication(NEWS, b"1", b"k")
    assert [await bus.publish(message) for _ in range(3)] == [first, again, again]
    now += 10.0
    assert await bus.publish_many([message, message]) == [first, again]
    await recorder.until(lambda: len(recorder.delivered) == 4)
    for number in range(MAX_KEYS + 10):
        await bus.publish(Publication(b"a:1", b"1", b"%d" % number))
    assert len(_spaces["once"].seen) == MAX_KEYS
    now += 10.0
    await bus.publish(message)
    assert len(_spaces["once"].seen) == 1
    await bus.close()


@pytest.mark.parametrize("kind", [Publisher, sync.Publisher])
@pytest.mark.parametrize("seconds", [0.0, -1.0, 86_401.0])
def test_a_window_that_cannot_be(kind: Any, seconds: float) -> None:
    with pytest.raises(SettingsError, match="idempotency_window"):
        kind("redis://localhost", idempotency_window=seconds)
