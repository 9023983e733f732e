"""Who is told of a gap, in which words, and that telling many holds nobody up.

Every order of events is tried by ``tests/property/test_hub.py``.
"""

from __future__ import annotations

import itertools
import time
from types import SimpleNamespace

import orjson
import pytest

from realizehit import _fanout
from realizehit.broker.base import Interest, Source
from realizehit.errors import ErrorCode
from realizehit.node import gaps
from tests.unit.test_hub import NEWS, NEWS_ID, Desk, desk

ANY_MORE = "the broker does not allow this channel any more"
CHAT = b"kind:chat"
CHAT_ID = _fanout.channel_id(CHAT)


def granted(d: Desk, conn: int, *channels: bytes) -> None:
    for channel in channels:
        d.sub(conn, channel)
        if channel not in d.bus.in_force:
            d.bus.confirm(channel)
    d.take()


def test_only_clients_with_granted_subscriptions_get_the_gap() -> None:
    with desk() as (d, b):
        (one, first), (two, second), (_, third), (four, fourth) = (b.connect() for _ in range(4))
        granted(d, one, NEWS, CHAT)
        granted(d, two, CHAT)
        d.bus.go_away()
        d.sub(two, NEWS)  # waits for the broker: it is promised what comes from the answer on
        d.sub(four, CHAT)
        d.bus.restore(2.00049)
        assert [name for name, _ in d.take()] == [str(four), str(two)]
        told = orjson.loads(first.texts()[0])
        assert (told["evt"], sorted(told["ids"])) == ("gap", sorted([NEWS_ID, CHAT_ID]))
        assert 2.001 <= told["seconds"] < 5
        assert [orjson.loads(text)["ids"] for text in second.texts()] == [[CHAT_ID]]
        assert third.texts() == fourth.texts() == []
        assert d.hub.gaps.told == 2
        d.hub.deliver([[b"message", NEWS, b"1"]])
        b.loop.run()
        assert first.texts() == second.texts() == [NEWS_ID.encode() + b"?1"]


