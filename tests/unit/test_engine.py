from __future__ import annotations

import socket
import struct
from typing import Any

import hiredis
import pytest

from realizehit import _fanout
from tests.support.engines import BINARY, CLOSE, PING, PONG, TEXT, Bench, Recorder, bench, client_frame

NEWS = b"kind:news"
NEWS_ID = _fanout.channel_id(NEWS).encode()

pytestmark = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="sockets of the engine's own need epoll")


def expected(payload: bytes, channel: bytes = NEWS) -> bytes:
    return _fanout.channel_id(channel).encode() + b"?" + payload


# --- subscribing and dispatching


def test_a_publication_reaches_only_the_subscribers_of_its_channel() -> None:
    with bench() as b:
        one, first = b.connect()
        two, second = b.connect()
        _, third = b.connect()
        assert b.engine.subscribe(one, NEWS) == _fanout.ADDED
        assert b.engine.subscribe(two, NEWS) == _fanout.ADDED
        b.publish((NEWS, b'{"a":1}'), (b"kind:other", b"0"))
        assert first.texts() == second.texts() == [expected(b'{"a":1}')]
        assert third.texts() == []
        assert b.engine.stats()["dropped_unclaimed"] == 1


def test_two_channels_with_one_id_are_two_channels() -> None:
    with bench() as b:
        one, first = b.connect()
        two, second = b.connect()
        a, c = b"user:25442", b"user:28322"
        assert _fanout.channel_id(a) == _fanout.channel_id(c)
        b.engine.subscribe(one, a)
        b.engine.subscribe(two, c)
        b.publish((a, b"1"), (c, b"2"))
        assert first.texts() == [b"8ca68b72?1"]
        assert second.texts() == [b"8ca68b72?2"]
        assert b.engine.subscribe(one, c) == _fanout.COLLISION
        assert b.engine.subscriptions(one) == [a]


def test_subscribing_twice_changes_nothing_and_the_limit_holds() -> None:
    with bench() as b:
        one, first = b.connect()
        assert b.engine.subscribe(one, NEWS, 2) == _fanout.ADDED
        assert b.engine.subscribe(one, NEWS, 2) == _fanout.ALREADY
        assert b.engine.subscribe(one, b"a:1", 2) == _fanout.ADDED
        assert b.engine.subscribe(one, b"a:2", 2) == _fanout.FULL
        assert b.engine.subscribe(one, NEWS, 2) == _fanout.ALREADY
        b.publish((NEWS, b"1"))
        assert first.texts() == [expected(b"1")]
        assert b.engine.subscribe(12345, NEWS) == _fanout.GONE


def test_unsubscribe_stops_delivery_and_the_last_one_vacates_the_channel() -> None:
    with bench() as b:
        one, first = b.connect()
        two, second = b.connect()
        for handle in (one, two):
            b.engine.subscribe(handle, NEWS)
        assert b.engine.unsubscribe(one, NEWS)
        assert not b.engine.unsubscribe(one, NEWS)
        b.publish((NEWS, b"1"))
        assert first.texts() == []
        assert second.texts() == [expected(b"1")]
        assert b.vacant == []
        assert b.engine.unsubscribe(two, NEWS)
        b.loop.run()
        assert b.vacant == [NEWS]
        assert b.engine.stats()["channels"] == 0


def test_a_payload_of_invalid_utf8_is_dropped_and_counted() -> None:
    with bench() as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.publish((NEWS, b'"\xff"'), (NEWS, b'"\xc3\xa9"'))
        assert first.texts() == [expected(b'"\xc3\xa9"')]
        assert b.engine.stats()["dropped_invalid_utf8"] == 1


@pytest.mark.parametrize("size", [0, 1, 100, 116, 117, 118, 4000, 65526, 65527, 70_000])
def test_frames_of_every_header_size(size: int) -> None:
    with bench() as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        payload = b"x" * size
        b.publish((NEWS, payload))
        assert first.texts() == [expected(payload)]


