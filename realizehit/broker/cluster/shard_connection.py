"""A subscriber connection to one machine of a cluster: sharded pub/sub, and slots that move away.

When a slot moves, the machine ends the subscriptions to its channels with ``sunsubscribe``, unasked. That looks like
the reply to SUNSUBSCRIBE. If one was on its way for the same slot, ``MOVED`` answers it after that.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import hiredis

from realizehit.broker.base import Interest
from realizehit.broker.cluster.redirects import redirect_of
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.connection import PING, SHARDED, Command, Owner, SubscriberConnection


class ShardOwner(Owner, Protocol):
    """What a connection to a machine of a cluster reports to."""

    def evicted(self, channel: Interest) -> None:
        """Learn that the machine ended the subscription to a channel, since its slot has moved."""


class ShardConnection(SubscriberConnection):
    """See `SubscriberConnection`. Each command has channels of one slot."""

    words = SHARDED

    def __init__(
        self, owner: ShardOwner, login: list[str], name: str, probe_after: float, probe_timeout: float
    ) -> None:
        super().__init__(owner, login, name, probe_after, probe_timeout)
        self._left: set[int] = set()  # slots whose SUNSUBSCRIBE was answered, perhaps by what came unasked

    def _done(self, command: Command) -> None:
        super()._done(command)
        if command.kind == SHARDED.unsubscribe:
            self._left.add(slot_of(command.channels[0]))
        elif command.kind == PING:
            self._left.clear()

    def _take_confirmations(self, replies: list[Any], start: int) -> int:
        return 0  # one by one: what looks like an answer may be the end of a subscription

    def _match(self, reply: Any) -> None:
        if self._reason or not self._is_move(reply):
            super()._match(reply)

    def _is_move(self, reply: Any) -> bool:
        """Whether a reply answers no command, but comes because a slot has moved."""
        command = self._in_flight[0] if self._in_flight else None
        if isinstance(reply, hiredis.ReplyError):
            redirect = redirect_of(str(reply), ("", 0))
            if redirect is None or redirect.slot not in self._left:
                return False
            return command is None or not command.channels or slot_of(command.channels[0]) != redirect.slot
        if type(reply) is not list or reply[0] != SHARDED.unsubscribe or type(reply[1]) is not bytes:
            return False
        channel = Interest(reply[1])
        if command is not None and command.kind == reply[0] and command.channels[command.answered] == channel:
            return False
        cast("ShardOwner", self._owner).evicted(channel)
        return True
