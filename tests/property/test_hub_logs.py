"""The hub with history, between clients and a broker that the test plays: delivered once and in order, or told."""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from realizehit._fanout import channel_id
from realizehit.broker.base import BusState
from realizehit.broker.history.rules import Rule, Rules
from realizehit.common.position import Position
from realizehit.errors import BrokerUnavailable, ErrorCode
from realizehit.node.history_request import HistoryRequest, Started
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from tests.support.engines import Bench, Peer
from tests.support.scripted_logs import LoggingBus

CHANNELS = [b"c:0", b"c:1"]
SIZE = 6  # messages that a log keeps
RULES = Rules((Rule({"c": None}, SIZE, 300.0),), "1")
TIMEOUT = 5.0


@dataclass
class Subscriber:
    """What one client of one channel has got, and what it must get."""

    peer: Peer
    conn: int
    channel: bytes
    history: HistoryRequest | None
    answered: bool = False
    refused: bool = False
    newest: int = -1  # number of the last message that it got
    owed: set[int] = field(default_factory=set)
    gaps: int = 0


class LogsMachine(RuleBasedStateMachine):
    """Every message after its beginning reaches a subscriber once and in order, or a gap that includes it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.bus = LoggingBus(RULES)
        self.now = 100.0
        self.hub = Hub(
            self.bench.engine,
            self.bus,
            clock=lambda: self.now,
            call_soon=self.bench.loop.soon.append,
            subscribe_timeout=TIMEOUT,
            run=self.bus.run,
        )
        self.bus.listen(self.hub)
        self.link: list[tuple[bytes, bytes]] = []  # from the broker, on its way
        self.subscribers: list[Subscriber] = []
        self.published = 0

    # ---- clients

    @rule(
        channel=st.sampled_from(CHANNELS),
        kind=st.sampled_from(["plain", "offsets", "last", "since"]),
        pick=st.integers(0, 1000),
    )
    def subscribe(self, channel: bytes, kind: str, pick: int) -> None:
        history = None
        if kind == "offsets":
            history = HistoryRequest()
        elif kind == "last":
            history = HistoryRequest(last=1 + pick % (SIZE + 2))
        elif kind == "since":
            log = self.bus.log(channel)
            assert log is not None
            known = [*log.positions, log.here]
            history = HistoryRequest(since=known[-1 - pick % min(len(known), SIZE + 3)])
        conn, peer = self.bench.connect()
        one = Subscriber(peer, conn, channel, history)
        self.subscribers.append(one)

        def answer(code: ErrorCode | None, text: str, started: Started) -> None:
            assert not one.answered
            assert not one.refused
            one.refused = code is not None
            one.answered = code is None
            if code is None:
                self.begin(one, started)
            self.bench.engine.send(conn, b'{"answer":1}')

        self.hub.subscribe(conn, Channel(channel), answer, history)

    def begin(self, one: Subscriber, started: Started) -> None:
        log = self.bus.log(one.channel)
        assert log is not None
        assert (started.at is not None) == (one.history is not None)
        if started.at is None:
            return  # what was on its way from the broker may come too
        is_known = started.at.epoch in (log.epoch, *(old.epoch for old in log.before))
        offset = started.at.offset if is_known else 0  # the log has ended, and the new one is yet to arrive
        one.newest = log.line.get(offset, -1)
        one.owed = {number for place, number in log.line.items() if place > offset}
        if started.recovered:
            assert one.history is not None
            assert one.history.since is not None
            assert started.at.offset == one.history.since.offset

    @rule(pick=st.integers(0, 1000))
    def leave(self, pick: int) -> None:
        if not self.subscribers:
            return
        one = self.subscribers.pop(pick % len(self.subscribers))
        one.peer.sock.close()
        self.bench.poll()

    # ---- the broker

    @rule(channel=st.sampled_from(CHANNELS), times=st.integers(1, 4))
    def publish(self, channel: bytes, times: int) -> None:
        log = self.bus.log(channel)
        assert log is not None
        for _ in range(times):
            position = log.append(self.published)
            for one in self.subscribers:
                if one.answered and one.channel == channel:
                    one.owed.add(self.published)
            if channel in self.bus.in_force:
                self.link.append((channel, b"@o=%b?%d" % (str(position).encode(), self.published)))
            self.published += 1

    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        batch, self.link = self.link[:count], self.link[count:]
        self.hub.deliver([[b"message", channel, payload] for channel, payload in batch])
        self.look()

    @rule(count=st.integers(1, 3))
    def lose_publications(self, count: int) -> None:
        """Lose what the log has, as a relay might; the node notices if it knows the log's position."""
        if all(self.bench.engine.log_state(channel) for channel, _ in self.link[:count]):
            del self.link[:count]

    @rule(channel=st.sampled_from(CHANNELS))
    def confirm(self, channel: bytes) -> None:
        if channel in self.bus.wanted and self.bus.state is BusState.UP and channel not in self.bus.in_force:
            self.bus.confirm(channel)
            self.look()

    @rule(pick=st.integers(0, 1000))
    def carry_out_a_read(self, pick: int) -> None:
        if self.bus.reads:
            self.bus.reads[pick % len(self.bus.reads)].carry_out()

    @rule(pick=st.integers(0, 1000))
    def answer_a_read(self, pick: int) -> None:
        if self.bus.reads:
            self.bus.answer(pick % len(self.bus.reads))
            self.look()

    @rule(pick=st.integers(0, 1000))
    def fail_a_read(self, pick: int) -> None:
        if self.bus.reads:
            self.bus.answer(pick % len(self.bus.reads), BrokerUnavailable("made to fail"))
            self.look()

    @rule()
    def lose_the_broker(self) -> None:
        self.link.clear()
        self.bus.go_away()

    @precondition(lambda self: self.bus.state is BusState.DOWN)
    @rule(lost=st.integers(0, 3), fails_over=st.booleans(), channel=st.sampled_from(CHANNELS))
    def broker_is_back(self, lost: int, fails_over: bool, channel: bytes) -> None:
        log = self.bus.log(channel)
        assert log is not None
        if fails_over:
            gone = log.fail_over(lost)
            for one in self.subscribers:
                if one.channel == channel:
                    one.owed -= gone
        self.bus.restore(0.25)
        self.look()

    @rule(channel=st.sampled_from(CHANNELS))
    def log_expires(self, channel: bytes) -> None:
        """Long after everything has arrived."""
        log = self.bus.log(channel)
        assert log is not None
        self.settle()
        state = self.bench.engine.log_state(channel)
        if state is None or Position(state[0], state[1]) == log.here:
            log.expire()

    @rule(seconds=st.sampled_from([0.6, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.hub.tick(self.now)
        self.look()

    # ---- what is checked

    def look(self) -> None:
        """Read what came, and check it."""
        self.bench.loop.run()
        self.bench.engine.flush()
        for one in self.subscribers:
            for text in one.peer.texts():
                self.take(one, text)

    def take(self, one: Subscriber, text: bytes) -> None:
        if text.startswith(b"{"):
            event = orjson.loads(text)
            if event.get("evt") == "gap":
                assert one.answered
                one.gaps += 1
                one.owed.clear()
            return
        assert one.answered, "nothing comes before the answer"
        label, _, payload = text.decode().partition("?")
        number = int(payload)
        assert number > one.newest, "in order, and none twice"
        one.newest = number
        one.owed.discard(number)
        name, _, place = label.partition("@o=")
        assert name == channel_id(one.channel)
        if one.history is None:
            assert not place
        elif not place:
            assert one.gaps, "positions are missing only after the log could not be read, which is told"
        if place:
            log = self.bus.log(one.channel)
            assert log is not None
            assert (int(place.rpartition(".")[2]), number) in log.given

    def settle(self) -> None:
        """Let everything that is on its way arrive."""
        if self.bus.state is BusState.DOWN:
            self.bus.restore(0.25)
        for _ in range(200):
            self.look()
            for channel in CHANNELS:
                self.confirm(channel)
            self.now += 0.6
            self.hub.tick(self.now)
            while self.link:
                self.deliver(8)
            while self.bus.reads:
                self.bus.answer()
            self.look()
            if not self.bus.reads and not self.link and not self.bench.loop.soon:
                break

    @rule()
    def all_is_delivered_or_told(self) -> None:
        self.settle()
        for channel in CHANNELS:  # shows holes at the end
            self.publish(channel, 1)
        self.settle()
        for one in self.subscribers:
            assert one.answered or one.refused
            if one.answered:
                assert not one.owed, (one, one.owed)

    def teardown(self) -> None:
        self.all_is_delivered_or_told()
        assert self.bench.loop.errors == []
        self.bench.engine.close()
        for peer in self.bench.peers:
            peer.sock.close()


TestLogs = LogsMachine.TestCase
TestLogs.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
