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
        self.hub = Hub(b.engine, self.bus, clock=lambda: 100.0, call_soon=b.loop.soon.append, run=self.bus.run)
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