def test_a_message_is_one_frame_and_a_batch_one_send_for_each_connection() -> None:
    with bench() as b:
        peers = []
        for _ in range(100):
            handle, peer = b.connect()
            b.engine.subscribe(handle, NEWS)
            peers.append(peer)
        before = b.engine.stats()
        b.publish(*[(NEWS, b"%d" % n) for n in range(50)])
        after = b.engine.stats()
        assert after["frames_built"] - before["frames_built"] == 50
        assert after["sends"] - before["sends"] == 100
        assert after["deliveries"] - before["deliveries"] == 5000
        for peer in peers:
            assert peer.texts() == [expected(b"%d" % n) for n in range(50)]


def test_joined_buffers_are_shared_only_between_equal_queues() -> None:
    with bench() as b:
        one, first = b.connect()
        two, second = b.connect()
        three, third = b.connect()
        for handle in (one, two, three):
            b.engine.subscribe(handle, NEWS)
        b.engine.subscribe(two, b"a:1")
        b.publish((NEWS, b"1"), (b"a:1", b"2"), (NEWS, b"3"))
        assert first.texts() == third.texts() == [expected(b"1"), expected(b"3")]
        assert second.texts() == [expected(b"1"), expected(b"2", b"a:1"), expected(b"3")]


def test_large_and_small_frames_keep_their_order() -> None:
    with bench() as b:
        one, first = b.connect(send_buffer=1 << 20)
        b.engine.subscribe(one, NEWS)
        payloads = [b"a", b"b" * 5000, b"c", b"d" * 9000, b"e", b"f" * 4087, b"g"]
        b.publish(*[(NEWS, payload) for payload in payloads])
        received = first.texts()
        while len(received) < len(payloads):
            b.poll()
            received += first.texts()
        assert received == [expected(payload) for payload in payloads]


def test_a_broadcast_waits_behind_a_small_channel_but_is_not_starved() -> None:
    with bench(slice_seconds=0.0) as b:  # a slice ends after 16 writes
        crowd = [b.connect() for _ in range(200)]
        few = [b.connect() for _ in range(4)]
        for handle, _ in crowd:
            b.engine.subscribe(handle, b"big:1")
        for handle, _ in few:
            b.engine.subscribe(handle, b"small:1")
        b.engine.dispatch([[b"message", b"big:1", b"1"], [b"message", b"small:1", b"2"]])
        reached = [peer for _, peer in crowd if peer.texts()]
        assert 0 < len(reached) < 100
        assert all(peer.texts() == [expected(b"2", b"small:1")] for _, peer in few)
        assert b.loop.run() >= 10  # a slice a turn
        rest = [peer for _, peer in crowd if peer not in reached]
        assert all(peer.texts() == [expected(b"1", b"big:1")] for peer in rest)


# --- back-pressure


def fill(b: Bench, count: int, payload: bytes = b"x" * 1000) -> None:
    for _ in range(count):
        b.publish((NEWS, payload))


def test_a_stalled_reader_delays_no_other_and_catches_up_later() -> None:
    with bench(max_queue_bytes=10 << 20) as b:
        stalled, slow = b.connect(send_buffer=4096)
        healthy, fast = b.connect()
        for handle in (stalled, healthy):
            b.engine.subscribe(handle, NEWS)
        received = []
        for n in range(500):
            b.publish((NEWS, b"%d" % n + b"x" * 1000))
            received += fast.texts()
        assert len(received) == 500
        assert b.engine.stats()["blocked"] >= 1
        sends = b.engine.stats()["sends"]
        fill(b, 1)
        assert b.engine.stats()["sends"] == sends + 1  # no call for the one that is known to be full
        late: list[bytes] = []
        while len(late) < 501:
            texts = slow.texts()
            late += texts
            b.poll()
        assert late[:500] == received


