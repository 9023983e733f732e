"""Publish straight to the broker, without an API server in between."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

from realizehit.broker.cluster.address import SCHEMES, ClusterAddress
from realizehit.broker.cluster.publisher import ClusterPublisher
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.broker.shapes.following import FollowingPipeline
from realizehit.broker.url import Address
from realizehit.client.channels import checked_window, encode_message, publish_in_blocks, result_of
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult, RawJSON
from realizehit.client.ownership import PerLoop
from realizehit.client.publish_traces import PublishTraces, end_span
from realizehit.client.reconnect_rules import was_silent
from realizehit.common.backoff import Backoff
from realizehit.errors import BrokerError, BrokerUnavailable

__all__ = ["PublishOutcome", "PublishResult", "Publisher", "RawJSON"]

DEFAULT_URL: Final = "redis://localhost:6379"


class LineOptions(NamedTuple):
    """What a publisher was made with."""

    timeout: float
    retries: int
    wildcards: bool
    window: float


class _Connections(Protocol):
    """What publishes: a `FollowingPipeline`, or a `ClusterPublisher`."""

    async def publish(self, publication: Publication) -> Published:
        """Publish one message."""

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order."""

    async def ping(self) -> None:
        """Check that the broker answers."""


class _Line(ABC):
    """The connections of one event loop.

    Attributes:
        pipeline: publishes.
    """

    pipeline: _Connections

    @abstractmethod
    async def reach(self) -> None:
        """Connect if need be. Only this is tried again: it publishes nothing."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""


class _BrokerLine(_Line):
    """The connection to one broker.

    Attributes:
        up: whether the broker has answered on it.
    """

    def __init__(self, address: Address, options: LineOptions) -> None:
        self.up = False
        self._options = options
        self.pipeline: FollowingPipeline = FollowingPipeline(
            address,
            project=options.wildcards,
            timeout=options.timeout,
            idempotency_window=options.window,
            on_up=lambda: self._set_up(True),
            on_down=lambda: self._set_up(False),
        )

    def _set_up(self, up: bool) -> None:
        self.up = up

    async def reach(self) -> None:
        backoff = Backoff(0.1, 2.0)
        left = self._options.retries
        while not self.up:
            began = time.monotonic()
            try:
                await self.pipeline.ping()
            except BrokerUnavailable:
                if not left or was_silent(began, self._options.timeout):
                    raise
                left -= 1
                await asyncio.sleep(backoff.next())
            else:
                break

    async def close(self) -> None:
        await self.pipeline.close()


class ClusterLine(_Line):
    """The connections to a cluster, which sends again by itself what no machine has carried out."""

    def __init__(self, address: ClusterAddress, options: LineOptions) -> None:
        self._starting = asyncio.Lock()
        self._watch = TopologyWatch(address)
        self.pipeline: ClusterPublisher = ClusterPublisher(
            address,
            self._watch,
            project=options.wildcards,
            timeout=options.timeout,
            idempotency_window=options.window,
        )

    async def reach(self) -> None:
        async with self._starting:
            await self._watch.start()

    async def close(self) -> None:
        await self.pipeline.close()
        await self._watch.close()


class Publisher:
    """Publish to a Redis or Valkey that realizehit servers use.

    For example::

        async with Publisher("redis://localhost:6379") as publisher:
            await publisher.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    Each event loop and each process that uses it has one connection, in a cluster one to each primary. It is made when
    it is first needed and again after it was lost. What is published in one turn of the event loop goes out together.
    A publication that failed is not sent again. With an idempotency key the caller may do that: it is then published
    once. In a cluster a publication that no machine has carried out, since its slot moves or its primary is replaced,
    is sent again until its time is up; so is one with a key whose answer was lost.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; for a cluster ``redis+cluster://`` or ``rediss+cluster://``
            with some of its machines, such as ``redis+cluster://h1:6379,h2:6379``. With user and password, and of
            redis-py's options ``socket_connect_timeout``, ``socket_keepalive`` and those for TLS; others are refused.
        timeout: seconds until a publication fails.
        retries: how often connecting is tried again at most; in a cluster ``timeout`` alone counts.
        wildcards: whether messages reach wildcard subscriptions too. The broker's user needs further rights for that
            (docs/access.md); where they are missing, publishing is refused.
        idempotency_window: seconds for which the broker remembers an idempotency key.
        tracing: whether messages carry the trace that they belong to, the ``traceparent`` of `publish` or that of the
            current OpenTelemetry span, and have spans; see docs/tracing.md. All servers must know of traces.

    Raises:
        SettingsError: the URL or the window cannot be used.

    Reentrancy: any number of tasks may use it, of one event loop after another too.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout: float = 5.0,
        retries: int = RETRIES,
        wildcards: bool = True,
        idempotency_window: float = WINDOW,
        tracing: bool = False,
    ) -> None:
        window = checked_window(idempotency_window)
        self._closed = False
        self._traces = PublishTraces(tracing)
        options = LineOptions(timeout, retries, wildcards, window)
        if url.partition("://")[0] in SCHEMES:
            cluster = ClusterAddress(url)
            self._lines = PerLoop[_Line](lambda: ClusterLine(cluster, options))
        else:
            address = Address(url)
            self._lines = PerLoop[_Line](lambda: _BrokerLine(address, options))

    @property
    def ignored_traceparents(self) -> int:
        """How many traceparents were invalid, and so ignored."""
        return self._traces.ignored

    async def publish(
        self,
        pattern: Mapping[str, Any],
        payload: Any,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> PublishResult:
        """Publish one message.

        Args:
            pattern: a mapping of filters, or a `Pattern`, which is faster because it holds its channel.
            payload: what JSON can hold, or `RawJSON`.
            idempotency_key: 1 to 64 printable ASCII characters. Messages to one pattern with the same key are published
                once within the window. The broker's user needs further rights for that (docs/access.md).
            traceparent: the trace that the message belongs to (W3C Trace Context), for a publisher with ``tracing``; by
                default that of the current OpenTelemetry span. An invalid one is ignored and counted.

        Raises:
            PatternError: the pattern breaks a rule.
            RequestError: the payload cannot be written as JSON, the key cannot be used, or a traceparent was given
                without ``tracing``.
            BrokerUnavailable: the broker cannot be reached, or did not answer in time; as `PublishUnclear` where it
                may have taken the message.
            BrokerRefused: it answered with an error.
        """
        publication = encode_message(pattern, payload, idempotency_key)
        publication, span = self._traces.begin(publication, self._traces.parent(traceparent), pattern)
        outcomes: list[Outcome] = []
        try:
            pipeline = await self._reach()
            published = await pipeline.publish(publication)
            outcomes.append(published)
        except BrokerError as error:
            outcomes.append(error)
            raise
        finally:
            end_span(span, outcomes)
        return result_of(pattern, publication, published)

    async def publish_many(
        self, messages: Iterable[Message], *, traceparent: str | None = None
    ) -> list[PublishOutcome]:
        """Publish any number of messages in order, pipelined.

        Args:
            messages: pairs of pattern and payload, or triples with an idempotency key (or ``None``); a generator is
                read only a block ahead.
            traceparent: the trace that all of them belong to; as for `publish`. The messages of a block have one span.

        Returns:
            For each message what `publish` would have returned or raised, in the same order: one that is refused does
            not spoil the others. Once the broker cannot be reached, the rest is not sent, and its outcome is
            `BrokerUnavailable`, never `PublishUnclear`.

        Raises:
            RequestError: a traceparent was given without ``tracing``.
        """
        parent = self._traces.parent(traceparent)
        work = publish_in_blocks(messages)
        try:
            block = next(work)
            while True:
                sent, span = self._traces.begin_block(block, parent)
                replies: Sequence[Outcome] = ()
                try:
                    pipeline = await self._reach()
                    replies = await pipeline.publish_many(sent)
                except BrokerError as error:
                    replies = [error] * len(block)
                finally:
                    end_span(span, replies)
                block = work.send(replies)
        except StopIteration as done:
            outcomes: list[PublishOutcome] = done.value
            return outcomes

    async def _reach(self) -> _Connections:
        line = self._line()
        await line.reach()
        return line.pipeline

    def _line(self) -> _Line:
        if self._closed:
            raise BrokerUnavailable("the publisher is closed")
        return self._lines.get()

    async def ping(self) -> None:
        """Check that the broker answers.

        Raises:
            BrokerUnavailable: it does not.
            BrokerRefused: it refuses the login.
        """
        line = self._line()
        if isinstance(line, ClusterLine):
            await line.reach()
        await line.pipeline.ping()

    async def close(self) -> None:
        """Disconnect in this event loop; calling it again does nothing, publishing fails from here on."""
        self._closed = True
        line = self._lines.take()
        if line is not None:
            await line.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
