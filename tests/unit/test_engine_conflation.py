"""Conflation: a subscription with a window receives one message in that time, the newest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from realizehit import _fanout
from tests.support.engines import CLOSE, TEXT, Bench, Peer, bench

CHANNEL = b"kind:price"
OTHER = b"kind:news"
ID = _fanout.channel_id(CHANNEL).encode()
TICK = _fanout.WINDOW_TICK


class Clock:
    """The owner of an engine that tells it the time."""

    def __init__(self, b: Bench) -> None:
        self.bench, self.now, self.asked = b, 1000.0, 0
        b.engine.on_windows = self.on_windows

    def on_windows(self) -> None:
        self.asked += 1
        self.bench.engine.advance_windows(self.now)

    def pass_ms(self, milliseconds: float) -> float:
        """Let time pass, in steps of a tick; return the seconds after which the engine wants to be called again."""
        end, wanted = self.now + milliseconds / 1000, 0.0
        while self.now < end:
            self.now = min(end, self.now + TICK)
            wanted = self.bench.engine.advance_windows(self.now)
        self.bench.loop.run()
        return wanted

    def be_held_up(self, seconds: float) -> None:
        """Let time pass in which the engine is not called."""
        self.now += seconds


def follower(b: Bench, every: int, channel: bytes = CHANNEL) -> tuple[int, Peer]:
    handle, peer = b.connect()
    assert b.engine.subscribe(handle, channel) == _fanout.ADDED
    if every:
        assert b.engine.set_every(handle, channel, every)
    return handle, peer


def payloads(peer: Peer) -> list[bytes]:
    return [text.partition(b"?")[2] for text in peer.texts()]


def publish(b: Bench, *payloads: bytes, channel: bytes = CHANNEL) -> None:
    for payload in payloads:
        b.publish((channel, payload))


def test_first_message_goes_at_once_and_the_newest_at_the_end_of_the_window() -> None:
    with bench() as b:
        clock = Clock(b)
        _, slow = follower(b, 50)
        _, plain = follower(b, 0)
        publish(b, b"1", b"2", b"3")
        assert payloads(slow) == [b"1"]
        assert payloads(plain) == [b"1", b"2", b"3"]
        clock.pass_ms(49)
        assert payloads(slow) == []
        clock.pass_ms(11)
        assert slow.texts() == [ID + b"?3"]
        publish(b, b"4")
        assert payloads(slow) == []
        clock.pass_ms(50)
        assert payloads(slow) == [b"4"]
        assert clock.pass_ms(50) == 0  # nothing came, so that nothing is waited for
        publish(b, b"5")
        assert payloads(slow) == [b"5"]
        assert b.engine.stats()["conflated"] == 1
        assert b.engine.stats()["deliveries"] == 4 + 4 + 1
        assert clock.asked == 2


def test_batch_of_one_engine_call_is_conflated() -> None:
    with bench() as b:
        clock = Clock(b)
        _, slow = follower(b, 50)
        b.publish(*((CHANNEL, b"%d" % number) for number in range(100)))
        assert payloads(slow) == [b"0"]
        clock.pass_ms(60)
        assert payloads(slow) == [b"99"]


def test_time_that_was_held_up_counts_once() -> None:
    with bench() as b:
        clock = Clock(b)
        _, slow = follower(b, 50)
        publish(b, b"1", b"2")
        clock.be_held_up(100)
        clock.pass_ms(1)
        publish(b, b"3")
        assert payloads(slow) == [b"1", b"2"]
        clock.pass_ms(40)
        assert payloads(slow) == []
        clock.pass_ms(10)
        assert payloads(slow) == [b"3"]


def test_windows_longer_than_the_wheel_end_once_and_in_time() -> None:
    with bench() as b:
        clock = Clock(b)
        _, slow = follower(b, _fanout.MAX_EVERY)
        publish(b, b"1", b"2")
        assert payloads(slow) == [b"1"]
        for _ in range(_fanout.MAX_EVERY // 1000 - 1):
            clock.pass_ms(1000)
            assert payloads(slow) == []
        clock.pass_ms(1010)
        assert payloads(slow) == [b"2"]


def test_window_that_opens_after_a_hold_up_is_not_too_short() -> None:
    with bench() as b:
        clock = Clock(b)
        _, first = follower(b, 50)
        _, second = follower(b, 50, OTHER)
        publish(b, b"1", b"2")
        clock.be_held_up(2)
        publish(b, b"3", b"4", channel=OTHER)  # before the owner's timer had its turn
        clock.pass_ms(1)
        assert payloads(first) == [b"1", b"2"]
        assert payloads(second) == [b"3"]
        clock.pass_ms(40)
        assert payloads(second) == []
        clock.pass_ms(20)
        assert payloads(second) == [b"4"]


def test_tick_ends_windows_where_nobody_else_does() -> None:
    with bench(heartbeat_interval=8.0) as b:
        _, slow = follower(b, 50)
        b.engine.tick(0.0)
        publish(b, b"1", b"2")
        b.engine.tick(0.5)
        b.engine.tick(1.0)
        assert payloads(slow) == [b"1", b"2"]


def test_another_time_counts_from_the_start_of_the_window() -> None:
    with bench() as b:
        clock = Clock(b)
        handle, slow = follower(b, 1000)
        publish(b, b"1", b"2")
        clock.pass_ms(100)
        assert b.engine.set_every(handle, CHANNEL, 200)
        assert b.engine.every(handle, CHANNEL) == 200
        clock.pass_ms(90)
        assert payloads(slow) == [b"1"]
        clock.pass_ms(20)
        assert payloads(slow) == [b"2"]
        publish(b, b"3")
        assert b.engine.set_every(handle, CHANNEL, 40)
        clock.pass_ms(40)
        assert payloads(slow) == [b"3"]


def test_every_message_again_sends_what_was_kept() -> None:
    with bench() as b:
        Clock(b)
        handle, slow = follower(b, 1000)
        publish(b, b"1", b"2")
        assert b.engine.set_every(handle, CHANNEL, 0)
        publish(b, b"3", b"4")
        assert payloads(slow) == [b"1", b"2", b"3", b"4"]
        assert b.engine.every(handle, CHANNEL) == 0
        assert b.engine.stats()["conflating"] == 0


def _unsubscribe(b: Bench, handle: int) -> None:
    b.engine.unsubscribe(handle, CHANNEL)


def _cut(b: Bench, handle: int) -> None:
    b.peers[0].sock.close()
    b.poll()


@pytest.mark.parametrize("leave", [_unsubscribe, _cut])
def test_what_is_kept_is_released_when_the_subscription_ends(leave: Callable[[Bench, int], None]) -> None:
    with bench() as b:
        clock = Clock(b)
        handle, slow = follower(b, 50)
        publish(b, b"1", b"2")
        assert payloads(slow) == [b"1"]
        leave(b, handle)
        b.loop.run()
        assert b.engine.stats()["conflating"] == 0
        counts = _fanout.debug_counts()
        assert counts is None or counts["frames"] == 0
        assert clock.pass_ms(100) == 0


def test_newest_message_goes_before_the_close_frame() -> None:
    with bench() as b:
        Clock(b)
        handle, slow = follower(b, 50)
        publish(b, b"1", b"2")
        b.engine.disconnect(handle, 4001, "delay=1")
        b.loop.run()
        assert slow.frames() == [(TEXT, ID + b"?1"), (TEXT, ID + b"?2"), (CLOSE, b"\x0f\xa1delay=1")]


def test_newest_message_can_be_sent_early_and_the_window_begins_anew() -> None:
    with bench() as b:
        clock = Clock(b)
        handle, slow = follower(b, 50)
        b.engine.subscribe(handle, OTHER)
        publish(b, b"1", b"2")
        clock.pass_ms(20)
        b.engine.send_newest(handle)
        b.engine.send(handle, b"{}")
        publish(b, b"3")
        assert slow.texts() == [ID + b"?1", ID + b"?2", b"{}"]
        clock.pass_ms(40)
        assert payloads(slow) == []
        clock.pass_ms(20)
        assert payloads(slow) == [b"3"]


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="the transports of the bench do not block")
def test_slow_consumer_keeps_nothing() -> None:
    with bench(max_queue_messages=2) as b:
        Clock(b)
        handle, _ = b.connect(send_buffer=4096)
        b.engine.subscribe(handle, CHANNEL)
        b.engine.set_every(handle, CHANNEL, 50)
        b.engine.subscribe(handle, OTHER)
        publish(b, b"1", b"2")
        for _ in range(200):
            publish(b, b'"%s"' % (b"x" * 60_000), channel=OTHER)
        assert b.engine.stats()["slow_disconnects"] == 1
        assert b.engine.stats()["conflating"] == 0


def test_bytes_that_are_kept_for_a_connection_are_bounded() -> None:
    big = b'"%s"' % (b"x" * 600)
    with bench(max_queue_bytes=1000) as b:
        Clock(b)
        handle, slow = follower(b, 1000)
        b.engine.subscribe(handle, OTHER)
        b.engine.set_every(handle, OTHER, 1000)
        for channel in (CHANNEL, OTHER):
            publish(b, b"1", channel=channel)
        slow.texts()
        publish(b, big)
        assert payloads(slow) == []
        publish(b, big, channel=OTHER)
        assert payloads(slow) == [big]  # there is no room for both, so that the later one goes at once
        publish(b, b"2", channel=OTHER)
        assert payloads(slow) == []


def test_muted_subscription_receives_nothing_and_conflates_when_it_begins() -> None:
    with bench() as b:
        clock = Clock(b)
        handle, slow = b.connect()
        b.engine.subscribe(handle, CHANNEL, 10, True)
        b.engine.set_every(handle, CHANNEL, 50)
        publish(b, b"1")
        assert b.engine.unmute(handle, CHANNEL)
        publish(b, b"2", b"3")
        assert payloads(slow) == [b"2"]
        clock.pass_ms(60)
        assert payloads(slow) == [b"3"]


def test_channel_with_a_log_is_conflated_without_positions() -> None:
    with bench() as b:
        clock = Clock(b)
        _, slow = follower(b, 50)
        labelled, positions = b.connect()
        b.engine.subscribe(labelled, CHANNEL)
        b.engine.log_open(CHANNEL)
        b.engine.log_set(CHANNEL, "k3f09a2c", 7)
        assert b.engine.set_positions(labelled, CHANNEL)
        assert not b.engine.set_every(labelled, CHANNEL, 50)
        publish(b, *(b"@o=k3f09a2c.%d?%d" % (number, number) for number in (8, 9, 10)))
        clock.pass_ms(60)
        assert slow.texts() == [ID + b"?8", ID + b"?10"]
        assert positions.texts() == [ID + b"@o=%d?%d" % (number, number) for number in (8, 9, 10)]


def test_wildcard_keeps_the_concrete_channel() -> None:
    channel = b"kind:*"
    label = _fanout.channel_id(channel).encode()
    with bench() as b:
        clock = Clock(b)
        _, slow = follower(b, 50, channel)
        publish(b, b"@c=kind:a?1", b"@c=kind:b?2", channel=channel)
        clock.pass_ms(60)
        assert slow.texts() == [label + b"@c=kind:a?1", label + b"@c=kind:b?2"]


FRAMINGS = [
    _fanout.WEBSOCKET, _fanout.DEFLATE, _fanout.ENGINEIO_4, _fanout.ENGINEIO_3, _fanout.POLLING_4, _fanout.POLLING_3,
    _fanout.SSE, _fanout.SSE_CHUNKED,
]  # fmt: skip


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        """Do nothing."""

    abort = close

    def take(self) -> bytes:
        data, self.data = self.data, b""
        return data


@pytest.mark.parametrize("framing", FRAMINGS)
def test_each_framing_gets_what_a_plain_subscriber_gets(framing: int) -> None:
    with bench() as b:
        clock = Clock(b)
        sinks = Sink(), Sink()
        conflating, plain = (b.engine.attach(sink, b.handler, framing=framing) for sink in sinks)
        for handle in (plain, conflating):
            b.engine.subscribe(handle, CHANNEL)
        b.engine.set_every(conflating, CHANNEL, 50)
        publish(b, b"[1]")
        first = sinks[1].take()
        assert sinks[0].take() == first != b""
        publish(b, b"[2]")
        assert sinks[0].take() == b""
        second = sinks[1].take()
        clock.pass_ms(60)
        assert sinks[0].take() == second != b""


def test_splice_forgets_what_is_kept_in_the_old_framing() -> None:
    with bench() as b:
        clock = Clock(b)
        old, new = Sink(), Sink()
        handle = b.engine.attach(old, b.handler, framing=_fanout.SSE)
        b.engine.subscribe(handle, CHANNEL)
        b.engine.set_every(handle, CHANNEL, 50)
        publish(b, b"1", b"2")
        other = b.engine.attach(new, b.handler, framing=_fanout.SSE_CHUNKED)
        b.engine.splice(handle, other)
        clock.pass_ms(60)
        assert new.take() == b""
        publish(b, b"3", b"4")
        clock.pass_ms(60)
        assert new.take().count(b"data: ") == 2
        assert b.engine.every(handle, CHANNEL) == 50


def test_time_is_rounded_up_and_bounded() -> None:
    with bench() as b:
        handle, _ = follower(b, 1)
        assert b.engine.every(handle, CHANNEL) == 10
        b.engine.set_every(handle, CHANNEL, 101)
        assert b.engine.every(handle, CHANNEL) == 110
        with pytest.raises(ValueError, match="60000 milliseconds, not 60001"):
            b.engine.set_every(handle, CHANNEL, _fanout.MAX_EVERY + 1)
        assert not b.engine.set_every(handle, OTHER, 50)
        assert not b.engine.set_every(handle + 1, CHANNEL, 50)


def test_failing_owner_is_reported_and_delivery_goes_on() -> None:
    with bench() as b:
        error = RuntimeError("no timer")

        def fail() -> None:
            raise error

        b.engine.on_windows = fail
        _, slow = follower(b, 50)
        publish(b, b"1", b"2")
        assert payloads(slow) == [b"1"]
        assert b.loop.errors == [error]
        b.loop.errors.clear()
