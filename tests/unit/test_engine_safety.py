"""What must not break the engine: sizes near its bounds, callbacks that raise or change everything, wrong batches.

Lack of memory is tried in `tests.fuzz.allocations`, calls in any order in `tests.fuzz.engine_calls`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from realizehit import _fanout
from tests.support.engines import CLOSE, PING, TEXT, Bench, Recorder, bench, client_frame


class Sink:
    """A transport that keeps what is written, and may do something first."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.ended = 0
        self.first: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self.first()
        self.data.append(data)

    def close(self) -> None:
        self.ended += 1

    abort = close


def attach(b: Bench, framing: int = _fanout.WEBSOCKET) -> tuple[int, Sink]:
    sink = Sink()
    return b.engine.attach(sink, b.handler, framing=framing), sink


def test_a_message_of_2_gb_is_refused_without_harm_to_others() -> None:
    with bench() as b:
        conn, peer = b.connect()
        large = bytes(1 << 31)  # never touched, so it takes no memory
        with pytest.raises(MemoryError):
            b.engine.send_bytes(conn, large)
        with pytest.raises(MemoryError):
            b.engine.send(conn, large, binary=True)
        assert b.engine.send(conn, b"1")
        b.loop.run()
        assert peer.texts() == [b"1"]


@pytest.mark.parametrize("size", [0, (1 << 30) + 1])
def test_the_bound_of_a_queue_has_bounds(size: int) -> None:
    with pytest.raises(ValueError, match="max_queue_bytes must be 1 to 1073741824"):
        _fanout.Engine(print, print, max_queue_bytes=size)


def test_polling_of_revision_3_wants_payloads_that_are_checked() -> None:
    with bench(check_utf8=False) as b:
        with pytest.raises(ValueError, match="check_utf8"):
            attach(b, _fanout.POLLING_3)
        conn, _ = attach(b)
        assert b.engine.is_open(conn)


def test_a_connection_spliced_to_a_framing_without_heartbeat_has_none() -> None:
    with bench(heartbeat_interval=1.0, heartbeat_timeout=0.5) as b:
        (conn, _), (other, sink) = attach(b), attach(b, _fanout.RESP)
        b.engine.splice(conn, other)
        for tick in range(100):
            b.engine.tick(tick * b.engine.tick_interval)
        assert b.engine.is_open(conn)
        assert sink.data == []


def test_an_interrupted_callback_stops_no_other_callback() -> None:
    class Interrupted(Recorder):
        def on_gone(self, handle: int) -> None:
            super().on_gone(handle)
            if len(self.gone) == 1:
                raise KeyboardInterrupt

    with bench() as b:
        b.handler = Interrupted()
        conns = [b.connect()[0] for _ in range(3)]
        for conn in conns:
            b.engine.subscribe(conn, b"a:1")
            b.engine.disconnect(conn, 1001)
        with pytest.raises(KeyboardInterrupt):
            b.engine.flush()
        b.loop.run()
        assert b.handler.gone == conns
        assert b.vacant == [b"a:1"] * 3


def test_a_failing_error_callback_stops_no_other_callback() -> None:
    told: list[Exception] = []

    def on_error(error: Exception) -> None:
        told.append(error)
        raise RuntimeError("the log is full")

    class Failing(Recorder):
        def on_gone(self, handle: int) -> None:
            super().on_gone(handle)
            raise ValueError(handle)

    with bench() as b:
        handler = Failing()
        engine = _fanout.Engine(b.loop.soon.append, on_error)
        conns = [engine.attach(Sink(), handler) for _ in range(3)]
        for conn in conns:
            engine.disconnect(conn, 1001)
        for _ in conns:
            with pytest.raises(RuntimeError, match="full"):
                b.loop.run()
        b.loop.run()
        assert handler.gone == conns
        assert len(told) == 3
        engine.close()


def test_what_comes_before_a_wrong_item_of_a_batch_is_delivered() -> None:
    with bench() as b:
        conn, peer = b.connect()
        b.engine.subscribe(conn, b"a:1")
        for wrong, error in (([b"message"], IndexError), ([b"message", 1, 2], TypeError), (3, TypeError)):
            with pytest.raises(error):
                b.engine.dispatch([[b"message", b"a:1", b"1"], wrong, [b"message", b"a:1", b"2"]])  # type: ignore[list-item]
            b.loop.run()
            assert [text[9:] for text in peer.texts()] == [b"1"]


