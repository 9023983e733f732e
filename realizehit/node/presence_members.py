"""The members of this node: which of its connections are subscribed to which channel, and what the broker must be told.

Only bookkeeping: nothing here knows the engine or the broker, or waits for anything.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

ANONYMOUS: Final = b""
"""Stands for the member of a connection without an identity."""


class Changes(NamedTuple):
    """What the broker must be told of a channel.

    Attributes:
        joins: members that this node has.
        leaves: members that it does not have any more.
        anonymous: connections without an identity.
    """

    joins: list[bytes]
    leaves: list[bytes]
    anonymous: int


class Room:
    """The connections and members of one channel. A member is present while it has a connection, or has just lost it.

    Args:
        leave_after: seconds for which a member stays present without a connection.

    Attributes:
        leave_after: as given; may be set.
        is_changed: whether the broker must be told something.
        is_being_told: whether the broker is being told something now; may be set.
    """

    __slots__ = ("_connections", "_counts", "_dirty", "_leaving", "is_being_told", "is_changed", "leave_after")

    def __init__(self, leave_after: float) -> None:
        self.leave_after = leave_after
        self.is_changed = False
        self.is_being_told = False
        self._connections: dict[int, bytes] = {}
        self._counts: dict[bytes, int] = {}  # connections of each member, anonymous ones included
        self._leaving: dict[bytes, float] = {}  # members without a connection, and when they have left
        self._dirty: dict[bytes, None] = {}  # members of which the broker may know something else

    @property
    def is_empty(self) -> bool:
        """Whether nobody is present, and the broker knows that."""
        return not (self._connections or self._leaving or self.is_changed or self.is_being_told)

    @property
    def connections(self) -> list[int]:
        """The connections that are subscribed."""
        return list(self._connections)

    @property
    def anonymous(self) -> int:
        """Connections without an identity."""
        return self._counts.get(ANONYMOUS, 0)

    @property
    def members(self) -> int:
        """How many members are present on this node."""
        return len(self._counts) - (ANONYMOUS in self._counts) + len(self._leaving)

    def join(self, conn: int, member: bytes) -> bool:
        """Learn that a connection is subscribed, or has another identity.

        Returns:
            Whether that is new.
        """
        before = self._connections.get(conn)
        if before == member:
            return False
        self._connections[conn] = member
        count = self._counts[member] = self._counts.get(member, 0) + 1
        if member == ANONYMOUS:
            self.is_changed = True
        elif count == 1 and self._leaving.pop(member, None) is None:
            self._dirty[member] = None
            self.is_changed = True
        return True

    def leave(self, conn: int, now: float, member: bytes | None = None) -> float | None:
        """Learn that a connection is not subscribed any more.

        Args:
            conn: the connection.
            now: the time.
            member: the identity that it had; by default the one that it has.

        Returns:
            When its member has left, if it has no other connection here.
        """
        if member is None:
            member = self._connections.pop(conn, None)
        if member is None:
            return None
        self._counts[member] -= 1
        if member == ANONYMOUS:
            self.is_changed = True
        if self._counts[member]:
            return None
        del self._counts[member]
        if member == ANONYMOUS:
            return None
        due = self._leaving[member] = now + self.leave_after
        return due

    def member_of(self, conn: int) -> bytes | None:
        """Return the member that a connection belongs to; None if it is not subscribed."""
        return self._connections.get(conn)

    def expire(self, now: float) -> None:
        """Have the members leave whose time is up."""
        while self._leaving:  # in order, except where the rule has changed
            member = next(iter(self._leaving))
            if self._leaving[member] > now:
                break
            del self._leaving[member]
            self._dirty[member] = None
            self.is_changed = True

    def has(self, member: bytes) -> bool:
        """Whether a member is present on this node."""
        return member in self._counts or member in self._leaving

    def take(self, most: int) -> Changes:
        """Return what the broker must be told, and note that it has been; `put_back` undoes this."""
        joins: list[bytes] = []
        leaves: list[bytes] = []
        for member in list(self._first(most)):
            del self._dirty[member]
            (joins if self.has(member) else leaves).append(member)
        self.is_changed = bool(self._dirty)
        return Changes(joins, leaves, self.anonymous)

    def _first(self, most: int) -> Iterator[bytes]:
        for _, member in zip(range(most), self._dirty, strict=False):
            yield member

    def put_back(self, changes: Changes) -> None:
        """Learn that the broker may not have been told some changes."""
        self._dirty.update(dict.fromkeys(changes.joins + changes.leaves))
        self.is_changed = True

    def tell_all(self) -> None:
        """Have the broker told of all members: it may know nothing of them."""
        self._dirty = dict.fromkeys(member for member in (*self._counts, *self._leaving) if member != ANONYMOUS)
        self.is_changed = bool(self._dirty) or self.anonymous > 0


class Members:
    """All rooms of a node, by channel.

    Attributes:
        changed: the channels of which the broker must be told something, in order.
    """

    def __init__(self) -> None:
        self.changed: Final[dict[bytes, None]] = {}
        self._rooms: dict[bytes, Room] = {}
        self._due: list[tuple[float, bytes]] = []  # when a member of a channel may have left, a heap

    def __len__(self) -> int:
        return len(self._rooms)

    def __contains__(self, channel: object) -> bool:
        return channel in self._rooms

    @property
    def present(self) -> int:
        """How many members are present on this node, added up over all channels."""
        return sum(room.members for room in self._rooms.values())

    @property
    def channels(self) -> list[bytes]:
        """All channels."""
        return list(self._rooms)

    def room(self, channel: bytes) -> Room | None:
        """Return the room of a channel, if it has one."""
        return self._rooms.get(channel)

    def join(self, channel: bytes, conn: int, member: bytes, leave_after: float, now: float) -> bool:
        """Learn that a connection is subscribed, or has another identity; return whether that is new."""
        room = self._rooms.get(channel)
        if room is None:
            room = self._rooms[channel] = Room(leave_after)
        room.leave_after = leave_after
        before = room.member_of(conn)
        if not room.join(conn, member):
            return False
        if before is not None:
            self._note_due(room.leave(conn, now, before), channel)
        self.note(channel, room)
        return True

    def leave(self, channel: bytes, conns: Iterable[int], now: float) -> None:
        """Learn that connections are not subscribed any more."""
        room = self._rooms.get(channel)
        if room is None:
            return
        for conn in conns:
            self._note_due(room.leave(conn, now), channel)
        self.note(channel, room)

    def _note_due(self, due: float | None, channel: bytes) -> None:
        if due is not None and (not self._due or self._due[-1] != (due, channel)):
            heapq.heappush(self._due, (due, channel))

    def expire(self, now: float) -> None:
        """Have the members leave whose time is up."""
        channels: dict[bytes, None] = {}
        while self._due and self._due[0][0] <= now:
            channels[heapq.heappop(self._due)[1]] = None
        for channel in channels:
            room = self._rooms.get(channel)
            if room is not None:
                room.expire(now)
                self.note(channel, room)

    def note(self, channel: bytes, room: Room) -> None:
        """Note whether the broker must be told something of a channel, and drop one without anybody."""
        if room.is_changed:
            self.changed[channel] = None
        elif room.is_empty:
            self._rooms.pop(channel, None)

    def tell_all(self) -> None:
        """Have the broker told of all members."""
        for channel, room in list(self._rooms.items()):
            room.tell_all()
            self.note(channel, room)
