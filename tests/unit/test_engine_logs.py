"""Channels with a log: positions, holes, replays and the ring, in every framing."""

from __future__ import annotations

import zlib

import pytest

from realizehit import _fanout
from tests.support.engines import CLOSE, Bench, Peer, bench, server_frames
from tests.support.event_streams import read_events

CHAT = b"channel:chat"
WILD = b"channel:*|kind:news"
CNN = b"channel:CNN|kind:news"
ID = _fanout.channel_id(CHAT).encode()
WILD_ID = _fanout.channel_id(WILD).encode()
A, B = "aaaaaaaa", "bbbb0000"


def labelled(offset: int, epoch: str = A, text: bytes | None = None) -> bytes:
    """A publication as the broker sends it."""
    return b"@o=%s.%d?" % (epoch.encode(), offset) + (b"%d" % offset if text is None else text)


def messages(first: int, last: int) -> list[tuple[int, bytes]]:
    return [(offset, b"%d" % offset) for offset in range(first, last + 1)]


class Log:
    """A bench with one channel that has a log, and what the engine asked for."""

    def __init__(self, b: Bench, channel: bytes = CHAT) -> None:
        self.b, self.engine, self.channel = b, b.engine, channel
        self.holes: list[tuple[bytes, str, int]] = []
        self.starved: list[tuple[bytes, list[tuple[int, int]]]] = []
        b.engine.on_hole = lambda *hole: self.holes.append(hole)
        b.engine.on_starved = lambda *starved: self.starved.append(starved)

    def join(self, *, muted: bool = False, **options: int) -> tuple[int, Peer]:
        handle, peer = self.b.connect(**options)  # type: ignore[arg-type]
        assert self.engine.subscribe(handle, self.channel, muted=muted) == _fanout.ADDED
        return handle, peer

    def begin(self, offset: int = 0, kept: list[tuple[int, bytes]] | None = None) -> None:
        assert self.engine.log_open(self.channel)
        assert self.engine.log_set(self.channel, A, offset, kept or [])

    def publish(self, *payloads: bytes) -> None:
        self.b.publish(*((self.channel, payload) for payload in payloads))

    def run(self) -> None:
        self.b.loop.run()


def test_plain_and_positioned_subscribers_each_get_their_form() -> None:
    with bench() as b:
        log = Log(b)
        _, plain = log.join()
        handle, told = log.join(muted=True)
        log.begin()
        assert b.engine.set_positions(handle, CHAT)
        log.publish(labelled(1), labelled(2))
        assert plain.texts() == [ID + b"?1", ID + b"?2"]
        assert told.texts() == [ID + b"@o=1?1", ID + b"@o=2?2"]
        assert b.engine.log_state(CHAT) == (A, 2, 1)


def test_a_muted_subscription_gets_nothing_until_it_is_unmuted() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.publish(b"early")
        assert peer.texts() == []
        assert b.engine.unmute(handle, CHAT)
        assert not b.engine.unmute(handle, CHAT)
        log.publish(b"late")
        assert peer.texts() == [ID + b"?late"]


def test_duplicates_are_dropped_and_a_hole_keeps_back_what_follows() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        _, plain = log.join()
        log.begin()
        b.engine.set_positions(handle, CHAT)
        log.publish(labelled(1), labelled(1), labelled(4), b"strange", labelled(5))
        assert log.holes == [(CHAT, A, 4)]
        assert peer.texts() == [ID + b"@o=1?1"]
        stats = b.engine.stats()
        assert (stats["log_duplicates"], stats["kept_back"], stats["unpositioned"]) == (1, 3, 0)
        assert b.engine.log_repair(CHAT, A, messages(1, 4))
        log.run()
        assert peer.texts() == [ID + b"@o=2?2", ID + b"@o=3?3", ID + b"@o=4?4", ID + b"?strange", ID + b"@o=5?5"]
        assert plain.texts() == [ID + b"?1", ID + b"?2", ID + b"?3", ID + b"?4", ID + b"?strange", ID + b"?5"]
        stats = b.engine.stats()
        assert (stats["log_duplicates"], stats["kept_back"], stats["unpositioned"]) == (1, 0, 1)
        assert log.holes == [(CHAT, A, 4)]


