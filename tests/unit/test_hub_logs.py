"""Corners of the hub with history that clients reach seldom, with a broker that the test plays."""

from __future__ import annotations

import orjson
import pytest

from realizehit._fanout import HAVE_EPOLL, channel_id
from realizehit.broker.history.rules import NO_RULES, Rule, Rules
from realizehit.common.position import Position
from realizehit.errors import ErrorCode
from realizehit.node.history_request import HistoryRequest, Started
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from tests.support.engines import Bench, bench
from tests.support.scripted_logs import LoggingBus, ScriptedLog

CHAT = Channel(b"kind:chat")
LABEL = channel_id(CHAT).encode()


class Desk:
    """A hub whose broker keeps six messages of each pattern."""

    def __init__(self, b: Bench) -> None:
        self.bench = b
        self.bus = LoggingBus(Rules((Rule({"kind": ("chat",)}, 6, 300.0),), "1"))
        self.now = 100.0
        self.hub = Hub(b.engine, self.bus, clock=lambda: self.now, call_soon=b.loop.soon.append, run=self.bus.run)
        self.bus.listen(self.hub)
        self.answers: list[tuple[ErrorCode | None, Started]] = []

    @property
    def log(self) -> ScriptedLog:
        log = self.bus.log(CHAT)
        assert log is not None
        return log

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            position = self.log.append(number)
            self.hub.deliver([[b"message", CHAT, b"@o=%b?%d" % (str(position).encode(), number)]])
        self.bench.loop.run()

    def sub(self, conn: int, history: HistoryRequest | None = None) -> None:
        self.hub.subscribe(conn, CHAT, lambda code, text, started: self.answers.append((code, started)), history)
        if CHAT not in self.bus.in_force:
            self.bus.confirm(CHAT)
        while self.bus.reads or self.bench.loop.soon:
            while self.bus.reads:
                self.bus.answer()
            self.bench.loop.run()


@pytest.mark.skipif(not HAVE_EPOLL, reason="a transport of these tests takes everything")
def test_a_client_so_slow_that_the_rest_of_its_replay_is_not_kept_is_told() -> None:
    with bench(max_queue_bytes=400_000, ring_bytes=0) as b:
        d = Desk(b)
        other, _ = b.connect()
        d.sub(other)
        d.publish(*range(6))
        slow, peer = b.connect(send_buffer=4096)
        b.engine.send(slow, b'{"filler":"%b"}' % (b"x" * 300_000))
        d.sub(slow, HistoryRequest(last=4))
        assert d.answers[-1] == (None, Started(Position(d.log.epoch, 2)))
        assert b.engine.stats()["replays"] == 1
        d.publish(*range(6, 12))  # what the client has yet to get is not kept any more
        texts: list[bytes] = []
        while b"gap" not in b"".join(texts[-1:]):
            texts += peer.texts()
            b.poll()
            b.engine.flush()
            while d.bus.reads:
                d.bus.answer()
            b.loop.run()
        gap = orjson.loads(texts[-1])
        assert gap["ids"] == [LABEL.decode()]
        assert gap["at"] == {LABEL.decode(): str(d.log.here)}
        d.publish(12)
        assert peer.texts() == [LABEL + b"@o=13?12"]
        assert d.hub.logs.counts.ended_replays == 1


def test_a_client_that_saw_more_than_the_node_waits_for_it_without_a_repetition() -> None:
    with bench() as b:
        d = Desk(b)
        other, _ = b.connect()
        d.sub(other)
        late = d.log.append(0)  # on its way here
        conn, peer = b.connect()
        d.sub(conn, HistoryRequest(since=late))
        assert d.answers[-1] == (None, Started(late, recovered=True))
        d.hub.deliver([[b"message", CHAT, b"@o=%b?0" % str(late).encode()]])
        d.publish(1)
        assert peer.texts() == [LABEL + b"@o=2?1"]


def test_rules_that_come_after_the_first_subscription_are_applied_before_it_is_answered() -> None:
    """The bus tells the rules before the first channel is in force, but all channels are looked at in later turns."""
    with bench() as b:
        d = Desk(b)
        rules = d.bus.rules
        d.bus.change_rules(NO_RULES)
        b.loop.run()
        conn, _ = b.connect()
        d.hub.subscribe(conn, CHAT, lambda code, text, started: d.answers.append((code, started)), HistoryRequest())
        d.bus.change_rules(rules)
        d.bus.confirm(CHAT)
        assert d.answers == []
        d.bus.answer()
        b.loop.run()
        assert d.answers == [(None, Started(d.log.here))]


def test_what_is_not_kept_is_not_called_recovered() -> None:
    with bench(ring_bytes=0) as b:
        d = Desk(b)
        other, _ = b.connect()
        d.sub(other)
        d.publish(*range(10))
        for offset, recovered in ((3, False), (4, True), (10, True), (11, False)):
            conn, peer = b.connect()
            since = Position(d.log.epoch, offset)
            d.sub(conn, HistoryRequest(since=since))
            assert d.answers[-1] == (None, Started(since if recovered else d.log.here, recovered))
            assert len(peer.texts()) == (10 - offset if recovered else 0)


