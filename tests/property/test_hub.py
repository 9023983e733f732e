"""The hub under any order of subscribing, leaving, confirming, refusing, waiting and losing the broker."""

from __future__ import annotations

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realizehit._fanout import channel_id
from realizehit.broker.base import BusState
from realizehit.errors import ErrorCode
from realizehit.node.history_request import Started
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from tests.support.engines import Bench, Peer
from tests.support.scripted_bus import ScriptedBus

CHANNELS = [b"c:%d" % n for n in range(2)]
TIMEOUT = 5.0


class HubMachine(RuleBasedStateMachine):
    """Each request is answered once; after a good answer every message comes, before it none; the broker is asked for
    what is held."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.bus = ScriptedBus()
        self.now = 0.0
        self.hub = Hub(
            self.bench.engine,
            self.bus,
            clock=lambda: self.now,
            call_soon=self.bench.loop.soon.append,
            subscribe_timeout=TIMEOUT,
        )
        self.bus.listen(self.hub)
        self.peers: dict[int, Peer] = {}
        self.granted: set[tuple[int, bytes]] = set()  # who was told that it is subscribed, and did not leave
        self.asked: dict[int, tuple[int, bytes, float]] = {}  # requests without an answer
        self.answers: dict[int, ErrorCode | None] = {}
        self.requests = 0
        self.forgotten: set[bytes] = set()  # refused by the broker while somebody held it
        self.owed: set[tuple[int, bytes]] = set()  # who had it when the broker went, and has had it since
        for _ in range(3):
            self.connect()

    def pick(self, n: int) -> int | None:
        handles = sorted(self.peers)
        return handles[n % len(handles)] if handles else None

    @rule()
    def connect(self) -> None:
        handle, peer = self.bench.connect()
        self.peers[handle] = peer

    @rule(n=st.integers(0, 3), channel=st.sampled_from(CHANNELS))
    def subscribe(self, n: int, channel: bytes) -> None:
        conn = self.pick(n)
        if conn is None:
            return
        number, self.requests = self.requests, self.requests + 1
        self.asked[number] = (conn, channel, self.now)
        had = (conn, channel) in self.granted

        def answer(code: ErrorCode | None, text: str, started: Started) -> None:
            assert number in self.asked, "answered twice"
            del self.asked[number]
            self.answers[number] = code
            if code is None:
                assert had or channel in self.bus.in_force or self.leaving == (conn, channel)
                if self.leaving != (conn, channel):
                    self.granted.add((conn, channel))
            else:
                self.granted.discard((conn, channel))

        self.hub.subscribe(conn, Channel(channel), answer)
        if had:
            assert self.answers[number] is None, "what is subscribed stays so"
        if channel in self.bus.in_force:
            assert number in self.answers, "nothing to wait for"

    leaving: tuple[int, bytes] | None = None

    @rule(n=st.integers(0, 3), channel=st.sampled_from(CHANNELS))
    def unsubscribe(self, n: int, channel: bytes) -> None:
        conn = self.pick(n)
        if conn is None:
            return
        waits = any((c, ch) == (conn, channel) for c, ch, _ in self.asked.values())
        self.leaving = (conn, channel)
        assert self.hub.unsubscribe(conn, Channel(channel)) == ((conn, channel) in self.granted or waits)
        self.leaving = None
        assert all((c, ch) != (conn, channel) for c, ch, _ in self.asked.values())
        self.granted.discard((conn, channel))
        self.owed.discard((conn, channel))

    @rule(n=st.integers(0, 3), channel=st.sampled_from(CHANNELS), turns=st.booleans())
    def change_ones_mind(self, n: int, channel: bytes, turns: bool) -> None:
        """Come, leave and come again, in one read or in two."""
        self.subscribe(n, channel)
        self.unsubscribe(n, channel)
        if turns:
            self.turn()
        self.subscribe(n, channel)
        self.publish(channel)

    @rule(channel=st.sampled_from(CHANNELS))
    def all_leave_the_channel(self, channel: bytes) -> None:
        for n in range(len(self.peers)):
            self.unsubscribe(n, channel)
        self.turn()
        self.publish(channel)

    @rule(n=st.integers(0, 3))
    def leave(self, n: int) -> None:
        conn = self.pick(n)
        if conn is None:
            return
        self.peers.pop(conn).sock.close()
        self.bench.poll()
        self.granted = {(c, channel) for c, channel in self.granted if c != conn}
        self.asked = {number: request for number, request in self.asked.items() if request[0] != conn}

    @rule(channel=st.sampled_from(CHANNELS))
    def confirm(self, channel: bytes) -> None:
        if channel in self.bus.wanted:
            self.bus.confirm(channel)
            assert all(ch != channel for _, ch, _ in self.asked.values()), "all who waited are answered"

    @rule(channel=st.sampled_from(CHANNELS))
    def refuse(self, channel: bytes) -> None:
        if channel in self.bus.wanted and channel not in self.bus.in_force:
            self.bus.refuse(channel)
            assert all(ch != channel for _, ch, _ in self.asked.values())
            self.forgotten.add(channel)

    @rule()
    def broker_goes_away(self) -> None:
        self.bus.go_away()
        self.owed |= self.granted

    @precondition(lambda self: self.bus.state is BusState.DOWN)
    @rule(seconds=st.sampled_from([0.25, 90.0]))
    def broker_is_back(self, seconds: float) -> None:
        self.bench.loop.run()
        for peer in self.peers.values():
            peer.frames()
        ended = {(conn, channel) for conn, channel in self.granted if channel not in self.bus.wanted}
        assert ended <= self.owed
        self.granted -= ended
        told = {(conn, channel) for conn, channel in self.owed - ended if conn in self.peers}
        self.owed = set()
        self.forgotten.clear()
        self.bus.restore(seconds)
        self.bench.loop.run()
        events = [(conn, orjson.loads(text)) for conn, peer in self.peers.items() for text in peer.texts()]
        gaps = [(conn, label) for conn, event in events if event["evt"] == "gap" for label in event["ids"]]
        assert sorted(gaps) == sorted((conn, channel_id(channel)) for conn, channel in told)
        assert all(seconds <= event["seconds"] < seconds + 5 for _, event in events if event["evt"] == "gap")
        assert {(conn, event["ids"][0]) for conn, event in events if event["evt"] == "unsubscribed"} == {
            (conn, channel_id(channel)) for conn, channel in ended
        }
        assert len({conn for conn, event in events if event["evt"] == "gap"}) == len({conn for conn, _ in told})

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.hub.tick(self.now)
        for _, _, since in self.asked.values():
            assert self.now < since + TIMEOUT, "nobody waits for ever"

    @rule()
    def turn(self) -> None:
        self.bench.loop.run()

    @precondition(lambda self: not self.bench.loop.soon)
    @invariant()
    def the_broker_is_asked_for_just_what_is_needed(self) -> None:
        needed = set(self.bench.engine.channel_names())
        self.forgotten &= needed - self.bus.wanted
        assert self.bus.wanted | self.forgotten == needed

    @invariant()
    def whoever_was_told_yes_is_subscribed(self) -> None:
        held = {(conn, channel) for conn in self.peers for channel in self.bench.engine.subscriptions(conn)}
        waiting = {(conn, channel) for conn, channel, _ in self.asked.values()}
        assert held == self.granted | waiting

    @rule(channel=st.sampled_from(CHANNELS))
    def publish(self, channel: bytes) -> None:
        if channel not in self.bus.in_force | self.bus.leaving:
            return
        self.bench.loop.run()
        for peer in self.peers.values():
            peer.read()
        self.hub.deliver([[b"message", channel, b"1"]])
        self.bench.loop.run()
        reached = {conn for conn, peer in self.peers.items() if peer.texts()}
        assert reached == {conn for conn, ch in self.granted if ch == channel}, "all who were told yes, and nobody else"

    def teardown(self) -> None:
        assert self.bench.loop.errors == []
        self.bench.engine.close()
        for peer in self.bench.peers:
            peer.sock.close()


TestHub = HubMachine.TestCase
TestHub.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