def test_a_growing_gap_is_reported_once_to_late_subscribers_too() -> None:
    with desk() as (d, b):
        (one, first), (two, second) = b.connect(), b.connect()
        granted(d, one, NEWS)
        d.bus.go_away()
        d.sub(two, NEWS)
        d.bus.confirm(NEWS)  # the broker is back, but goes again before all is in force
        d.bus.go_away()
        d.bus.restore(7.5)
        d.take()
        for peer in (first, second):
            (told,) = map(orjson.loads, peer.texts())
            assert (told["evt"], told["ids"], told["seconds"] // 1) == ("gap", [NEWS_ID], 7)
        d.bus.go_away()
        d.bus.restore(1)
        d.take()
        assert [orjson.loads(text)["seconds"] // 1 for text in first.texts()] == [1]


def test_a_subscription_made_after_the_outage_is_not_in_its_gap() -> None:
    with desk() as (d, b):
        one, first = b.connect()
        granted(d, one, NEWS)
        d.bus.go_away()
        d.bus.restore(1)
        d.sub(one, CHAT)
        d.bus.confirm(CHAT)
        d.take()
        assert [orjson.loads(text)["ids"] for text in first.texts()] == [[NEWS_ID]]


def test_a_channel_that_the_broker_allows_no_more_ends_with_a_reason() -> None:
    with desk() as (d, b):
        one, first = b.connect()
        granted(d, one, NEWS, CHAT)
        d.bus.go_away()
        d.bus.refuse(NEWS)
        d.bus.restore(1)
        d.take()
        ended, told = (orjson.loads(text) for text in first.texts())
        assert ended == {"evt": "unsubscribed", "ids": [NEWS_ID], "code": ErrorCode.FORBIDDEN, "reason": ANY_MORE}
        assert (told["evt"], told["ids"]) == ("gap", [CHAT_ID])
        assert b.engine.subscriptions(one) == [CHAT]


def test_an_event_stream_has_the_name_beside_the_data() -> None:
    with desk() as (d, b):
        one, peer = b.connect(framing=_fanout.SSE)
        d.hub.events.named.add(one)
        granted(d, one, NEWS)
        d.bus.go_away()
        d.bus.restore(1.5)
        d.take()
        head, data, *rest = peer.read().split(b"\n")
        assert head == b"event: gap"
        told = orjson.loads(data.removeprefix(b"data: "))
        assert told.keys() == {"ids", "seconds"}
        assert told["ids"] == [NEWS_ID]
        assert 1.5 <= told["seconds"] < 5
        assert rest == [b"", b""]


def test_many_are_told_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 300
    with desk() as (d, b):
        peers = []
        for _ in range(count):
            conn, peer = b.connect()
            granted(d, conn, NEWS, CHAT)
            peers.append(peer)
        d.bus.go_away()
        clock = itertools.count(time.monotonic(), gaps.SLICE / 4)  # each look at it costs a quarter of a slice
        monkeypatch.setattr(gaps, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        d.bus.restore(1)
        told = []
        while b.loop.soon:
            before = d.hub.gaps.told
            b.loop.soon.pop(0)()
            told.append(d.hub.gaps.told - before)
        assert sum(told) == count
        assert 0 < max(told) <= 5
        assert [len(peer.texts()) for peer in peers] == [1] * count


def test_a_client_that_is_sent_away_is_told_of_a_gap_that_is_not_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with desk() as (d, b):
        (one, first), (two, second) = b.connect(), b.connect()
        granted(d, one, NEWS)
        d.hub.tell_up_to_now(one)
        b.loop.run()
        assert first.texts() == []
        monkeypatch.setattr(type(d.bus), "silence", 3.0)
        d.bus.go_away()
        d.sub(one, CHAT)  # waits for the broker: its client has missed nothing
        d.sub(two, NEWS)
        for conn in (one, two):
            d.hub.tell_up_to_now(conn)
        b.loop.run()
        (told,) = map(orjson.loads, first.texts())
        assert (told["evt"], told["ids"], told["seconds"] // 1) == ("gap", [NEWS_ID], 3)
        assert second.texts() == []
        d.bus.restore(4.0)  # while they are being told of the end
        d.hub.tell_up_to_now(one)
        b.loop.run()
        assert [orjson.loads(text)["seconds"] // 1 for text in first.texts()] == [4, 4]


def test_only_subscribers_of_lapsed_channels_are_told() -> None:
    """Those of other channels are not, also if all have lost some."""
    with desk() as (d, b):
        (one, first), (two, second) = b.connect(), b.connect()
        granted(d, one, NEWS, CHAT)
        granted(d, two, CHAT)
        lapse = Source("lapse 1")
        d.hub.lapsed(lapse, [Interest(NEWS)])
        d.hub.lapsed(lapse, [Interest(NEWS)])  # once more, before it is over
        d.hub.regained(lapse, [Interest(NEWS)], 2.0)
        b.loop.run()
        assert [orjson.loads(text)["ids"] for text in first.texts()] == [[NEWS_ID]]
        assert second.texts() == []
        d.hub.lapsed(lapse, [Interest(NEWS)])
        d.hub.lapsed(lapse, [Interest(CHAT)])  # a further channel of the same lapse
        d.hub.regained(lapse, [Interest(NEWS), Interest(CHAT)], 2.0)
        b.loop.run()
        assert [sorted(orjson.loads(text)["ids"]) for text in first.texts()] == [sorted([NEWS_ID, CHAT_ID])]
        assert [orjson.loads(text)["ids"] for text in second.texts()] == [[CHAT_ID]]


def test_a_gap_of_one_channel_is_told_by_its_subscribers_alone() -> None:
    with desk() as (d, b):
        clients = [b.connect() for _ in range(8)]
        for conn, _ in clients:
            granted(d, conn, CHAT)
        conn, sink = clients[3]
        granted(d, conn, NEWS)
        looked: list[int] = []
        tell = d.hub.gaps._tell_one
        d.hub.gaps._tell_one = lambda conn, gap, seconds: (looked.append(conn), tell(conn, gap, seconds))  # type: ignore[assignment, func-returns-value]
        d.hub.lapsed(Source("lapse 1"), [Interest(NEWS)])
        d.hub.regained(Source("lapse 1"), [Interest(NEWS)], 1.0)
        b.loop.run()
        assert looked == [conn]
        assert len(sink.texts()) == 1
