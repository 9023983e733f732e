"""The engine's rules, one by one, where they show at its ends (``ARCHITECTURE.md``, "Rules of the engine")."""

from __future__ import annotations

import socket
import struct

import pytest

from realizehit import _fanout
from tests.support.engines import BINARY, CLOSE, PING, PONG, TEXT, Bench, Recorder, bench, client_frame

NEWS = b"kind:news"
NEWS_ID = _fanout.channel_id(NEWS).encode()

pytestmark = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="sockets of the engine's own need epoll")


def expected(payload: bytes, channel: bytes = NEWS) -> bytes:
    return _fanout.channel_id(channel).encode() + b"?" + payload


# --- 1. one send per connection per batch


def test_replies_and_publications_of_one_turn_go_out_together() -> None:
    with bench() as b:
        one, first = b.connect()
        two, second = b.connect()
        for handle in (one, two):
            b.engine.subscribe(handle, NEWS)
            b.engine.subscribe(handle, b"a:1")
        b.loop.run()
        before = b.engine.stats()["sends"]
        for n in range(5):
            b.engine.send(one, b"reply %d" % n)
        b.engine.dispatch([[b"message", NEWS, b"1"], [b"message", b"a:1", b"2"]])
        b.loop.run()
        assert b.engine.stats()["sends"] - before == 2
        assert first.texts() == [b"reply %d" % n for n in range(5)] + [expected(b"1"), expected(b"2", b"a:1")]
        assert second.texts() == [expected(b"1"), expected(b"2", b"a:1")]


def test_a_flush_writes_only_connections_with_messages() -> None:
    with bench() as b:
        handles = [b.connect()[0] for _ in range(20)]
        b.engine.subscribe(handles[0], NEWS)
        b.loop.run()
        before = b.engine.stats()["sends"]
        b.publish((NEWS, b"1"), (b"nobody:1", b"2"))
        assert b.engine.stats()["sends"] - before == 1


def test_several_large_frames_are_one_send_too() -> None:
    with bench() as b:
        one, first = b.connect(send_buffer=1 << 20)
        b.engine.subscribe(one, NEWS)
        b.loop.run()
        before = b.engine.stats()
        payloads = [b"%d" % n + b"x" * 9000 for n in range(5)]
        b.publish(*[(NEWS, payload) for payload in payloads])
        assert first.texts() == [expected(payload) for payload in payloads]
        assert b.engine.stats()["sends"] - before["sends"] == 1
        assert b.engine.stats()["bytes_out"] - before["bytes_out"] == sum(len(p) + 9 + 4 for p in payloads)


# --- 2. one frame per message


def test_a_stalled_reader_adds_no_frames() -> None:
    with bench(max_queue_bytes=10 << 20) as b:
        stalled, _ = b.connect(send_buffer=4096)
        healthy, fast = b.connect()
        for handle in (stalled, healthy):
            b.engine.subscribe(handle, NEWS)
        for n in range(100):
            b.publish((NEWS, b"%d" % n + b"x" * 1000))
            assert len(fast.texts()) == 1
        assert b.engine.stats()["frames_built"] == 100
        alive = _fanout.debug_counts()
        if alive is not None:
            assert alive["frames"] <= 101


# --- 4. back-pressure


def test_a_client_that_reads_no_answers_is_a_slow_consumer() -> None:
    with bench(max_queue_messages=20) as b:
        b.handler = Recorder()
        _, first = b.connect(send_buffer=4096)
        for _ in range(200):
            first.send(PING, b"x" * 125)
            b.poll()
            if b.engine.stats()["slow_disconnects"]:
                break
        assert b.engine.stats()["slow_disconnects"] == 1
        assert b.engine.stats()["connections"] == 0


def test_the_bound_is_not_for_what_a_reader_has_taken() -> None:
    with bench(max_queue_messages=10, max_queue_bytes=5000) as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        for _ in range(50):
            b.publish(*[(NEWS, b"x" * 400)] * 10)  # just within both
            assert len(first.texts()) == 10
        assert b.engine.is_open(one)


