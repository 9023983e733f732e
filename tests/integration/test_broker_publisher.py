"""The publishing connection on a real Valkey, and against peers that break off or talk nonsense."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from realizehit.broker.chunks import CHUNK_MESSAGES, CHUNKS
from realizehit.broker.publication import Publication, Published
from realizehit.broker.publisher import WINDOW_MESSAGES, Pipeline
from realizehit.broker.shapes.following import FollowingPipeline
from realizehit.broker.url import Address
from realizehit.errors import BrokerRefused, BrokerUnavailable, BrokerUnclear, PublishUnclear
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def pipeline_to(
    url: str, seconds: float = 10.0, kind: type[Pipeline] = Pipeline, **options: float
) -> AsyncIterator[tuple[Pipeline, list[str]]]:
    events: list[str] = []
    pipeline = kind(
        Address(url),
        timeout=seconds,
        on_up=lambda: events.append("up"),
        on_down=lambda: events.append("down"),
        **options,  # type: ignore[arg-type]
    )
    try:
        yield pipeline, events
    finally:
        await pipeline.close()


@asynccontextmanager
async def peer(talk: Talk) -> AsyncIterator[str]:
    """A server that speaks as it is told, on a socket of its own; what it is told ends with the connection."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await talk(reader, writer)
        finally:
            connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.sleep(0)  # what was accepted just now begins, so that it also closes
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer CLIENT SETNAME and PING."""
    await reader.readuntil(b"PING\r\n")
    writer.write(b"+OK\r\n+PONG\r\n")


async def read_publish(reader: asyncio.StreamReader) -> bytes:
    """Read one PUBLISH of a payload without line ends; the payload."""
    lines = [await reader.readuntil(b"\r\n") for _ in range(7)]
    assert lines[2] == b"PUBLISH\r\n"
    return lines[6].strip()


async def test_single_messages_and_batches_keep_their_order(valkey: Valkey) -> None:
    async with pipeline_to(valkey.url) as (pipeline, events):
        results = tuple(
            await asyncio.gather(
                pipeline.publish(Publication(b"a", b"0")),
                pipeline.publish_many([Publication(b"a", b"%d" % number) for number in range(3 * CHUNK_MESSAGES)]),
                pipeline.publish(Publication(b"b", b"1")),
            )
        )
        assert results == (Published(0), [Published(0)] * (3 * CHUNK_MESSAGES), Published(0))
        assert events == ["up"]
        assert pipeline.connects == 1
        assert valkey.calls("publish") == 3 * CHUNK_MESSAGES + 2
        assert [client["name"] for client in valkey.clients() if client["name"]] == ["realizehit-publisher"]


async def test_outcomes_come_in_order_even_if_a_callback_raises(valkey: Valkey) -> None:
    loop = asyncio.get_running_loop()
    failures: list[str] = []
    loop.set_exception_handler(lambda _, context: failures.append(str(context["exception"])))
    told: list[object] = []
    last: asyncio.Future[None] = loop.create_future()

    def done(name: object, outcome: object) -> None:
        told.append((name, outcome))
        if name == 3:
            last.set_result(None)
        if name == 1:
            raise ValueError("the teller failed")

    try:
        async with pipeline_to(valkey.url) as (pipeline, _):
            for name in range(1, 4):
                pipeline.publish_soon(Publication(b"told", b"%d" % name), partial(done, name))
            await asyncio.wait_for(last, 10)
            assert await pipeline.publish(Publication(b"told", b"4")) == Published(0)
        pipeline.publish_soon(Publication(b"told", b"5"), partial(done, 5))
        await asyncio.sleep(0)
        assert told[:3] == [(1, Published(0)), (2, Published(0)), (3, Published(0))]
        assert isinstance(told[3][1], BrokerUnavailable)  # type: ignore[index]
        assert failures == ["the teller failed"]
    finally:
        loop.set_exception_handler(None)


async def test_more_than_the_window_holds(valkey: Valkey) -> None:
    async with pipeline_to(valkey.url, seconds=60) as (pipeline, _):
        count = 2 * WINDOW_MESSAGES + 100
        singles = [pipeline.publish(Publication(b"a", b"x")) for _ in range(count)]
        large = pipeline.publish_many([Publication(b"b", b"y" * 300_000)] * 50)
        outcomes = await asyncio.gather(*singles, large)
        assert outcomes[:-1] == [Published(0)] * count
        assert outcomes[-1] == [Published(0)] * 50
        assert valkey.calls("publish") == count + 50


async def test_an_unclear_outcome_is_an_error_without_retry() -> None:
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await log_in(reader, writer)
        for reply in (b":1\r\n", b""):
            seen.append(await read_publish(reader))
            writer.write(reply)
        await writer.drain()

    async with peer(talk) as url, pipeline_to(url) as (pipeline, events):
        outcomes = await asyncio.gather(
            *(pipeline.publish(Publication(b"a", b"first-%d" % number)) for number in range(3)), return_exceptions=True
        )
        assert outcomes[0] == Published(1)
        for outcome in outcomes[1:]:
            assert isinstance(outcome, PublishUnclear)
            assert "closed the connection; it may have taken the message" in str(outcome)
        assert events == ["up", "down"]
        # The next one goes over a new connection, and alone.
        assert await pipeline.publish(Publication(b"a", b"second")) == Published(1)
        assert seen == [b"first-0", b"first-1", b"second"]
        assert pipeline.connects == 2


async def test_a_batch_that_is_cut_off_is_not_continued() -> None:
    seen: list[bytes] = []
    over = asyncio.Event()
    count = 20 * CHUNK_MESSAGES
    answered = CHUNK_MESSAGES + 100  # in the middle of a chunk

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await log_in(reader, writer)
        for _ in range(answered):
            seen.append(await read_publish(reader))
            writer.write(b":1\r\n")
        writer.write_eof()
        with pytest.raises(asyncio.IncompleteReadError):
            while True:  # what was under way
                seen.append(await read_publish(reader))
        over.set()

    async with peer(talk) as url, pipeline_to(url) as (pipeline, _):
        outcomes = await pipeline.publish_many([Publication(b"a", b"%d" % number) for number in range(count)])
        assert len(outcomes) == count
        assert outcomes[:answered] == [Published(1)] * answered
        await over.wait()
        assert seen == [b"%d" % number for number in range(len(seen))]
        assert answered < len(seen) <= (CHUNKS + 1) * CHUNK_MESSAGES
        # What was written may have been taken, what was not was not: each is told so.
        kinds = [type(outcome) for outcome in outcomes[answered:]]
        unclear = kinds.count(BrokerUnclear)
        assert kinds == [BrokerUnclear] * unclear + [BrokerUnavailable] * (len(kinds) - unclear)
        assert len(seen) <= answered + unclear <= (CHUNKS + 1) * CHUNK_MESSAGES
        assert pipeline.connects == 1


async def test_an_error_in_the_middle_concerns_one_message() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await log_in(reader, writer)
        for reply in (b":1\r\n", b"-NOPERM no\r\n", b"-READONLY later\r\n", b"+QUEUED\r\n", b":2\r\n"):
            await read_publish(reader)
            writer.write(reply)
        await reader.read()

    async with peer(talk) as url, pipeline_to(url) as (pipeline, events):
        first, refused, later, odd, last = await pipeline.publish_many([Publication(b"a", b"x")] * 5)
        assert (first, last) == (Published(1), Published(2))
        assert isinstance(refused, BrokerRefused)
        assert "NOPERM no" in str(refused)
        assert isinstance(later, BrokerUnavailable)
        assert isinstance(odd, BrokerRefused)
        assert "QUEUED" in str(odd)
        assert events == ["up"]


async def test_a_silent_broker_is_given_up_and_tried_again(valkey: Valkey) -> None:
    async with pipeline_to(valkey.url, seconds=0.3) as (pipeline, events):
        assert await pipeline.publish(Publication(b"a", b"1")) == Published(0)
        valkey.pause()
        try:
            with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.3 seconds"):
                await pipeline.publish(Publication(b"a", b"2"))
            assert events[:2] == ["up", "down"]
            with pytest.raises(BrokerUnavailable, match="no answer"):
                await pipeline.ping()
        finally:
            valkey.resume()
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await pipeline.publish(Publication(b"a", b"3")) == Published(0)
                    break
                except BrokerUnavailable:
                    pass
        assert events[-1] == "up"
        assert pipeline.connects > 1
        # "2" stood in the socket when the broker went on; it was not sent a second time.
        assert valkey.calls("publish") <= 3 + pipeline.connects


QUICK = {"probe_after": 0.05, "probe_timeout": 0.2}


@pytest.mark.parametrize("kind", [Pipeline, FollowingPipeline])
async def test_an_idle_connection_dropped_by_a_router_loses_no_message(valkey: Valkey, kind: type[Pipeline]) -> None:
    async with Proxy(valkey.socket) as proxy, pipeline_to(proxy.url, 60, kind, **QUICK) as (pipeline, events):
        assert await pipeline.publish(Publication(b"a", b"1")) == Published(0)
        proxy.forget()
        # Long before the time of a publication is up there is a new connection, though nothing was published.
        async with asyncio.timeout(20):
            while pipeline.connects < 2:
                await asyncio.sleep(0.01)
        assert await pipeline.publish(Publication(b"a", b"2")) == Published(0)
        assert set(events) == {"up"}  # the broker was never away
        assert valkey.calls("publish") == 2


@pytest.mark.parametrize("kind", [Pipeline, FollowingPipeline])
async def test_publications_during_an_unanswered_probe_use_the_next_connection(
    valkey: Valkey, kind: type[Pipeline]
) -> None:
    async with Proxy(valkey.socket) as proxy, pipeline_to(proxy.url, 60, kind, **QUICK) as (pipeline, _):
        assert await pipeline.publish(Publication(b"a", b"1")) == Published(0)
        proxy.forget()
        async with asyncio.timeout(20):
            while pipeline._probe.under_way is None:
                await asyncio.sleep(0.001)
        one, many = await asyncio.gather(
            pipeline.publish(Publication(b"a", b"2")),
            pipeline.publish_many([Publication(b"a", b"%d" % n) for n in range(3, 10)]),
        )
        assert one == Published(0)
        assert many == [Published(0)] * 7
        assert pipeline.connects == 2
        assert valkey.calls("publish") == 9  # each once


@pytest.mark.parametrize("kind", [Pipeline, FollowingPipeline])
async def test_publications_during_a_reset_probe_use_the_next_connection(valkey: Valkey, kind: type[Pipeline]) -> None:
    async with Proxy(valkey.socket) as proxy, pipeline_to(proxy.url, 60, kind, **QUICK) as (pipeline, events):
        assert await pipeline.publish(Publication(b"a", b"1")) == Published(0)
        proxy.forget()
        async with asyncio.timeout(20):
            while pipeline._probe.under_way is None:
                await asyncio.sleep(0.001)
        publishing = asyncio.create_task(pipeline.publish(Publication(b"a", b"2")))
        await asyncio.sleep(0)
        await proxy.cut()
        assert await publishing == Published(0)
        assert set(events) == {"up"}
        assert valkey.calls("publish") == 2


@pytest.mark.parametrize("kind", [Pipeline, FollowingPipeline])
async def test_an_idle_connection_to_a_broker_that_answers_stays(valkey: Valkey, kind: type[Pipeline]) -> None:
    async with pipeline_to(valkey.url, 60, kind, **QUICK) as (pipeline, events):
        assert await pipeline.publish(Publication(b"a", b"1")) == Published(0)
        before = valkey.calls("ping")
        async with asyncio.timeout(20):
            while valkey.calls("ping") < before + 5:
                await asyncio.sleep(0.02)
        assert await pipeline.publish(Publication(b"a", b"2")) == Published(0)
        assert pipeline.connects == 1
        assert events == ["up"]


@pytest.mark.parametrize("kind", [Pipeline, FollowingPipeline])
async def test_an_idle_connection_to_a_broker_that_is_gone_is_noticed(valkey: Valkey, kind: type[Pipeline]) -> None:
    async with Proxy(valkey.socket) as proxy, pipeline_to(proxy.url, 0.5, kind, **QUICK) as (pipeline, events):
        assert await pipeline.publish(Publication(b"a", b"1")) == Published(0)
        proxy.swallow = True
        async with asyncio.timeout(20):
            while events[-1] != "down":
                await asyncio.sleep(0.01)
        proxy.swallow = False
        assert await pipeline.publish(Publication(b"a", b"2")) == Published(0)
        assert events[-1] == "up"


async def test_a_publication_cancelled_before_sending_is_not_published() -> None:
    seen: list[bytes] = []
    let_in = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await let_in.wait()
        await log_in(reader, writer)
        seen.append(await read_publish(reader))
        writer.write(b":0\r\n")
        await reader.read()

    async with peer(talk) as url, pipeline_to(url) as (pipeline, _):
        tasks = [
            asyncio.create_task(pipeline.publish(Publication(b"a", b"given-up"))),
            asyncio.create_task(pipeline.publish_many([Publication(b"a", b"given-up-too")] * 3 * CHUNK_MESSAGES)),
        ]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        let_in.set()
        assert await pipeline.publish(Publication(b"a", b"wanted")) == Published(0)
        assert seen == [b"wanted"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak RESP"),
        (b"%1\r\n*1\r\n:1\r\n:2\r\n", "does not speak RESP"),
        (b"+OK\r\n+PONG\r\n:1\r\n", "nothing asked for: 1"),
        (b"", "closed the connection"),
        (b"-LOADING busy\r\n-LOADING busy\r\n", "LOADING busy"),
        (b"-ERR max number of clients reached\r\n", "closed the connection"),
    ],
)
async def test_a_peer_that_is_not_a_broker(answer: bytes, text: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n")
        writer.write(answer)
        if answer.startswith(b"+OK"):
            await reader.read()

    async with peer(talk) as url, pipeline_to(url, seconds=5) as (pipeline, events):
        with pytest.raises(BrokerUnavailable, match=text):
            while True:  # a reply too many may arrive after the first answer
                await pipeline.publish(Publication(b"a", b"1"))
        assert "down" in events


async def test_closed_is_closed(valkey: Valkey) -> None:
    async with pipeline_to(valkey.url) as (pipeline, _):
        waiting = asyncio.create_task(pipeline.publish(Publication(b"a", b"1")))
        await asyncio.sleep(0)
        await pipeline.close()
        with pytest.raises(BrokerUnavailable, match="this side is closed"):
            await waiting
        outcomes = await pipeline.publish_many([Publication(b"a", b"1")] * 2)
        assert [type(outcome) for outcome in outcomes] == [BrokerUnavailable] * 2
        with pytest.raises(BrokerUnavailable, match="this side is closed"):
            await pipeline.ping()
    assert valkey.calls("publish") == 0


class Republisher:
    """Publishes again each time that it is told of an outcome, until it was told so many times."""

    def __init__(self, pipeline: Pipeline, times: int) -> None:
        self.outcomes: list[object] = []
        self.finished = asyncio.Event()
        self._pipeline = pipeline
        self._times = times

    def publish(self) -> None:
        self._pipeline.publish_soon(Publication(b"again", b"x"), self._told)

    def _told(self, outcome: object) -> None:
        self.outcomes.append(outcome)
        if len(self.outcomes) < self._times:
            self.publish()
        else:
            self.finished.set()

    async def result(self) -> list[object]:
        await asyncio.wait_for(self.finished.wait(), 20)
        return self.outcomes


async def test_an_outcome_callback_may_publish(valkey: Valkey) -> None:
    async with pipeline_to(valkey.url) as (pipeline, _):
        one = Republisher(pipeline, 3000)
        one.publish()
        assert await one.result() == [Published(0)] * 3000


async def test_the_connection_lost_callback_may_publish() -> None:
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await log_in(reader, writer)
        await read_publish(reader)
        if connections > 1:  # the first one breaks off
            while True:
                writer.write(b":7\r\n")
                await read_publish(reader)

    async with peer(talk) as url, pipeline_to(url) as (pipeline, _):
        many = [Republisher(pipeline, 2) for _ in range(5)]
        for one in many:
            one.publish()
        for one in many:
            failure, outcome = await one.result()
            assert isinstance(failure, PublishUnclear)
            assert outcome == Published(7)
        assert connections == 2


async def test_the_subscribe_timeout_callback_may_publish() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await log_in(reader, writer)
        await reader.read()

    async with peer(talk) as url, pipeline_to(url, 0.2) as (pipeline, _):
        many = [Republisher(pipeline, 3) for _ in range(5)]
        for one in many:
            one.publish()
        for one in many:
            assert [isinstance(outcome, BrokerUnavailable) for outcome in await one.result()] == [True] * 3


async def test_the_unreachable_callback_may_publish() -> None:
    async with peer(log_in) as url:
        pass  # nobody listens there any more
    async with pipeline_to(url) as (pipeline, _):
        many = [Republisher(pipeline, 3) for _ in range(5)]
        for one in many:
            one.publish()
        for one in many:
            assert [isinstance(outcome, BrokerUnavailable) for outcome in await one.result()] == [True] * 3


async def test_the_closed_callback_may_publish(valkey: Valkey) -> None:
    async with pipeline_to(valkey.url) as (pipeline, _):
        assert await pipeline.publish(Publication(b"a", b"0")) == Published(0)
        before = Republisher(pipeline, 2000)
        before.publish()  # is under way when the pipeline is closed
    after = Republisher(pipeline, 2000)
    after.publish()
    for outcomes in (await before.result(), await after.result()):
        assert len(outcomes) == 2000
        assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
