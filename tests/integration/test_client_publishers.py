"""The publishers, asynchronous and synchronous, against a real node, a real Valkey and servers that misbehave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from realizehit import APIClient, Pattern, Publisher, sync
from realizehit.client.messages import PublishResult, RawJSON
from realizehit.errors import (
    AnswerLost,
    BadPattern,
    BrokerRefused,
    BrokerUnavailable,
    PatternError,
    PublishUnclear,
    Rejected,
    RequestError,
    ResponseTimeout,
    ServerUnavailable,
    SettingsError,
)
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.integration.test_client_ws import connect, take
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.wire import unique

EXACT = '{"n": 12345678901234567890123,  "f": 1.10, "z": "é?\\u003f"}'


class Threaded:
    """A synchronous publisher, called from threads, with the methods of an asynchronous one."""

    def __init__(self, publisher: Any) -> None:
        self._publisher = publisher

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._publisher, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(method, *arguments, **options)

        return call

    async def __aenter__(self) -> Threaded:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def api(url: str, in_threads: bool, **options: Any) -> Any:
    options = {"trust_env": False, **options}
    return Threaded(sync.APIClient(url, **options)) if in_threads else APIClient(url, **options)


def broker(url: str, in_threads: bool, **options: Any) -> Any:
    return Threaded(sync.Publisher(url, **options)) if in_threads else Publisher(url, **options)


@pytest.fixture(params=[False, True], ids=["async", "sync"])
def in_threads(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# ---- what both kinds of publisher do


@pytest.mark.parametrize("kind", ["api", "broker"])
async def test_publish(node: Node, shared_valkey: Valkey, in_threads: bool, kind: str) -> None:
    pattern = Pattern(unique("publish"))
    async with (
        connect(node.ws_url) as client,
        api(node.api_url, in_threads) if kind == "api" else broker(shared_valkey.url, in_threads) as publisher,
    ):
        subscription = await client.subscribe(pattern, raw=True)
        assert await publisher.publish(pattern, {"title": "hello?"}) == PublishResult(pattern.id, 1)
        assert await publisher.publish(dict(pattern), None) == PublishResult(pattern.id, 1)
        assert await publisher.publish(pattern, RawJSON(EXACT)) == PublishResult(pattern.id, 1)
        assert (await publisher.publish(unique("nobody"), 1)).nodes == 0
        assert await take(subscription, 3) == [b'{"title":"hello?"}', b"null", EXACT.encode()]
        with pytest.raises(RequestError, match="cannot be written as JSON"):
            await publisher.publish(pattern, object())
        refusal = Rejected if kind == "api" else PatternError
        with pytest.raises(refusal, match="at least one filter"):
            await publisher.publish({}, 1)
        with pytest.raises(refusal, match="only subscriptions can have"):
            await publisher.publish({"kind": "*"}, 1)


@pytest.mark.parametrize("kind", ["api", "broker"])
async def test_publish_many_with_bad_ones_between(
    node: Node, shared_valkey: Valkey, in_threads: bool, kind: str
) -> None:
    pattern = Pattern(unique("many"))
    count = 12_000  # more than one batch, and more than one block
    bad: dict[int, tuple[Any, Any]] = {3: ({}, 3), 5000: (pattern, object()), 11_999: ({"a": None}, 1)}
    async with (
        connect(node.ws_url, maxsize=count) as client,
        api(node.api_url, in_threads) if kind == "api" else broker(shared_valkey.url, in_threads) as publisher,
    ):
        subscription = await client.subscribe(pattern)
        outcomes = await publisher.publish_many(bad.get(n, (pattern, n)) for n in range(count))
        assert len(outcomes) == count
        for n, outcome in enumerate(outcomes):
            assert outcome == PublishResult(pattern.id, 1) if n not in bad else isinstance(outcome, Exception)
        expected = BadPattern if kind == "api" else PatternError
        assert [type(outcomes[n]) for n in bad] == [expected, RequestError, expected]
        assert await take(subscription, count - 3) == [n for n in range(count) if n not in bad]
        assert await publisher.publish_many([]) == []


@pytest.mark.parametrize("kind", ["api", "broker"])
async def test_connecting_without_a_server(in_threads: bool, kind: str) -> None:
    port = free_port()
    error = ServerUnavailable if kind == "api" else BrokerUnavailable
    make, scheme = (api, "http") if kind == "api" else (broker, "redis")
    async with make(f"{scheme}://127.0.0.1:{port}/", in_threads, retries=1) as publisher:
        with pytest.raises(error, match=str(port)):
            await publisher.publish({"a": 1}, 1)
        outcomes = await publisher.publish_many(({"a": 1}, n) for n in range(3))
        assert [type(outcome) for outcome in outcomes] == [error] * 3


@pytest.mark.parametrize("kind", ["api", "broker"])
async def test_connecting_is_tried_again(shared_valkey: Valkey, valkey: Valkey, in_threads: bool, kind: str) -> None:
    valkey.kill()
    port = free_port()
    if kind == "api":
        publisher = api(f"http://127.0.0.1:{port}/", in_threads, retries=30)
    else:
        publisher = broker(valkey.url, in_threads, retries=30)
    async with publisher:
        publishing = asyncio.create_task(publisher.publish({"a": 1}, 1))
        await asyncio.sleep(0.1)
        assert not publishing.done()
        if kind == "api":
            async with serve(Settings(port=port, redis=shared_valkey.url)):
                assert await asyncio.wait_for(publishing, 20) == PublishResult(Pattern(a=1).id, 0)
        else:
            await asyncio.to_thread(valkey.start)
            assert await asyncio.wait_for(publishing, 20) == PublishResult(Pattern(a=1).id, 0)


# ---- over HTTP


Answer = Callable[[int], bytes | None]


@asynccontextmanager
async def http_server(answer: Answer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server that reads whole requests and answers the n-th, from 1, as told; with ``None`` it hangs up."""
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                body = await reader.readexactly(int(length.split(b":")[1]))
                requests.append(head + body)
                said = answer(len(requests))
                if said is None:
                    return
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", requests
    finally:
        server.close()