def test_one_batch_past_the_bound_is_too_much_even_for_a_fast_reader() -> None:
    with bench(max_queue_messages=10) as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.publish(*[(NEWS, b"%d" % n) for n in range(11)])
        assert not b.engine.is_open(one)
        assert first.frames()[-1] == (CLOSE, struct.pack(">H", 4002) + b"slow consumer")


def test_a_connection_that_blocks_gets_its_close_frame_when_it_reads() -> None:
    with bench() as b:
        one, first = b.connect(send_buffer=4096)
        b.engine.subscribe(one, NEWS)
        b.publish((NEWS, b"x" * 100_000))
        assert b.engine.stats()["blocked"] == 1
        assert b.engine.disconnect(one, 4001, "delay=5")
        b.publish((NEWS, b"too late"))
        frames = first.frames()
        for _ in range(1000):
            if len(frames) == 2:
                break
            b.poll()
            frames += first.frames()
        assert frames == [(TEXT, expected(b"x" * 100_000)), (CLOSE, struct.pack(">H", 4001) + b"delay=5")]


def test_a_connection_that_never_reads_its_close_frame_is_cut_off_in_time() -> None:
    with bench(close_timeout=1.0) as b:
        one, _ = b.connect(send_buffer=4096)
        b.engine.tick(0.0)
        b.engine.subscribe(one, NEWS)
        b.publish((NEWS, b"x" * 100_000))
        b.engine.disconnect(one, 4001)
        now = 0.0
        while b.engine.stats()["closing"]:
            now += b.engine.tick_interval
            b.engine.tick(now)
            assert now < 2.0


# --- 5. who is closed is out at once


def test_a_connection_closed_in_a_callback_gets_no_later_dispatch() -> None:
    class Closing(Recorder):
        def on_text(self, handle: int, data: bytes) -> None:
            b.engine.disconnect(handle, 4001)
            assert b.engine.subscribers(NEWS) == 1
            b.engine.dispatch([[b"message", NEWS, b"1"]])

    with bench() as b:
        b.handler = Closing()
        one, first = b.connect()
        two, second = b.connect()
        for handle in (one, two):
            b.engine.subscribe(handle, NEWS)
        first.send(TEXT, b"go")
        b.poll()
        assert first.frames() == [(CLOSE, struct.pack(">H", 4001))]
        assert second.texts() == [expected(b"1")]


# --- 6. slices, and who goes first


def test_broadcasts_keep_a_quarter_of_the_writes() -> None:
    with bench(slice_seconds=0.0) as b:  # a slice ends after 16 writes
        crowd = [b.connect() for _ in range(100)]
        few = [b.connect() for _ in range(60)]
        for handle, _ in crowd:
            b.engine.subscribe(handle, b"big:1")
        for handle, _ in few:
            b.engine.subscribe(handle, b"small:1")
        b.loop.run()
        b.engine.dispatch([[b"message", b"big:1", b"1"], [b"message", b"small:1", b"2"]])
        written = [sum(1 for _, peer in group if peer.texts()) for group in (crowd, few)]
        assert sum(written) == 16
        assert written[0] in (3, 4, 5)


def test_what_arrives_between_two_slices_joins_the_queues() -> None:
    with bench(slice_seconds=0.0) as b:
        crowd = [b.connect() for _ in range(100)]
        for handle, _ in crowd:
            b.engine.subscribe(handle, b"big:1")
        b.loop.run()
        before = b.engine.stats()["sends"]
        b.engine.dispatch([[b"message", b"big:1", b"1"]])
        assert b.engine.stats()["sends"] - before == 16
        b.engine.dispatch([[b"message", b"big:1", b"2"]])
        b.loop.run()
        assert all(peer.texts() == [expected(b"1", b"big:1"), expected(b"2", b"big:1")] for _, peer in crowd)
        assert b.engine.stats()["sends"] - before <= 116  # only the first slice was written twice


# --- 8. generations


