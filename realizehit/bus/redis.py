"""Redis and Valkey: publishing through redis-py in pipelines, subscribing through a `Link`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import redis.exceptions as errors
from redis.asyncio import Redis

from realizehit.address import Address
from realizehit.bus.base import Bus, BusListener, BusState
from realizehit.bus.connection import TRANSIENT, code_of
from realizehit.bus.link import Link, LinkSettings
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable

PIPELINE_MESSAGES: Final = 512
PIPELINE_BYTES: Final = 1 << 20  # of payload; one message may be larger
BATCHES_IN_FLIGHT: Final = 4  # pipelines of `publish_many`, besides the one of `publish`

_AWAY: Final = (
    errors.ConnectionError,
    errors.TimeoutError,
    errors.ReadOnlyError,
    errors.ClusterDownError,
    errors.MasterDownError,
    errors.TryAgainError,
    OSError,
)

_Outcome = int | BrokerError
_Waiting = tuple[bytes, bytes, asyncio.Future[int]]


class _Reports:
    """The listener of a bus's link: keeps the bus's own state, and passes the rest straight on."""

    def __init__(self, bus: RedisBus, listener: BusListener) -> None:
        self._bus = bus
        self._listener = listener
        self.deliver = listener.deliver
        self.subscribed = listener.subscribed
        self.refused = listener.refused

    def state_changed(self, state: BusState) -> None:
        """Take over the link's state."""
        self._bus.take_state(state)
        self._listener.state_changed(state)


