"""A broker inside one process: for embedding, for examples, for tests of what stands above a bus."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakSet, WeakValueDictionary, ref

from realizehit.broker.base import BROKER, Bus, BusListener, BusState, Interest
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.memory import MemoryLogs, labelled
from realizehit.broker.history.rules import Rules
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.presence.memory import MemoryPresence
from realizehit.broker.projections import ProjectionCounts, projections_of
from realizehit.broker.publication import Outcome, Publication, Published, published, without_trace
from realizehit.common.position import Position
from realizehit.errors import BrokerUnavailable, RegistryFull
from realizehit.pattern import is_wildcard, shape_of

_MESSAGE: Final = b"message"

MAX_KEYS: Final = 100_000
"""Idempotency keys that are remembered; past that the oldest are forgotten before their time."""


class _Space:
    """What buses of one name share.

    Attributes:
        channels: the buses that are subscribed to each channel.
        shapes: the shapes of the wildcard channels among them, with how many channels have each.
        seen: by channel and idempotency key: when that is forgotten, and what became of the publication; oldest first.
        logs: of the channels that have history.
        rules_written: whether `logs` has rules that were written, perhaps none.
        buses: those that were started.
        presence: who is subscribed to the channels that have presence.
    """

    def __init__(self) -> None:
        self.channels: dict[bytes, dict[MemoryBus, None]] = {}  # a dict for its order: deliveries follow subscriptions
        self.shapes: dict[bytes, int] = {}
        self.seen: OrderedDict[tuple[bytes, bytes], tuple[float, Published]] = OrderedDict()
        self.logs = MemoryLogs()
        self.rules_written = False
        self.buses: WeakSet[MemoryBus] = WeakSet()
        this = ref(self)  # a space ends with its last bus

        def publish(channel: bytes, payload: bytes) -> None:
            if (space := this()) is not None:
                space.send(channel, payload)

        self.presence = MemoryPresence(publish)

    def send(self, channel: bytes, payload: bytes) -> int:
        """Send a message to the buses that are subscribed; return how many these are."""
        buses = self.channels.get(channel, {})
        for bus in buses:
            bus._take(channel, payload)
        return len(buses)


_spaces: WeakValueDictionary[str, _Space] = WeakValueDictionary()


class MemoryBus(Bus):
    """A bus whose publications never leave the process.

    It promises what a real broker does: nothing is delivered before ``publish`` was called, nor inside the call, and
    publications of one loop turn come in one batch. All buses of one name must live on one event loop.

    Args:
        name: buses of the same name share their channels.
        project: whether what is published here reaches wildcard subscriptions too.
        max_shapes: how many shapes of wildcard subscriptions there may be; ``None`` for any number.
        idempotency_window: seconds for which idempotency keys are remembered, `MAX_KEYS` of them.
    """

    def __init__(
        self,
        name: str = "",
        *,
        project: bool = True,
        max_shapes: int | None = None,
        idempotency_window: float = WINDOW,
    ) -> None:
        self._window = idempotency_window
        self._project = project
        self._projected = ProjectionCounts()
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

    @property
    def followed_shapes(self) -> tuple[bytes, ...]:
        """Shapes of the wildcards that are subscribed to."""
        return tuple(self._space.shapes) if self._project else ()

    @property
    def projected(self) -> ProjectionCounts:
        """Counts projections. See `Bus.projected`."""
        return self._projected

    @property
    def rules(self) -> Rules:
        """Which patterns have history."""
        return self._space.logs.rules

    @property
    def presence(self) -> MemoryPresence:
        """Who is subscribed to the channels that have presence."""
        return self._space.presence

    async def start(self, listener: BusListener | None) -> None:
        """Become usable; there is nothing to connect to."""
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._space.buses.add(self)
        if self.on_rules is not None:
            self.on_rules(self.rules)
        self._set_state(BusState.UP)

    async def close(self) -> None:
        """Leave all channels; what was published and not delivered yet is dropped."""
        for channel in [channel for channel, buses in self._space.channels.items() if self in buses]:
            self.unsubscribe(Interest(channel))
        self._batch.clear()
        self._space.buses.discard(self)
        self._set_state(BusState.CLOSED)

    def _set_state(self, state: BusState) -> None:
        if self.state is not state:
            self.state = state
            if self._listener is not None:
                self._listener.state_changed(BROKER, state)

    def subscribe(self, channel: Interest) -> bool:
        """Ask for a channel, which is in force at once, unless the registry has no room for its shape."""
        if channel not in self._space.channels and is_wildcard(channel):
            shapes, shape = self._space.shapes, shape_of(channel)
            if self._max_shapes is not None and shape not in shapes and len(shapes) >= self._max_shapes:
                self._loop.call_soon(self._refuse, channel)
                return False
            if shape not in shapes:
                self._space.logs.end_shape(shape)
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
                self._space.logs.end_shape(shape)

    async def publish(self, publication: Publication) -> Published:
        """Publish one message to the buses that are subscribed. See `Bus.publish`."""
        return self._publish(publication)

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message, and call back: at once, or soon where a callback publishes. See `Bus.publish_soon`."""
        try:
            outcome: Outcome = self._publish(publication)
        except BrokerUnavailable as error:
            outcome = error
        if self._telling:  # a callback that publishes again would be called in ever deeper calls
            asyncio.get_running_loop().call_soon(self._tell, done, outcome)
        else:
            self._tell(done, outcome)

    def _tell(self, done: Callable[[Outcome], None], outcome: Outcome) -> None:
        self._telling = True
        try:
            done(outcome)
        finally:
            self._telling = False

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order. See `Bus.publish_many`."""
        try:
            return [self._publish(publication) for publication in publications]
        except BrokerUnavailable as error:
            return [error] * len(publications)

    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        """Return for each channel how many buses are subscribed. See `Bus.nodes`."""
        self._check_up()
        return [len(self._space.channels.get(channel, {})) for channel in channels]

    async def ping(self) -> None:
        """Check that the bus was started and is not closed."""
        self._check_up()

    def _publish(self, publication: Publication) -> Published:
        self._check_up()
        if publication.key:
            return self._publish_once(publication)
        return self._send_all(publication)

    def _publish_once(self, publication: Publication) -> Published:
        now = time.monotonic()
        seen = self._space.seen
        while seen and next(iter(seen.values()))[0] <= now:
            seen.popitem(last=False)
        name = publication.channel, publication.key
        before = seen.get(name)
        if before is not None and before[0] > now:  # one with a longer window may stand before it
            return Published(before[1].nodes, duplicate=True, at=before[1].at)
        outcome = self._send_all(publication)
        if len(seen) >= MAX_KEYS:
            seen.popitem(last=False)
        seen[name] = now + self._window, outcome
        seen.move_to_end(name)
        return outcome

    def _send_all(self, publication: Publication) -> Published:
        """Log and send a publication and its projections; return how many buses got them, and its position."""
        nodes, at = self._send(publication)
        projections = projections_of(publication, self.followed_shapes)
        if projections:
            self._projected.add(projections)
            nodes += sum(self._send(projection)[0] for projection in projections)
        return published(nodes) if at is None else Published(nodes, at=str(at))

    def _send(self, publication: Publication) -> tuple[int, Position | None]:
        channel, payload = publication.channel, publication.payload
        at = self._space.logs.append(channel, without_trace(payload))
        if at is not None:
            payload = labelled(at, payload)
        return self._space.send(channel, payload), at

    async def read_log(
        self, channel: bytes, *, after: int | None = None, last: int | None = None, most: int = 256
    ) -> LogPart:
        """Read the log of a channel. See `Bus.read_log`."""
        self._check_up()
        return self._space.logs.read(channel, after=after, last=last, most=most)

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message. See `Bus.renew_log`."""
        self._check_up()
        return self._space.logs.renew(channel, seen)

    async def remove_logs(self, rules: Rules) -> int:
        """Return 0: a log ends with its rule. See `Bus.remove_logs`."""
        self._check_up()
        return 0

    async def write_rules(self, rules: Rules, *, only_if_missing: bool = False) -> Rules | None:
        """Change which patterns have history. See `Bus.write_rules`."""
        self._check_up()
        space = self._space
        before = space.logs.rules if space.rules_written else None
        if before is None or (not only_if_missing and before.version != rules.version):
            space.rules_written = True
            space.logs.use(rules)
            for bus in list(space.buses):
                if bus.on_rules is not None:
                    bus.on_rules(rules)
        return before

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
