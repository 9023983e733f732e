"""Traceparents of publications: who is sent them, in which form, and which deliveries are told."""

from __future__ import annotations

import pytest

from realizehit import _fanout
from tests.support.engines import Bench, Peer, bench
from tests.support.event_streams import read_events

NEWS = b"kind:news"
WILD = b"channel:*|kind:news"
CNN = b"channel:CNN|kind:news"
ID = _fanout.channel_id(NEWS).encode()
WILD_ID = _fanout.channel_id(WILD).encode()
EPOCH = "aaaaaaaa"
PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = PARENT[:-2] + b"00"
TRACE = b"t=" + PARENT


def join(b: Bench, channel: bytes, *, trace: bool = False, **options: int) -> tuple[int, Peer]:
    handle, peer = b.connect(**options)  # type: ignore[arg-type]
    assert b.engine.subscribe(handle, channel) == _fanout.ADDED
    if trace:
        assert b.engine.tell_traces(handle, channel)
    return handle, peer


def test_only_those_that_asked_are_sent_the_traceparent() -> None:
    with bench() as b:
        _, plain = join(b, NEWS)
        _, traced = join(b, NEWS, trace=True)
        b.publish((NEWS, b"@%s?1" % TRACE), (NEWS, b"2"))
        assert plain.texts() == [ID + b"?1", ID + b"?2"]
        assert traced.texts() == [ID + b"@%s?1" % TRACE, ID + b"?2"]
        assert b.engine.stats()["frames_built"] == 3


def test_the_concrete_channel_of_a_wildcard_comes_behind_the_traceparent() -> None:
    with bench() as b:
        _, plain = join(b, WILD)
        _, traced = join(b, WILD, trace=True)
        b.publish((WILD, b"@%s&c=%s?1" % (TRACE, CNN)), (WILD, b"@c=%s?2" % CNN))
        assert plain.texts() == [WILD_ID + b"@c=%s?%d" % (CNN, n) for n in (1, 2)]
        assert traced.texts() == [WILD_ID + b"@%s&c=%s?1" % (TRACE, CNN), WILD_ID + b"@c=%s?2" % CNN]


@pytest.mark.parametrize(("channel", "more"), [(NEWS, b""), (WILD, b"&c=" + CNN)], ids=["exact", "wildcard"])
def test_positions_and_traceparents_are_told_by_themselves(channel: bytes, more: bytes) -> None:
    with bench() as b:
        peers = [join(b, channel, trace=trace) for trace in (False, True, False, True)]
        assert b.engine.log_open(channel)
        assert b.engine.log_set(channel, EPOCH, 6)
        for handle, _ in peers[2:]:
            assert b.engine.set_positions(handle, channel)
        b.publish((channel, b"@o=aaaaaaaa.7&%s%s?1" % (TRACE, more)))
        name = _fanout.channel_id(channel).encode()
        label = b"@" + more[1:] if more else b""
        assert [peer.texts() for _, peer in peers] == [
            [name + label + b"?1"],
            [name + b"@%s%s?1" % (TRACE, more)],
            [name + b"@o=7%s?1" % more],
            [name + b"@o=7&%s%s?1" % (TRACE, more)],
        ]


def test_a_replayed_message_has_no_traceparent() -> None:
    with bench() as b:
        _, live = join(b, NEWS, trace=True)
        assert b.engine.log_open(NEWS)
        assert b.engine.log_set(NEWS, EPOCH, 0)
        b.publish((NEWS, b"@o=aaaaaaaa.1&%s?1" % TRACE))
        assert live.texts() == [ID + b"@%s?1" % TRACE]
        handle, late = join(b, NEWS, trace=True)
        assert b.engine.set_positions(handle, NEWS, 0)
        b.loop.run()
        assert late.texts() == [ID + b"@o=1?1"]
        b.publish((NEWS, b"@o=aaaaaaaa.2&%s?2" % TRACE))  # the replay has become a live subscription
        assert late.texts() == [ID + b"@o=2&%s?2" % TRACE]


@pytest.mark.parametrize(
    "framing",
    [_fanout.WEBSOCKET, _fanout.DEFLATE, _fanout.ENGINEIO_4, _fanout.ENGINEIO_3, _fanout.POLLING_4, _fanout.POLLING_3],
)
def test_the_traceparent_stands_behind_the_id_in_each_framing(framing: int) -> None:
    sink = Sink()
    with bench() as b:
        handle = b.engine.attach(sink, b.handler, framing=framing)
        b.engine.subscribe(handle, NEWS)
        assert b.engine.tell_traces(handle, NEWS)
        b.publish((NEWS, b'@%s?"a"' % TRACE))
    if framing == _fanout.DEFLATE:
        assert sink.written[0] & 0x40  # long enough to be compressed
    else:
        assert ID + b'@%s?"a"' % TRACE in sink.written