def test_a_publication_that_is_in_no_log_cannot_stop_a_channel() -> None:
    with bench() as b:
        log = Log(b)
        _, plain = log.join()
        log.begin()
        log.publish(labelled(900), labelled(1))
        while len(log.holes) < 3 and b.engine.log_repair(CHAT, A, messages(1, 1)):
            log.run()
            if b.engine.stats()["malformed"]:
                break
        assert log.holes == [(CHAT, A, 900)] * 2
        log.publish(labelled(2))
        assert plain.texts() == [ID + b"?1", ID + b"?2"]


def test_before_the_position_is_known_plain_subscribers_go_on_and_others_miss_nothing() -> None:
    with bench() as b:
        log = Log(b)
        _, plain = log.join()
        handle, told = log.join(muted=True)
        b.engine.log_open(CHAT)
        assert b.engine.log_state(CHAT) is None
        assert not b.engine.set_positions(handle, CHAT, 1)
        log.publish(labelled(6), labelled(7), labelled(8))
        assert plain.texts() == [ID + b"?6", ID + b"?7", ID + b"?8"]
        b.engine.log_set(CHAT, A, 7, messages(5, 7))
        assert b.engine.set_positions(handle, CHAT, 5)
        log.run()
        assert told.texts() == [ID + b"@o=6?6", ID + b"@o=7?7", ID + b"@o=8?8"]
        assert plain.texts() == []
        assert log.holes == []


def test_a_position_beyond_the_logs_gets_nothing_twice() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin(3)
        b.engine.set_positions(handle, CHAT, 5)
        log.publish(*(labelled(offset) for offset in (4, 5, 6, 7)))
        assert peer.texts() == [ID + b"@o=6?6", ID + b"@o=7?7"]
        assert b.engine.stats()["replays"] == 0


def test_a_new_epoch_is_told_with_its_first_message() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin(1)
        b.engine.set_positions(handle, CHAT)
        log.publish(labelled(2), labelled(3, B))
        assert log.holes == [(CHAT, B, 3)]
        b.engine.log_repair(CHAT, B, [])
        log.publish(labelled(4, B))
        assert peer.texts() == [ID + b"@o=2?2", ID + b"@o=bbbb0000.3?3", ID + b"@o=4?4"]
        again, late = log.join(muted=True)
        b.engine.set_positions(again, CHAT, 1)
        log.run()
        assert late.texts() == [ID + b"@o=2?2", ID + b"@o=bbbb0000.3?3", ID + b"@o=4?4"]


def test_a_jump_to_another_epoch_makes_replays_live() -> None:
    with bench(ring_bytes=0) as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin(9)
        b.engine.set_positions(handle, CHAT, 3)
        log.run()
        assert log.starved == [(CHAT, [(handle, 3)])]
        b.engine.log_set(CHAT, B, 2)
        log.publish(labelled(3, B))
        assert peer.texts() == [ID + b"@o=bbbb0000.3?3"]


def test_starved_replays_are_told_once_and_share_one_part() -> None:
    with bench(ring_bytes=400) as b:
        log = Log(b)
        joined = [log.join(muted=True) for _ in range(3)]
        log.begin(20, messages(11, 20))
        state = b.engine.log_state(CHAT)
        assert state is not None
        assert 11 < state[2] <= 20
        for handle, _ in joined:
            b.engine.set_positions(handle, CHAT, 10)
        log.publish(labelled(21))
        assert [(name, sorted(who)) for name, who in log.starved] == [(CHAT, sorted((h, 10) for h, _ in joined))]
        built = b.engine.stats()["frames_built"]
        b.engine.replay_part(CHAT, messages(8, state[2] + 1))
        log.run()
        for _, peer in joined:
            assert peer.texts() == [ID + b"@o=%d?%d" % (n, n) for n in range(11, 22)]
        stats = b.engine.stats()
        assert stats["frames_built"] - built == state[2] + 1 - 7
        assert stats["ring_bytes"] <= 400
        assert stats["replayed"] == 3 * 11
        ring_begins = 11 + stats["replayed_read"] // 3  # what is before was read for the replays
        assert state[2] <= ring_begins <= 21