def test_a_closing_engine_accepts_no_connections() -> None:
    class Clinging(Recorder):
        def on_gone(self, handle: int) -> None:
            super().on_gone(handle)
            with pytest.raises(RuntimeError, match="closed"):
                attach(b)

    with bench() as b:
        b.handler = Clinging()
        conn, _ = attach(b)
        b.engine.close()
        assert b.handler.gone == [conn]
        b.engine.close()


def test_a_connection_may_be_spliced_away_while_it_waits_to_be_written() -> None:
    with bench() as b:
        (first, sink), (conn, polling), (other, onward) = attach(b), attach(b), attach(b)
        # All three stand in the list of transports to write to when the first is written.
        sink.first = lambda: b.engine.splice(conn, other)
        for handle in (first, conn, other):
            b.engine.send(handle, b"1")
        b.loop.run()
        fresh = [attach(b) for _ in range(3)]  # one of them has the other's slot
        for handle, _ in fresh:
            b.engine.send(handle, b"2")
        b.engine.send(conn, b"3")
        b.loop.run()
        assert (polling.data, polling.ended) == ([], 1)
        assert onward.data == [b"\x81\x011", b"\x81\x013"]
        assert [it.data for _, it in fresh] == [[b"\x81\x012"]] * 3


def test_a_transport_may_end_its_connection_and_raise() -> None:
    with bench() as b:
        (conn, sink), (other, onward) = attach(b), attach(b)

        def lose() -> None:
            b.engine.splice(other, conn)
            attach(b)  # in the slot that is free now
            raise ValueError("the write failed")

        sink.first = lose
        b.engine.send(conn, b"1")
        b.loop.run()
        assert [str(error) for error in b.loop.errors] == ["the write failed"]
        b.loop.errors.clear()
        assert b.engine.is_open(other)
        assert len(b.engine.handles()) == 2
        assert onward.ended == 1
        b.handler.gone.clear()


def test_lone_surrogates_in_a_close_reason_are_replaced() -> None:
    with bench() as b:
        conn, peer = b.connect()
        b.engine.disconnect(conn, 4000, "a\ud800b")
        b.loop.run()
        assert peer.frames() == [(8, b"\x0f\xa0a?b")]


def test_handlers_that_go_with_their_connection_may_call_the_engine() -> None:
    class Last(Recorder):
        def __del__(self) -> None:
            b.engine.dispatch([(b"message", b"a:1", b"farewell")])

    with bench() as b:
        conn, peer = b.connect()
        b.engine.subscribe(conn, b"a:1")
        sink = Sink()
        leaving = b.engine.attach(sink, Last())
        b.engine.lost(leaving)
        b.loop.run()
        onward = b.engine.attach(Sink(), Last())
        b.engine.splice(onward, attach(b)[0])
        b.loop.run()
        assert [text[9:] for opcode, text in peer.frames() if opcode == TEXT] == [b"farewell"] * 2


def test_a_broadcast_through_transports_gives_way_too() -> None:
    with bench(slice_seconds=1e-9) as b:
        ends = [attach(b) for _ in range(200)]
        for conn, _ in ends:
            b.engine.subscribe(conn, b"a:b")
        b.engine.dispatch([[b"message", b"a:b", b"1"]])
        steps = [sum(len(sink.data) for _, sink in ends)]
        while b.loop.soon:
            b.loop.soon.pop(0)()
            steps.append(sum(len(sink.data) for _, sink in ends))
        assert steps[-1] == 200
        assert all(0 <= after - before <= 16 for before, after in zip([0, *steps], steps, strict=False))


def test_only_a_close_frame_answers_our_close_frame() -> None:
    with bench() as b:
        conn, sink = attach(b)
        b.engine.disconnect(conn, 4001, "delay=1")
        b.loop.run()
        b.engine.feed(conn, client_frame(TEXT, b"an action under way") + client_frame(PING))
        assert sink.ended == 0
        b.engine.feed(conn, client_frame(TEXT, b"another") + client_frame(CLOSE, b"\x0f\xa1"))
        assert sink.ended == 1
        assert b.handler.texts == []


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="every connection has a transport without epoll")
def test_what_is_for_transports_does_nothing_to_a_socket() -> None:
    with bench() as b:
        conn, peer = b.connect()
        b.engine.subscribe(conn, b"kind:news")
        b.engine.pause(conn)
        b.publish((b"kind:news", b"1"))
        assert peer.texts()[0].endswith(b"?1")
        b.engine.resume(conn)
        assert b.engine.take(conn) == b""
        b.publish((b"kind:news", b"2"))
        assert peer.texts()[0].endswith(b"?2")
