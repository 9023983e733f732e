"""Presence for `memory://`: the same in one process, without a broker."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence

from realizehit.broker.presence.store import MOST_CHANGES, Audit, Changed, Page, PresenceStore
from realizehit.pattern import presence_channel


class _Room:
    """One channel.

    Attributes:
        order: all members, sorted.
        nodes: how many nodes each member is on.
        at: the members of each node.
        anonymous: connections without an identity of each node.
    """

    def __init__(self) -> None:
        self.order: list[bytes] = []
        self.nodes: dict[bytes, int] = {}
        self.at: dict[bytes, set[bytes]] = {}
        self.anonymous: dict[bytes, int] = {}


class MemoryPresence(PresenceStore):
    """Keeps presence in memory.

    Args:
        publish: publishes to a channel.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, publish: Callable[[bytes, bytes], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._publish = publish
        self._clock = clock
        self._rooms: dict[bytes, _Room] = {}
        self._leases: dict[bytes, float] = {}
        self._announced: dict[bytes, set[bytes]] = {}

    async def enter(self, node: bytes, lease: float) -> None:
        self._leases[node] = self._clock() + lease

    async def renew(self, node: bytes, lease: float) -> bool:
        if self._leases.get(node, 0.0) <= self._clock():
            return False
        self._leases[node] = self._clock() + lease
        return True

    async def announce(self, node: bytes, channels: Sequence[bytes]) -> None:
        self._leases.setdefault(node, 0.0)
        self._announced.setdefault(node, set()).update(channels)

    async def retire(self, node: bytes, channels: Sequence[bytes]) -> None:
        self._announced.get(node, set()).difference_update(channels)

    async def change(
        self, channel: bytes, node: bytes, joins: Sequence[bytes], leaves: Sequence[bytes], anonymous: int
    ) -> Changed:
        room = self._rooms.setdefault(channel, _Room())
        here = room.at.setdefault(node, set())
        joined = left = 0
        for member in joins:
            if member in here:
                continue
            here.add(member)
            count = room.nodes[member] = room.nodes.get(member, 0) + 1
            if count == 1:
                insort(room.order, member)
                self._tell(channel, room, b"join", member)
                joined += 1
        for member in leaves:
            if member in here:
                here.discard(member)
                left += self._leave(channel, room, member)
        room.anonymous[node] = anonymous
        count = len(here)
        self._clear(channel, room, node)
        return Changed(joined, left, count)

    async def audit(self, channel: bytes, node: bytes) -> Audit:
        room = self._rooms.get(channel, _Room())
        return Audit(len(room.at.get(node, ())), room.anonymous.get(node, 0), list(room.at))

    async def read(self, channel: bytes, after: bytes, most: int) -> Page:
        room = self._rooms.get(channel, _Room())
        start = bisect_right(room.order, after)
        members = room.order[start : start + most]
        more = most > 0 and start + most < len(room.order)
        return Page(len(room.order), sum(room.anonymous.values()), members, more)

    async def lapsed(self, reaper: bytes, claim: float) -> list[bytes]:
        now = self._clock()
        return [node for node, end in self._leases.items() if end <= now]

    async def channels(self, node: bytes) -> list[bytes]:
        return list(self._announced.get(node, ()))

    async def remove(self, channel: bytes, node: bytes) -> tuple[int, bool]:
        room = self._rooms.get(channel, _Room())
        here = room.at.get(node, set())
        left = sum(self._leave(channel, room, here.pop()) for _ in range(min(len(here), MOST_CHANGES)))
        if not here:
            room.anonymous.pop(node, None)
        self._clear(channel, room, node)
        return left, bool(here)

    async def forget(self, node: bytes) -> None:
        if not self._announced.get(node):
            self._announced.pop(node, None)
            self._leases.pop(node, None)

    async def without_lease(self, nodes: Sequence[bytes]) -> list[bytes]:
        return [node for node in nodes if node not in self._leases]

    def _leave(self, channel: bytes, room: _Room, member: bytes) -> bool:
        """Take a member off one node; return whether it was the last one."""
        room.nodes[member] -= 1
        if room.nodes[member]:
            return False
        del room.nodes[member]
        del room.order[bisect_left(room.order, member)]
        self._tell(channel, room, b"leave", member)
        return True

    def _clear(self, channel: bytes, room: _Room, node: bytes) -> None:
        """Keep nothing of a node without members, and of a channel without nodes."""
        if not room.anonymous.get(node):
            room.anonymous.pop(node, None)
            if not room.at.get(node):
                room.at.pop(node, None)
        if not room.at:
            self._rooms.pop(channel, None)

    def _tell(self, channel: bytes, room: _Room, event: bytes, member: bytes) -> None:
        derived = presence_channel(channel)
        if derived is not None:
            text = b'{"event":"%b","member":%b,"count":%d}'
            self._publish(derived, text % (event, member, len(room.order)))