def test_late_data_never_reaches_a_connection_in_a_reused_slot() -> None:
    with bench() as b:
        old, first = b.connect()
        b.engine.subscribe(old, NEWS)
        first.sock.close()
        b.poll()
        new, second = b.connect()
        assert new != old  # though it has the place that became free
        b.engine.subscribe(new, NEWS)
        assert not b.engine.send(old, b"late")
        assert not b.engine.send_bytes(old, b"late")
        assert not b.engine.disconnect(old, 4001)
        assert not b.engine.unsubscribe(old, NEWS)
        assert b.engine.subscriptions(old) == []
        b.engine.resume_fast_path(old)
        b.engine.pause(old)
        b.engine.lost(old)
        b.engine.feed(old, client_frame(TEXT, b"late"))
        b.loop.run()
        assert b.engine.is_open(new)
        b.publish((NEWS, b"1"))
        assert second.frames() == [(TEXT, expected(b"1"))]
        assert b.handler.texts == []


# --- 9. heartbeats


def test_any_sign_of_life_answers_a_heartbeat() -> None:
    with bench(heartbeat_interval=10.0, heartbeat_timeout=4.0) as b:
        signs = [client_frame(TEXT, b"hello"), client_frame(PONG, b"unasked"), client_frame(TEXT, b"a part")[:3]]
        talkers = [(*b.connect(), sign) for sign in signs]
        now, answered = 0.0, 0
        while now < 22 and answered < 6:
            b.engine.tick(now)
            for _, peer, sign in talkers:
                if any(opcode == PING for opcode, _ in peer.frames()):
                    peer.sock.sendall(sign)
                    answered += 1
            b.poll()
            now += b.engine.tick_interval
        assert answered >= 3
        assert all(b.engine.is_open(handle) for handle, _, _ in talkers)


def test_a_crowd_that_came_together_is_not_pinged_together() -> None:
    with bench(heartbeat_interval=10.0, heartbeat_timeout=10.0) as b:
        peers = [b.connect()[1] for _ in range(200)]
        largest, total, now = 0, 0, 0.0
        while now <= 10.0 + 2 * b.engine.tick_interval:
            b.engine.tick(now)
            pinged = sum(len(peer.frames()) for peer in peers)
            largest, total = max(largest, pinged), total + pinged
            now += b.engine.tick_interval
        assert total == 200
        assert largest < 100


# --- errors of those whom it calls back


def test_any_callback_exception_is_reported_and_does_no_harm() -> None:
    class Broken(Recorder):
        def on_gone(self, handle: int) -> None:
            super().on_gone(handle)
            raise RuntimeError("on_gone")

        def on_binary(self, handle: int, data: bytes) -> None:
            raise RuntimeError("on_binary")

        def on_bytes(self, handle: int, data: bytes) -> None:
            raise RuntimeError("on_bytes")

    def vacant(channel: bytes) -> None:
        raise RuntimeError("on_vacant")

    with bench() as b:
        b.handler = Broken()
        b.engine.on_vacant = vacant
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.engine.unsubscribe(one, NEWS)
        first.send(2, b"\x00")
        b.poll()
        first.sock.sendall(b"\xc1\x80")
        b.poll()
        first.sock.close()
        b.poll()
        assert sorted(str(error) for error in b.loop.errors) == ["on_binary", "on_bytes", "on_gone", "on_vacant"]
        b.loop.errors.clear()
        two, second = b.connect()
        b.engine.subscribe(two, NEWS)
        b.publish((NEWS, b"1"))
        assert second.texts() == [expected(b"1")]


def test_an_engine_that_was_closed_takes_nothing_and_says_so() -> None:
    with bench() as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.engine.close()
        b.engine.close()
        assert first.at_eof()
        assert b.handler.gone == [one]
        assert b.engine.stats()["connections"] == b.engine.stats()["subscriptions"] == 0
        assert not b.engine.send(one, b"x")
        b.engine.dispatch([[b"message", NEWS, b"1"]])
        b.engine.tick(1.0)
        b.engine.poll()
        b.engine.flush()
        assert b.engine.handles() == []


# --- the second kind of sink