def test_a_replay_that_is_given_up_goes_on_live() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin(20, messages(19, 20))
        b.engine.set_positions(handle, CHAT, 3)
        log.run()
        assert b.engine.replay_end(handle, CHAT, 18)
        assert not b.engine.replay_end(handle, CHAT, 18)
        log.publish(labelled(21))
        assert peer.texts() == [ID + b"@o=%d?%d" % (n, n) for n in (19, 20, 21)]


def test_older_messages_fill_the_ring_and_feed_those_that_starve() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin(20, messages(19, 20))
        b.engine.set_positions(handle, CHAT, 10)
        log.run()
        assert not b.engine.log_fill(CHAT, messages(1, 17))
        assert b.engine.log_fill(CHAT, messages(5, 18))
        log.run()
        assert b.engine.log_state(CHAT) == (A, 20, 5)
        assert peer.texts() == [ID + b"@o=%d?%d" % (n, n) for n in range(11, 21)]


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="the transports of the bench do not block")
@pytest.mark.parametrize("limits", [{"max_queue_messages": 8}, {"max_queue_bytes": 20_000}])
def test_a_replay_larger_than_the_queue_comes_in_parts_and_never_makes_a_client_slow(limits: dict[str, int]) -> None:
    text = b'"' + b"x" * 3000 + b'"'
    with bench(**limits) as b:
        log = Log(b)
        handle, peer = log.join(muted=True, send_buffer=4096)
        log.begin(300, [(offset, text) for offset in range(1, 301)])
        b.engine.set_positions(handle, CHAT, 0)
        b.engine.send(handle, b"reply")
        got: list[bytes] = []
        for n in range(2000):
            log.run()
            if n == 3:
                log.publish(labelled(301, text=text))
            got += peer.texts()
            b.poll()
            if len(got) == 302:
                break
        assert [text.split(b"?")[0] for text in got if text != b"reply"] == [ID + b"@o=%d" % n for n in range(1, 302)]
        assert b.engine.stats()["slow_disconnects"] == 0
        assert b.engine.stats()["replays"] == 0


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="the transports of the bench do not block")
def test_live_messages_of_other_channels_still_end_a_slow_client_that_replays() -> None:
    with bench(max_queue_messages=8) as b:
        log = Log(b)
        handle, peer = log.join(muted=True, send_buffer=4096)
        b.engine.subscribe(handle, b"other:1")
        log.begin(100, [(n, b'"' + b"x" * 9000 + b'"') for n in range(1, 101)])
        b.engine.set_positions(handle, CHAT, 0)
        log.run()
        b.publish(*[(b"other:1", b"1")] * 9)
        b.poll()
        assert b.engine.stats()["slow_disconnects"] == 1
        assert b.engine.stats()["replays"] == 0
        while CLOSE not in (opcodes := [opcode for opcode, _ in peer.frames()]) and not peer.at_eof():
            b.poll()
        assert opcodes


def test_the_log_ends_with_its_last_subscriber() -> None:
    with bench() as b:
        log = Log(b)
        handle, _ = log.join()
        log.begin()
        log.publish(labelled(1), labelled(5))
        assert b.engine.stats()["ring_messages"] == 1
        b.engine.unsubscribe(handle, CHAT)
        log.run()
        stats = b.engine.stats()
        assert (stats["ring_messages"], stats["ring_bytes"], stats["kept_back"]) == (0, 0, 0)
        log.join()
        assert b.engine.log_state(CHAT) is None


