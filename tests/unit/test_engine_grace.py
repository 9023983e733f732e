"""Queues over their limit: whoever goes on reading has time, within bounds; whoever stands still is closed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from realizehit import _fanout
from tests.support.engines import CLOSE, TEXT, Bench, Peer, bench

NEWS = b"kind:news"
FAREWELL = (CLOSE, struct.pack(">H", 4002) + b"slow consumer")
LIMIT, MESSAGES = 100_000, 50
OPTIONS = {
    "max_queue_bytes": LIMIT,
    "max_queue_messages": MESSAGES,
    "grace": 30.0,
    "stall": 5.0,
    "burst_bytes": 1_000_000,
    "burst_messages": 2000,
    "heartbeat_interval": 1000.0,
}

pytestmark = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="transports of a test tell nothing of their buffers")


@contextmanager
def reader(**options: float) -> Iterator[tuple[Bench, int, Peer]]:
    with bench(**{**OPTIONS, **options}) as b:
        conn, peer = b.connect(send_buffer=4096)
        b.engine.subscribe(conn, NEWS)
        b.engine.tick(0.0)
        yield b, conn, peer


def read(b: Bench, peer: Peer, count: int) -> list[tuple[int, bytes]]:
    """So many frames, as fast as they come."""
    frames: list[tuple[int, bytes]] = []
    while len(frames) < count:
        b.poll()
        frames += peer.frames()
    return frames


def last(b: Bench, peer: Peer) -> tuple[int, bytes]:
    """What comes last on a connection that is closing."""
    frames = peer.frames()
    while not frames or frames[-1][0] != CLOSE:
        b.poll()
        frames += peer.frames()
    return frames[-1]


@pytest.mark.parametrize(("count", "size"), [(1000, 1), (9, 100_000), (300, 3000)])
def test_a_reader_gets_a_batch_that_is_larger_than_its_queue(count: int, size: int) -> None:
    with reader() as (b, conn, peer):
        b.publish(*[(NEWS, b"x" * size)] * count)
        assert b.engine.is_open(conn)
        left = count
        for second in range(1, 20):
            b.engine.tick(float(second))
            left -= len(read(b, peer, min(left, count // 9)))
        assert left == 0
        assert b.engine.is_open(conn)
        assert b.engine.queues()[0] == 0


def test_a_stalled_client_is_closed_after_the_stall_time() -> None:
    with reader() as (b, conn, peer):
        b.publish(*[(NEWS, b"x" * 1000)] * 300)
        for second in range(1, 5):
            b.engine.tick(float(second))
            assert b.engine.is_open(conn)
        b.engine.tick(5.0)
        assert not b.engine.is_open(conn)
        assert b.engine.stats()["slow_disconnects"] == 1
        assert last(b, peer) == FAREWELL


def test_a_client_that_stalled_before_is_closed_at_the_limit() -> None:
    with reader() as (b, conn, _):
        b.publish(*[(NEWS, b"x" * 1000)] * 40)  # more than the system takes, and within the limit
        for second in range(1, 7):
            b.engine.tick(float(second))
        assert b.engine.is_open(conn)
        assert b.engine.queues()[0] > 0
        b.publish(*[(NEWS, b"x" * 1000)] * 40)
        assert not b.engine.is_open(conn)


def test_a_client_that_reads_too_slowly_is_closed() -> None:
    with reader() as (b, conn, peer):
        b.publish(*[(NEWS, b"x" * 4000)] * 200)
        second = 0
        while b.engine.is_open(conn):
            second += 1
            assert len(peer.sock.recv(3000)) > 0
            b.poll()
            b.engine.tick(float(second))
        assert second == 30


def test_time_begins_anew_when_a_queue_was_brought_back() -> None:
    with reader() as (b, conn, peer):
        for second in range(0, 100, 2):
            b.publish(*[(NEWS, b"x" * 4000)] * 60)
            b.engine.tick(float(second))
            assert [opcode for opcode, _ in read(b, peer, 60)] == [TEXT] * 60
            b.engine.tick(float(second + 1))
        assert b.engine.is_open(conn)


@pytest.mark.parametrize(
    ("options", "count", "size"),
    [
        ({"burst_bytes": 200_000}, 3, 90_000),
        ({"burst_messages": 60}, 80, 100),
        ({"burst_total": 150_000}, 4, 90_000),
        ({"grace": 0.0}, 2, 90_000),
    ],
)
def test_the_further_limits_hold_at_once(options: dict[str, float], count: int, size: int) -> None:
    with reader(**options) as (b, conn, peer):
        b.publish(*[(NEWS, b"x" * size)] * count)
        assert not b.engine.is_open(conn)
        assert last(b, peer) == FAREWELL


def test_messages_count_once_against_what_all_may_have() -> None:
    with bench(**{**OPTIONS, "burst_total": 600_000}) as b:
        many = [b.connect(send_buffer=4096) for _ in range(20)]
        for conn, _ in many:
            b.engine.subscribe(conn, NEWS)
        b.publish(*[(NEWS, b"x" * 50_000)] * 9)
        assert all(b.engine.is_open(conn) for conn, _ in many)
        # Those of its own are another's: then the limit of all is passed.
        b.engine.subscribe(many[0][0], b"kind:own")
        b.publish(*[(b"kind:own", b"x" * 50_000)] * 4)
        assert not b.engine.is_open(many[0][0])
        assert b.engine.is_open(many[1][0])


def test_a_client_that_leaves_over_its_limit_is_forgotten() -> None:
    with reader() as (b, conn, _):
        b.publish(*[(NEWS, b"x" * 1000)] * 300)
        b.engine.lost(conn)
        b.loop.run()
        again, other = b.connect()
        b.engine.subscribe(again, NEWS)
        for second in range(1, 8):
            b.engine.tick(float(second))
        b.publish((NEWS, b"after"))
        assert b.engine.is_open(again)
        assert other.texts()[-1].endswith(b"after")
        assert b.engine.stats()["slow_disconnects"] == 0
