"""Publish straight to the broker, without an API server in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self

from realizehit.broker.idempotency import WINDOW
from realizehit.broker.shapes.following import FollowingPipeline
from realizehit.broker.url import Address
from realizehit.client.channels import checked_window, encode_message, publish_in_blocks, result_of
from realizehit.client.messages import RETRIES, Message, PublishOutcome, PublishResult, RawJSON
from realizehit.client.ownership import PerLoop
from realizehit.client.reconnect_rules import was_silent
from realizehit.common.backoff import Backoff
from realizehit.errors import BrokerError, BrokerUnavailable

__all__ = ["PublishOutcome", "PublishResult", "Publisher", "RawJSON"]

DEFAULT_URL: Final = "redis://localhost:6379"


class _Line:
    """The connection of one event loop.

    Attributes:
        up: whether the broker has answered on it.
    """

    def __init__(self, address: Address, timeout: float, wildcards: bool, window: float) -> None:
        self.up = False
        self.pipeline = FollowingPipeline(
            address,
            project=wildcards,
            timeout=timeout,
            idempotency_window=window,
            on_up=lambda: self._set_up(True),
            on_down=lambda: self._set_up(False),
        )

    def _set_up(self, up: bool) -> None:
        self.up = up


class Publisher:
    """Publish to a Redis or Valkey that realizehit servers use.

    For example::

        async with Publisher("redis://localhost:6379") as publisher:
            await publisher.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})

    Each event loop and each process that uses it has one connection, made when it is first needed and again after it
    was lost. What is published in one turn of the event loop goes out together. A publication that failed is not sent
    again. With an idempotency key the caller may do that: it is then published once.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with user and password, and of redis-py's options
            ``socket_connect_timeout``, ``socket_keepalive`` and those for TLS; others are refused.
        timeout: seconds until a publication fails.
        retries: how often connecting is tried again at most.
        wildcards: whether messages reach wildcard subscriptions too. The broker's user needs further rights for that
            (docs/access.md); where they are missing, publishing is refused.
        idempotency_window: seconds for which the broker remembers an idempotency key.

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
    ) -> None:
        window = checked_window(idempotency_window)
        self._retries = retries
        self._timeout = timeout
        self._closed = False
        address = Address(url)
        self._lines = PerLoop(lambda: _Line(address, timeout, wildcards, window))

    async def publish(
        self, pattern: Mapping[str, Any], payload: Any, *, idempotency_key: str | None = None
    ) -> PublishResult:
        """Publish one message.

        Args:
            pattern: a mapping of filters, or a `Pattern`, which is faster because it holds its channel.
            payload: what JSON can hold, or `RawJSON`.
            idempotency_key: 1 to 64 printable ASCII characters. Messages to one pattern with the same key are published
                once within the window. The broker's user needs further rights for that (docs/access.md).

        Raises:
            PatternError: the pattern breaks a rule.
            RequestError: the payload cannot be written as JSON, or the key cannot be used.
            BrokerUnavailable: the broker cannot be reached, or did not answer in time; as `PublishUnclear` where it
                may have taken the message.
            BrokerRefused: it answered with an error.
        """
        publication = encode_message(pattern, payload, idempotency_key)
        line = await self._reach()
        return result_of(pattern, publication, await line.pipeline.publish(publication))

    async def publish_many(self, messages: Iterable[Message]) -> list[PublishOutcome]:
        """Publish any number of messages in order, pipelined.

        Args:
            messages: pairs of pattern and payload, or triples with an idempotency key (or ``None``); a generator is
                read only a block ahead.

        Returns:
            For each message what `publish` would have returned or raised, in the same order: one that is refused does
            not spoil the others. Once the broker cannot be reached, the rest is not sent, and its outcome is
            `BrokerUnavailable`, never `PublishUnclear`.
        """
        work = publish_in_blocks(messages)
        try:
            block = next(work)
            while True:
                try:
                    line = await self._reach()
                    replies = await line.pipeline.publish_many(block)
                except BrokerError as error:
                    replies = [error] * len(block)
                block = work.send(replies)
        except StopIteration as done:
            outcomes: list[PublishOutcome] = done.value
            return outcomes

    async def _reach(self) -> _Line:
        """Connect if need be. Only this is tried again: it publishes nothing."""
        line = self._line()
        backoff = Backoff(0.1, 2.0)
        left = self._retries
        while not line.up:
            began = time.monotonic()
            try:
                await line.pipeline.ping()
            except BrokerUnavailable:
                if not left or was_silent(began, self._timeout):
                    raise
                left -= 1
                await asyncio.sleep(backoff.next())
            else:
                break
        return line

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
        await self._line().pipeline.ping()

    async def close(self) -> None:
        """Disconnect in this event loop; calling it again does nothing, publishing fails from here on."""
        self._closed = True
        line = self._lines.take()
        if line is not None:
            await line.pipeline.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