class StuckTransport:
    """A transport whose peer never reads: asyncio's `close` waits as long as there is something in its buffer."""

    def __init__(self) -> None:
        self.written = b""
        self.ended: list[str] = []

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.ended.append("close")

    def abort(self) -> None:
        self.ended.append("abort")


def past(b: Bench, seconds: float) -> None:
    """Let so much time pass, tick by tick."""
    now = 0.0
    while now < seconds:
        b.engine.tick(now)
        now += b.engine.tick_interval


def test_a_transport_that_does_not_end_in_time_is_aborted() -> None:
    with bench(close_timeout=1.0) as b:
        transport = StuckTransport()
        handle = b.engine.attach(transport, b.handler)
        b.engine.pause(handle)
        b.engine.disconnect(handle, 4001)
        past(b, 3.0)
        assert b.engine.stats()["closing"] == 0
        assert transport.ended[-1:] == ["abort"]


def test_a_flush_gives_way_only_while_somebody_waits_for_the_loop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, bench(slice_seconds=0.0, loop_fd=ours.fileno()) as b:
        peers = []
        for _ in range(200):
            handle, peer = b.connect()
            b.engine.subscribe(handle, b"a:1")
            peers.append(peer)
        b.loop.run()
        theirs.send(b"x")  # somebody waits
        b.engine.dispatch([[b"message", b"a:1", b"1"]])
        assert len(b.loop.soon) == 1
        b.loop.run()
        ours.recv(1)
        b.engine.dispatch([[b"message", b"a:1", b"2"]])
        b.loop.run()
        assert all(peer.texts() == [b"%b?1" % ID, b"%b?2" % ID] for peer in peers)


ID = _fanout.channel_id(b"a:1").encode()


def test_a_channel_that_is_held_passes_nothing_on_until_it_is_not() -> None:
    with bench() as b:
        handle, peer = b.connect()
        b.engine.subscribe(handle, b"a:1")
        b.engine.hold(b"a:1", True)
        b.publish((b"a:1", b"1"))
        assert b.engine.stats()["dropped_unclaimed"] == 1
        b.engine.hold(b"a:1", False)
        b.publish((b"a:1", b"2"))
        assert peer.texts() == [b"%b?2" % ID]
        b.engine.hold(b"a:1", True)
        b.engine.unsubscribe(handle, b"a:1")
        b.engine.subscribe(handle, b"a:1")
        b.engine.hold(b"nobody:1", True)
        b.publish((b"a:1", b"3"))
        assert peer.texts() == [b"%b?3" % ID]


@pytest.mark.parametrize("epoll", [True, False] if _fanout.HAVE_EPOLL else [False])
def test_every_callback_may_publish(epoll: bool) -> None:
    with bench(epoll=epoll) as b:

        class Publishing(Recorder):
            def publish(self, what: bytes) -> None:
                b.engine.dispatch([[b"message", NEWS, what]])

            def on_text(self, handle: int, data: bytes) -> None:
                self.publish(b"text")

            def on_binary(self, handle: int, data: bytes) -> None:
                self.publish(b"binary")

            def on_bytes(self, handle: int, data: bytes) -> None:
                self.publish(b"bytes")

            def on_gone(self, handle: int) -> None:
                super().on_gone(handle)
                self.publish(b"gone")

        b.handler = Publishing()
        b.engine.on_vacant = lambda channel: b.engine.dispatch([[b"message", NEWS, b"vacant"]])
        listener, hears = b.connect()
        b.engine.subscribe(listener, NEWS)
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.engine.subscribe(one, b"kind:own")
        first.send(TEXT, b"1")
        first.send(BINARY, b"2")
        b.poll()
        first.sock.sendall(b"\xc1\x80\0\0\0\0")
        b.poll()
        b.engine.disconnect(one, 1000)
        b.loop.run()
        news = [text.partition(b"?")[2] for text in hears.texts()]
        assert news == [b"text", b"binary", b"bytes", b"vacant", b"gone"]
        assert [text.partition(b"?")[2] for text in first.texts()] == [b"text", b"binary", b"bytes"]
