"""Who left a channel: told where it was asked for, once for each call of the engine."""

from __future__ import annotations

import pytest

from realizehit import _fanout
from tests.support.engines import CLOSE, TEXT, Bench, Recorder, bench

CHANNEL = b"room:1"
OTHER = b"room:2"


class Subs(Recorder):
    """A handler that takes plain subs."""

    def __init__(self) -> None:
        super().__init__()
        self.subs: list[tuple[int, _fanout.PlainSub]] = []

    def on_sub(self, handle: int, sub: _fanout.PlainSub) -> None:
        self.subs.append((handle, sub))


def watching(b: Bench) -> list[tuple[bytes, list[int]]]:
    """Return the list that the engine's reports go to."""
    left: list[tuple[bytes, list[int]]] = []
    b.engine.on_left = lambda channel, handles: left.append((channel, handles))
    return left


def members(b: Bench, count: int, *channels: bytes) -> list[int]:
    handles = [b.connect()[0] for _ in range(count)]
    for handle in handles:
        for channel in channels:
            assert b.engine.subscribe(handle, channel) == _fanout.ADDED
    return handles


def test_every_way_of_leaving_is_reported() -> None:
    with bench() as b:
        left = watching(b)
        unsubscribes, closes, cut, disconnected, stays = members(b, 5, CHANNEL)
        assert b.engine.watch_leavers(CHANNEL, True)
        b.engine.unsubscribe(unsubscribes, CHANNEL)
        b.loop.run()
        assert left == [(CHANNEL, [unsubscribes])]
        b.peers[1].send(CLOSE)
        b.poll()
        b.peers[2].sock.close()
        b.poll()
        b.engine.disconnect(disconnected, 4001)
        b.loop.run()
        assert left[1:] == [(CHANNEL, [closes]), (CHANNEL, [cut]), (CHANNEL, [disconnected])]
        assert b.engine.subscribers(CHANNEL) == 1
        assert b.engine.is_open(stays)


def test_leavers_of_one_call_are_reported_before_the_channel_is_vacant() -> None:
    with bench() as b:
        order: list[object] = []
        b.engine.on_left = lambda channel, handles: order.append((channel, sorted(handles)))
        b.engine.on_vacant = order.append
        handles = members(b, 3, CHANNEL, OTHER)
        b.engine.watch_leavers(CHANNEL, True)
        b.engine.close()
        assert order[0] == (CHANNEL, handles)
        assert sorted(order[1:]) == [CHANNEL, OTHER]  # type: ignore[type-var]
        assert sorted(b.handler.gone) == handles


def test_unwatched_channels_report_no_leavers() -> None:
    with bench() as b:
        left = watching(b)
        first, second, third = members(b, 3, CHANNEL, OTHER)
        b.engine.watch_leavers(CHANNEL, True)
        b.engine.unsubscribe(first, OTHER)
        b.engine.watch_leavers(CHANNEL, False)
        b.engine.disconnect(second, 4001)
        b.loop.run()
        assert left == []
        b.engine.on_left = None
        b.engine.watch_leavers(CHANNEL, True)
        b.engine.disconnect(third, 4001)
        b.loop.run()
        assert b.loop.errors == []


def test_the_wish_ends_with_the_last_subscriber() -> None:
    with bench() as b:
        left = watching(b)
        assert not b.engine.watch_leavers(CHANNEL, True)
        (first,) = members(b, 1, CHANNEL)
        assert b.engine.watch_leavers(CHANNEL, True)
        b.engine.unsubscribe(first, CHANNEL)
        b.engine.subscribe(first, CHANNEL)
        b.engine.unsubscribe(first, CHANNEL)
        b.loop.run()
        assert left == [(CHANNEL, [first])]


def test_a_connection_that_leaves_twice_before_the_report_is_listed_once() -> None:
    with bench() as b:
        left = watching(b)
        first, _ = members(b, 2, CHANNEL)
        b.engine.watch_leavers(CHANNEL, True)
        for _ in range(2):
            b.engine.unsubscribe(first, CHANNEL)
            b.engine.subscribe(first, CHANNEL)
        b.loop.run()
        assert left == [(CHANNEL, [first])]


def test_a_report_may_call_the_engine() -> None:
    with bench() as b:
        first, second, third = members(b, 3, CHANNEL)
        told: list[list[int]] = []

        def on_left(channel: bytes, handles: list[int]) -> None:
            told.append(handles)
            b.engine.disconnect(second, 4001)
            b.engine.send(third, b"left")

        b.engine.on_left = on_left
        b.engine.watch_leavers(CHANNEL, True)
        b.engine.disconnect(first, 4001)
        b.loop.run()
        assert told == [[first], [second]]
        assert b.peers[2].texts() == [b"left", b"left"]


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="a transport of these tests takes everything")
def test_a_slow_consumer_leaves_too() -> None:
    with bench(max_queue_messages=4) as b:
        left = watching(b)
        handle, _ = b.connect(send_buffer=4096)
        b.engine.subscribe(handle, CHANNEL)
        b.engine.watch_leavers(CHANNEL, True)
        b.publish(*((CHANNEL, b"x" * 20000) for _ in range(40)))
        assert left == [(CHANNEL, [handle])]


def test_clients_join_a_watched_channel_through_python() -> None:
    with bench() as b:
        handler = b.handler = Subs()
        b.engine.take_subs((handler,), 10)
        (first,) = members(b, 1, CHANNEL)
        b.engine.open_channel(CHANNEL, True)
        direct, through = b.connect()[0], b.connect()[0]
        b.peers[1].send(TEXT, b'{"id":1,"act":"sub","pat":{"room":1}}')
        b.poll()
        assert b.engine.is_subscribed(direct, CHANNEL)
        assert handler.subs == []
        b.engine.watch_leavers(CHANNEL, True)
        b.peers[2].send(TEXT, b'{"id":2,"act":"sub","pat":{"room":1}}')
        b.poll()
        assert handler.subs == [(through, (b"2", CHANNEL, None))]
        assert not b.engine.is_subscribed(through, CHANNEL)
        assert b.engine.subscribers(CHANNEL) == 2
        b.engine.unsubscribe(first, CHANNEL)
        assert not b.engine.is_subscribed(first, CHANNEL)
        assert not b.engine.is_subscribed(direct, OTHER)
        assert not b.engine.is_subscribed(12345, CHANNEL)
