"""The logs of the channels with history that this node is subscribed to, and where subscriptions begin in them.

The engine numbers what it delivers and keeps the recent messages of each log in its ring. `LogReader` reads at the
broker what the ring does not have. This file decides when: subscribers, connections, rules and publications come and
go.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final

from realizehit import _fanout
from realizehit.broker.base import Bus, Source
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import Rules
from realizehit.common.position import Position
from realizehit.node.history_request import HistoryRequest, Started
from realizehit.node.log_reader import LogReader, LogUser
from realizehit.node.log_record import Beginning, LogRecord, State
from realizehit.node.names import RegistryKey, interest_of_key

HOLE_AGE: Final = 1.0  # seconds before a publication that does not follow in which those before it were published
SLICE: Final = 1_000  # channels that are looked at in one turn of the loop when the rules change


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
        self._reader = LogReader(engine, bus, user, clock=clock, run=run, timeout=timeout)
        self.counts: Final = self._reader.counts
        self._engine = engine
        self._bus = bus
        self._user = user
        self._clock = clock
        self._call_soon = call_soon
        self._timeout = timeout
        self._enabled = enabled
        self._logs = self._reader.records
        self._unsettled = self._reader.unsettled
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

    @property
    def recovered_from_ring(self) -> int:
        """How many subscriptions with ``since`` or ``last`` needed no read, here or in the engine."""
        return self.counts.recovered_from_ring + self._engine.stats()["resumed"]

    def kept_seconds(self, key: RegistryKey) -> float | None:
        """Return for how long the messages of a channel are kept, in seconds; None if they are not kept."""
        log = self._logs.get(key)
        return None if log is None else log.rule.ttl

    def behind(self, key: RegistryKey) -> float | None:
        """Return for how many seconds messages of a channel may be missing here; None if it has all of them."""
        log = self._logs.get(key)
        return None if log is None or not log.is_behind else self._clock() - log.disturbed

    def is_live(self, key: RegistryKey) -> bool:
        """Whether a subscription without positions can begin now: nothing is delivered later that is older."""
        log = self._logs.get(key)
        return log is None or log.state is not State.LOST

    def open(self, key: RegistryKey) -> None:
        """Learn that a channel has its first subscriber, before the broker has confirmed the channel."""
        self.forget(key)
        self.catch_up(key)

    def catch_up(self, key: RegistryKey) -> None:
        """Open the log of a channel without one if there is a rule for it now.

        The rules may have come after the first subscriber, and be applied to other channels first.
        """
        rule = self._bus.rules.rule_of(key) if self._enabled and key not in self._logs else None
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
            self._reader.work(key, log)

    def lost(self, source: Source, keys: Iterable[RegistryKey] | None = None) -> set[RegistryKey]:
        """Learn that a source is gone; return the channels whose logs will tell what was missed.

        Args:
            source: what is gone.
            keys: the channels that are concerned, if they are not all of the source.
        """
        kept = set()
        since = self._clock() - self._bus.silence
        for key, log in self._concerned(source, self._logs if keys is None else keys):
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

    def _concerned(self, source: Source, keys: Iterable[RegistryKey]) -> list[tuple[RegistryKey, LogRecord]]:
        found = [(key, log) for key in keys if (log := self._logs.get(key)) is not None]
        return [(key, log) for key, log in found if self._bus.source_of(interest_of_key(key)) == source]

    def restored(
        self, source: Source, seconds: float, *, logged: bool, keys: Iterable[RegistryKey] | None = None
    ) -> None:
        """Learn that all channels of a source are in force again. See `BusListener.restored`.

        Args:
            source: what is back.
            seconds: as there.
            logged: as there.
            keys: the channels that are concerned, if they are not all of the source.
        """
        if not logged:
            self._not_logged(seconds, self._concerned(source, self._logs if keys is None else keys))
        for key, _ in self._concerned(source, self._unsettled if keys is None else keys):
            self.confirmed(key)

    def _not_logged(self, seconds: float, logs: list[tuple[RegistryKey, LogRecord]]) -> None:
        """Have the subscribers of channels told of a gap, also if their logs have no hole."""
        since = self._clock() - seconds
        for key, log in logs:
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
                self._reader.give_up(key)
            else:
                self._reader.work(key, log)

    def position(self, key: RegistryKey) -> Position | None:
        """Return the position of a log; None if it is not known, or the channel has none."""
        return self._reader.position(key)

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
        expired = log.has_expired(self._clock(), self._engine.log_touched(key))
        here = self._reader.in_memory(key)
        return log.begin(request, here, part, final=final and part is not None, expired=expired)

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
        self._reader.work(key, log)

    def give_up(self, key: RegistryKey) -> None:
        """Serve a channel without history, since its log cannot be read; it is tried again later."""
        self._reader.give_up(key)

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
            self._reader.begin_anew(key, log, epoch)
            return
        if not log.is_behind:
            log.blocked = self._clock()
            log.disturbed = log.blocked - max(self._bus.silence, HOLE_AGE)
        log.hole = True
        self._reader.work(key, log)

    def _on_starved(self, channel: bytes, replays: list[tuple[int, int]]) -> None:
        key = RegistryKey(channel)
        log = self._logs.get(key)
        if log is not None:
            log.starved.update(replays)
            self._reader.work(key, log)

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
                self._reader.tell_kept(key, log)
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


def _chain(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others