@pytest.mark.parametrize("bound", [{"max_queue_messages": 10}, {"max_queue_bytes": 20_000}])
def test_a_slow_consumer_is_closed_with_4002_and_its_queue_let_go(bound: dict[str, Any]) -> None:
    with bench(**bound) as b:
        stalled, slow = b.connect(send_buffer=4096)
        b.engine.subscribe(stalled, NEWS)
        b.engine.subscribe(stalled, b"a:1")
        fill(b, 100)
        assert not b.engine.is_open(stalled)
        assert b.handler.gone == [stalled]
        assert set(b.vacant) == {NEWS, b"a:1"}
        assert b.engine.stats()["slow_disconnects"] == 1
        frames = []
        for _ in range(100):
            frames += slow.frames()
            b.poll()
        # Whole messages only, then the close frame: a message that was out in part is finished.
        assert frames[-1] == (CLOSE, struct.pack(">H", 4002) + b"slow consumer")
        assert all(payload == expected(b"x" * 1000) for _, payload in frames[:-1])
        assert slow.at_eof()


def test_one_message_may_pass_the_bound_in_bytes() -> None:
    with bench(max_queue_bytes=1000) as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.publish((NEWS, b"x" * 100_000))
        received = first.texts()
        while not received:
            b.poll()
            received = first.texts()
        assert received == [expected(b"x" * 100_000)]
        assert b.engine.is_open(one)


# --- input


def test_text_binary_and_ping() -> None:
    with bench() as b:
        one, first = b.connect()
        first.send(TEXT, '{"é":1}'.encode())
        first.send(BINARY, b"\x00\xff")
        first.send(PING, b"payload")
        first.send(PONG, b"unasked")
        b.poll()
        assert b.handler.texts == [(one, '{"é":1}'.encode())]
        assert b.handler.binaries == [(one, b"\x00\xff")]
        assert first.frames() == [(PONG, b"payload")]


def test_bytes_that_came_with_the_handshake_are_taken() -> None:
    with bench() as b:
        one, first = b.connect(b"HTTP/1.1 101\r\n\r\n", client_frame(TEXT, b"early"))
        assert b.handler.texts == []  # not before the caller knows the handle
        b.loop.run()
        assert b.handler.texts == [(one, b"early")]
        assert first.read() == b"HTTP/1.1 101\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        client_frame(BINARY, b"half", first=BINARY),  # a fragment of a binary message
        client_frame(0, b"half", first=0),  # a continuation of nothing
        client_frame(TEXT, b"rsv", first=0xC1),  # a reserved bit
        client_frame(3, b"reserved opcode"),
        client_frame(PING, b"x" * 126),  # a control frame that is too long
        client_frame(TEXT, b"x" * 2000),  # over the limit
        b"\x81\x05hello",  # not masked
    ],
)
def test_all_but_the_plain_case_goes_to_python(data: bytes) -> None:
    with bench(max_message=1000) as b:
        one, first = b.connect()
        first.send(TEXT, b"before")
        first.sock.sendall(data)
        b.poll()
        assert b.handler.texts == [(one, b"before")]
        assert b.handler.raw == [(one, data)]
        first.send(TEXT, b"after")
        b.poll()
        assert b.handler.raw[1][0] == one  # until the parser there says that it is done
        assert len(b.handler.texts) == 1
        b.engine.resume_fast_path(one)
        first.send(TEXT, b"later")
        b.poll()
        assert b.handler.texts[1:] == [(one, b"later")]


def test_invalid_utf8_closes_with_1007() -> None:
    with bench() as b:
        one, first = b.connect()
        first.send(TEXT, b"\xff")
        b.poll()
        assert first.frames()[0][1][:2] == struct.pack(">H", 1007)
        assert b.handler.gone == [one]


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b"", b""),
        (struct.pack(">H", 1000) + b"bye", struct.pack(">H", 1000)),
        (struct.pack(">H", 4999), struct.pack(">H", 4999)),
        (b"\x03", struct.pack(">H", 1002)),
        (struct.pack(">H", 1005), struct.pack(">H", 1002)),
        (struct.pack(">H", 999), struct.pack(">H", 1002)),
        (struct.pack(">H", 1000) + b"\xff", struct.pack(">H", 1007)),
    ],
)
def test_close_frames_are_answered(payload: bytes, answer: bytes) -> None:
    with bench() as b:
        one, first = b.connect()
        first.send(TEXT, b"last words")
        first.send(CLOSE, payload)
        first.send(TEXT, b"after the end")
        b.poll()
        [(opcode, data)] = first.frames()
        assert opcode == CLOSE
        assert data[:2] == answer
        assert first.at_eof()
        assert b.handler.gone == [one]
        if data[:2] == payload[:2]:
            assert b.handler.texts == [(one, b"last words")]


