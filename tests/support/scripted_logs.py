"""Logs of a broker that the test plays: reads wait until the test carries them out and answers them."""

from __future__ import annotations

import math
from collections.abc import Coroutine, Generator
from itertools import count
from typing import Any

from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import NO_RULES, Rules
from realizehit.common.position import Position
from realizehit.errors import BrokerRefused, BrokerUnavailable
from tests.support.scripted_bus import ScriptedBus


class ScriptedLog:
    """The log of one channel.

    Attributes:
        line: the message of each offset in the present numbering, also of those that are not kept any more.
        expires_in: seconds that a read tells until it expires.
        given: all pairs of offset and message that there ever were.
        positions: all positions that were given to messages.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.expires_in = math.inf
        self._epochs = count()
        self.given: set[tuple[int, int]] = set()
        self.positions: list[Position] = []
        self.expire()

    @property
    def first(self) -> int:
        return self.last - len(self.messages) + 1

    @property
    def here(self) -> Position:
        return Position(self.epoch, self.last)

    def expire(self) -> None:
        """Begin anew."""
        self._renew()
        self.last = 0
        self.line: dict[int, int] = {}
        self.messages: list[bytes] = []
        self.before: list[Position] = []

    def append(self, number: int) -> Position:
        self.last += 1
        self.messages = [*self.messages, b"%d" % number][-self.size :]
        self.line[self.last] = number
        self.given.add((self.last, number))
        self.positions.append(self.here)
        return self.here

    def fail_over(self, lost: int) -> set[int]:
        """Lose the newest messages, and begin a new epoch; return what is lost."""
        lost = min(lost, len(self.messages))
        gone = {self.line.pop(self.last - index) for index in range(lost)}
        self.messages = self.messages[: len(self.messages) - lost]
        self.last -= lost
        self.before = [self.here, *(Position(old.epoch, min(old.offset, self.last)) for old in self.before)]
        self._renew()
        return gone

    def _renew(self) -> None:
        self.epoch = f"epoch{next(self._epochs):03}"

    def part(self, after: int | None, last: int | None, most: int) -> LogPart:
        held = list(enumerate(self.messages, self.first))
        if after is not None:
            held = [message for message in held if message[0] > after][:most]
        else:
            held = held[-min(last or 0, most) :] if last else []
        return LogPart(self.epoch, self.first, self.last, held, tuple(self.before), self.expires_in)


class Read:
    """A read of a log on its way."""

    def __init__(self, log: ScriptedLog, after: int | None, last: int | None, most: int, seen: Position | None) -> None:
        self._log = log
        self._asked = after, last, most
        self._seen = seen
        self.outcome: LogPart | BrokerUnavailable | BrokerRefused | None = None
        self.coroutine: Coroutine[Any, Any, None] | None = None

    def __await__(self) -> Generator[Read, None, LogPart]:
        yield self
        assert self.outcome is not None
        if isinstance(self.outcome, LogPart):
            return self.outcome
        raise self.outcome

    def carry_out(self) -> None:
        """Read the log now; the answer is still on its way."""
        if self.outcome is None:
            log, seen = self._log, self._seen
            if seen is not None and seen.epoch == log.epoch and seen.offset > log.last:
                log.fail_over(0)
            self.outcome = log.part(*self._asked)


class LoggingBus(ScriptedBus):
    """A scripted bus with history.

    Attributes:
        logs: of the channels that were asked for.
        reads: those that are not answered.
    """

    def __init__(self, rules: Rules = NO_RULES) -> None:
        super().__init__()
        self._rules = rules
        self.logs: dict[bytes, ScriptedLog] = {}
        self.reads: list[Read] = []
        self.read_count = 0

    @property
    def rules(self) -> Rules:
        return self._rules

    def change_rules(self, rules: Rules) -> None:
        self._rules = rules
        if self.on_rules is not None:
            self.on_rules(rules)

    def log(self, channel: bytes) -> ScriptedLog | None:
        """Return the log of a channel; None if it is under no rule."""
        rule = self._rules.rule_of(channel)
        return None if rule is None else self.logs.setdefault(channel, ScriptedLog(rule.size))

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine until it waits for a read."""
        try:
            read = coroutine.send(None)
        except StopIteration:
            return
        assert isinstance(read, Read)
        read.coroutine = coroutine
        self.reads.append(read)

    def answer(self, index: int = 0, error: BrokerUnavailable | BrokerRefused | None = None) -> None:
        """Answer a read, with an error if one is given."""
        read = self.reads.pop(index)
        if error is not None:
            read.outcome = error
        read.carry_out()
        assert read.coroutine is not None
        self.run(read.coroutine)

    async def read_log(
        self, channel: bytes, *, after: int | None = None, last: int | None = None, most: int = 256
    ) -> LogPart:
        self.read_count += 1
        log = self.log(channel)
        if log is None:
            raise BrokerRefused("no rule")
        return await Read(log, after, last, most, None)

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        log = self.log(channel)
        if log is None:
            raise BrokerRefused("no rule")
        return await Read(log, None, None, 0, seen)