def test_a_closed_log_delivers_what_was_kept_back_without_positions() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        replaying, late = log.join(muted=True)
        log.begin(4)
        b.engine.set_positions(handle, CHAT)
        b.engine.set_positions(replaying, CHAT, 2)
        log.publish(labelled(5), labelled(7))
        assert b.engine.log_close(CHAT)
        assert not b.engine.log_close(CHAT)
        log.publish(labelled(8))
        assert peer.texts() == [ID + b"@o=5?5", ID + b"?7", ID + b"?8"]
        assert late.texts() == [ID + b"?7", ID + b"?8"]


def test_without_a_log_a_position_is_taken_off_and_other_text_stays() -> None:
    with bench() as b:
        log = Log(b)
        _, peer = log.join()
        strange = [b"@", b"@o=", b"@o=aaaaaaaa.0?1", b"@o=aaaaaaaa.01?1", b"@o=AAAAAAAA.1?1", b"@o=aaaaaaaa.1",
                   b"@o=aaaaaaaa.9007199254740992?1", b"@o=aaaaaaaa.1&c=a:b", b"@c=a:b?1", b"@o=aaaaaaaa.1&c=a:b?1",
                   b"@o=aaaaaaaa.1&d=a:b?1", b"@oxaaaaaaaa.1?1"]  # fmt: skip
        log.publish(labelled(7), labelled(9007199254740991), *strange)
        assert peer.texts() == [ID + b"?7", ID + b"?9007199254740991", *(ID + b"?" + text for text in strange)]
        assert b.engine.stats()["unpositioned"] == 0


def test_a_worker_gets_all_as_it_came() -> None:
    with bench() as b:
        log = Log(b)
        _, worker = log.join(framing=_fanout.RESP)
        log.publish(labelled(7))
        log.begin(7)
        log.publish(labelled(9))
        b.engine.log_repair(CHAT, A, messages(8, 9))
        log.run()
        start = b"*3\r\n$7\r\nmessage\r\n$12\r\nchannel:chat\r\n$15\r\n"
        assert worker.read() == b"".join(start + labelled(n) + b"\r\n" for n in (7, 8, 9))


def test_a_log_that_is_opened_again_goes_on_for_those_with_positions() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin(1)
        b.engine.set_positions(handle, CHAT)
        b.engine.log_close(CHAT)
        b.engine.log_open(CHAT)
        log.publish(labelled(2), labelled(3))
        b.engine.log_set(CHAT, A, 2)
        log.run()
        assert peer.texts() == [ID + b"@o=aaaaaaaa.2?2", ID + b"@o=3?3"]


def test_what_there_was_no_room_to_keep_is_asked_for() -> None:
    with bench(max_queue_messages=8) as b:
        log = Log(b)
        _, peer = log.join()
        log.begin()
        log.publish(*(labelled(n) for n in range(2, 8)))
        assert b.engine.stats()["kept_back"] == 2
        assert log.holes == [(CHAT, A, 2)]
        b.engine.log_repair(CHAT, A, messages(1, 2))
        log.run()
        assert log.holes[1:] == [(CHAT, A, 7)]
        b.engine.log_repair(CHAT, A, messages(4, 7))
        log.run()
        assert peer.texts() == [ID + b"?%d" % n for n in range(1, 8)]
        assert len(log.holes) == 2