class RedisBus(Bus):
    """A Redis 6.2+ or Valkey server as the broker.

    Concurrent `publish` calls are joined into one pipeline, and one such pipeline is in flight at a time: that keeps
    the order of the calls, and the busier the process the larger the pipelines.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        publish_timeout: seconds until a publish fails.
        client_name: how the subscriber connection is called in the broker's ``CLIENT LIST``.
        link: times of the subscriber connection.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        publish_timeout: float = 5.0,
        client_name: str = "realizehit",
        link: LinkSettings | None = None,
    ) -> None:
        self._address = Address(url)
        self._publish_timeout = publish_timeout
        self._client_name = client_name
        self._link_settings = link
        self._link: Link | None = None
        self._redis: Redis | None = None
        self._waiting: deque[_Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._batches = asyncio.Semaphore(BATCHES_IN_FLIGHT)

    @property
    def messages_received(self) -> int:
        """Publications that arrived so far."""
        return self._link.messages_received if self._link else 0

    @property
    def bytes_received(self) -> int:
        """Bytes that the subscriber connection read so far."""
        return self._link.bytes_received if self._link else 0

    # ---- life

    async def start(self, listener: BusListener | None) -> None:
        """Connect. See `Bus.start`."""
        self._redis = Redis(connection_pool=self._address.pool())
        try:
            if listener is not None:
                self._link = Link(
                    self._address,
                    _Reports(self, listener),
                    client_name=self._client_name,
                    settings=self._link_settings,
                )
                await self._link.start()
            else:
                with contextlib.suppress(BrokerUnavailable):  # merely away; `ping` noted the state
                    await self.ping()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Leave the broker. See `Bus.close`."""
        client, self._redis = self._redis, None
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})
        if self._link is not None:
            await self._link.close()
        if client is not None:
            await client.connection_pool.aclose()
        self.state = BusState.CLOSED

    def take_state(self, state: BusState) -> None:
        """Take what the link, or without one the last publication, showed of the broker."""
        if self.state is not BusState.CLOSED:
            self.state = state
        if self._link is not None:
            self.reconnects = self._link.reconnects

    # ---- subscribing

    def subscribe(self, channel: bytes) -> bool:
        """Ask for a channel. See `Bus.subscribe`."""
        return self._subscriber().subscribe(channel)

    def unsubscribe(self, channel: bytes) -> None:
        """Leave a channel. See `Bus.unsubscribe`."""
        self._subscriber().unsubscribe(channel)

    def _subscriber(self) -> Link:
        if self._link is None:
            raise RuntimeError("this bus was started without a listener, so it cannot subscribe")
        return self._link

    # ---- publishing

    async def publish(self, channel: bytes, payload: bytes) -> int:
        """Publish one message. See `Bus.publish`.

        Cost: a future and a timer; the pipeline is shared with whoever publishes in the same loop turn.
        """
        if self._redis is None:
            raise self._closed()
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[int] = loop.create_future()
        self._waiting.append((channel, payload, outcome))
        if self._sender is None:
            self._sender = loop.create_task(self._send_waiting(), name="realizehit publisher")
        try:
            async with asyncio.timeout(self._publish_timeout):
                return await outcome
        except TimeoutError:
            raise self._late() from None

    async def _send_waiting(self) -> None:
        """Send what waits, pipeline after pipeline, until nothing does."""
        batch: list[_Waiting] = []
        try:
            while self._waiting:
                batch.clear()
                size = 0
                while self._waiting and len(batch) < PIPELINE_MESSAGES and size < PIPELINE_BYTES:
                    message = self._waiting.popleft()
                    if not message[2].done():  # its publisher gave up before it was sent
                        batch.append(message)
                        size += len(message[1])
                outcomes = await self._pipeline([message[:2] for message in batch])
                for (_, _, future), outcome in zip(batch, outcomes, strict=True):
                    _settle(future, outcome)
        finally:
            self._sender = None
            for _, _, future in (*batch, *self._waiting):
                _settle(future, self._closed())
            self._waiting.clear()

    async def publish_many(self, messages: Sequence[tuple[bytes, bytes]]) -> list[_Outcome]:
        """Publish messages in order. See `Bus.publish_many`.

        Each pipeline has ``publish_timeout``. Where one fails as a whole, what follows it is not sent.
        """
        outcomes: list[_Outcome] = []
        while len(outcomes) < len(messages):
            end = start = len(outcomes)
            size = 0
            while end < len(messages) and end - start < PIPELINE_MESSAGES and size < PIPELINE_BYTES:
                size += len(messages[end][1])
                end += 1
            try:
                async with asyncio.timeout(self._publish_timeout):
                    await self._batches.acquire()
            except TimeoutError:
                outcomes += [self._late()] * (len(messages) - start)
                break
            try:
                chunk = await self._pipeline(messages[start:end])
            finally:
                self._batches.release()
            outcomes += chunk
            if isinstance(chunk[0], BrokerUnavailable) and all(outcome is chunk[0] for outcome in chunk):
                outcomes += [chunk[0]] * (len(messages) - end)
        return outcomes

    async def _pipeline(self, messages: Sequence[tuple[bytes, bytes]]) -> list[_Outcome]:
        """Send one pipeline. A failure of the whole is one error object, the outcome of each message."""
        failure: BrokerError
        if self._redis is None:
            return [self._closed()] * len(messages)
        try:
            async with asyncio.timeout(self._publish_timeout), self._redis.pipeline(transaction=False) as pipeline:
                for channel, payload in messages:
                    pipeline.execute_command("PUBLISH", channel, payload)
                replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except TimeoutError:
            failure = self._late()
        except (errors.RedisError, OSError) as error:
            failure = self._translated(error)
        else:
            self._note(BusState.UP)
            return [self._translated(reply) if isinstance(reply, Exception) else reply for reply in replies]
        self._note(BusState.DOWN)
        return [failure] * len(messages)

    async def ping(self) -> None:
        """Check that the broker answers. See `Bus.ping`."""
        if self._redis is None:
            raise self._closed()
        try:
            async with asyncio.timeout(self._publish_timeout):
                await self._redis.ping()
        except errors.NoPermissionError:
            pass  # an answer all the same
        except TimeoutError:
            self._note(BusState.DOWN)
            raise self._late() from None
        except (errors.RedisError, OSError) as error:
            self._note(BusState.DOWN)
            raise self._translated(error) from None
        self._note(BusState.UP)

    # ---- what failures mean

    def _note(self, state: BusState) -> None:
        if self._link is None:
            self.take_state(state)

    def _translated(self, error: Exception) -> BrokerError:
        text = self._address.scrub(str(error) or type(error).__name__)
        refused = isinstance(error, errors.AuthenticationError | errors.AuthorizationError)
        if not refused and (isinstance(error, _AWAY) or code_of(text) in TRANSIENT):
            return BrokerUnavailable(f"broker {self._address}: {text}")
        return BrokerRefused(f"broker {self._address} refused: {text}")

    def _late(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"broker {self._address}: no answer within {self._publish_timeout:g} seconds")

    def _closed(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"broker {self._address}: this side is closed or was not started")


def _settle(future: asyncio.Future[int], outcome: _Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, BrokerError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
