"""What the engine is asked for now and then: how much waits, and where the traffic is."""

from __future__ import annotations

import pytest

from realizehit import _fanout
from tests.support.engines import bench

NEWS = b"kind:news"

pytestmark = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="a socket pair's buffer is what fills here")


def test_queues_counts_what_waits_for_slow_readers_and_names_the_largest() -> None:
    with bench() as b:
        slow, peer = b.connect(send_buffer=4096)
        slower, other = b.connect(send_buffer=4096)
        assert b.engine.queues() == (0, 0, 0, 0)
        b.engine.subscribe(slow, NEWS)
        b.engine.subscribe(slower, NEWS)
        b.engine.subscribe(slower, b"kind:more")
        big = b"1" * 60_000
        for _ in range(4):
            b.publish((NEWS, big))
        b.publish((b"kind:more", b"2" * 100_000))
        messages, size, most_messages, most = b.engine.queues()
        assert most_messages < messages
        assert 100_000 < most < size
        # What is out already, also of a frame that is out in part, waits no more.
        sent = b.engine.stats()["bytes_out"]
        assert sent > 0
        assert size + sent == 8 * (60_000 + 4 + 9) + 100_000 + 10 + 9
        while b.engine.queues()[0]:
            peer.read()
            other.read()
            b.poll()
        assert b.engine.queues() == (0, 0, 0, 0)


def test_busiest_ranks_by_publications_since_it_was_last_asked() -> None:
    with bench() as b:
        handles = [b.connect()[0] for _ in range(3)]
        for n in range(30):
            b.engine.subscribe(handles[0], b"n:%d" % n)
        for handle in handles:
            b.engine.subscribe(handle, NEWS)
        b.publish(*[(b"n:%d" % n, b"1") for n in range(30) for _ in range(n)], (NEWS, b"1"), (b"nobody:here", b"1"))
        assert b.engine.busiest(3) == [(b"n:29", 1, 29), (b"n:28", 1, 28), (b"n:27", 1, 27)]
        assert b.engine.busiest(3) == []
        b.publish((NEWS, b"1"), (NEWS, b"2"), (b"n:1", b"1"))
        assert b.engine.busiest(3) == [(NEWS, 3, 2), (b"n:1", 1, 1)]
        b.publish((b"n:7", b"1"), (b"n:8", b"1"), (b"n:8", b"1"))
        assert b.engine.busiest(1) == [(b"n:8", 1, 2)]
        assert b.engine.busiest(1) == []


def test_busiest_wants_a_count() -> None:
    with bench() as b, pytest.raises(ValueError, match="count must be 1 or more, not 0"):
        b.engine.busiest(0)