def test_a_wildcards_label_has_position_and_channel() -> None:
    with bench() as b:
        log = Log(b, WILD)
        _, plain = log.join()
        handle, told = log.join(muted=True)
        worker, relay = log.join(framing=_fanout.RESP)
        log.begin(1, [(1, b"@c=%s?1" % CNN)])
        assert not b.engine.set_positions(worker, WILD)
        assert b.engine.set_positions(handle, WILD, 0)
        live = b"@o=aaaaaaaa.2&c=%s?2" % CNN
        log.publish(live, labelled(3), b"3", b"@c=%s?x" % CNN)
        b.engine.log_repair(WILD, A, [(3, b"not a wildcard's"), (4, b"@c=%s?4" % CNN)])
        log.run()
        rest = b"&c=" + CNN
        assert told.texts() == [WILD_ID + b"@o=1" + rest + b"?1", WILD_ID + b"@o=2" + rest + b"?2",
                                WILD_ID + b"@c=" + CNN + b"?x", WILD_ID + b"@o=4" + rest + b"?4"]  # fmt: skip
        assert plain.texts() == [WILD_ID + b"@c=" + CNN + b"?" + text for text in (b"2", b"x", b"4")]
        assert live in relay.read()
        assert b.engine.stats()["malformed"] == 2
        assert b.engine.log_state(WILD) == (A, 4, 1)


def test_invalid_utf8_moves_the_position_and_is_left_out() -> None:
    with bench() as b:
        log = Log(b)
        handle, peer = log.join(muted=True)
        log.begin()
        b.engine.set_positions(handle, CHAT)
        log.publish(labelled(1), labelled(2, text=b"\xff"), labelled(3))
        again, late = log.join(muted=True)
        b.engine.set_positions(again, CHAT, 0)
        log.run()
        assert peer.texts() == late.texts() == [ID + b"@o=1?1", ID + b"@o=3?3"]
        assert b.engine.stats()["dropped_invalid_utf8"] == 1


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        """Do nothing."""

    abort = close


LONG = b'"' + b"ab" * 100 + b'"'


def of_framing(framing: int, *, replay: bool, channel: bytes = CHAT) -> bytes:
    """What a subscriber with positions is sent of messages 2 and 3, of which the latter is the first of an epoch."""
    label = b"&c=" + CNN + b"?" if channel == WILD else b"?"
    sink = Sink()
    with bench() as b:
        log = Log(b, channel)
        handle = b.engine.attach(sink, b.handler, framing=framing)
        b.engine.subscribe(handle, channel, muted=True)
        log.begin(1)
        if not replay:
            b.engine.set_positions(handle, channel)
        log.publish(b"@o=aaaaaaaa.2" + label + '{"q":"é?"}'.encode(), b"@o=bbbb0000.3" + label + LONG)
        b.engine.log_repair(channel, B, [])
        if replay:
            b.engine.set_positions(handle, channel, 1)
        log.run()
        return sink.written


@pytest.mark.parametrize("channel", [CHAT, WILD])
@pytest.mark.parametrize("framing", range(9))
def test_a_replay_looks_like_live_messages_in_every_framing(framing: int, channel: bytes) -> None:
    if framing == _fanout.RESP:
        return
    live = of_framing(framing, replay=False, channel=channel)
    again = of_framing(framing, replay=True, channel=channel)
    if framing in (_fanout.SSE, _fanout.SSE_CHUNKED):
        live = live.replace(b"@o=aaaaaaaa.2", b"@o=bbbb0000.2")  # the offsets of an epoch go on in the next one
    assert again == live
    assert again


def test_labels_in_each_framing() -> None:
    text = '{"q":"é?"}'.encode()
    frames, rest = server_frames(of_framing(_fanout.WEBSOCKET, replay=False))
    assert [payload for _, payload in frames] == [ID + b"@o=2?" + text, ID + b"@o=bbbb0000.3?" + LONG]
    assert rest == b""
    frames, _ = server_frames(of_framing(_fanout.ENGINEIO_4, replay=True, channel=WILD))
    assert frames[0][1] == b"4" + WILD_ID + b"@o=2&c=" + CNN + b"?" + '{"q":"é\\u003f"}'.encode()
    events = read_events(of_framing(_fanout.SSE, replay=True, channel=WILD).decode())
    assert [event.id for event in events] == [(WILD_ID + b"@o=bbbb0000.%d&c=" % n + CNN).decode() for n in (2, 3)]
    events = read_events(of_framing(_fanout.SSE, replay=False).decode())
    assert [event.id for event in events] == [(ID + b"@o=aaaaaaaa.2").decode(), (ID + b"@o=bbbb0000.3").decode()]
    packed = of_framing(_fanout.DEFLATE, replay=True)
    start = packed.index(b"\xc1")  # final, compressed, text
    text = zlib.decompressobj(-15).decompress(packed[start + 2 :] + b"\x00\x00\xff\xff")
    assert text == ID + b"@o=bbbb0000.3?" + LONG


