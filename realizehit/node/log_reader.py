"""Reading logs at the broker: what is read, when, and what follows from it.

- when the first subscriber comes: the newest messages, after the broker has confirmed the channel;
- after the connection to the broker was lost, and after a hole between two offsets: what came after the last message;
- for a subscription that begins before the ring, and for a replay that the ring cannot go on with.

At most one read is under way for each log, and it serves all who wait. What a log cannot give is told as a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Protocol

from realizehit import _fanout
from realizehit.broker.base import Bus
from realizehit.broker.history.log import LogPart
from realizehit.common.position import Position
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import BrokerError, BrokerUnavailable
from realizehit.node.goes_on import GoesOn
from realizehit.node.log_counts import LogCounts
from realizehit.node.log_record import InMemory, LogRecord, State
from realizehit.node.names import RegistryKey
from realizehit.node.recent_gaps import Reason

logger: Final = logging.getLogger(__name__)

PART: Final = 256  # messages of one read
RETRY: Final = 0.5  # seconds until a read that failed is tried again
READS: Final = 64  # reads that are under way at once, of different logs


class LogUser(Protocol):
    """What the logs tell the hub."""

    def log_ready(self, key: RegistryKey, part: LogPart | None, asked: set[int]) -> None:
        """Learn that subscriptions can begin.

        Args:
            key: of the log.
            part: what was read; None if a read was not needed, or failed for good.
            asked: connections whose subscriptions waited when the read was sent. They begin with this part.
        """

    def log_waiters(self, key: RegistryKey) -> set[int]:
        """Return the connections whose subscriptions wait for a log."""

    def log_wanted(self, key: RegistryKey) -> int:
        """Return how many of the newest messages the subscriptions that wait need, as far as that is known."""

    def log_missed(
        self,
        key: RegistryKey,
        seconds: float,
        reason: Reason,
        *,
        in_force: bool = True,
        goes_on: GoesOn | None = None,
    ) -> None:
        """Learn that messages of a log are lost for all subscriptions of its channel.

        Args:
            key: of the log.
            seconds: the time in which they were published.
            reason: why they are lost.
            in_force: whether the broker sends the channel now.
            goes_on: where the log goes on after them, and what is to be called before that.
        """

    def log_replay_missed(
        self, key: RegistryKey, conns: list[int], seconds: float, reason: Reason, at: Position
    ) -> None:
        """Learn that the replays of connections end early: their next messages are not kept any more.

        Args:
            key: of the log.
            conns: the connections.
            seconds: the time in which the messages were published.
            reason: why they are lost.
            at: where the connections go on.
        """


class LogReader:
    """Reads the logs of one node.

    Args:
        engine: numbers and keeps the messages.
        bus: reads the logs.
        user: the hub.
        clock: seconds of a clock that never goes back.
        run: runs a coroutine to its end.
        timeout: seconds until a channel whose log could not be read is tried again.

    Attributes:
        counts: what was read, recovered and lost so far.
        records: the logs.
        unsettled: those of them that are not live, or have a read to be tried again.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Bus,
        user: LogUser,
        *,
        clock: Callable[[], float],
        run: Callable[[Coroutine[Any, Any, None]], object],
        timeout: float,
    ) -> None:
        self.counts: Final = LogCounts()
        self.records: dict[RegistryKey, LogRecord] = {}
        self.unsettled: set[RegistryKey] = set()
        self._engine = engine
        self._bus = bus
        self._user = user
        self._clock = clock
        self._start = run
        self._timeout = timeout
        self._seldom = Seldom(LOG_INTERVAL)
        self._reads = asyncio.Semaphore(READS)

    def position(self, key: RegistryKey) -> Position | None:
        """Return the position of a log; None if it is not known, or the channel has none."""
        here = self.in_memory(key)
        return None if here is None else Position(here.epoch, here.last)

    def in_memory(self, key: RegistryKey) -> InMemory | None:
        """Return what the engine keeps of a log; None where it follows none."""
        state = self._engine.log_state(key)
        return None if state is None else InMemory(*state)

    def _note(self, key: RegistryKey, log: LogRecord, part: LogPart) -> None:
        log.note(part, self._clock())
        self.tell_kept(key, log)

    def tell_kept(self, key: RegistryKey, log: LogRecord) -> None:
        """Tell the engine what the broker keeps of a log, after a read or a change of its rule."""
        self._engine.log_kept(key, log.first, log.expires, log.rule.ttl)

    def give_up(self, key: RegistryKey) -> None:
        """Serve a channel without history, since its log cannot be read; it is tried again later."""
        log = self.records.get(key)
        if log is None or log.telling or not (log.is_behind or log.state is State.OPENING):
            return
        behind, log.state, log.hole = log.is_behind, State.UNREADABLE, False
        log.losses += 1  # a read that is under way is of no use any more
        log.starved.clear()
        log.retry_at = self._clock() + self._timeout
        self.unsettled.add(key)
        self._engine.log_close(key)
        if behind:
            self.counts.unrepaired += 1
            log.incomplete = log.logged = True
            self._user.log_missed(key, self._clock() - log.disturbed, "unreadable", in_force=log.confirmed)
        self._user.log_ready(key, None, set())

    def begin_anew(self, key: RegistryKey, log: LogRecord, epoch: str) -> None:
        """Let a log go on from the beginning of a new epoch; open replays of the old one end with a gap."""
        self._note(key, log, LogPart(epoch, 1, 0, expires_in=log.rule.ttl))
        log.epochs.append(epoch)
        self.counts.renewed += 1
        if conns := self._engine.log_replaying(key):  # what they had yet to send is not kept any more
            self._user.log_replay_missed(key, conns, log.rule.ttl, "begun_anew", Position(epoch, 0))
        self._engine.log_set(key, epoch, 0)

    def _tell_and_go_on(self, key: RegistryKey, log: LogRecord, seconds: float, reason: Reason, part: LogPart) -> None:
        """Tell the subscribers of a log that messages are lost, and then let it go on after what was read of it."""
        losses, here = log.losses, self.in_memory(key)
        log.telling = log.logged = True
        if log.state is State.LIVE:
            log.state = State.LOST  # nobody can begin before

        def skip(conn: int) -> bool:
            if here is not None:
                self._engine.replay_end(conn, key, here.last)
            return self._engine.has_positions(conn, key)

        def done() -> None:
            log.telling = False
            if self._is_current(key, log, losses):
                log.state, log.incomplete = State.LIVE, False
                log.hole = part.last == 0  # it has begun anew, perhaps with messages that did not come here
                self.unsettled.discard(key)
                log.opened = self._clock()
                self._engine.log_set(key, part.epoch, part.last, part.messages)
                log.epochs.append(part.epoch)
                self._user.log_ready(key, None, set())
            if self.records.get(key) is log:
                self.work(key, log)

        goes_on = GoesOn(Position(part.epoch, part.last), skip, done)
        self._user.log_missed(key, seconds, reason, goes_on=goes_on)

    def work(self, key: RegistryKey, log: LogRecord) -> None:
        """Start the reads that a log needs, one after the other, unless they are under way."""
        if not log.running and self._next(log) is not None and log.retry_at <= self._clock():
            log.running = True
            self._start(self._run(key, log))

    def _next(self, log: LogRecord) -> Callable[[RegistryKey, LogRecord], Awaitable[None]] | None:
        if not log.confirmed or log.telling:
            return None
        if log.state in (State.OPENING, State.UNREADABLE):
            return self._read_first
        if log.state is State.LOST or log.hole:
            return self._repair
        if log.asking:
            return self._read_for_waiters
        return self._read_for_replays if log.starved else None

    async def _run(self, key: RegistryKey, log: LogRecord) -> None:
        try:
            while self.records.get(key) is log and (step := self._next(log)) is not None:
                async with self._reads:
                    self.counts.reads += 1
                    began = self._clock()
                    await step(key, log)
                    self.counts.read_durations.add(self._clock() - began)
            if log.state is State.LIVE:
                self.unsettled.discard(key)
        except BrokerUnavailable:
            self._failed(key, log)
        except BrokerError as error:
            if (left_out := self._seldom.passes("unreadable")) is not None:
                text = "the history of %s cannot be read, and is served without: %s%s"
                logger.error(text, key.decode(), error, more(left_out))  # noqa: TRY400 - no traceback for an answer
            self._failed(key, log)
            if self.records.get(key) is log:
                log.asking = False
                self.give_up(key)
                self._user.log_ready(key, None, self._user.log_waiters(key))
        finally:
            log.running = False

    def _failed(self, key: RegistryKey, log: LogRecord) -> None:
        self.counts.failed_reads += 1
        if self.records.get(key) is log:
            log.retry_at = self._clock() + RETRY
            self.unsettled.add(key)

    def _is_current(self, key: RegistryKey, log: LogRecord, losses: int) -> bool:
        """Whether what was read is of use: the channel has been in force since the read was sent."""
        return self.records.get(key) is log and log.losses == losses

    async def _read_first(self, key: RegistryKey, log: LogRecord) -> None:
        losses, asked = log.losses, self._user.log_waiters(key)
        self._engine.log_open(key)  # from here on the engine knows what it has delivered
        try:
            part = await self._read_newest(key, log)
        except BrokerError:
            if self.records.get(key) is log and log.state is State.UNREADABLE:
                self._engine.log_close(key)
            raise
        if not self._is_current(key, log, losses):
            return
        self._note(key, log, part)
        log.hole = log.asking = False
        if log.incomplete:
            self._tell_and_go_on(key, log, self._clock() - log.disturbed, "unreadable", part)
            return
        log.state = State.LIVE
        log.opened = self._clock()
        self.unsettled.discard(key)
        self._engine.log_set(key, part.epoch, part.last, part.messages)
        log.epochs.append(part.epoch)
        self._user.log_ready(key, part, asked)

    async def _read_newest(self, key: RegistryKey, log: LogRecord) -> LogPart:
        """Read what subscriptions that wait most probably need: nothing, or the newest messages."""
        count = min(self._user.log_wanted(key), log.rule.size, PART)
        return await self._bus.read_log(key, last=count, most=PART)

    async def _repair(self, key: RegistryKey, log: LogRecord) -> None:
        losses, here = log.losses, self.position(key)
        if here is None:
            log.state, log.hole = State.OPENING, False
            return
        log.hole = False  # a publication that does not follow from here on needs another read
        try:
            part = await self._bus.read_log(key, after=here.offset, most=PART)
            if self._is_current(key, log, losses) and part.epoch == here.epoch and part.last < here.offset:
                part = await self._bus.renew_log(key, here)
        except BrokerError:
            log.hole = True
            raise
        if not self._is_current(key, log, losses):
            return
        self._note(key, log, part)
        if part.covers(here):
            self._engine.log_repair(key, part.epoch, part.messages)
            log.epochs.append(part.epoch)
            if part.messages and part.messages[-1][0] < part.last:
                log.hole = True  # the next part follows
                return
            if log.logged:
                self.counts.repaired += 1
            else:
                self._missed(key, log)
        elif log.logged and log.state is State.LIVE and part.first == 1 and part.epoch not in log.epochs:
            log.hole = True  # the log began anew while the connection held, and all of it is there
            self.begin_anew(key, log, part.epoch)
            return
        else:
            self.counts.unrepaired += 1
            reason: Reason = "not_kept" if part.epoch == here.epoch else "unknown_position"
            goes_on = LogPart(part.epoch, part.first, part.last)
            self._tell_and_go_on(key, log, self._clock() - log.disturbed, reason, goes_on)
            return
        log.state = State.LIVE
        self._user.log_ready(key, None, set())

    def _missed(self, key: RegistryKey, log: LogRecord) -> None:
        self.counts.unrepaired += 1
        log.logged = True
        self._user.log_missed(key, self._clock() - log.disturbed, "not_logged")

    async def _read_for_waiters(self, key: RegistryKey, log: LogRecord) -> None:
        losses, asked, here = log.losses, self._user.log_waiters(key), self.position(key)
        log.asking = False
        try:
            part = await self._read_newest(key, log)
        except BrokerError:
            log.asking = True
            raise
        if not self._is_current(key, log, losses) or log.state is not State.LIVE:
            log.asking = True
            return
        now = self.position(key)
        if here is None or now is None or part.epoch not in (here.epoch, now.epoch):
            log.hole = log.asking = True  # the log has begun anew: follow it first
            return
        if part.epoch == now.epoch:
            self._note(key, log, part)
            in_memory = self.in_memory(key)
            older = [message for message in part.messages if in_memory and message[0] < in_memory.first]
            self._engine.log_fill(key, older)  # it takes them only if they end right before the ring
        self._user.log_ready(key, part, asked)

    async def _read_for_replays(self, key: RegistryKey, log: LogRecord) -> None:
        losses, here, after = log.losses, self.position(key), min(log.starved.values())
        part = await self._bus.read_log(key, after=after, most=PART)
        now = self.position(key)
        if not self._is_current(key, log, losses) or here is None or now is None:
            return
        self._note(key, log, part)
        goes_on = part.messages and (part.epoch in (here.epoch, now.epoch) or part.covers(here))
        first = part.first if goes_on else part.last + 1
        end = part.messages[-1][0] if goes_on else part.last
        gone = [conn for conn, offset in log.starved.items() if offset + 1 < first or not goes_on]
        # Others came while the read was under way: those from before this part, or after it, wait for the next read.
        served = {conn for conn, offset in log.starved.items() if after <= offset < end}
        done = served.union(gone)
        log.starved = {conn: offset for conn, offset in log.starved.items() if conn not in done}
        if goes_on:
            self._engine.replay_part(key, part.messages)
        for conn in gone:
            self._engine.replay_end(conn, key, now.offset)
        if gone:
            self.counts.ended_replays += len(gone)
            self._user.log_replay_missed(key, gone, log.rule.ttl, "not_kept", now)