def test_disconnect_sends_what_waits_and_then_the_close_frame() -> None:
    with bench() as b:
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        b.engine.send(one, b"1")
        assert b.engine.disconnect(one, 4001, "delay=100")
        assert not b.engine.disconnect(one, 4001)
        assert not b.engine.send(one, b"2")
        assert b.engine.subscribers(NEWS) == 0
        b.loop.run()
        assert first.frames() == [(TEXT, b"1"), (CLOSE, struct.pack(">H", 4001) + b"delay=100")]
        assert first.at_eof()
        assert b.engine.stats()["closing"] == 1
        first.sock.close()
        b.poll()
        assert b.engine.stats()["closing"] == 0
        assert b.handler.gone == [one]


def test_a_close_reason_is_cut_at_a_whole_character() -> None:
    with bench() as b:
        one, first = b.connect()
        b.engine.disconnect(one, 4001, "é" * 100)
        b.loop.run()
        assert first.frames() == [(CLOSE, struct.pack(">H", 4001) + ("é" * 61).encode())]


def test_a_connection_lost_without_a_close_frame_leaves_all_channels() -> None:
    with bench() as b:
        one, first = b.connect()
        _, second = b.connect()
        b.engine.subscribe(one, NEWS)
        first.sock.close()
        b.poll()
        assert b.handler.gone == [one]
        assert b.engine.subscribers(NEWS) == 0
        assert b.vacant == [NEWS]
        assert second.read() == b""


def test_a_reset_found_while_writing_takes_only_that_connection() -> None:
    with bench() as b:
        one, first = b.connect()
        two, second = b.connect()
        for handle in (one, two):
            b.engine.subscribe(handle, NEWS)
        first.sock.close()
        b.publish((NEWS, b"1"))
        assert b.handler.gone == [one]
        assert second.texts() == [expected(b"1")]
        assert b.engine.subscribers(NEWS) == 1


# --- handles, callbacks


def test_a_handle_is_never_used_again() -> None:
    with bench() as b:
        seen = set()
        for _ in range(50):
            handle, peer = b.connect()
            assert handle not in seen
            seen.add(handle)
            peer.sock.close()
            b.poll()
            assert not b.engine.is_open(handle)
            assert b.engine.subscribe(handle, NEWS) == _fanout.GONE
            assert not b.engine.send(handle, b"late")
            assert not b.engine.unsubscribe(handle, NEWS)
        assert b.engine.stats()["connections"] == 0


def test_callbacks_may_disconnect_anyone() -> None:
    class Ruthless(Recorder):
        def on_text(self, handle: int, data: bytes) -> None:
            super().on_text(handle, data)
            for other in b.engine.handles():
                b.engine.disconnect(other, 4001)

    with bench() as b:
        b.handler = Ruthless()
        peers = [b.connect()[1] for _ in range(5)]
        for peer in peers:
            peer.send(TEXT, b"die")
        b.poll()
        assert len(b.handler.texts) == 1  # the others were gone before their turn
        assert len(b.handler.gone) == 5
        assert all(peer.frames() == [(CLOSE, struct.pack(">H", 4001))] for peer in peers)


def test_an_exception_in_a_callback_is_reported_and_stops_nothing() -> None:
    class Broken(Recorder):
        def on_text(self, handle: int, data: bytes) -> None:
            raise ValueError(data.decode())

    with bench() as b:
        b.handler = Broken()
        _, first = b.connect()
        first.send(TEXT, b"one")
        first.send(PING, b"still there")
        first.send(TEXT, b"two")
        b.poll()
        assert [str(error) for error in b.loop.errors] == ["one", "two"]
        assert first.frames() == [(PONG, b"still there")]
        b.loop.errors.clear()