def test_an_event_stream_has_it_in_the_id_of_the_event() -> None:
    sink = Sink()
    with bench() as b:
        handle = b.engine.attach(sink, b.handler, framing=_fanout.SSE)
        b.engine.subscribe(handle, NEWS)
        b.engine.tell_traces(handle, NEWS)
        b.publish((NEWS, b"@%s?1" % TRACE))
    (event,) = read_events(sink.written.decode())
    assert event.id == (ID + b"@" + TRACE).decode()


def test_a_worker_gets_the_message_as_it_came() -> None:
    sink = Sink()
    with bench() as b:
        b.engine.subscribe(b.engine.attach(sink, b.handler, framing=_fanout.RESP), NEWS)
        b.publish((NEWS, b"@%s?1" % TRACE))
    assert b"@%s?1\r\n" % TRACE in sink.written


@pytest.mark.parametrize(
    "traceparent",
    [
        b"00-" + b"0" * 32 + PARENT[35:],
        PARENT[:36] + b"0" * 16 + PARENT[52:],
        PARENT.upper(),
        b"01" + PARENT[2:],
        PARENT[:-1],
        PARENT + b"0",
        PARENT[:-1] + b"g",
        PARENT.replace(b"-", b"_"),
    ],
    ids=["no-trace", "no-parent", "upper-case", "version", "short", "long", "no-hexit", "dashes"],
)
def test_a_malformed_label_is_payload(traceparent: bytes) -> None:
    """As that of a position is: anybody can publish anything at a broker."""
    with bench() as b:
        _, peer = join(b, NEWS, trace=True)
        _, wild = join(b, WILD, trace=True)
        b.publish((NEWS, b"@t=%s?1" % traceparent), (WILD, b"@t=%s&c=%s?1" % (traceparent, CNN)))
        assert peer.texts() == [ID + b"?@t=%s?1" % traceparent]
        assert wild.texts() == []
        assert b.engine.stats()["malformed"] == 1


@pytest.mark.parametrize("size", range(len(TRACE) + 1))
def test_a_label_that_ends_early_is_payload(size: int) -> None:
    text = b"@" + TRACE[:size]
    with bench() as b:
        _, peer = join(b, NEWS)
        b.publish((NEWS, text), (NEWS, b"@o=aaaaaaaa.1&" + TRACE[:size]))
        assert peer.texts() == [ID + b"?" + text, ID + b"?@o=aaaaaaaa.1&" + TRACE[:size]]


def test_deliveries_of_sampled_traces_are_told_once_for_a_message() -> None:
    told: list[tuple[bytes, bytes, int, int]] = []
    with bench() as b:
        for trace in (False, True, True):
            join(b, NEWS, trace=trace)
        join(b, WILD)
        b.engine.follow_traces(lambda *each: told.append(each))
        b.publish(
            (NEWS, b"1"),
            (NEWS, b"@t=%s?2" % UNSAMPLED),
            (NEWS, b"@t=%s?3" % PARENT),
            (b"kind:nobody", b"@t=%s?4" % PARENT),
            (WILD, b"@t=%s&c=%s?5" % (PARENT, CNN)),
        )
        assert [each[:3] for each in told] == [(NEWS, PARENT, 3), (WILD, PARENT, 1)]
        assert all(0 < each[3] < 10**11 for each in told)
        b.engine.follow_traces(None)
        b.publish((NEWS, b"@t=%s?6" % PARENT))
        assert len(told) == 2


def test_a_duplicate_is_not_told() -> None:
    told: list[object] = []
    with bench() as b:
        join(b, NEWS)
        b.engine.follow_traces(lambda *each: told.append(each))
        assert b.engine.log_open(NEWS)
        assert b.engine.log_set(NEWS, EPOCH, 0)
        b.publish(*[(NEWS, b"@o=aaaaaaaa.1&t=%s?1" % PARENT)] * 2)
        assert len(told) == 1


def test_traces_need_a_subscription() -> None:
    with bench() as b:
        handle, _ = b.connect()
        assert not b.engine.tell_traces(handle, NEWS)
        b.engine.subscribe(handle, NEWS)
        other, _ = b.connect()
        assert not b.engine.tell_traces(other, NEWS)
        b.engine.disconnect(handle, 1000)
        assert not b.engine.tell_traces(handle, NEWS)


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        """Do nothing."""

    abort = close
