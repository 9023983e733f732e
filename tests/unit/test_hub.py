"""The hub between a real engine and a broker that the test plays; and, at the end, a real bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import orjson
import pytest

from realizehit import _fanout
from realizehit.broker.memory import MemoryBus
from realizehit.broker.publication import Publication, Published
from realizehit.errors import ErrorCode
from realizehit.node.history_request import Started
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from tests.support.engines import Bench, Peer, bench
from tests.support.scripted_bus import ScriptedBus

NEWS = Channel(b"kind:news")
NEWS_ID = _fanout.channel_id(NEWS)


class Desk:
    """A hub with its engine and bus, a clock to turn, and the answers that came."""

    def __init__(self, b: Bench, **options: float) -> None:
        self.bench = b
        self.bus = ScriptedBus()
        self.now = 100.0
        self.hub = Hub(
            b.engine,
            self.bus,
            clock=lambda: self.now,
            call_soon=b.loop.soon.append,
            **options,  # type: ignore[arg-type]
        )
        self.bus.listen(self.hub)
        self.answers: list[tuple[str, ErrorCode | None]] = []

    def sub(self, conn: int, channel: bytes = NEWS, name: str = "") -> None:
        self.hub.subscribe(
            conn, Channel(channel), lambda code, text, started: self._answered(name or str(conn), code, text)
        )

    def _answered(self, name: str, code: ErrorCode | None, text: str) -> None:
        assert (code is None) == (text == "")
        self.answers.append((name, code))

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.hub.tick(self.now)
        self.bench.loop.run()

    def take(self) -> list[tuple[str, ErrorCode | None]]:
        self.bench.loop.run()
        answers, self.answers = self.answers, []
        return answers


@contextmanager
def desk(**options: float) -> Iterator[tuple[Desk, Bench]]:
    with bench() as b:
        yield Desk(b, **options), b


def test_the_answer_waits_until_the_broker_has_confirmed() -> None:
    with desk() as (d, b):
        one, first = b.connect()
        d.sub(one)
        assert d.take() == []
        assert d.bus.calls == [("subscribe", NEWS)]
        d.bus.confirm(NEWS)
        assert d.take() == [(str(one), None)]
        d.hub.deliver([[b"message", NEWS, b"1"]])
        assert first.texts() == [NEWS_ID.encode() + b"?1"]
        d.bus.confirm(NEWS)  # after a reconnect, say
        assert d.take() == []


def test_the_broker_gets_one_subscribe_and_one_unsubscribe() -> None:
    with desk() as (d, b):
        one, two, three = (b.connect()[0] for _ in range(3))
        d.sub(one)
        d.sub(two)
        d.bus.confirm(NEWS)
        d.sub(three)
        assert d.take() == [(str(one), None), (str(two), None), (str(three), None)]
        assert d.bus.wanted == {NEWS}
        assert d.hub.unsubscribe(one, NEWS)
        assert d.hub.unsubscribe(two, NEWS)
        assert not d.hub.unsubscribe(two, NEWS)
        b.loop.run()
        assert d.bus.wanted == {NEWS}
        assert d.hub.unsubscribe(three, NEWS)
        b.loop.run()
        assert d.bus.calls[-1] == ("unsubscribe", NEWS)
        assert [call for call in d.bus.calls if call[0] == "unsubscribe"] == [("unsubscribe", NEWS)]


def test_a_channel_that_is_in_force_is_answered_at_once() -> None:
    with desk() as (d, b):
        one, two = (b.connect()[0] for _ in range(2))
        d.sub(one)
        d.bus.confirm(NEWS)
        d.take()
        d.sub(two)
        assert d.answers == [(str(two), None)]


def test_asking_twice_is_one_subscription_and_two_answers() -> None:
    with desk() as (d, b):
        one, first = b.connect()
        d.sub(one, name="a")
        d.sub(one, name="b")
        d.bus.confirm(NEWS)
        d.sub(one, name="c")
        assert d.take() == [("a", None), ("b", None), ("c", None)]
        d.hub.deliver([[b"message", NEWS, b"1"]])
        assert len(first.texts()) == 1
        assert d.hub.unsubscribe(one, NEWS)
        assert not d.hub.unsubscribe(one, NEWS)


def test_a_subscription_past_its_deadline_is_unavailable() -> None:
    with desk(subscribe_timeout=5.0) as (d, b):
        one, two = (b.connect()[0] for _ in range(2))
        d.sub(one)
        d.wait(3)
        d.sub(two)
        d.wait(1.9)
        assert d.take() == []
        d.wait(0.2)
        assert d.take() == [(str(one), ErrorCode.UNAVAILABLE)]
        assert b.engine.subscriptions(one) == []
        assert d.bus.wanted == {NEWS}  # the other still waits
        d.bus.confirm(NEWS)
        assert d.take() == [(str(two), None)]
        d.wait(60)
        assert d.take() == []


def test_when_everyone_gave_up_the_broker_is_told() -> None:
    with desk(subscribe_timeout=5.0) as (d, b):
        one, _ = b.connect()
        d.sub(one)
        d.wait(5)
        assert d.take() == [(str(one), ErrorCode.UNAVAILABLE)]
        assert d.bus.wanted == set()
        d.sub(one)  # and again, from the start
        d.bus.confirm(NEWS)
        assert d.take() == [(str(one), None)]


def test_giving_up_answers_all_that_one_connection_asked() -> None:
    with desk(subscribe_timeout=5.0) as (d, b):
        one, two = (b.connect()[0] for _ in range(2))
        d.sub(one, name="a")
        d.wait(3)
        d.sub(one, name="b")
        d.sub(two, name="c")
        d.wait(2)
        assert d.take() == [("a", ErrorCode.UNAVAILABLE), ("b", ErrorCode.UNAVAILABLE)]
        d.bus.confirm(NEWS)
        assert d.take() == [("c", None)]
        assert b.engine.subscribers(NEWS) == 1


def test_confirmed_subscriptions_survive_an_outage_and_new_ones_wait() -> None:
    with desk(subscribe_timeout=5.0) as (d, b):
        one, two = (b.connect()[0] for _ in range(2))
        d.sub(one, name="a")
        d.bus.confirm(NEWS)
        d.bus.go_away()
        d.sub(one, name="b")
        assert d.take() == [("a", None), ("b", None)]
        d.sub(two, name="c")
        d.sub(one, name="d")
        assert d.take() == [("d", None)]
        d.wait(5)
        assert d.take() == [("c", ErrorCode.UNAVAILABLE)]
        assert b.engine.subscriptions(one) == [NEWS]
        assert d.bus.wanted == {NEWS}


def test_unsubscribing_while_a_sub_waits_is_answered() -> None:
    with desk() as (d, b):
        one, two = (b.connect()[0] for _ in range(2))
        d.sub(one)
        d.sub(two)
        assert d.hub.unsubscribe(one, NEWS)
        assert d.take() == [(str(one), None)]
        d.bus.confirm(NEWS)
        assert d.take() == [(str(two), None)]
        assert b.engine.subscribers(NEWS) == 1


def test_leaving_and_rejoining_in_one_turn_sends_no_command() -> None:
    with desk() as (d, b):
        one, _ = b.connect()
        d.sub(one, name="a")
        d.hub.unsubscribe(one, NEWS)
        d.sub(one, name="b")
        assert d.take() == [("a", None)]
        assert d.bus.wanted == {NEWS}
        assert ("unsubscribe", NEWS) not in d.bus.calls
        d.bus.confirm(NEWS)
        assert d.take() == [("b", None)]


@pytest.mark.parametrize("hesitates", [False, True])
def test_messages_of_an_ended_subscription_do_not_reach_a_new_one(hesitates: bool) -> None:
    with desk() as (d, b):
        one, _ = b.connect()
        two, second = b.connect()
        d.sub(one)
        d.bus.confirm(NEWS)
        d.hub.unsubscribe(one, NEWS)
        b.loop.run()
        assert d.bus.leaving == {NEWS}
        d.take()
        d.sub(two, name="a")
        if hesitates:  # in one read: the engine has a new channel each time, and the hub still the one that waits
            d.hub.unsubscribe(two, NEWS)
            d.sub(two, name="b")
        d.hub.deliver([[b"message", NEWS, b"1"]])
        b.loop.run()
        assert second.texts() == []
        d.bus.confirm(NEWS)
        d.hub.deliver([[b"message", NEWS, b"2"]])
        b.loop.run()
        assert second.texts() == [NEWS_ID.encode() + b"?2"]
        assert d.take() == ([("a", None), ("b", None)] if hesitates else [("a", None)])


def test_a_connection_that_goes_while_waiting_gets_no_answer() -> None:
    with desk(subscribe_timeout=5.0) as (d, b):
        one, first = b.connect()
        two, second = b.connect()
        three, _ = b.connect()
        for conn in (one, two, three):
            d.sub(conn)
        first.sock.close()
        b.poll()
        d.bus.confirm(NEWS)
        assert d.take() == [(str(two), None), (str(three), None)]
        d.sub(two, b"a:1")
        d.sub(three, b"a:1")
        second.sock.close()
        b.poll()
        d.wait(5)
        assert d.take() == [(str(three), ErrorCode.UNAVAILABLE)]


def test_the_last_one_that_goes_while_waiting_leaves_the_broker() -> None:
    with desk() as (d, b):
        one, first = b.connect()
        d.sub(one)
        first.sock.close()
        b.poll()
        assert d.bus.calls == [("subscribe", NEWS), ("unsubscribe", NEWS)]
        d.wait(60)
        assert d.take() == []


def test_what_the_broker_refuses_is_forbidden() -> None:
    with desk() as (d, b):
        one, two = (b.connect()[0] for _ in range(2))
        d.sub(one)
        d.sub(two)
        d.bus.refuse(NEWS)
        assert d.take() == [(str(one), ErrorCode.FORBIDDEN), (str(two), ErrorCode.FORBIDDEN)]
        assert b.engine.subscribers(NEWS) == 0
        assert d.bus.wanted == set()


def test_a_refusal_of_what_was_in_force_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with desk() as (d, b):
        one, _ = b.connect()
        d.sub(one)
        d.bus.confirm(NEWS)
        with caplog.at_level(logging.ERROR):
            d.bus.refuse(NEWS)
        assert "kind:news" in caplog.text
        assert d.take() == [(str(one), None)]


def one_of_two_before_the_gap(d: Desk) -> tuple[tuple[int, Peer], tuple[int, Peer]]:
    """Two connections, of which the first had its subscription in force when the broker went away."""
    first, second = d.bench.connect(), d.bench.connect()
    d.sub(first[0])
    d.bus.confirm(NEWS)
    d.bus.go_away()
    return first, second


def test_a_refusal_ends_subscriptions_in_force_after_a_waiting_one_left() -> None:
    with desk() as (d, b):
        (_, first), (two, second) = one_of_two_before_the_gap(d)
        d.sub(two)
        second.sock.close()
        b.poll()
        d.bus.refuse(NEWS)
        d.bus.restore(1.0)
        b.loop.run()
        (event,) = map(orjson.loads, first.texts())
        assert (event["evt"], event["ids"]) == ("unsubscribed", [NEWS_ID])


def test_who_joins_a_channel_during_a_gap_receives_nothing_before_the_answer() -> None:
    with desk() as (d, b):
        (_, first), (two, second) = one_of_two_before_the_gap(d)
        d.take()
        d.sub(two)
        b.publish((NEWS, b"1"))
        assert first.texts() == second.texts() == []  # the gap of the first includes it
        d.bus.confirm(NEWS)
        assert d.take() == [(str(two), None)]
        b.publish((NEWS, b"2"))
        assert first.texts() == second.texts() == [NEWS_ID.encode() + b"?2"]


def test_a_refused_channel_later_allowed_for_another_continues() -> None:
    with desk() as (d, b):
        (_, first), (two, second) = one_of_two_before_the_gap(d)
        d.bus.refuse(NEWS)
        d.sub(two)
        d.bus.restore(1.0)
        b.loop.run()
        (event,) = map(orjson.loads, first.texts())
        assert (event["evt"], event["ids"]) == ("gap", [NEWS_ID])
        d.hub.deliver([[b"message", NEWS, b"1"]])
        b.loop.run()
        assert first.texts() == second.texts() == [NEWS_ID.encode() + b"?1"]


def test_collisions_limits_and_closed_connections_are_refused_at_once() -> None:
    with desk(max_subscriptions=2) as (d, b):
        one, first = b.connect()
        d.sub(one, b"user:25442")
        d.sub(one, b"user:28322", "collision")
        d.sub(one, b"a:1")
        d.sub(one, b"a:2", "full")
        assert d.answers == [
            ("collision", ErrorCode.ID_COLLISION),
            ("full", ErrorCode.TOO_MANY_SUBSCRIPTIONS),
        ]
        first.sock.close()
        b.poll()
        d.sub(one, NEWS, "gone")
        assert d.take()[-1] == ("gone", ErrorCode.UNAVAILABLE)
        assert d.bus.wanted == set()
        assert ("subscribe", b"a:2") not in d.bus.calls
        assert ("subscribe", b"user:28322") not in d.bus.calls


def test_the_state_of_the_broker_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with desk() as (d, _), caplog.at_level(logging.INFO):
        d.bus.go_away()
        assert "broker: down" in caplog.text


async def test_two_nodes_over_one_bus() -> None:
    with bench() as b, bench() as c:
        buses = [MemoryBus("hub-test"), MemoryBus("hub-test")]
        loop = asyncio.get_running_loop()
        hubs = [
            Hub(node.engine, bus, clock=loop.time, call_soon=loop.call_soon)
            for node, bus in zip((b, c), buses, strict=True)
        ]
        for hub, bus in zip(hubs, buses, strict=True):
            await bus.start(hub)
        answers: list[object] = []
        one, first = b.connect()
        two, second = c.connect()
        hubs[0].subscribe(one, NEWS, lambda code, text, started: answers.append(code))
        hubs[1].subscribe(two, NEWS, lambda code, text, started: answers.append(code))
        assert answers == [None, None]
        assert await buses[0].publish(Publication(NEWS, b"1")) == Published(2)
        await asyncio.sleep(0)
        b.loop.run()
        c.loop.run()
        assert first.texts() == second.texts() == [NEWS_ID.encode() + b"?1"]
        second.sock.close()
        c.poll()
        assert await buses[0].publish(Publication(NEWS, b"2")) == Published(1)
        await asyncio.sleep(0)
        b.loop.run()
        assert first.texts() == [NEWS_ID.encode() + b"?2"]
        for bus in buses:
            await bus.close()


def test_giving_up_a_crowd_looks_at_each_of_them_a_few_times() -> None:
    class Now(float):
        """A time that counts how often something is compared with it."""

        looks = 0

        def __ge__(self, other: float) -> bool:
            Now.looks += 1
            return float(self) >= other

        def __lt__(self, other: float) -> bool:
            Now.looks += 1
            return float(self) < other

    count = 1000
    with desk(subscribe_timeout=5.0) as (d, b):
        for _ in range(count):
            conn, _ = b.connect()
            d.sub(conn)
            d.now += 0.001
        d.hub.tick(Now(d.now + 4.5))  # half of them are late
        assert len(d.take()) == pytest.approx(count / 2, abs=1)
        d.hub.tick(Now(d.now + 10))
        assert len(d.take()) == pytest.approx(count / 2, abs=1)
        assert count <= Now.looks <= 6 * count


@pytest.mark.parametrize("outcome", ["granted", "refused", "late"])
def test_a_failing_answer_does_not_affect_others(outcome: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(code: ErrorCode | None, text: str, started: Started) -> None:
        raise RuntimeError("made to fail")

    with desk() as (d, b):
        (one, _), (two, _), (three, _) = b.connect(), b.connect(), b.connect()
        d.sub(one)
        d.hub.subscribe(two, NEWS, fail)
        d.sub(three)
        if outcome == "granted":
            d.bus.confirm(NEWS)
        elif outcome == "refused":
            d.bus.refuse(NEWS)
        else:
            d.wait(10)
        assert [name for name, _ in d.take()] == [str(one), str(three)]
    assert "answering a subscription failed and goes on" in caplog.text


def test_a_reply_callback_may_publish_and_subscribe() -> None:
    with desk() as (d, b):
        peers = [b.connect() for _ in range(3)]
        order: list[int] = []

        def answered(number: int, code: ErrorCode | None, text: str, started: Started) -> None:
            order.append(number)
            d.hub.deliver([[b"message", NEWS, b"from %d" % number]])
            d.sub(peers[number][0], b"kind:more", f"more {number}")

        for number, (conn, _) in enumerate(peers):
            d.hub.subscribe(conn, NEWS, partial(answered, number))
        d.bus.confirm(NEWS)
        b.loop.run()
        assert order == [0, 1, 2]
        d.bus.confirm(b"kind:more")
        assert d.take() == [(f"more {number}", None) for number in range(3)]
        for _, peer in peers:
            assert peer.texts() == [NEWS_ID.encode() + b"?from %d" % number for number in range(3)]


@pytest.mark.parametrize("way", ["refused", "late"])
def test_a_failure_callback_may_publish_and_subscribe_again(way: str) -> None:
    with desk() as (d, b):
        conn, peer = b.connect()
        listener, other = b.connect()
        d.bus.in_force.add(b"kind:more")
        d.sub(listener, b"kind:more")
        told: list[ErrorCode | None] = []

        def answered(code: ErrorCode | None, text: str, started: Started) -> None:
            told.append(code)
            d.hub.deliver([[b"message", b"kind:more", b"it failed"]])
            d.sub(conn, NEWS, "again")

        d.hub.subscribe(conn, NEWS, answered)
        d.hub.subscribe(listener, NEWS, answered)
        if way == "refused":
            d.bus.refuse(NEWS)
        else:
            d.wait(6)
        b.loop.run()
        assert told == [ErrorCode.FORBIDDEN if way == "refused" else ErrorCode.UNAVAILABLE] * 2
        assert [text.partition(b"?")[2] for text in other.texts()] == [b"it failed"] * 2
        d.bus.confirm(NEWS)
        assert d.take().count(("again", None)) == 2
        b.publish((NEWS, b"1"))
        assert peer.texts() == [NEWS_ID.encode() + b"?1"]
