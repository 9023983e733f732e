"""The members of a node against a plain model, and against a broker that is told of the changes."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from realizehit.node.presence_members import ANONYMOUS, Members

CHANNELS = st.sampled_from([b"a:1", b"b:2"])
CONNS = st.integers(1, 6)
MEMBERS = st.sampled_from([b'{"user":"1"}', b'{"user":"2"}', b'{"user":"3"}', ANONYMOUS])
LEAVE_AFTER = 5.0


class Presence(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.members = Members()
        self.now = 0.0
        self.subscribed: dict[tuple[bytes, int], bytes] = {}  # the model
        self.seen: dict[tuple[bytes, bytes], float] = {}  # when each member was last seen without a connection
        self.broker: dict[bytes, set[bytes]] = {}
        self.anonymous: Counter[bytes] = Counter()

    def lost(self, channel: bytes, member: bytes) -> None:
        if member != ANONYMOUS and not self.connected(channel, member):
            self.seen[channel, member] = self.now

    def connected(self, channel: bytes, member: bytes) -> bool:
        return any(key[0] == channel and value == member for key, value in self.subscribed.items())

    def present(self, channel: bytes) -> set[bytes]:
        here = {value for key, value in self.subscribed.items() if key[0] == channel and value != ANONYMOUS}
        return here | {member for (place, member) in self.seen if place == channel}

    @rule(channel=CHANNELS, conn=CONNS, member=MEMBERS)
    def join(self, channel: bytes, conn: int, member: bytes) -> None:
        before = self.subscribed.get((channel, conn))
        assert self.members.join(channel, conn, member, LEAVE_AFTER, self.now) is (before != member)
        self.subscribed[channel, conn] = member
        self.seen.pop((channel, member), None)
        if before is not None and before != member:
            self.lost(channel, before)

    @rule(channel=CHANNELS, conns=st.lists(CONNS, max_size=4))
    def leave(self, channel: bytes, conns: list[int]) -> None:
        self.members.leave(channel, conns, self.now)
        for conn in conns:
            member = self.subscribed.pop((channel, conn), None)
            if member is not None:
                self.lost(channel, member)

    @rule(seconds=st.sampled_from([0.0, 2.5, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.members.expire(self.now)
        self.seen = {key: since for key, since in self.seen.items() if since + LEAVE_AFTER > self.now}

    @rule(most=st.integers(1, 3), lost=st.booleans(), carried_out=st.booleans())
    def tell(self, most: int, *, lost: bool, carried_out: bool) -> None:
        """Tell the broker; perhaps the answer is lost, with or without the change."""
        for channel in list(self.members.changed):
            del self.members.changed[channel]
            room = self.members.room(channel)
            if room is None:
                continue
            changes = room.take(most)
            assert len(changes.joins) + len(changes.leaves) <= most
            if carried_out or not lost:
                self.broker.setdefault(channel, set()).update(changes.joins)
                self.broker[channel].difference_update(changes.leaves)
                self.anonymous[channel] = changes.anonymous
            if lost:
                room.put_back(changes)
            self.members.note(channel, room)

    @rule()
    def begin_anew(self) -> None:
        """The broker has lost everything."""
        self.broker.clear()
        self.anonymous.clear()
        self.members.tell_all()

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        for channel in (b"a:1", b"b:2"):
            room = self.members.room(channel)
            anonymous = sum(key[0] == channel and value == ANONYMOUS for key, value in self.subscribed.items())
            assert (room.members if room else 0) == len(self.present(channel))
            assert (room.anonymous if room else 0) == anonymous
            if room is not None and not room.is_changed:
                assert self.broker.get(channel, set()) == self.present(channel)
                assert self.anonymous[channel] == anonymous
            if room is not None and room.is_changed:
                assert channel in self.members.changed
            if room is None:
                assert not self.broker.get(channel)
        assert self.members.present == len(self.present(b"a:1")) + len(self.present(b"b:2"))


TestPresence = Presence.TestCase
TestPresence.settings = settings(max_examples=200, stateful_step_count=40)
