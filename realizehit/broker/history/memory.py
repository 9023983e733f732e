"""The logs of a broker inside one process; they do what the scripts of `realizehit.broker.history` do at a real one."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from realizehit.broker.history.epochs import new_epoch
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import NO_RULES, Rule, Rules
from realizehit.broker.history.scripts import MOST_BEFORE
from realizehit.common.position import Position
from realizehit.errors import BrokerRefused
from realizehit.pattern import is_wildcard, shape_of

MAX_BYTES: Final = 64 << 20
"""Bytes of all logs together; past that the log that was written the longest time ago is removed."""

_OVERHEAD: Final = 128  # bytes that a kept message costs besides its payload, about


class _Log:
    """The log of one channel."""

    __slots__ = ("before", "epoch", "expires", "last", "messages", "size")

    def __init__(self) -> None:
        self.epoch = new_epoch().decode()
        self.before: list[Position] = []  # the newest first
        self.messages: deque[bytes] = deque()
        self.last = 0
        self.size = 0
        self.expires = 0.0

    @property
    def first(self) -> int:
        return self.last - len(self.messages) + 1

    def trim(self, most: int) -> None:
        while len(self.messages) > most:
            self.size -= len(self.messages.popleft()) + _OVERHEAD

    def part(self, skip: int, count: int, now: float) -> LogPart:
        """Return ``count`` messages at most, without the ``skip`` oldest."""
        texts = list(islice(self.messages, skip, skip + count))
        messages = list(enumerate(texts, self.first + skip))
        return LogPart(self.epoch, self.first, self.last, messages, tuple(self.before), self.expires - now)


class MemoryLogs:
    """All logs of a broker inside one process.

    Args:
        clock: seconds of a monotonic clock.
        max_bytes: of all logs together.

    Attributes:
        rules: which channels have a log; set by `use`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, max_bytes: int = MAX_BYTES) -> None:
        self.rules: Rules = NO_RULES
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._logs: OrderedDict[bytes, _Log] = OrderedDict()  # the log that was written last comes last

    def __len__(self) -> int:
        return len(self._logs)

    @property
    def total_bytes(self) -> int:
        """What all messages cost together."""
        return self._bytes

    def use(self, rules: Rules) -> None:
        """Take other rules; a log that is under none of them ends."""
        self.rules = rules
        for channel in [channel for channel in self._logs if rules.rule_of(channel) is None]:
            self._remove(channel)

    def end_shape(self, shape: bytes) -> None:
        """End the logs of the wildcards of a shape, since messages are missing in them from now on, or were so far."""
        for channel in [channel for channel in self._logs if is_wildcard(channel) and shape_of(channel) == shape]:
            self._remove(channel)

    def append(self, channel: bytes, payload: bytes) -> Position | None:
        """Append a message to the log of a channel; return its position, or None if the channel has no history."""
        rule = self.rules.rule_of(channel)
        if rule is None:
            return None
        log = self._get(channel, rule)
        log.messages.append(payload)
        log.last += 1
        log.size += len(payload) + _OVERHEAD
        log.expires = self._clock() + rule.ttl
        before = log.size
        self._bytes += len(payload) + _OVERHEAD
        log.trim(rule.size)
        self._bytes -= before - log.size
        self._logs.move_to_end(channel)
        while self._bytes > self._max_bytes and len(self._logs) > 1:
            self._remove(next(iter(self._logs)))
        return Position(log.epoch, log.last)

    def read(self, channel: bytes, *, after: int | None, last: int | None, most: int) -> LogPart:
        """Read a log. See `Bus.read_log`.

        Raises:
            BrokerRefused: the channel is under no rule.
        """
        log = self._get(channel, self._rule(channel))
        kept = len(log.messages)
        if last is not None:
            wanted = min(last, most, kept)
            return log.part(kept - wanted, wanted, self._clock())
        if after is not None:
            return log.part(max(0, after + 1 - log.first), most, self._clock())
        return log.part(0, 0, self._clock())

    def renew(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message. See `Bus.renew_log`.

        Raises:
            BrokerRefused: the channel is under no rule.
        """
        log = self._get(channel, self._rule(channel))
        if log.epoch == seen.epoch and log.last < seen.offset:
            log.before.insert(0, Position(log.epoch, log.last))
            del log.before[MOST_BEFORE:]
            log.epoch = new_epoch().decode()
        return log.part(0, 0, self._clock())

    def _rule(self, channel: bytes) -> Rule:
        rule = self.rules.rule_of(channel)
        if rule is None:
            raise BrokerRefused(f"no rule of history contains {channel.decode()}")
        return rule

    def _get(self, channel: bytes, rule: Rule) -> _Log:
        """Return the log of a channel; a new one if there is none or it has expired."""
        now = self._clock()
        log = self._logs.get(channel)
        if log is not None and log.expires <= now:
            self._remove(channel)
            log = None
        if log is None:
            self._expire(now)
            log = self._logs[channel] = _Log()
            log.expires = now + rule.ttl
        return log

    def _expire(self, now: float) -> None:
        """Remove expired logs, beginning with the one that was written the longest time ago."""
        for channel in list(islice(self._logs, 2)):  # two for each new one, so that they do not add up
            if self._logs[channel].expires <= now:
                self._remove(channel)

    def _remove(self, channel: bytes) -> None:
        self._bytes -= self._logs.pop(channel).size


def labelled(position: Position, payload: bytes) -> bytes:
    """Return the live form of a message with a position.

    Args:
        position: in the log of its channel.
        payload: JSON text, perhaps with the label of its trace; on a wildcard's channel with ``@c=<channel>?``.
    """
    separator, rest = (b"&", payload[1:]) if payload.startswith(b"@") else (b"?", payload)
    return b"@o=%b%b%b" % (str(position).encode("ascii"), separator, rest)
