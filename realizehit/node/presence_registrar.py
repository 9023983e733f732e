"""Registers the members of this node at the broker, renews its lease, and registers all again where the broker lost it.

The broker is told of changes in calls of bounded size, and of one channel in one call at a time. What a call could not
tell is told again, which does no harm.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final, NamedTuple

from realizehit.broker.presence.store import MOST_CHANGES, PresenceStore
from realizehit.common.backoff import Backoff
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.errors import BrokerError
from realizehit.node.presence_members import Members, Room

logger: Final = logging.getLogger(__name__)

AT_ONCE: Final = 16  # channels that the broker is told of at once
AUDITED: Final = 100  # channels that are looked at after each renewal
COALESCE: Final = 0.01  # seconds for which changes are collected


class Times(NamedTuple):
    """Times of presence, in seconds.

    Attributes:
        lease: for which the members of a node that died stay.
        renew: between two renewals.
        look: between two looks for nodes that died.
        farewell: for which the members of a node that ended stay; they are on their way to another one.
    """

    lease: float = 10.0
    renew: float = 3.0
    look: float = 1.0
    farewell: float = 5.0


class Counts:
    """What this process did.

    Attributes:
        joins: that it published.
        leaves: that it published, also for nodes that died.
        registrations: how often it registered all members, the first time included.
    """

    def __init__(self) -> None:
        self.joins = 0
        self.leaves = 0
        self.registrations = 0


class Registrar:
    """Keeps what the broker knows of this node true.

    Args:
        store: the broker.
        members: of this node.
        counts: counts what is published.
        clock: seconds of a clock that never goes back.
        times: see there.
        reconnects: returns how often the connection to the broker was made again.

    Reentrancy: for the event loop's thread. `run` runs once at a time.
    """

    def __init__(
        self,
        store: PresenceStore,
        members: Members,
        counts: Counts,
        *,
        clock: Callable[[], float],
        times: Times,
        reconnects: Callable[[], int],
    ) -> None:
        self._store = store
        self._members = members
        self._counts = counts
        self._clock = clock
        self._times = times
        self._reconnects = reconnects
        self._node = b""  # the name with the lease; empty while there is none
        self._renewed = 0.0
        self._announced: set[bytes] = set()
        self._to_audit: list[bytes] = []
        self._urgent = 0  # channels of these that are looked at without a pause
        self._seen_reconnects = 0
        self._wake = asyncio.Event()
        self._seldom = Seldom(REMINDER)

    def soon(self) -> None:
        """Tell the broker what has changed, soon."""
        self._wake.set()

    async def run(self) -> None:
        """Keep it true until this is cancelled."""
        backoff = Backoff(0.1, self._times.renew)
        while True:
            try:
                await self._renew()
                await self._tell_changes()
            except BrokerError as error:
                self._warn(f"the broker is not told who is here: {error}")
                self._seen_reconnects = -1  # behind a relay the subscribing connection does not show it
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            await self._wait()

    async def close(self) -> None:
        """Let the lease run out soon, for the members to come back elsewhere; `run` has ended."""
        if self._node:
            try:
                async with asyncio.timeout(self._times.renew):
                    await self._store.renew(self._node, min(self._times.farewell, self._times.lease))
            except (BrokerError, TimeoutError) as error:
                logger.info("presence: the broker is not told that this process ends: %s", error)

    async def _wait(self) -> None:
        """Wait until something has changed or the lease must be renewed."""
        try:
            async with asyncio.timeout(max(0.0, self._renewed + self._times.renew - self._clock())):
                await self._wake.wait()
                await asyncio.sleep(COALESCE)
        except TimeoutError:
            pass
        self._wake.clear()

    def _warn(self, text: str) -> None:
        if (left_out := self._seldom.passes(text.partition(":")[0])) is not None:
            logger.warning("presence: %s%s", text, more(left_out))

    # ---- the lease

    @property
    def _is_due(self) -> bool:
        """Whether the lease must be renewed."""
        return self._clock() - self._renewed >= self._times.renew

    async def _renew(self) -> None:
        """Renew the lease if it is due; where there is none any more, begin anew with another name."""
        now = self._clock()
        if self._node and not self._is_due:
            return
        if not self._node:
            await self._begin(now)
        elif not await self._store.renew(self._node, self._times.lease):
            self._warn("the broker has lost this node, or its lease ran out; its members register again")
            await self._begin(now)
        self._renewed = now
        await self._audit()

    async def _begin(self, now: float) -> None:
        self._node = b""
        node = secrets.token_hex(8).encode()
        await self._store.enter(node, self._times.lease)
        self._node, self._renewed = node, now
        self._announced.clear()
        self._to_audit.clear()
        self._urgent = 0
        self._members.tell_all()
        self._counts.registrations += 1

    # ---- changes

    async def _tell_changes(self) -> None:
        changed = self._members.changed
        while changed and not self._is_due:
            channels = [channel for channel, _ in zip(changed, range(AT_ONCE), strict=False)]
            for channel in channels:
                del changed[channel]
            rooms = [(channel, room) for channel in channels if (room := self._members.room(channel)) is not None]
            try:
                new = [channel for channel, _ in rooms if channel not in self._announced]
                if new:
                    await self._store.announce(self._node, new)
                    self._announced.update(new)
            except BaseException:
                changed.update(dict.fromkeys(channels))
                raise
            told = await asyncio.gather(*(self._tell(*room) for room in rooms), return_exceptions=True)
            for outcome in told:
                if isinstance(outcome, BaseException):
                    raise outcome
            gone = [channel for channel, room in rooms if channel not in self._members]
            if gone:
                self._announced.difference_update(gone)
                await self._store.retire(self._node, gone)

    async def _tell(self, channel: bytes, room: Room) -> None:
        changes = room.take(MOST_CHANGES)
        room.is_being_told = True
        try:
            done = await self._store.change(channel, self._node, *changes)
        except BaseException:
            room.put_back(changes)
            raise
        else:
            self._counts.joins += done.joined
            self._counts.leaves += done.left
        finally:
            room.is_being_told = False
            self._members.note(channel, room)

    # ---- what the broker may have lost

    async def _audit(self) -> None:
        """Look at some channels; begin anew where the broker has something else than what it was told.

        After a lost connection it looks at all of them, since the broker may be another one; but the lease comes first.
        """
        reconnects = self._reconnects()
        if reconnects != self._seen_reconnects:
            self._seen_reconnects = reconnects
            self._to_audit = self._members.channels
            self._urgent = len(self._to_audit)
        if not self._to_audit:
            self._to_audit = self._members.channels
        count = max(AUDITED, self._urgent)
        while count > 0 and self._to_audit and not self._is_due:
            channels = [self._to_audit.pop() for _ in range(min(AT_ONCE, count, len(self._to_audit)))]
            count -= len(channels)
            self._urgent = max(0, self._urgent - len(channels))
            if not all(await asyncio.gather(*map(self._is_true, channels))):
                self._warn("the broker has lost members of this node, or changes; they register again")
                await self._begin(self._clock())
                return

    async def _is_true(self, channel: bytes) -> bool:
        room = self._members.room(channel)
        if room is None or room.is_changed or channel not in self._announced:
            return True
        expected = room.members, room.anonymous
        found = await self._store.audit(channel, self._node)
        for node in await self._store.without_lease([node for node in found.nodes if node != self._node]):
            more_left = True
            while more_left:
                left, more_left = await self._store.remove(channel, node)
                self._counts.leaves += left
        room = self._members.room(channel)
        if room is None or room.is_changed or expected != (room.members, room.anonymous):
            return True  # it changed meanwhile
        return (found.here, found.anonymous) == expected
