"""A broker inside one process: for embedding, for examples, for tests of what stands above a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from realizehit.broker.base import BROKER, Bus, BusListener, BusState, Interest
from realizehit.errors import BrokerError, BrokerUnavailable, RegistryFull
from realizehit.pattern import is_wildcard, shape_of

_MESSAGE: Final = b"message"


class _Space:
    """What buses of one name share.

    Attributes:
        channels: the buses that are subscribed to each channel.
        shapes: the shapes of the wildcard channels among them, with how many channels have each.
    """

    def __init__(self) -> None:
        self.channels: dict[bytes, dict[MemoryBus, None]] = {}  # a dict for its order: deliveries follow subscriptions
        self.shapes: dict[bytes, int] = {}


_spaces: WeakValueDictionary[str, _Space] = WeakValueDictionary()


class MemoryBus(Bus):
    """A bus whose publications never leave the process.

    It promises what a real broker does: nothing is delivered before ``publish`` was called, nor inside the call, and
    publications of one loop turn come in one batch. All buses of one name must live on one event loop.

    Args:
        name: buses of the same name share their channels.
        max_shapes: how many shapes of wildcard subscriptions there may be; ``None`` for any number.
    """

    def __init__(self, name: str = "", *, max_shapes: int | None = None) -> None:
        self._space = _spaces.setdefault(name, _Space())
        self._max_shapes = max_shapes
        self._listener: BusListener | None = None
        self._batch: list[tuple[bytes, bytes, bytes]] = []
        self._received = 0
        self._telling = False

    @property
    def messages_received(self) -> int:
        """Publications delivered so far."""
        return self._received

    @property
    def shapes(self) -> int:
        """How many shapes of wildcard subscriptions the buses of this name have."""
        return len(self._space.shapes)

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
        """Ask for a channel, which is in force at once, unless it needs a shape that there is no room for."""
        if channel not in self._space.channels and is_wildcard(channel):
            shapes, shape = self._space.shapes, shape_of(channel)
            if self._max_shapes is not None and shape not in shapes and len(shapes) >= self._max_shapes:
                self._loop.call_soon(self._refuse, channel)
                return False
            shapes[shape] = shapes.get(shape, 0) + 1
        self._space.channels.setdefault(channel, {})[self] = None
        return True

    def _refuse(self, channel: Interest) -> None:
        if self._listener is not None and self.state is BusState.UP:
            text = f"the broker memory:// holds {self._max_shapes} shapes and has no room for another"
            self._listener.refused(channel, RegistryFull(text))

    def unsubscribe(self, channel: Interest) -> None:
        """Leave a channel."""
        buses = self._space.channels.get(channel, {})
        buses.pop(self, None)
        if not buses and self._space.channels.pop(channel, None) is not None and is_wildcard(channel):
            shape = shape_of(channel)
            self._space.shapes[shape] -= 1
            if not self._space.shapes[shape]:
                del self._space.shapes[shape]

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
