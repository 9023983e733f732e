"""This node's interest: which connections subscribe to what, and what the broker must therefore send here.

The engine's registry knows the subscribers; the bus knows what is in force at the broker. The hub joins the two: it
asks the bus for a channel when the first subscriber comes, and leaves it after the last one. `pending` keeps the
subscriptions that wait for the broker's confirmation, and `logs` decides where those to channels with history begin.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Container, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from realizehit import _fanout
from realizehit.broker.base import BROKER, Batch, Bus, BusListener, BusState, Interest, Source
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.common.tasks import Tasks
from realizehit.errors import BrokerError, ErrorCode, RegistryFull
from realizehit.node.conflation import WindowTimer
from realizehit.node.events import Events
from realizehit.node.gaps import Gaps
from realizehit.node.history_request import PLAIN, HistoryRequest, Started
from realizehit.node.logs import Logs
from realizehit.node.names import RegistryKey, interest_of, interest_of_key, key_of, key_of_interest
from realizehit.node.pending import Pending
from realizehit.node.presence import Presence
from realizehit.node.waiting import Answer, FirstAnswer, Waiter
from realizehit.pattern import Channel, is_reserved

if TYPE_CHECKING:
    from realizehit.node.waiting import TellFirst

logger: Final = logging.getLogger(__name__)

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
_HAS_POSITIONS: Final = "every cannot be given to a subscription with positions; send unsub before this sub"
_NOT_ALLOWED: Final = ErrorCode.FORBIDDEN, "the broker does not allow this channel"
_NOT_ALLOWED_ANY_MORE: Final = ErrorCode.FORBIDDEN, "the broker does not allow this channel any more"


class Hub(BusListener):
    """Joins the engine's registry and the bus.

    Args:
        engine: holds the connections and their subscriptions.
        bus: the broker; the hub is its listener.
        clock: seconds of a clock that never goes back.
        call_soon: has a function called in the loop's next turn.
        call_later: has a function called after some seconds. Without it the engine's ``tick`` must send what is kept
            for subscriptions with ``every``, in its coarser steps.
        subscribe_timeout: seconds that a subscription may wait for the broker.
        max_subscriptions: subscriptions that a connection may hold.
        max_channels: channels that may have subscribers here, 0 for any number.
        limited: told the name of each limit that a subscription passes.
        reserved: channels with the reserved key that can be subscribed to; ``None`` for all of them.
        run: runs a coroutine to its end; by default as a task of the event loop.
        history: whether the channels that the bus has rules for have logs here.
        presence: knows who is subscribed to the channels that have presence.

    Attributes:
        events: sends clients what they did not ask for.
        gaps: tells them what they may have missed while the broker was away.
        logs: the logs of the channels with history.

    Reentrancy: only the event loop's thread may use it. Callbacks may subscribe and publish.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Bus,
        *,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        call_later: Callable[[float, Callable[[], None]], object] | None = None,
        subscribe_timeout: float = 5.0,
        max_subscriptions: int = 1024,
        max_channels: int = 0,
        limited: Callable[[str], None] = lambda reason: None,
        reserved: Container[bytes] | None = (),
        run: Callable[[Coroutine[Any, Any, None]], object] | None = None,
        history: bool = True,
        presence: Presence | None = None,
    ) -> None:
        self.events = Events(engine)
        self.gaps = Gaps(engine, self.events, call_soon, lambda key: bus.source_of(interest_of_key(key)))
        self._pending = Pending(engine, bus, self.gaps)
        self.logs = Logs(
            engine, bus, self._pending,
            clock=clock, call_soon=call_soon, run=run or Tasks().run, timeout=subscribe_timeout, enabled=history,
        )  # fmt: skip
        self._pending.logs = self.logs
        self.gaps.position_of = self._pending.position_of
        self._engine = engine
        self._bus = bus
        self._clock = clock
        self._subscribe_timeout = subscribe_timeout
        self._max_subscriptions = max_subscriptions
        self._max_channels = max_channels
        self._limited = limited
        self._reserved = reserved
        self._presence = presence
        self._was_up = False
        self._seldom = Seldom(LOG_INTERVAL)
        engine.on_vacant = self._vacant
        if call_later is not None:
            WindowTimer(engine, clock, call_later)

    def deliver(self, batch: Batch) -> None:
        self._engine.dispatch(batch)

    def subscribe(
        self,
        conn: int,
        channel: Channel,
        answer: Answer,
        history: HistoryRequest | None = None,
        every: int = 0,
        *,
        trace: bool = False,
    ) -> None:
        """Subscribe a connection to a channel.

        Args:
            conn: the engine's handle.
            channel: the canonical channel.
            answer: called once, now or later: when the channel is in force at the broker, so that nothing published
                from then on is missed, or when that failed. It is not called for a connection that leaves first.
            history: what is asked of the channel's history; ``None`` for a subscription without positions.
            every: milliseconds in which the subscription receives at most one message, the newest; 0 for every message.
                A subscription that exists already gets this time from now on. Without effect beside `history`.
            trace: whether the connection is told the traceparents of messages.
        """
        key, interest = key_of(channel), interest_of(channel)
        if self._reserved is not None and is_reserved(channel) and not self._serves(channel, self._reserved):
            answer(ErrorCode.FORBIDDEN, "this pattern is reserved, and not served here", PLAIN)
            return
        if self._presence is not None and self._presence.counts_in(channel):
            answer = self._presence.answering(conn, channel, answer)
        is_first = self._engine.subscribers(key) == 0
        if self._max_channels and is_first and self._engine.stats()["channels"] >= self._max_channels:
            self._limited("too_many_channels")
            answer(ErrorCode.TOO_MANY_CHANNELS, "this server has as many channels as it may", PLAIN)
            return
        # A subscription whose beginning in the log is not known yet receives nothing.
        muted = history is not None or not self.logs.is_live(key)
        outcome = self._engine.subscribe(conn, key, self._max_subscriptions, muted)
        if outcome in _REFUSALS:
            if outcome == _fanout.FULL:
                self._limited("too_many_subscriptions")
            answer(*_REFUSALS[outcome], PLAIN)
            return
        added = outcome == _fanout.ADDED
        if (every or not added) and not self._set_every(conn, key, interest, every):
            answer(ErrorCode.BAD_REQUEST, _HAS_POSITIONS, PLAIN)
            return
        if added:
            self._added(conn, key, is_first=is_first, trace=trace)
        elif not self._pending.waiting.holds(interest, conn):
            # A subscription that was answered once stays answered, also while the broker is away and others wait.
            answer(None, "", Started(self._pending.position_of(conn, key)))
            return
        waiter = Waiter(conn, answer, self._clock() + self._subscribe_timeout, history, muted, added)
        self._begin(waiter, key, interest, is_first=is_first)

    def subscribe_firsts(self, firsts: list[_fanout.FirstSub], tell: TellFirst) -> None:
        """Take plain subscriptions that the engine made as the first ones of their channels, see `Engine.take_firsts`.

        Args:
            firsts: the subscriptions.
            tell: answers one of them, where the engine does not; see `FirstAnswer`.
        """
        deadline = self._clock() + self._subscribe_timeout
        usual = [] if self.gaps.are_open else firsts
        if self._bus.rules.rules or self._presence is not None:
            usual = [first for first in usual if self._is_plain(first[2])]
        self._pending.waiting.add_firsts(usual, tell, deadline)
        if in_force := self._bus.subscribe_all([Interest(channel) for _, _, channel in usual]):
            self.all_subscribed(in_force)
        if len(usual) == len(firsts):
            return
        done = set(usual)
        for first in firsts:
            if first not in done:
                conn, _, channel = first
                key = RegistryKey(channel)
                answer: Answer = FirstAnswer(tell, first)
                if self._presence is not None and self._presence.counts_in(channel):
                    answer = self._presence.answering(conn, Channel(channel), answer)
                self._engine.hold(key, False)
                self.gaps.on_subscribed(conn, key)
                self.logs.open(key)
                self._begin(Waiter(conn, answer, deadline), key, interest_of_key(key), is_first=True)

    def _is_plain(self, channel: bytes) -> bool:
        """Whether a channel has neither history nor presence."""
        return self._bus.rules.rule_of(channel) is None and (
            self._presence is None or not self._presence.counts_in(channel)
        )

    def _begin(self, waiter: Waiter, key: RegistryKey, interest: Interest, *, is_first: bool) -> None:
        """Answer a subscription of the engine if it can begin now; otherwise let it wait."""
        # Those who wait for a log wait for a channel that may be in force; others wait for the broker.
        if (interest not in self._pending.waiting or key in self.logs) and self._bus.subscribe(interest):
            if not self._pending.settle(key, [waiter]):
                self.logs.ask(key)
            self.logs.confirmed(key)
            self._open(key)
            return
        self._engine.open_channel(key, False)
        if waiter.added and (is_first or self.gaps.is_open(self._bus.source_of(interest))):
            # What still comes was sent to a subscription that has just been left: to the new one it would be the
            # beginning of a stream with a hole behind it. Connections that subscribe meanwhile wait with it. Those that
            # were there before a gap are told of all of it, so nothing is owed to them before its end either.
            self._engine.hold(key, True)
        self._pending.waiting.add(interest, waiter)

    def _added(self, conn: int, key: RegistryKey, *, is_first: bool, trace: bool) -> None:
        """Note a subscription that the engine has from now on."""
        self.gaps.on_subscribed(conn, key)
        if trace:
            self._engine.tell_traces(conn, key)
        if is_first:
            self.logs.open(key)

    def _open(self, key: RegistryKey) -> None:
        """Let clients join a channel in force without Python, unless they must wait or gaps must learn of them."""
        if self.logs.is_live(key) and not self.gaps.are_open:
            self._engine.open_channel(key, True)

    def unsubscribe(self, conn: int, channel: Channel) -> bool:
        """Take a connection out of a channel; nothing published there reaches it any more.

        Returns:
            False when it was not subscribed.
        """
        key = key_of(channel)
        # A client that subscribes and leaves before the answer has missed nothing.
        for waiter in self._pending.waiting.take(interest_of(channel), lambda waiter: waiter.conn == conn):
            waiter.answer(None, "", PLAIN)
        self.gaps.left(conn, key)
        return self._engine.unsubscribe(conn, key)

    def reidentified(self, conn: int) -> None:
        """Learn that a client has another identity."""
        if self._presence is not None:
            self._presence.reidentified(conn)

    def tell_up_to_now(self, conn: int) -> None:
        """Tell a client that is sent away what it may have missed, since nobody can tell it later."""

        def behind(key: RegistryKey) -> float | None:
            return None if self._pending.waiting.holds(interest_of_key(key), conn) else self.logs.behind(key)

        self.gaps.tell_up_to_now(conn, behind)

    def tick(self, now: float) -> None:
        """Give up the subscriptions that waited too long; to be called now and then."""
        self._pending.give_up_late(now)
        self.logs.tick(now)

    def subscribed(self, channel: Interest) -> None:
        key = key_of_interest(channel)
        self._engine.hold(key, False)
        self.gaps.allowed(key)
        self.logs.catch_up(key)
        self._pending.settle(key, self._pending.waiting.take(channel))
        self.logs.confirmed(key)
        self._open(key)

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        # The usual channel has one subscriber and no log, and no gap is open: the engine answers all of these at once.
        rules, waiting = self._bus.rules, self._pending.waiting
        usual: list[_fanout.FirstSub] = []
        for channel in channels:
            key = key_of_interest(channel)
            first = None
            if not self.gaps.are_open and key not in self.logs and rules.rule_of(channel) is None:
                first = waiting.take_first(channel)
            if first is not None:
                usual.append(first)
                continue
            self._engine.answer_firsts(usual, True)
            usual = []
            self.subscribed(channel)
        self._engine.answer_firsts(usual, True)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        key = key_of_interest(channel)
        self._engine.open_channel(key, False)
        waiting = self._pending.waiting.take(channel)
        self.logs.forget(key)
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
            self._pending.refuse(waiter, key, code, text)

    def state_changed(self, source: Source, state: BusState) -> None:
        if source == BROKER:
            # The link logs that the broker is away, and why, and that it is back.
            logger.log(logging.DEBUG if self._was_up else logging.INFO, "broker: %s", state.value)
            self._was_up = self._was_up or state is BusState.UP
        if state is BusState.DOWN:
            self._engine.close_channels()  # who joins from now on is to be asked about here
            self.gaps.begin(source, self._pending.keys(), self.logs.lost(source), self._bus.silence)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        self.gaps.end(source, seconds)
        self.logs.restored(source, seconds, logged=logged)

    def lapsed(self, source: Source, channels: Collection[Interest]) -> None:
        keys = [key_of_interest(channel) for channel in channels]
        for key in keys:
            self._engine.open_channel(key, False)
        self.gaps.begin(source, self._pending.keys(), self.logs.lost(source, keys), self._bus.silence, keys)

    def regained(self, source: Source, channels: Collection[Interest], seconds: float, *, logged: bool = True) -> None:
        self.gaps.end(source, seconds)
        self.logs.restored(source, seconds, logged=logged, keys=[key_of_interest(channel) for channel in channels])

    def _set_every(self, conn: int, key: RegistryKey, interest: Interest, every: int) -> bool:
        """Set the time of a subscription; return False if it cannot have one."""
        if every and any(one.conn == conn and one.history for one in self._pending.waiting.of(interest)):
            return False
        return self._engine.set_every(conn, key, every) or not every

    def _serves(self, channel: Channel, reserved: Container[bytes]) -> bool:
        """Whether clients may subscribe to a channel with the reserved key."""
        return channel in reserved or (self._presence is not None and channel in self._presence)

    def _vacant(self, key: bytes) -> None:
        # Called between two turns of the engine: a connection may have subscribed meanwhile.
        if self._engine.subscribers(key) == 0:
            interest = interest_of_key(key)
            if interest in self._pending.waiting:
                for waiter in self._pending.waiting.take(interest):
                    self.gaps.left(waiter.conn, RegistryKey(key))
            self.logs.forget(RegistryKey(key))
            self._bus.unsubscribe(interest)
