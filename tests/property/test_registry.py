"""The registry against a plain model, under any order of coming, going and publishing."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from realizehit import _fanout
from tests.support.engines import CLOSE, Bench, Peer

# Two share an id; the last one is a wildcard's, and what is published to it names its concrete channel.
CHANNELS = [b"c:%d" % n for n in range(5)] + [b"user:25442", b"user:28322", b"c:*"]


class RegistryMachine(RuleBasedStateMachine):
    """Connections subscribe, unsubscribe, leave in every way, and receive what they should, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.subscriptions: dict[int, set[bytes]] = {}
        self.expected: dict[int, list[bytes]] = {}
        self.peers: dict[int, Peer] = {}
        self.published = 0
        self.watched: set[bytes] = set()
        self.leavers: list[tuple[bytes, int]] = []
        self.told: list[tuple[bytes, int]] = []
        self.bench.engine.on_left = lambda channel, handles: self.told.extend((channel, handle) for handle in handles)

    def left(self, handle: int, channels: set[bytes]) -> None:
        self.leavers += [(channel, handle) for channel in channels & self.watched]
        self.watched &= {each for own in self.subscriptions.values() for each in own}

    @rule(channel=st.sampled_from(CHANNELS), watched=st.booleans())
    def watch(self, channel: bytes, watched: bool) -> None:
        if self.bench.engine.watch_leavers(channel, watched):
            (self.watched.add if watched else self.watched.discard)(channel)

    @rule()
    def connect(self) -> None:
        handle, peer = self.bench.connect()
        self.subscriptions[handle], self.expected[handle], self.peers[handle] = set(), [], peer

    def pick(self, n: int) -> int | None:
        handles = sorted(self.subscriptions)
        return handles[n % len(handles)] if handles else None

    @rule(n=st.integers(0, 50), channel=st.sampled_from(CHANNELS))
    def subscribe(self, n: int, channel: bytes) -> None:
        handle = self.pick(n)
        if handle is None:
            return
        own = self.subscriptions[handle]
        outcome = self.bench.engine.subscribe(handle, channel, 5)
        if channel in own:
            assert outcome == _fanout.ALREADY
        elif any(_fanout.channel_id(other) == _fanout.channel_id(channel) for other in own):
            assert outcome == _fanout.COLLISION
        elif len(own) == 5:
            assert outcome == _fanout.FULL
        else:
            assert outcome == _fanout.ADDED
            own.add(channel)

    @rule(n=st.integers(0, 50), channel=st.sampled_from(CHANNELS))
    def unsubscribe(self, n: int, channel: bytes) -> None:
        handle = self.pick(n)
        if handle is not None:
            was_in = channel in self.subscriptions[handle]
            assert self.bench.engine.unsubscribe(handle, channel) == was_in
            self.bench.loop.run()
            self.subscriptions[handle].discard(channel)
            if was_in:
                self.left(handle, {channel})

    @rule(channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=8))
    def publish(self, channels: list[bytes]) -> None:
        batch = []
        for channel in channels:
            text = b"%s?%d" % (b"@c=c:1" if channel == b"c:*" else b"", self.published)
            self.published += 1
            batch.append((channel, text.removeprefix(b"?")))
            for handle, own in self.subscriptions.items():
                if channel in own:
                    self.expected[handle].append(_fanout.channel_id(channel).encode() + text)
        self.bench.publish(*batch)

    @rule(n=st.integers(0, 50), how=st.sampled_from(["close", "cut", "disconnect"]))
    def leave(self, n: int, how: str) -> None:
        handle = self.pick(n)
        if handle is None:
            return
        self.receive(handle)
        peer = self.peers.pop(handle)
        if how == "disconnect":
            self.bench.engine.disconnect(handle, 4001)
        elif how == "close":
            peer.send(CLOSE)
            self.bench.poll()
        else:
            peer.sock.close()
            self.bench.poll()
        self.bench.loop.run()
        own = self.subscriptions.pop(handle)
        del self.expected[handle]
        self.left(handle, own)
        assert handle in self.bench.handler.gone

    def receive(self, handle: int) -> None:
        assert self.peers[handle].texts() == self.expected[handle]
        self.expected[handle] = []

    @invariant()
    def everyone_got_what_they_asked_for(self) -> None:
        for handle in self.subscriptions:
            self.receive(handle)

    @invariant()
    def the_engine_agrees(self) -> None:
        engine = self.bench.engine
        wanted: dict[bytes, int] = {}
        for handle, own in self.subscriptions.items():
            assert set(engine.subscriptions(handle)) == own
            for channel in own:
                wanted[channel] = wanted.get(channel, 0) + 1
        assert {channel: engine.subscribers(channel) for channel in engine.channel_names()} == wanted
        assert sorted(self.told) == sorted(self.leavers)
        stats = engine.stats()
        assert stats["connections"] == len(self.subscriptions)
        assert stats["subscriptions"] == sum(wanted.values())
        assert self.bench.loop.errors == []

    def teardown(self) -> None:
        self.bench.engine.close()
        for peer in self.bench.peers:
            peer.sock.close()


TestRegistry = RegistryMachine.TestCase
TestRegistry.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
