"""Presence on this node: which subscriptions count, and whose they are.

The engine watches the channels that have a rule: it tells of the connections that leave, and lets nobody join without
Python. Other channels pay nothing. `Members` keeps who is here, `Registrar` tells the broker, and `Reaper` removes the
members of nodes that died.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import unquote

import orjson

from realizehit import _fanout
from realizehit.broker.base import Bus
from realizehit.broker.presence.rules import NO_RULES, Rules
from realizehit.common.upkeep import keep_up
from realizehit.errors import ErrorCode
from realizehit.node.history_request import Started
from realizehit.node.names import RegistryKey, key_of
from realizehit.node.presence_members import ANONYMOUS, Members
from realizehit.node.presence_reaper import Reaper
from realizehit.node.presence_registrar import Counts, Registrar, Times
from realizehit.node.waiting import Answer
from realizehit.pattern import Channel, is_presence, watched_channel

logger: Final = logging.getLogger(__name__)

TIMES: Final = Times()
SLICE: Final = 1_000  # connections that are looked at in one turn of the loop when the rules change


class Presence:
    """Knows which clients of this node are members of which channels.

    Args:
        engine: holds the connections.
        bus: the broker; started before `start`.
        rules: which channels have presence.
        identity_of: returns the identity of a connection, keys and values in the canonical text of patterns; empty for
            a client that is not identified.
        clock: seconds of a clock that never goes back.
        times: see there; `TIMES` by default.

    Attributes:
        members: of this node.
        counts: what this process published.
        rules: as given last.

    Reentrancy: for the event loop's thread.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        bus: Bus,
        rules: Rules = NO_RULES,
        *,
        identity_of: Callable[[int], Mapping[str, str]],
        clock: Callable[[], float],
        times: Times | None = None,
    ) -> None:
        self.members: Final = Members()
        self.counts: Final = Counts()
        self.rules = rules
        self._engine = engine
        self._identity_of = identity_of
        self._clock = clock
        times = times or TIMES
        store = bus.presence
        self._registrar = Registrar(
            store, self.members, self.counts, clock=clock, times=times, reconnects=lambda: bus.reconnects
        )
        self._reaper = Reaper(store, self.counts, times)
        self._tasks: list[asyncio.Task[None]] = []
        self._looking: asyncio.Task[None] | None = None
        engine.on_left = self._left

    # ---- life

    def start(self) -> None:
        """Register members from now on, and remove those of nodes that die."""
        self._tasks = [
            asyncio.create_task(keep_up(f"presence ({what})", run), name=f"realizehit presence ({what})")
            for what, run in (("registering", self._registrar.run), ("removing", self._reaper.run))
        ]

    async def close(self) -> None:
        """Register nobody any more; the members stay for a time in which they can come back elsewhere."""
        tasks, self._tasks = self._tasks, []
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await self._registrar.close()

    def use(self, rules: Rules) -> None:
        """Change which channels have presence; subscriptions that exist are counted or left out accordingly."""
        self.rules = rules
        if self._looking is not None:
            self._looking.cancel()
        looking = keep_up("presence (new rules)", self._look_again)
        self._looking = asyncio.create_task(looking, name="realizehit presence (new rules)")

    def tick(self, now: float) -> None:
        """Have the members leave whose time is up; to be called now and then."""
        self.members.expire(now)
        if self.members.changed:
            self._registrar.soon()

    # ---- for the hub

    def __contains__(self, channel: object) -> bool:
        """Whether a channel is that of the joins and leaves of a channel with presence."""
        return isinstance(channel, bytes) and is_presence(channel) and self.counts_in(watched_channel(channel))

    def counts_in(self, channel: bytes) -> bool:
        """Whether subscriptions to a channel count."""
        return self.rules.rule_of(channel) is not None

    def answering(self, conn: int, channel: Channel, answer: Answer) -> Answer:
        """Return what is told how a subscription went: it counts once it is in force."""

        def answered(code: ErrorCode | None, text: str, started: Started) -> None:
            if code is None:
                self._join(conn, key_of(channel))
            answer(code, text, started)

        return answered

    def reidentified(self, conn: int) -> None:
        """Learn that a connection has another identity."""
        for channel in self._engine.subscriptions(conn):
            if channel in self.members:
                self._join(conn, RegistryKey(channel))

    # ---- connections

    def _join(self, conn: int, key: RegistryKey) -> None:
        rule = self.rules.rule_of(key)
        if rule is None or not self._engine.is_subscribed(conn, key):
            return
        self._engine.watch_leavers(key, True)
        if self.members.join(key, conn, self._member(conn), rule.leave_after, self._clock()):
            self._registrar.soon()

    def _left(self, channel: bytes, conns: list[int]) -> None:
        self.members.leave(
            channel, [conn for conn in conns if not self._engine.is_subscribed(conn, channel)], self._clock()
        )
        if channel in self.members.changed:
            self._registrar.soon()

    def _member(self, conn: int) -> bytes:
        identity = self._identity_of(conn)
        if not identity:
            return ANONYMOUS
        return orjson.dumps({unquote(key): unquote(value) for key, value in sorted(identity.items())})

    async def _look_again(self) -> None:
        """Have the subscriptions counted that are under a rule now, and no others."""
        looked = 0
        for channel in {*self._engine.channel_names(), *self.members.channels}:
            if self.counts_in(channel):
                for conn in self._engine.subscriber_handles(channel):
                    self._join(conn, RegistryKey(channel))
                    looked += 1
                    if looked % SLICE == 0:
                        await asyncio.sleep(0)
            elif (room := self.members.room(channel)) is not None:
                self._engine.watch_leavers(channel, False)
                room.leave_after = 0.0
                self.members.leave(channel, room.connections, self._clock())
            looked += 1
            if looked % SLICE == 0:
                await asyncio.sleep(0)
        self.tick(self._clock())