def test_a_dispatch_inside_a_callback() -> None:
    class Publishing(Recorder):
        def on_text(self, handle: int, data: bytes) -> None:
            b.engine.dispatch([[b"message", NEWS, data]])

    with bench() as b:
        b.handler = Publishing()
        one, first = b.connect()
        b.engine.subscribe(one, NEWS)
        first.send(TEXT, b"1")
        first.send(TEXT, b"2")
        b.poll()
        assert first.texts() == [expected(b"1"), expected(b"2")]


# --- heartbeats


def test_the_heartbeat_pings_and_closes_silent_clients() -> None:
    with bench(heartbeat_interval=10.0, heartbeat_timeout=4.0) as b:
        alive, first = b.connect()
        silent, second = b.connect()
        pings = 0
        now = 0.0
        while now < 60:
            b.engine.tick(now)
            for opcode, payload in first.frames():
                assert (opcode, payload) == (PING, b"")
                pings += 1
                first.send(PONG)
                b.poll()
            now += b.engine.tick_interval
        assert b.engine.is_open(alive)
        assert not b.engine.is_open(silent)
        assert 5 <= pings <= 7
        assert second.frames() == [(PING, b""), (CLOSE, struct.pack(">H", 4003) + b"heartbeat missed")]
        assert b.engine.stats()["heartbeat_disconnects"] == 1


def test_a_client_that_answers_no_close_frame_is_cut_off() -> None:
    with bench(close_timeout=1.0) as b:
        one, _first = b.connect()
        b.engine.tick(0.0)
        b.engine.disconnect(one, 4001)
        b.loop.run()
        assert b.engine.stats()["closing"] == 1
        b.engine.tick(0.5)
        assert b.engine.stats()["closing"] == 1
        b.engine.tick(1.0)
        b.engine.tick(1.5)
        assert b.engine.stats()["closing"] == 0


def test_a_stalled_process_counts_pongs_that_arrived_during_the_stall() -> None:
    with bench(heartbeat_interval=10.0, heartbeat_timeout=4.0) as b:
        alive, first = b.connect()
        now = 0.0
        while not first.frames():
            b.engine.tick(now)
            now += b.engine.tick_interval
        first.send(PONG)
        b.engine.tick(now + 3600)  # nothing was polled in between
        assert b.engine.is_open(alive)
        b.poll()
        b.engine.tick(now + 3600 + b.engine.tick_interval)
        assert b.engine.is_open(alive)


# --- the second kind of sink


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


def test_a_connection_with_a_transport_behaves_as_one_with_a_socket() -> None:
    with bench(max_queue_messages=10) as b:
        transport = Transport()
        handle = b.engine.attach(transport, b.handler, b"HEAD")
        b.loop.run()
        b.engine.subscribe(handle, NEWS)
        b.publish((NEWS, b"1"), (NEWS, b"2"))
        frame = [b"\x81\x0a" + expected(b"%d" % n) for n in (1, 2)]
        assert transport.written == [b"HEAD", b"".join(frame)]  # one write a batch
        b.engine.feed(handle, client_frame(TEXT, b"hello") + client_frame(PING, b"p"))
        assert b.handler.texts == [(handle, b"hello")]
        assert transport.written[2:] == [b"\x8a\x01p"]
        b.engine.pause(handle)
        b.publish((NEWS, b"3"))
        assert len(transport.written) == 3
        b.engine.resume(handle)
        b.loop.run()
        assert transport.written[3:] == [b"\x81\x0a" + expected(b"3")]
        b.engine.feed(handle, client_frame(CLOSE, struct.pack(">H", 1000)))
        assert transport.written[4:] == [b"\x88\x02\x03\xe8"]
        assert transport.ended == "closed"
        assert b.handler.gone == [handle]