def test_the_same_messages_replayed_by_many_are_built_once_for_each_framing() -> None:
    with bench() as b:
        log = Log(b)
        sinks = [Sink() for _ in range(5)]
        handles = [b.engine.attach(sink, b.handler, framing=_fanout.SSE) for sink in sinks]
        for handle in handles:
            b.engine.subscribe(handle, CHAT, muted=True)
        log.begin(20, messages(1, 20))
        built = b.engine.stats()["frames_built"]
        for handle in handles:
            b.engine.set_positions(handle, CHAT, 0)
        log.run()
        assert b.engine.stats()["frames_built"] - built == 20
        assert len({sink.written for sink in sinks}) == 1


def test_a_replay_goes_on_over_the_socket_of_another_connection() -> None:
    with bench(max_queue_messages=8) as b:
        log = Log(b)
        sink = Sink()
        handle = b.engine.attach(sink, b.handler, framing=_fanout.POLLING_4)
        b.engine.pause(handle)
        b.engine.subscribe(handle, CHAT, muted=True)
        log.begin(10, messages(1, 10))
        b.engine.set_positions(handle, CHAT, 0)
        log.run()
        taken = b.engine.take(handle)
        assert taken == b"".join(b"4" + ID + b"@o=%d?%d\x1e" % (n, n) for n in (1, 2))
        log.run()
        taken = b.engine.take(handle)
        assert taken == b"".join(b"4" + ID + b"@o=%d?%d\x1e" % (n, n) for n in (3, 4))
        other, peer = b.connect(framing=_fanout.ENGINEIO_4)
        b.splice(handle, other)
        log.run()
        assert peer.texts() == [b"4" + ID + b"@o=%d?%d" % (n, n) for n in range(5, 11)]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda e: e.log_set(CHAT, "short", 1), "an epoch has 8"),
        (lambda e: e.log_set(CHAT, "UPPERCAS", 1), "an epoch has 8"),
        (lambda e: e.log_set(CHAT, A, 5, [(3, b""), (4, b"")]), "end at offset 4, not at 5"),
        (lambda e: e.log_set(CHAT, A, 5, [(3, b""), (5, b"")]), "offset 5 does not follow 3"),
        (lambda e: e.log_set(CHAT, A, 5, [(0, b"")]), "0 is no offset"),
        (lambda e: e.log_set(CHAT, A, 1 << 53), "9007199254740992 is no offset"),
        (lambda e: e.log_repair(CHAT, A, [(9, b"")]), "begin at offset 9, and the position is 1"),
    ],
)
def test_messages_that_do_not_fit_are_refused(call: object, text: str) -> None:
    with bench() as b:
        log = Log(b)
        log.join()
        log.begin(1)
        with pytest.raises(ValueError, match=text):
            call(b.engine)  # type: ignore[operator]
        assert b.engine.log_state(CHAT) == (A, 1, 2)


def test_channels_without_a_log_refuse_what_needs_one() -> None:
    with bench() as b:
        handle, _ = b.connect()
        assert not b.engine.log_open(CHAT)
        b.engine.subscribe(handle, CHAT)
        assert not b.engine.log_set(CHAT, A, 1)
        assert not b.engine.log_repair(CHAT, A, [])
        assert not b.engine.log_fill(CHAT, messages(1, 1))
        assert not b.engine.set_positions(handle, CHAT)
        assert not b.engine.replay_end(handle, CHAT, 1)
        b.engine.replay_part(CHAT, messages(1, 1))
