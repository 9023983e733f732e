"""Subscriptions that are not answered yet: when they begin, where in the log of their channel, and when they fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from realizehit import _fanout
from realizehit.broker.base import Bus
from realizehit.broker.history.log import LogPart
from realizehit.common.position import Position
from realizehit.common.upkeep import Failures
from realizehit.errors import ErrorCode
from realizehit.node.gaps import Gaps, SubscriptionKey
from realizehit.node.goes_on import GoesOn
from realizehit.node.history_request import MAX_LAST, PLAIN, Started
from realizehit.node.log_reader import LogUser
from realizehit.node.logs import Logs
from realizehit.node.names import RegistryKey, interest_of_key, key_of_interest
from realizehit.node.recent_gaps import Reason
from realizehit.node.waiting import Waiter, Waiting

_AWAY = ErrorCode.UNAVAILABLE, "the broker cannot be reached; try again later"
_UNREADABLE = ErrorCode.UNAVAILABLE, "the history of this pattern cannot be read; try again later"


class Pending(LogUser):
    """Holds the subscriptions that wait, and answers them.

    Args:
        engine: has the subscriptions.
        bus: knows what is in force.
        gaps: tells clients what is lost.

    Attributes:
        waiting: the subscriptions without an answer.
        logs: decides where they begin; its creator sets it.
    """

    logs: Logs

    def __init__(self, engine: _fanout.Engine, bus: Bus, gaps: Gaps) -> None:
        self.waiting = Waiting()
        self._engine = engine
        self._bus = bus
        self._gaps = gaps
        self._failures = Failures("answering a subscription")

    def begin(self, waiter: Waiter, key: RegistryKey, part: LogPart | None = None, *, final: bool = False) -> bool:
        """Let a subscription of a channel in force begin, and answer it.

        Args:
            waiter: the subscription; it is not among those that wait.
            key: of its channel.
            part: what was read for it.
            final: decide in any case; a subscription that cannot begin is refused.

        Returns:
            False if it must wait for its log.
        """
        conn, history = waiter.conn, waiter.history
        if not waiter.added:  # its connection had asked before
            if self.waiting.holds(interest_of_key(key), conn):
                return False
            self.answer(waiter, started=Started(self.position_of(conn, key)))
            return True
        if history is None:
            if not (final or self.logs.is_live(key)):
                return False
            if waiter.muted:
                self._engine.unmute(conn, key)
            self.answer(waiter)
            return True
        beginning = self.logs.begin(key, history, part, final=final)
        if beginning is not None:
            self.answer(waiter, started=beginning.started)
            self.logs.start(conn, key, history, beginning)  # after the answer: the first message may follow at once
            if beginning.reason:
                self._gaps.recent.note(beginning.reason, key)
        elif final:
            self.logs.counts.not_recovered["unreadable"] += 1
            self._gaps.recent.note("unreadable", key)
            self.refuse(waiter, key, *_UNREADABLE)
        return beginning is not None or final

    def settle(
        self, key: RegistryKey, waiters: Iterable[Waiter], part: LogPart | None = None, asked: Iterable[int] = ()
    ) -> bool:
        """Let subscriptions of a channel in force begin; those that cannot yet wait on.

        Args:
            key: of the channel.
            waiters: the subscriptions, in order.
            part: what was read of its log.
            asked: connections that cannot wait for another read.

        Returns:
            Whether all have begun.
        """
        complete = True
        for waiter in waiters:
            if waiter.conn in asked and not self._engine_has(waiter, key):
                self.refuse(waiter, key, *_UNREADABLE)  # with the first request of its connection
            elif not self.begin(waiter, key, part, final=waiter.conn in asked):
                self.waiting.add(interest_of_key(key), waiter)
                complete = False
        return complete

    def give_up_late(self, now: float) -> None:
        """End the waiting of those whose time is over.

        A subscription to a channel in force whose log cannot be read begins if it needs no positions.
        """
        for interest, late in self.waiting.overdue(now):
            key = key_of_interest(interest)
            if key not in self.logs or not self._bus.subscribe(interest):
                for waiter in late:
                    self.refuse(waiter, key, *_AWAY)
                continue
            if any(waiter.history is None for waiter in late):
                self.logs.give_up(key)
            self.settle(key, late, asked={waiter.conn for waiter in late})

    def refuse(self, waiter: Waiter, key: RegistryKey, code: ErrorCode, text: str) -> None:
        """End a subscription, and answer why."""
        self._gaps.left(waiter.conn, key)
        self._engine.unsubscribe(waiter.conn, key)
        self.answer(waiter, code, text)

    def answer(self, waiter: Waiter, code: ErrorCode | None = None, text: str = "", started: Started = PLAIN) -> None:
        """Answer a subscription, unless its connection has ended."""
        if not self._engine.is_open(waiter.conn):
            return
        try:
            waiter.answer(code, text, started)
        except Exception as error:  # noqa: BLE001 - the others wait for their answers too
            self._failures.note(error)

    def position_of(self, conn: int, key: RegistryKey) -> Position | None:
        """Return the position that a subscription has come to; None if it is told no positions."""
        place = self._engine.position(conn, key)
        return None if place is None else Position(*place)

    def keys(self) -> Iterator[SubscriptionKey]:
        """Go through all that wait."""
        for interest, waiter in self.waiting.all():
            yield waiter.conn, key_of_interest(interest)

    def _engine_has(self, waiter: Waiter, key: RegistryKey) -> bool:
        return waiter.added or key in self._engine.subscriptions(waiter.conn)

    # What the logs tell:

    def log_ready(self, key: RegistryKey, part: LogPart | None, asked: set[int]) -> None:
        if not self.settle(key, self.waiting.take(interest_of_key(key)), part, asked):
            self.logs.ask(key)

    def log_waiters(self, key: RegistryKey) -> set[int]:
        return {waiter.conn for waiter in self.waiting.of(interest_of_key(key))}

    def log_wanted(self, key: RegistryKey) -> int:
        asked = [waiter.history for waiter in self.waiting.of(interest_of_key(key)) if waiter.history is not None]
        return max((MAX_LAST if each.since is not None else each.last for each in asked), default=0)

    def log_missed(
        self,
        key: RegistryKey,
        seconds: float,
        reason: Reason,
        *,
        in_force: bool = True,
        goes_on: GoesOn | None = None,
    ) -> None:
        waiting = [(conn, key) for conn in self.log_waiters(key)]
        self._engine.open_channel(key, False)  # the gap does not concern clients that subscribe from now on
        self._gaps.missed(key, seconds, reason, waiting, in_force=in_force, goes_on=goes_on)

    def log_replay_missed(
        self, key: RegistryKey, conns: list[int], seconds: float, reason: Reason, at: Position
    ) -> None:
        goes_on = {key: GoesOn(at, lambda conn: True, lambda: None)}
        for conn in conns:
            self._gaps.recent.note(reason, key, seconds)
            self._gaps.tell(conn, [key], seconds, goes_on)