def test_a_slow_or_lost_transport_is_ended() -> None:
    with bench(max_queue_messages=10) as b:
        slow, lost = Transport(), Transport()
        one, two = (b.engine.attach(transport, b.handler) for transport in (slow, lost))
        b.engine.subscribe(one, NEWS)
        b.engine.subscribe(two, NEWS)
        b.engine.lost(two)
        assert b.handler.gone == [two]
        b.engine.pause(one)
        fill(b, 20)
        assert b.handler.gone == [two, one]
        b.engine.resume(one)
        b.loop.run()
        assert slow.written == [b"\x88\x0f" + struct.pack(">H", 4002) + b"slow consumer"]
        b.engine.feed(one, client_frame(CLOSE, struct.pack(">H", 4002)))
        assert slow.ended == "closed"


def test_bad_arguments() -> None:
    with bench() as b:
        with pytest.raises(OSError, match=r"[Bb]ad file descriptor"):
            b.engine.adopt(2**30, b.handler)  # more than any process may have open
        b.loop.run()
        with pytest.raises(ValueError, match="not a framing"):
            b.engine.attach(Transport(), b.handler, framing=99)
        with pytest.raises(TypeError):
            b.engine.dispatch([[b"message", "text", b"1"]])
        with pytest.raises(ValueError, match="max_queue_messages"):
            Bench(max_queue_messages=2_000_000)
        assert b.engine.stats()["connections"] == 0
    with pytest.raises(RuntimeError, match="closed"):
        b.engine.attach(Transport(), b.handler)


def test_an_engine_without_epoll_takes_transports_only() -> None:
    with bench(epoll=False) as b:
        assert not b.engine.owns_sockets
        assert b.engine.fileno() == -1
        ours, theirs = socket.socketpair()
        with theirs, pytest.raises(OSError, match="descriptor"):
            b.engine.adopt(ours.detach(), b.handler)
        b.loop.run()
        handle = b.engine.attach(Transport(), b.handler)
        assert b.engine.is_open(handle)


def test_a_worker_gets_the_broker_s_own_protocol() -> None:
    payloads = [b"1", b"x" * 100, b"\xff not UTF-8", b""]
    with bench(check_utf8=False) as b:
        worker, peer = b.connect(framing=_fanout.RESP)
        client, client_peer = b.connect()
        assert b.engine.subscribe(worker, b"user:25442") == _fanout.ADDED
        assert b.engine.subscribe(worker, b"user:28322") == _fanout.ADDED  # no ids, so none that collide
        assert b.engine.subscribe(worker, b"user:25442") == _fanout.ALREADY
        b.engine.subscribe(client, b"user:25442")
        b.publish(*((b"user:25442", payload) for payload in payloads))
        reader = hiredis.Reader()
        reader.feed(peer.read())
        assert list(iter(reader.gets, False)) == [[b"message", b"user:25442", payload] for payload in payloads]
        assert client_peer.texts()[0] == b"8ca68b72?1"
        assert b.engine.unsubscribe(worker, b"user:25442")
        assert not b.engine.unsubscribe(worker, b"user:25442")
        assert b.engine.subscriptions(worker) == [b"user:28322"]


def test_a_worker_is_neither_pinged_nor_sent_a_close_frame() -> None:
    with bench(heartbeat_interval=0.1, heartbeat_timeout=0.1) as b:
        handle, peer = b.connect(framing=_fanout.RESP)
        for now in range(20):
            b.engine.tick(now / 50)
        assert b.engine.is_open(handle)
        peer.sock.sendall(b"PING\r\n")
        b.poll()
        assert b.handler.raw == [(handle, b"PING\r\n")]
        b.engine.disconnect(handle, 4002, "slow")
        b.loop.run()
        assert b.handler.gone == [handle]
        assert peer.read() == b""
        assert peer.at_eof()


def test_a_worker_may_hold_and_leave_more_channels_than_a_client() -> None:
    with bench() as b:
        handle, _ = b.connect(framing=_fanout.RESP)
        names = [b"user:%d" % number for number in range(20_000)]
        for name in names:
            assert b.engine.subscribe(handle, name, 1 << 30) == _fanout.ADDED
        for name in names:
            assert b.engine.unsubscribe(handle, name)
        assert b.engine.stats()["channels"] == 0
