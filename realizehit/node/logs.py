"""The logs of the channels with history that this node is subscribed to: reading them, repairing them, replaying them.

The engine numbers what it delivers and keeps the recent messages of each log in its ring. This file decides what is
read at the broker, and when:

- when the first subscriber comes: the newest messages, after the broker has confirmed the channel;
- after the connection to the broker was lost, and after a hole between two offsets: what came after the last message;
- for a subscription that begins before the ring, and for a replay that the ring cannot go on with.

At most one read is under way for each log, and it serves all who wait. What a log cannot give is told as a gap.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, Protocol

from realizehit import _fanout
from realizehit.broker.base import Bus, Source
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import Rules
from realizehit.common.position import Position
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import BrokerError, BrokerUnavailable
from realizehit.node.goes_on import GoesOn
from realizehit.node.history_request import HistoryRequest, Started
from realizehit.node.log_counts import LogCounts
from realizehit.node.log_record import Beginning, InMemory, LogRecord, State
from realizehit.node.names import RegistryKey, interest_of_key
from realizehit.node.recent_gaps import Reason

logger: Final = logging.getLogger(__name__)

PART: Final = 256  # messages of one read
RETRY: Final = 0.5  # seconds until a read that failed is tried again
READS: Final = 64  # reads that are under way at once, of different logs
HOLE_AGE: Final = 1.0  # seconds before a publication that does not follow in which those before it were published
SLICE: Final = 1_000  # channels that are looked at in one turn of the loop when the rules change


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

    def log_replay_missed(self, key: RegistryKey, conns: list[int], seconds: float) -> None:
        """Learn that the replays of connections ended early: their next messages are not kept any more."""


class Logs:
    """The logs of one node.

    Args:
        engine: numbers and keeps the messages.
        bus: reads the logs, and knows the rules.
        user: the hub.
        clock: seconds of a clock that never goes back.
        call_soon: has a function called in the loop's next turn.
        run: runs a coroutine to its end.
        timeout: seconds after which a channel whose log cannot be read is served without history.
        enabled: whether there are logs here at all; without, publications pass with their positions as they came.

    Attributes:
        counts: what was read, recovered and lost so far.

    Reentrancy: for the event loop's thread.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Bus,
        user: LogUser,
        *,
        clock: Callable[[], float],
        call_soon: Callable[[Callable[[], None]], object],
        run: Callable[[Coroutine[Any, Any, None]], object],
        timeout: float,
        enabled: bool = True,
    ) -> None:
        self.counts: Final = LogCounts()
        self._engine = engine
        self._bus = bus
        self._user = user
        self._clock = clock
        self._call_soon = call_soon
        self._start = run
        self._timeout = timeout
        self._enabled = enabled
        self._logs: dict[RegistryKey, LogRecord] = {}
        self._unsettled: set[RegistryKey] = set()  # logs that are not live, or have a read to be tried again
        self._seldom = Seldom(LOG_INTERVAL)
        self._reads = asyncio.Semaphore(READS)
        if enabled:
            engine.on_hole = self._on_hole
            engine.on_starved = self._on_starved
            bus.on_rules = self._on_rules

    # ---- for the hub

    def __contains__(self, key: object) -> bool:
        return key in self._logs

    def __len__(self) -> int:
        return len(self._logs)

    @property
    def to_read(self) -> int:
        """How many logs have to be read before their channels are served with history again."""
        return len(self._unsettled)

    def kept_seconds(self, key: RegistryKey) -> float | None:
        """Return for how long the messages of a channel are kept, in seconds; None if they are not kept."""
        log = self._logs.get(key)
        return None if log is None else log.rule.ttl

    def is_live(self, key: RegistryKey) -> bool:
        """Whether a subscription without positions can begin now: nothing is delivered later that is older."""
        log = self._logs.get(key)
        return log is None or log.state is not State.LOST

    def open(self, key: RegistryKey) -> None:
        """Learn that a channel has its first subscriber, before the broker has confirmed the channel."""
        self.forget(key)
        rule = self._bus.rules.rule_of(key) if self._enabled else None
        if rule is not None and self._engine.log_open(key):
            self._logs[key] = LogRecord(rule, self._clock())
            self._unsettled.add(key)

    def forget(self, key: RegistryKey) -> None:
        """Learn that a channel has no subscriber any more, or is not allowed."""
        if self._logs.pop(key, None) is not None:
            self._unsettled.discard(key)
            self._engine.log_close(key)

    def confirmed(self, key: RegistryKey) -> None:
        """Learn that a channel is in force at the broker."""
        log = self._logs.get(key)
        if log is not None and not log.confirmed:
            log.confirmed = True
            log.blocked = self._clock()
            self._work(key, log)

    def lost(self, source: Source) -> set[RegistryKey]:
        """Learn that a source is gone; return the channels whose logs will tell what was missed."""
        kept = set()
        since = self._clock() - self._bus.silence
        for key, log in self._logs.items():
            if self._bus.source_of(interest_of_key(key)) != source:
                continue
            log.confirmed = False
            log.losses += 1
            self._unsettled.add(key)
            if log.state in (State.LIVE, State.LOST):
                log.disturbed = min(since, log.disturbed) if log.is_behind else since
                log.state = State.LOST
                # What was on its way when the log was read may be lost to subscriptions without positions.
                if since > log.opened or not self._engine.log_owes(key):
                    kept.add(key)
        return kept

    def restored(self, source: Source, seconds: float, *, logged: bool) -> None:
        """Learn that all channels of a source are in force again. See `BusListener.restored`."""
        if not logged:
            self._not_logged(source, seconds)
        for key in list(self._unsettled):
            if self._bus.source_of(interest_of_key(key)) == source:
                self.confirmed(key)

    def _not_logged(self, source: Source, seconds: float) -> None:
        """Have the subscribers of a source told of a gap, also if their logs have no hole."""
        since = self._clock() - seconds
        for key, log in list(self._logs.items()):
            if self._bus.source_of(interest_of_key(key)) != source:
                continue
            if log.is_behind:
                log.logged = False
                log.disturbed = min(since, log.disturbed)
            elif log.state is State.LIVE and log.losses:  # repaired before the source was restored
                self._user.log_missed(key, seconds, "not_logged")

    def tick(self, now: float) -> None:
        """Read again what could not be read, and give up what cannot be read for too long."""
        for key in list(self._unsettled):
            log = self._logs[key]
            if log.running or log.telling or not log.confirmed or log.retry_at > now:
                continue
            if log.is_behind and now - log.blocked >= self._timeout:
                self.give_up(key)
            else:
                self._work(key, log)

    def position(self, key: RegistryKey) -> Position | None:
        """Return the position of a log; None if it is not known, or the channel has none."""
        here = self._in_memory(key)
        return None if here is None else Position(here.epoch, here.last)

    def _in_memory(self, key: RegistryKey) -> InMemory | None:
        state = self._engine.log_state(key)
        return None if state is None else InMemory(*state)

    def begin(
        self, key: RegistryKey, request: HistoryRequest, part: LogPart | None = None, *, final: bool = False
    ) -> Beginning | None:
        """Decide where a subscription begins, without changing anything.

        Args:
            key: its channel, in force at the broker.
            request: what it asks for.
            part: what was just read of the log.
            final: decide by what was read, in any case.

        Returns:
            None if the log must be read first.
        """
        log = self._logs.get(key)
        if log is None:
            if request.since is None:
                return Beginning(Started())
            return Beginning(Started(recovered=False), reason="no_rule")
        return log.begin(request, self._in_memory(key), part, final=final and part is not None)

    def start(self, conn: int, key: RegistryKey, request: HistoryRequest, beginning: Beginning) -> None:
        """Let a subscription begin where `begin` said."""
        at, recovered = beginning.started
        if at is None:
            self._engine.unmute(conn, key)
        else:
            self._engine.set_positions(conn, key, beginning.after)
        if beginning.reason:
            self.counts.not_recovered[beginning.reason] += 1
        elif (recovered or request.last) and beginning.from_ring:
            self.counts.recovered_from_ring += 1
        elif recovered or request.last:
            self.counts.recovered_from_broker += 1

    def ask(self, key: RegistryKey) -> None:
        """Learn that subscriptions wait whose beginning could not be decided; `LogUser.log_ready` follows a read."""
        log = self._logs.get(key)
        if log is None:
            return
        log.asking = log.state is State.LIVE  # in other states there is a read to come in any case
        if log.state is State.UNREADABLE:
            log.retry_at = 0.0
        self._work(key, log)

    def give_up(self, key: RegistryKey) -> None:
        """Serve a channel without history, since its log cannot be read; it is tried again later."""
        log = self._logs.get(key)
        if log is None or log.telling or not (log.is_behind or log.state is State.OPENING):
            return
        behind, log.state, log.hole = log.is_behind, State.UNREADABLE, False
        log.losses += 1  # a read that is under way is of no use any more
        log.starved.clear()
        log.retry_at = self._clock() + self._timeout
        self._unsettled.add(key)
        self._engine.log_close(key)
        if behind:
            self.counts.unrepaired += 1
            log.incomplete = log.logged = True
            self._user.log_missed(key, self._clock() - log.disturbed, "unreadable", in_force=log.confirmed)
        self._user.log_ready(key, None, set())

    # ---- what the engine and the bus call

    def _on_hole(self, channel: bytes, epoch: str, offset: int) -> None:
        key = RegistryKey(channel)
        log = self._logs.get(key)
        if log is None:
            return
        here = self.position(key)
        if log.state is State.LIVE and here is not None and offset == 1 and epoch not in log.epochs:
            # The log ended, since nothing was published for so long, and began anew. The connection held all the
            # time, so that everything up to the end has arrived.
            self._begin_anew(key, log, epoch)
            return
        if not log.is_behind:
            log.blocked = self._clock()
            log.disturbed = log.blocked - max(self._bus.silence, HOLE_AGE)
        log.hole = True
        self._work(key, log)

    def _begin_anew(self, key: RegistryKey, log: LogRecord, epoch: str) -> None:
        log.first, log.before = 1, ()
        log.epochs.append(epoch)
        self.counts.renewed += 1
        if self._engine.stats()["replays"]:  # those of this log end: what they had yet to send is not kept any more
            self._tell_and_go_on(key, log, log.rule.ttl, "begun_anew", LogPart(epoch, 1, 0))
        else:
            self._engine.log_set(key, epoch, 0)

    def _tell_and_go_on(self, key: RegistryKey, log: LogRecord, seconds: float, reason: Reason, part: LogPart) -> None:
        """Tell the subscribers of a log that messages are lost, and then let it go on after what was read of it."""
        losses, here = log.losses, self._in_memory(key)
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
                self._unsettled.discard(key)
                log.opened = self._clock()
                self._engine.log_set(key, part.epoch, part.last, part.messages)
                log.epochs.append(part.epoch)
                self._user.log_ready(key, None, set())
            if self._logs.get(key) is log:
                self._work(key, log)

        goes_on = GoesOn(Position(part.epoch, part.last), skip, done)
        self._user.log_missed(key, seconds, reason, goes_on=goes_on)

    def _on_starved(self, channel: bytes, replays: list[tuple[int, int]]) -> None:
        key = RegistryKey(channel)
        log = self._logs.get(key)
        if log is not None:
            log.starved.update(replays)
            self._work(key, log)

    def _on_rules(self, rules: Rules) -> None:
        self._call_soon(lambda: self._apply(rules, iter(self._engine.channel_names())))

    def _apply(self, rules: Rules, channels: Iterator[bytes]) -> None:
        """Open and close logs after a change of the rules, a number of channels in each turn of the loop."""
        if rules.version != self._bus.rules.version:
            return  # they changed again
        for _, channel in zip(range(SLICE), channels, strict=False):
            key = RegistryKey(channel)
            rule, log = rules.rule_of(channel), self._logs.get(key)
            if log is not None and rule is not None:
                log.rule = rule
            elif log is not None:
                if log.is_behind:
                    self.counts.unrepaired += 1
                    self._user.log_missed(key, self._clock() - log.disturbed, "no_rule", in_force=log.confirmed)
                self.forget(key)
                self._user.log_ready(key, None, set())
            elif rule is not None and self._engine.log_open(channel):
                self._logs[key] = log = LogRecord(rule, self._clock())
                self._unsettled.add(key)
                if self._bus.subscribe(interest_of_key(channel)):
                    self.confirmed(key)
        if (left := next(channels, None)) is not None:
            self._call_soon(lambda: self._apply(rules, _chain(left, channels)))

    # ---- reading

    def _work(self, key: RegistryKey, log: LogRecord) -> None:
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
            while self._logs.get(key) is log and (step := self._next(log)) is not None:
                async with self._reads:
                    self.counts.reads += 1
                    began = self._clock()
                    await step(key, log)
                    self.counts.read_durations.add(self._clock() - began)
            if log.state is State.LIVE:
                self._unsettled.discard(key)
        except BrokerUnavailable:
            self._failed(key, log)
        except BrokerError as error:
            if (left_out := self._seldom.passes("unreadable")) is not None:
                text = "the history of %s cannot be read, and is served without: %s%s"
                logger.error(text, key.decode(), error, more(left_out))  # noqa: TRY400 - no traceback for an answer
            self._failed(key, log)
            if self._logs.get(key) is log:
                log.asking = False
                self.give_up(key)
                self._user.log_ready(key, None, self._user.log_waiters(key))
        finally:
            log.running = False

    def _failed(self, key: RegistryKey, log: LogRecord) -> None:
        self.counts.failed_reads += 1
        if self._logs.get(key) is log:
            log.retry_at = self._clock() + RETRY
            self._unsettled.add(key)

    def _is_current(self, key: RegistryKey, log: LogRecord, losses: int) -> bool:
        """Whether what was read is of use: the channel has been in force since the read was sent."""
        return self._logs.get(key) is log and log.losses == losses

    async def _read_first(self, key: RegistryKey, log: LogRecord) -> None:
        losses, asked = log.losses, self._user.log_waiters(key)
        self._engine.log_open(key)  # from here on the engine knows what it has delivered
        try:
            part = await self._read_newest(key, log)
        except BrokerError:
            if self._logs.get(key) is log and log.state is State.UNREADABLE:
                self._engine.log_close(key)
            raise
        if not self._is_current(key, log, losses):
            return
        log.note(part)
        log.hole = log.asking = False
        if log.incomplete:
            self._tell_and_go_on(key, log, self._clock() - log.disturbed, "unreadable", part)
            return
        log.state = State.LIVE
        log.opened = self._clock()
        self._unsettled.discard(key)
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
        log.note(part)
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
            self._begin_anew(key, log, part.epoch)
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
            log.note(part)
            in_memory = self._in_memory(key)
            older = [message for message in part.messages if in_memory and message[0] < in_memory.first]
            self._engine.log_fill(key, older)  # it takes them only if they end right before the ring
        self._user.log_ready(key, part, asked)

    async def _read_for_replays(self, key: RegistryKey, log: LogRecord) -> None:
        losses, here, after = log.losses, self.position(key), min(log.starved.values())
        part = await self._bus.read_log(key, after=after, most=PART)
        now = self.position(key)
        if not self._is_current(key, log, losses) or here is None or now is None:
            return
        log.note(part)
        goes_on = part.messages and (part.epoch in (here.epoch, now.epoch) or part.covers(here))
        first = part.first if goes_on else part.last + 1
        end = part.messages[-1][0] if goes_on else part.last
        gone = [conn for conn, offset in log.starved.items() if offset + 1 < first or not goes_on]
        log.starved = {conn: offset for conn, offset in log.starved.items() if goes_on and offset >= end}
        if goes_on:
            self._engine.replay_part(key, part.messages)
        for conn in gone:
            self._engine.replay_end(conn, key, now.offset)
        if gone:
            self.counts.ended_replays += len(gone)
            self._user.log_replay_missed(key, gone, log.rule.ttl)


def _chain(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others