def test_a_read_from_before_the_connection_was_lost_is_not_used() -> None:
    with bench() as b:
        d = Desk(b)
        conn, peer = b.connect()
        d.hub.subscribe(conn, CHAT, lambda code, text, started: d.answers.append((code, started)), HistoryRequest())
        d.bus.confirm(CHAT)
        d.bus.reads[0].carry_out()
        d.bus.go_away()
        d.log.append(0)
        d.bus.answer()
        assert d.answers == []
        d.bus.restore(0.25)
        while d.bus.reads:
            d.bus.answer()
        assert d.answers == [(None, Started(Position(d.log.epoch, 1)))]
        d.publish(1)
        assert peer.texts() == [LABEL + b"@o=2?1"]


def test_a_client_that_is_sent_away_is_told_what_its_node_has_not_read_yet() -> None:
    with bench() as b:
        d = Desk(b)
        (plain, one), (numbered, two), (late, three) = (b.connect() for _ in range(3))
        d.sub(plain)
        d.sub(numbered, HistoryRequest())
        d.bus.go_away()
        d.hub.subscribe(late, CHAT, lambda code, text, started: None)
        for conn in (plain, numbered, late):
            d.hub.tell_up_to_now(conn)
        b.loop.run()
        (told,) = map(orjson.loads, one.texts())
        assert (told["evt"], told["ids"]) == ("gap", [LABEL.decode()])
        assert two.texts() == three.texts() == []  # one goes on by its position, one was promised nothing yet


def test_what_the_broker_keeps_no_more_is_not_sent_from_memory() -> None:
    with bench() as b:
        d = Desk(b)
        d.log.expires_in = 300.0
        (other, live), (early, first), (late, second), (last, third) = (b.connect() for _ in range(4))
        d.sub(other, HistoryRequest())
        d.now += 200.0
        b.engine.tick(d.now)
        d.publish(0, 1)
        seen, reads = d.log.here, d.bus.read_count
        d.now += 299.0
        d.sub(early, HistoryRequest(last=2))
        assert first.texts() == [LABEL + b"@o=1?0", LABEL + b"@o=2?1"]
        assert d.bus.read_count == reads
        d.now += 2.0
        d.log.expire()
        d.sub(late, HistoryRequest(since=Position(seen.epoch, 1)))
        assert d.answers[-1] == (None, Started(d.log.here, recovered=False))
        d.sub(last, HistoryRequest(last=2))
        assert second.texts() == third.texts() == []
        live.texts()
        d.publish(2)
        for peer in (live, first, second, third):
            (text,) = peer.texts()  # nobody who was there has missed anything
            assert text.endswith(b"?2")


@pytest.mark.skipif(not HAVE_EPOLL, reason="a transport of these tests takes everything")
def test_a_log_that_begins_anew_during_a_replay_is_a_gap_for_nobody_else() -> None:
    with bench(max_queue_bytes=400_000) as b:
        d = Desk(b)
        (other, live), (slow, peer) = b.connect(), b.connect(send_buffer=4096)
        d.sub(other, HistoryRequest())
        d.publish(*range(6))
        live.texts()
        b.engine.send(slow, b'{"filler":"%b"}' % (b"x" * 300_000))
        d.sub(slow, HistoryRequest(last=4))
        assert b.engine.log_replaying(CHAT) == [slow]
        d.log.expire()
        d.publish(7)
        assert b.engine.log_replaying(CHAT) == []
        texts: list[bytes] = []
        while not texts or not texts[-1].endswith(b"?7"):
            texts += peer.texts()
            b.poll()
            b.engine.flush()
        gap = orjson.loads(texts[-2])
        assert gap["at"] == {LABEL.decode(): str(Position(d.log.epoch, 0))}
        said = LABEL + b"@o=%b?7" % str(d.log.here).encode()
        assert texts[-1] == said
        assert live.texts() == [said]


def test_a_replay_that_begins_earlier_than_the_read_under_way_gets_a_read_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realizehit.node.log_reader.PART", 2)
    with bench(ring_bytes=0) as b:
        d = Desk(b)
        other, _ = b.connect()
        d.sub(other)
        d.publish(*range(6))
        peers = []
        for after in (3, 1):  # the second one comes while what the first one lacks is read
            conn, peer = b.connect()
            peers.append(peer)
            history = HistoryRequest(since=Position(d.log.epoch, after))
            d.hub.subscribe(conn, CHAT, lambda code, text, started: d.answers.append((code, started)), history)
            b.loop.run()
        assert len(d.bus.reads) == 1
        while d.bus.reads:
            d.bus.answer()
            b.loop.run()
        assert [[text.rpartition(b"?")[2] for text in peer.texts()] for peer in peers] == [
            [b"3", b"4", b"5"],
            [b"1", b"2", b"3", b"4", b"5"],
        ]
        assert b.engine.stats()["replays"] == 0
