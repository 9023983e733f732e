"""This node's interest: which connections subscribe to what, and what the broker must therefore send here.

The engine's registry knows the subscribers; the bus knows what is in force at the broker. The hub joins the two: it
asks the bus for a channel when the first subscriber comes, leaves it after the last one, and keeps the subscriptions
that wait for the broker's confirmation.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterator
from typing import Final, NamedTuple

from realizehit import _fanout
from realizehit.broker.base import BROKER, Batch, Bus, BusListener, BusState, Interest, Source
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, ErrorCode, RegistryFull
from realizehit.node.events import Events
from realizehit.node.gaps import Gaps, SubscriptionKey
from realizehit.node.names import RegistryKey, interest_of, interest_of_key, key_of, key_of_interest
from realizehit.pattern import Channel, is_reserved

logger: Final = logging.getLogger(__name__)

Answer = Callable[[ErrorCode | None, str], None]
"""Told how a subscription went: no code and no text when it is in force, otherwise why not."""

_REFUSALS: Final = {
    _fanout.COLLISION: (
        ErrorCode.ID_COLLISION,
        "another pattern with the same id is subscribed to on this connection; use a second connection for this one",
    ),
    _fanout.FULL: (ErrorCode.TOO_MANY_SUBSCRIPTIONS, "this connection holds as many subscriptions as it may"),
    _fanout.GONE: (ErrorCode.UNAVAILABLE, "the connection is closing"),
}

_NO_ROOM: Final = (
    ErrorCode.TOO_MANY_SHAPES,
    "this deployment serves as many shapes of wildcard subscriptions as it may; subscribe with a shape that is in use",
)
_NOT_ALLOWED: Final = ErrorCode.FORBIDDEN, "the broker does not allow this channel"
_NOT_ALLOWED_ANY_MORE: Final = ErrorCode.FORBIDDEN, "the broker does not allow this channel any more"


class _Waiter(NamedTuple):
    conn: int
    answer: Answer
    deadline: float


class Hub(BusListener):
    """Joins the engine's registry and the bus.

    Args:
        engine: holds the connections and their subscriptions.
        bus: the broker; the hub is its listener.
        clock: seconds of a clock that never goes back.
        call_soon: has a function called in the loop's next turn.
        subscribe_timeout: seconds that a subscription may wait for the broker.
        max_subscriptions: subscriptions that a connection may hold.
        max_channels: channels that may have subscribers here, 0 for any number.
        limited: told the name of each limit that a subscription passes.
        reserved: channels with the reserved key that can be subscribed to; ``None`` for all of them.

    Attributes:
        events: sends clients what they did not ask for.
        gaps: tells them what they may have missed while the broker was away.

    Reentrancy: only the event loop's thread may use it. Callbacks may subscribe and publish.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Bus,
        *,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        subscribe_timeout: float = 5.0,
        max_subscriptions: int = 1024,
        max_channels: int = 0,
        limited: Callable[[str], None] = lambda reason: None,
        reserved: Container[bytes] | None = (),
    ) -> None:
        self.events = Events(engine)
        self.gaps = Gaps(engine, self.events, call_soon, lambda key: bus.source_of(interest_of_key(key)))
        self._engine = engine
        self._bus = bus
        self._clock = clock
        self._subscribe_timeout = subscribe_timeout
        self._max_subscriptions = max_subscriptions
        self._max_channels = max_channels
        self._limited = limited
        self._reserved = reserved
        self._was_up = False
        self._seldom = Seldom(LOG_INTERVAL)
        # Interests that the broker has yet to confirm, with the waiting subscriptions; and their deadlines in order.
        self._waiting: dict[Interest, list[_Waiter]] = {}
        self._deadlines: deque[tuple[float, Interest]] = deque()
        self._failures = Failures("answering a subscription")
        engine.on_vacant = self._vacant

    def deliver(self, batch: Batch) -> None:
        self._engine.dispatch(batch)

    def subscribe(self, conn: int, channel: Channel, answer: Answer) -> None:
        """Subscribe a connection to a channel.

        Args:
            conn: the engine's handle.
            channel: the canonical channel.
            answer: called once, now or later: when the channel is in force at the broker, so that nothing published
                from then on is missed, or when that failed. It is not called for a connection that leaves first.
        """
        key, interest = key_of(channel), interest_of(channel)
        if self._reserved is not None and is_reserved(channel) and channel not in self._reserved:
            answer(ErrorCode.FORBIDDEN, "this pattern is reserved, and not served here")
            return
        if (
            self._max_channels
            and self._engine.subscribers(key) == 0
            and self._engine.stats()["channels"] >= self._max_channels
        ):
            self._limited("too_many_channels")
            answer(ErrorCode.TOO_MANY_CHANNELS, "this server has as many channels as it may")
            return
        outcome = self._engine.subscribe(conn, key, self._max_subscriptions)
        if outcome in _REFUSALS:
            if outcome == _fanout.FULL:
                self._limited("too_many_subscriptions")
            answer(*_REFUSALS[outcome])
            return
        if outcome == _fanout.ADDED:
            self.gaps.on_subscribed(conn, key)
        waiting = self._waiting.get(interest)
        # A subscription that was answered once stays answered, also while the broker is away and others wait for it.
        if outcome == _fanout.ALREADY and all(waiter.conn != conn for waiter in waiting or ()):
            answer(None, "")
            return
        if waiting is None:
            if self._bus.subscribe(interest):
                answer(None, "")
                return
            waiting = self._waiting[interest] = []
        if outcome == _fanout.ADDED and (
            self._engine.subscribers(key) == 1 or self.gaps.is_open(self._bus.source_of(interest))
        ):
            # What still comes was sent to a subscription that has just been left: to the new one it would be the
            # beginning of a stream with a hole behind it. Connections that subscribe meanwhile wait with it. Those that
            # were there before a gap are told of all of it, so nothing is owed to them before its end either.
            self._engine.hold(key, True)
        deadline = self._clock() + self._subscribe_timeout
        waiting.append(_Waiter(conn, answer, deadline))
        self._deadlines.append((deadline, interest))

    def unsubscribe(self, conn: int, channel: Channel) -> bool:
        """Take a connection out of a channel; nothing published there reaches it any more.

        Returns:
            False when it was not subscribed.
        """
        key = key_of(channel)
        waiting = self._waiting.get(interest_of(channel))
        if waiting is not None:
            # A client that subscribes and leaves before the broker answered has missed nothing.
            own = [waiter for waiter in waiting if waiter.conn == conn]
            waiting[:] = [waiter for waiter in waiting if waiter.conn != conn]
            for waiter in own:
                waiter.answer(None, "")
        self.gaps.left(conn, key)
        return self._engine.unsubscribe(conn, key)

    def tick(self, now: float) -> None:
        """Give up the subscriptions that waited too long; to be called now and then."""
        while self._deadlines and self._deadlines[0][0] <= now:
            _, interest = self._deadlines.popleft()
            waiting = self._waiting.get(interest)
            if waiting is None or (waiting and waiting[0].deadline > now):
                continue  # the one that waits longest was just given up, with all that were as late
            # A connection that asked twice has one subscription: giving it up answers both.
            conns = {waiter.conn for waiter in waiting if waiter.deadline <= now}
            late = [waiter for waiter in waiting if waiter.conn in conns]
            waiting[:] = [waiter for waiter in waiting if waiter.conn not in conns]
            if not waiting:
                del self._waiting[interest]
            for waiter in late:
                self._refuse(waiter, interest, ErrorCode.UNAVAILABLE, "the broker cannot be reached; try again later")

    def subscribed(self, channel: Interest) -> None:
        key = key_of_interest(channel)
        self._engine.hold(key, False)
        self.gaps.allowed(key)
        for waiter in self._waiting.pop(channel, ()):
            self._answer(waiter, None, "")

    def refused(self, channel: Interest, error: BrokerError) -> None:
        key = key_of_interest(channel)
        waiting = self._waiting.pop(channel, ())
        # A connection that left while it waited is among the waiters, but not among the subscribers.
        if self._engine.subscribers(key) > len({one.conn for one in waiting if self._engine.is_open(one.conn)}):
            left_out = self._seldom.passes("refused")  # where a permission is taken away it may be every channel
            if left_out is not None:
                text = "the broker refused %s, which was in force before: %s%s"
                logger.error(text, channel.decode(), error, more(left_out))
            self.gaps.refused(key, *(_NO_ROOM if isinstance(error, RegistryFull) else _NOT_ALLOWED_ANY_MORE))
        code, text = _NO_ROOM if isinstance(error, RegistryFull) else _NOT_ALLOWED
        if waiting and code is ErrorCode.TOO_MANY_SHAPES:
            self._limited("too_many_shapes")
        for waiter in waiting:
            self._refuse(waiter, channel, code, text)

    def state_changed(self, source: Source, state: BusState) -> None:
        if source == BROKER:
            # The link logs that the broker is away, and why, and that it is back.
            logger.log(logging.DEBUG if self._was_up else logging.INFO, "broker: %s", state.value)
            self._was_up = self._was_up or state is BusState.UP
        if state is BusState.DOWN:
            self.gaps.begin(source, self._waiting_keys())

    def restored(self, source: Source, seconds: float) -> None:
        self.gaps.end(source, seconds)

    def _waiting_keys(self) -> Iterator[SubscriptionKey]:
        for interest, waiting in self._waiting.items():
            for waiter in waiting:
                yield waiter.conn, key_of_interest(interest)

    def _refuse(self, waiter: _Waiter, interest: Interest, code: ErrorCode, text: str) -> None:
        key = key_of_interest(interest)
        self.gaps.left(waiter.conn, key)
        self._engine.unsubscribe(waiter.conn, key)
        self._answer(waiter, code, text)

    def _answer(self, waiter: _Waiter, code: ErrorCode | None, text: str) -> None:
        if not self._engine.is_open(waiter.conn):
            return
        try:
            waiter.answer(code, text)
        except Exception as error:  # noqa: BLE001 - the others wait for their answers too
            self._failures.note(error)

    def _vacant(self, key: bytes) -> None:
        # Called between two turns of the engine: a connection may have subscribed meanwhile.
        if self._engine.subscribers(key) == 0:
            interest = interest_of_key(key)
            for waiter in self._waiting.pop(interest, ()):
                self.gaps.left(waiter.conn, RegistryKey(key))
            self._bus.unsubscribe(interest)
