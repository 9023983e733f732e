"""A broker inside one process: for embedding, for examples, for tests of what stands above a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from realizehit.broker.base import BROKER, Bus, BusListener, BusState, Interest
from realizehit.errors import BrokerError, BrokerUnavailable

_MESSAGE: Final = b"message"


class _Space:
    """The channels that buses of one name share."""

    def __init__(self) -> None:
        self.channels: dict[bytes, dict[MemoryBus, None]] = {}  # a dict for its order: deliveries follow subscriptions


_spaces: WeakValueDictionary[str, _Space] = WeakValueDictionary()


class MemoryBus(Bus):
    """A bus whose publications never leave the process.

    It promises what a real broker does: nothing is delivered before ``publish`` was called, nor inside the call, and
    publications of one loop turn come in one batch. All buses of one name must live on one event loop.

    Args:
        name: buses of the same name share their channels.
    """

    def __init__(self, name: str = "") -> None:
        self._space = _spaces.setdefault(name, _Space())
        self._listener: BusListener | None = None
        self._batch: list[tuple[bytes, bytes, bytes]] = []
        self._received = 0
        self._telling = False

    @property
    def messages_received(self) -> int:
        """Publications delivered so far."""
        return self._received

    async def start(self, listener: BusListener | None) -> None:
        """Become usable; there is nothing to connect to."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._set_state(BusState.UP)

    async def close(self) -> None:
        """Leave all channels; what was published and not delivered yet is dropped."""
        for channel in [channel for channel, buses in self._space.channels.items() if self in buses]:
            self.unsubscribe(Interest(channel))
        self._batch.clear()
        self._set_state(BusState.CLOSED)

    def _set_state(self, state: BusState) -> None:
        if self.state is not state:
            self.state = state
            if self._listener is not None:
                self._listener.state_changed(BROKER, state)

    def subscribe(self, channel: Interest) -> bool:
        """Ask for a channel, which is in force at once."""
        self._space.channels.setdefault(channel, {})[self] = None
        return True

    def unsubscribe(self, channel: Interest) -> None:
        """Leave a channel."""
        buses = self._space.channels.get(channel, {})
        buses.pop(self, None)
        if not buses:
            self._space.channels.pop(channel, None)

    async def publish(self, channel: bytes, payload: bytes) -> int:
        """Publish one message; the number of buses that are subscribed. See `Bus.publish`."""
        return self._publish(channel, payload)

    def publish_soon(self, channel: bytes, payload: bytes, done: Callable[[int | BrokerError], None]) -> None:
        """Publish one message, and tell at once; soon where who was told publishes. See `Bus.publish_soon`."""
        try:
            outcome: int | BrokerError = self._publish(channel, payload)
        except BrokerUnavailable as error:
            outcome = error
        if self._telling:  # whoever was just told publishes again, and would be told in ever deeper calls
            asyncio.get_running_loop().call_soon(self._tell, done, outcome)
        else:
            self._tell(done, outcome)

    def _tell(self, done: Callable[[int | BrokerError], None], outcome: int | BrokerError) -> None:
        self._telling = True
        try:
            done(outcome)
        finally:
            self._telling = False

    async def publish_many(self, messages: Sequence[tuple[bytes, bytes]]) -> list[int | BrokerError]:
        """Publish messages in order. See `Bus.publish_many`."""
        try:
            return [self._publish(channel, payload) for channel, payload in messages]
        except BrokerUnavailable as error:
            return [error] * len(messages)

    async def ping(self) -> None:
        """Check that the bus was started and is not closed."""
        self._check_up()

    def _publish(self, channel: bytes, payload: bytes) -> int:
        self._check_up()
        buses = self._space.channels.get(channel, {})
        for bus in buses:
            bus._take(channel, payload)
        return len(buses)

    def _check_up(self) -> None:
        if self.state is not BusState.UP:
            raise BrokerUnavailable("the broker memory:// is closed or was not started")

    def _take(self, channel: bytes, payload: bytes) -> None:
        if not self._batch:
            self._loop.call_soon(self._deliver)
        self._batch.append((_MESSAGE, channel, payload))

    def _deliver(self) -> None:
        batch, self._batch = self._batch, []
        if batch and self._listener is not None:
            self._received += len(batch)
            self._listener.deliver(batch)
