"""Publish straight to the broker, for programs without an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from realizehit.broker.cluster.address import SCHEMES
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.publication import Outcome
from realizehit.client.channels import Block, checked_window, encode_message, publish_in_blocks, result_of
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult
from realizehit.client.publish_traces import PublishTraces, end_span
from realizehit.client.publisher import DEFAULT_URL
from realizehit.client.sync_cluster import ClusterSender
from realizehit.client.sync_sender import BrokerSender
from realizehit.common.spans import PublishSpan
from realizehit.errors import BrokerError


class _Sender(Protocol):
    """What publishes."""

    def exchange(self, block: Block) -> Sequence[Outcome]:
        """Publish messages in order, and return the outcome of each."""

    def ping(self) -> None:
        """Check that the broker answers."""

    def close(self) -> None:
        """Disconnect."""


class Publisher:
    """Publish to a Redis or Valkey that realizehit servers use; see `realizehit.Publisher`.

    For example::

        with Publisher("redis://localhost:6379") as publisher:
            publisher.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    Each thread that publishes at the same time has a connection of its own, from one pool. To a cluster, all threads
    publish through one thread with an event loop, which the first publication starts.

    Args:
        url: as `realizehit.Publisher`.
        timeout: seconds without progress until a publication fails.
        retries: how often connecting is tried again at most; in a cluster ``timeout`` alone counts. A publication is
            tried again only in a cluster, as `realizehit.Publisher` says.
        wildcards: whether messages reach wildcard subscriptions too; as `realizehit.Publisher`.
        idempotency_window: seconds for which the broker remembers an idempotency key.
        tracing: whether messages carry the trace that they belong to; as `realizehit.Publisher`.

    Raises:
        SettingsError: the URL or the window cannot be used.
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
        kind = ClusterSender if url.partition("://")[0] in SCHEMES else BrokerSender
        self._traces = PublishTraces(tracing)
        self._sender: _Sender = kind(url, timeout=timeout, retries=retries, wildcards=wildcards, window=window)

    @property
    def ignored_traceparents(self) -> int:
        """How many traceparents were invalid, and so ignored."""
        return self._traces.ignored

    def publish(
        self,
        pattern: Mapping[str, Any],
        payload: Any,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> PublishResult:
        """Publish one message; arguments, result and errors as `realizehit.Publisher.publish`."""
        publication = encode_message(pattern, payload, idempotency_key)
        publication, span = self._traces.begin(publication, self._traces.parent(traceparent), pattern)
        (outcome,) = self._exchange([publication], span)
        if isinstance(outcome, BrokerError):
            raise outcome
        return result_of(pattern, publication, outcome)

    def publish_many(self, messages: Iterable[Message], *, traceparent: str | None = None) -> list[PublishOutcome]:
        """Publish any number of messages in order, pipelined; as `realizehit.Publisher.publish_many`."""
        parent = self._traces.parent(traceparent)
        work = publish_in_blocks(messages)
        try:
            block = next(work)
            while True:
                block = work.send(self._exchange(*self._traces.begin_block(block, parent)))
        except StopIteration as done:
            outcomes: list[PublishOutcome] = done.value
            return outcomes

    def _exchange(self, block: Block, span: PublishSpan | None) -> Sequence[Outcome]:
        outcomes: Sequence[Outcome] = ()
        try:
            outcomes = self._sender.exchange(block)
        finally:
            end_span(span, outcomes)
        return outcomes

    def ping(self) -> None:
        """Check that the broker answers; in a cluster, that all primaries do.

        Raises:
            BrokerUnavailable: it does not.
            BrokerRefused: it refuses the login.
        """
        self._sender.ping()

    def close(self) -> None:
        """Disconnect; calling it again does nothing, publishing fails from here on."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
