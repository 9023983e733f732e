"""Reading the logs of channels at the broker."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from realizehit.broker.history.epochs import new_epoch
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.scripts import READ, RIGHTS, SHAPES_KEY, log_key
from realizehit.broker.idempotency import REGISTRY
from realizehit.broker.publish_script import PublishScript
from realizehit.common.position import Position
from realizehit.errors import BrokerRefused
from realizehit.pattern import is_wildcard, shape_of

_SHA: Final = hashlib.sha1(READ, usedforsecurity=False).hexdigest().encode()


class LogReads:
    """Reads logs over the connection of a publisher.

    Args:
        ask: sends a command over that connection and returns the reply; see `Pipeline.ask`.
        script: knows the rules, and the run id of the broker at that connection.
    """

    def __init__(self, ask: Callable[..., Awaitable[Any]], script: PublishScript) -> None:
        self._ask = ask
        self._script = script
        self._known = False  # whether the broker has had the script

    async def read(self, channel: bytes, *, after: int | None, last: int | None, most: int) -> LogPart:
        """Read a log. See `Bus.read_log`."""
        if after is not None:
            return await self._call(channel, b"after", after, most)
        return await self._call(channel, b"last", last or 0, most)

    async def renew(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message. See `Bus.renew_log`."""
        return await self._call(channel, b"renew", seen.offset, 0, seen.epoch.encode())

    async def _call(self, channel: bytes, mode: bytes, number: int, most: int, epoch: bytes = b"") -> LogPart:
        rule = self._script.rules.rule_of(channel)
        if rule is None:
            raise BrokerRefused(f"no rule of history contains {channel.decode()}")
        ttl = b"%d" % max(1, round(rule.ttl * 1000))
        run_id = self._script.run_id
        keys, shape = [log_key(channel)], b""
        if self._script.registrations is not None:
            shape = self._script.registration_of(channel)
        elif is_wildcard(channel):
            keys += [REGISTRY.encode(), SHAPES_KEY.encode()]
            shape = shape_of(channel)
        numbers = b"%d" % number, b"%d" % most
        arguments = (b"%d" % len(keys), *keys, mode, *numbers, new_epoch(), run_id, ttl, epoch, shape)
        reply: Any = None
        if self._known:
            try:
                reply = await self._ask(b"EVALSHA", _SHA, *arguments)
            except BrokerRefused as error:
                if "NOSCRIPT" not in str(error):
                    raise _with_rights(error) from None
        if reply is None:
            try:
                reply = await self._ask(b"EVAL", READ, *arguments)
            except BrokerRefused as error:
                raise _with_rights(error) from None
            self._known = True
        return _part_of(channel, reply)


def _with_rights(error: BrokerRefused) -> BrokerRefused:
    return BrokerRefused(f"{error}; {RIGHTS}") if "NOPERM" in str(error) else error


def _part_of(channel: bytes, reply: Any) -> LogPart:
    try:
        epoch, last, first, before, start, messages, left = reply
        return LogPart(
            epoch.decode("ascii"),
            first,
            last,
            list(enumerate(messages, start)),
            [position for text in before.split() if (position := Position.parse(text.decode("ascii"))) is not None],
            left / 1000 if left >= 0 else math.inf,
        )
    except (ValueError, TypeError, AttributeError):
        raise BrokerRefused(f"a read of the log of {channel.decode()} was answered with {str(reply)[:100]}") from None