def response(status: str, body: bytes, *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status.encode(), b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


QUEUED = response("200 OK", b'{"status":"queued","id":"x","nodes":1}')
AWAY = b'{"detail":"no broker","code":"unavailable"}'


async def test_a_503_is_tried_again(in_threads: bool) -> None:
    retry = response("503 Service Unavailable", AWAY, b"Retry-After: 0")
    async with http_server(lambda n: QUEUED if n == 3 else retry) as (url, requests), api(url, in_threads) as client:
        assert await client.publish({"a": 1}, 1) == PublishResult("x", 1)
        assert len(requests) == 3
    async with http_server(lambda n: retry) as (url, requests), api(url, in_threads) as client:
        with pytest.raises(ServerUnavailable, match="no broker"):
            await client.publish({"a": 1}, 1)
        assert len(requests) == 3
    unclear = response("503 Service Unavailable", AWAY)
    async with http_server(lambda n: unclear) as (url, requests), api(url, in_threads) as client:
        with pytest.raises(ServerUnavailable, match="no broker"):
            await client.publish({"a": 1}, 1)
        assert len(requests) == 3
        assert len(set(keys_of(requests))) == 1


def keys_of(requests: list[bytes]) -> list[bytes]:
    """Return the idempotency keys of requests."""
    return [request.lower().partition(b"idempotency-key: ")[2].partition(b"\r\n")[0] for request in requests]


async def test_a_server_gone_in_the_middle_is_asked_again_by_the_same_key(in_threads: bool) -> None:
    async with http_server(lambda n: None) as (url, requests), api(url, in_threads) as client:
        with pytest.raises(PublishUnclear, match="not known"):
            await client.publish({"a": 1}, 1)
        outcomes = await client.publish_many([({"a": 1}, n) for n in range(2)])
        assert [type(outcome) for outcome in outcomes] == [AnswerLost] * 2
        assert len(requests) == 6
        assert len(set(keys_of(requests[:3]))) == 1
        assert len({request.partition(b"\r\n\r\n")[2] for request in requests[3:]}) == 1
    async with http_server(lambda n: QUEUED if n == 2 else None) as (url, requests), api(url, in_threads) as client:
        assert await client.publish({"a": 1}, 1, idempotency_key="order 17") == PublishResult("x", 1)
        assert keys_of(requests) == [b"order 17"] * 2
        with pytest.raises(RequestError, match="printable"):
            await client.publish({"a": 1}, 1, idempotency_key="é")
    async with http_server(lambda n: None) as (url, requests), api(url, in_threads, retries=0) as client:
        with pytest.raises(PublishUnclear, match="not known"):
            await client.publish({"a": 1}, 1)
        assert len(requests) == 1


async def test_a_server_that_does_not_answer_is_asked_again(in_threads: bool) -> None:
    async with http_server(lambda n: b"") as (url, requests), api(url, in_threads, timeout=0.2) as client:
        with pytest.raises(ResponseTimeout, match="not known"):
            await client.publish({"a": 1}, 1)
        assert len(requests) == 3
        assert len(set(keys_of(requests))) == 1


async def test_the_request_of_a_publication(in_threads: bool) -> None:
    async with http_server(lambda n: QUEUED) as (url, requests):
        async with api(url + "prefix", in_threads, key="secret", headers={"X-More": "1"}) as client:
            await client.publish({"kind": "news"}, RawJSON(EXACT))
        head, _, body = requests[0].partition(b"\r\n\r\n")
        assert body == b'{"pattern":{"kind":"news"},"payload":' + EXACT.encode() + b"}"
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"post /prefix/ http/1.1"
        assert {b"authorization: bearer secret", b"x-more: 1", b"content-type: application/json"} <= set(lines)


async def test_the_nodes_broker_is_away(valkey: Valkey, in_threads: bool) -> None:
    async with (
        serve(Settings(port=0, redis=valkey.url, prefix="/publish", publish_timeout=0.5)) as node,
        api(node.api_url, in_threads, retries=0) as client,
    ):
        assert await client.publish({"a": 1}, 1) == PublishResult(Pattern(a=1).id, 0)
        valkey.kill()
        with pytest.raises(ServerUnavailable):
            await client.publish({"a": 1}, 1)
        outcomes = await client.publish_many([({"a": 1}, 1), ({"a": 1}, 2)])
        assert [type(outcome) for outcome in outcomes] == [ServerUnavailable] * 2
        valkey.start()


async def test_a_repetition_after_an_unclear_outcome_delivers_once(valkey: Valkey) -> None:
    pattern = Pattern(unique("unclear"))
    async with (
        serve(Settings(port=0, redis=valkey.url, publish_timeout=0.3)) as node,
        connect(node.ws_url) as client,
        APIClient(node.api_url, trust_env=False) as publisher,
    ):
        subscription = await client.subscribe(pattern)
        await publisher.publish(pattern, 1)
        valkey.pause()
        with pytest.raises(ServerUnavailable):
            await publisher.publish(pattern, 2, idempotency_key="two")
        valkey.resume()  # and it had taken it
        assert await take(subscription, 2) == [1, 2]
        again = await publisher.publish(pattern, 2, idempotency_key="two")
        assert again == PublishResult(pattern.id, 1, duplicate=True)
        await publisher.publish(pattern, 3)
        assert await take(subscription, 1) == [3]


async def test_refusals_carry_code_and_status(shared_valkey: Valkey, in_threads: bool) -> None:
    async with (
        serve(Settings(port=0, redis=shared_valkey.url, max_payload_bytes=100)) as node,
        api(node.api_url, in_threads) as client,
        api(node.api_url + "elsewhere", in_threads) as lost,
    ):
        for publisher, payload, code, status in ((client, "x" * 200, "too-large", 413), (lost, 1, "", 404)):
            with pytest.raises(Rejected) as caught:
                await publisher.publish({"a": 1}, payload)
            assert (caught.value.code, caught.value.status) == (code, status)


# ---- straight to the broker


async def test_a_broker_that_is_away_for_a_while(valkey: Valkey, in_threads: bool) -> None:
    async with broker(valkey.url, in_threads, retries=0) as publisher:
        await publisher.ping()
        assert (await publisher.publish({"a": 1}, 1)).nodes == 0
        await asyncio.to_thread(valkey.kill)
        with pytest.raises(BrokerUnavailable):
            await publisher.publish({"a": 1}, 2)
        with pytest.raises(BrokerUnavailable):
            await publisher.ping()
        await asyncio.to_thread(valkey.start)
        async with asyncio.timeout(15):
            while True:
                try:
                    await publisher.publish({"a": 1}, 3)
                    break
                except BrokerUnavailable:
                    await asyncio.sleep(0.01)


async def test_a_silent_broker_is_not_asked_again(in_threads: bool) -> None:
    arrived, gone = 0, asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal arrived
        arrived += 1
        await reader.read()  # the client's end
        writer.close()
        await writer.wait_closed()
        gone.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        url = f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with broker(url, in_threads, timeout=0.2, retries=5) as publisher:
            with pytest.raises(BrokerUnavailable):
                await publisher.publish({"a": 1}, 1)
        await gone.wait()
    assert arrived == 1


async def test_a_broker_that_does_not_answer(valkey: Valkey, in_threads: bool) -> None:
    async with broker(valkey.url, in_threads, timeout=0.3, retries=0) as publisher:
        await publisher.publish({"a": 1}, 0)
        valkey.pause()
        with pytest.raises(PublishUnclear):
            await publisher.publish({"a": 1}, 1)
        valkey.resume()


async def test_what_the_broker_refuses(valkey: Valkey, in_threads: bool) -> None:
    valkey.command("ACL", "SETUSER", "limited", "on", ">secret", "+publish", "resetchannels", "&a:*")
    url = f"unix://limited:secret@{valkey.socket}"
    async with broker(url, in_threads, wildcards=False) as publisher:
        await publisher.ping()
        outcomes = await publisher.publish_many([({"a": 1}, 1), ({"b": 1}, 1), ({"a": 2}, 1)])
        assert [type(outcome) for outcome in outcomes] == [PublishResult, BrokerRefused, PublishResult]
        with pytest.raises(BrokerRefused):
            await publisher.publish({"b": 1}, 1)
        await publisher.publish({"a": 1}, 1)
    async with broker(f"unix://limited:wrong@{valkey.socket}", in_threads) as publisher:
        with pytest.raises(BrokerRefused) as caught:
            await publisher.publish({"a": 1}, 1)
        assert "wrong@" not in str(caught.value)


async def test_a_closed_publisher_says_so(shared_valkey: Valkey, in_threads: bool) -> None:
    publisher = broker(shared_valkey.url, in_threads)
    await publisher.publish({"a": 1}, 1)
    await publisher.close()
    await publisher.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await publisher.publish({"a": 1}, 1)


def test_addresses_that_cannot_be_used() -> None:
    for make in (APIClient, sync.APIClient):
        with pytest.raises(SettingsError):
            make("ws://localhost/")
    for make_publisher in (Publisher, sync.Publisher):
        with pytest.raises(SettingsError):
            make_publisher("http://localhost/")


async def test_threads_share_a_synchronous_publisher(node: Node, shared_valkey: Valkey) -> None:
    pattern = Pattern(unique("threads"))
    async with connect(node.ws_url) as client:
        subscription = await client.subscribe(pattern)
        with sync.APIClient(node.api_url, trust_env=False) as over_http, sync.Publisher(shared_valkey.url) as straight:

            def publish(start: int) -> None:
                for n in range(start, start + 20):
                    (over_http if n % 2 else straight).publish(pattern, n)

            threads = [threading.Thread(target=publish, args=(start,)) for start in (0, 100, 200, 300)]
            for thread in threads:
                thread.start()
            got = await take(subscription, 80)
            for thread in threads:
                thread.join()
    for start in (0, 100, 200, 300):
        assert [n for n in got if start <= n < start + 100] == list(range(start, start + 20))
