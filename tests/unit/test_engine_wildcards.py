"""Channels of wildcard subscriptions: each publication names its concrete channel, in every framing."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from realizehit import _fanout
from tests.support.engines import TEXT, bench
from tests.support.event_streams import read_events

WILDCARD = b"channel:*|kind:news"
CONCRETE = b"channel:CNN|kind:news"
ID = _fanout.channel_id(WILDCARD).encode()
LABEL = b"@c=" + CONCRETE
HEAD = ID + LABEL

PAYLOAD = '{"q":"é?"}'.encode()
LONG = b'"' + b"ab" * 100 + b'"'


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        """Do nothing."""

    abort = close


def published(framing: int, *payloads: bytes, channel: bytes = WILDCARD) -> tuple[bytes, dict[str, int]]:
    """What a subscriber of that framing is sent, and the engine's counters."""
    sink = Sink()
    with bench() as b:
        b.engine.subscribe(b.engine.attach(sink, b.handler, framing=framing), channel)
        b.publish(*((channel, payload) for payload in payloads))
        return sink.written, b.engine.stats()


def in_frame(payload: bytes) -> bytes:
    assert len(payload) < 126
    return bytes([0x80 | TEXT, len(payload)]) + payload


def in_bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


ENGINE_IO = b"4" + HEAD + '?{"q":"é\\u003f"}'.encode()
ASCII = b"4" + HEAD + b'?{"q":"\\u00e9\\u003f"}'
EVENT = b"id: " + HEAD + b"\ndata: " + PAYLOAD + b"\n\n"


@pytest.mark.parametrize(
    ("framing", "wanted"),
    [
        (_fanout.WEBSOCKET, in_frame(HEAD + b"?" + PAYLOAD)),
        (_fanout.DEFLATE, in_frame(HEAD + b"?" + PAYLOAD)),  # too short to be compressed
        (_fanout.ENGINEIO_4, in_frame(ENGINE_IO)),
        (_fanout.ENGINEIO_3, in_frame(ENGINE_IO)),
        (_fanout.POLLING_4, ENGINE_IO + b"\x1e"),
        (_fanout.POLLING_3, b"%d:" % len(ASCII) + ASCII),
        (_fanout.SSE, EVENT),
        (_fanout.SSE_CHUNKED, b"%x\r\n" % len(EVENT) + EVENT + b"\r\n"),
        (_fanout.RESP, b"*3\r\n" + in_bulk(b"message") + in_bulk(WILDCARD) + in_bulk(LABEL + b"?" + PAYLOAD)),
    ],
)
def test_the_concrete_channel_stands_behind_the_id(framing: int, wanted: bytes) -> None:
    written, stats = published(framing, LABEL + b"?" + PAYLOAD)
    assert written == wanted
    assert (stats["deliveries"], stats["malformed"]) == (1, 0)


def test_a_compressed_message_has_the_label() -> None:
    written, _ = published(_fanout.DEFLATE, LABEL + b"?" + LONG)
    assert written[0] == 0x40 | 0x80 | TEXT
    extension = PerMessageDeflate(True, True, 15, 15)
    frame = extension.decode(Frame(Opcode.TEXT, written[2:], rsv1=True))
    assert frame.data == HEAD + b"?" + LONG


def test_an_event_stream_tells_the_concrete_channel_of_each_event() -> None:
    other = b"@c=channel:%C3%A9|kind:news"
    written, _ = published(_fanout.SSE, LABEL + b"?[1,\r\n2]", other + b"?3")
    first, second = read_events(written.decode())
    assert (first.id.split("@c="), first.data) == ([ID.decode(), CONCRETE.decode()], "[1,\n2]")
    assert (second.id.split("@c="), second.data) == ([ID.decode(), "channel:%C3%A9|kind:news"], "3")


def test_a_relay_passes_on_its_messages() -> None:
    written, _ = published(_fanout.RESP, LABEL + b"?" + PAYLOAD)
    reader = hiredis.Reader()
    reader.feed(written)
    message = reader.gets()
    with bench() as b:
        handle, peer = b.connect()
        b.engine.subscribe(handle, WILDCARD)
        b.engine.dispatch([message])
        assert peer.texts() == [HEAD + b"?" + PAYLOAD]


@pytest.mark.parametrize("channel", [b"channel:CNN|kind:news", b"channel:%2A|kind:news"])
def test_a_channel_without_a_star_keeps_what_looks_like_a_label(channel: bytes) -> None:
    payload = LABEL + b"?1"
    written, stats = published(_fanout.WEBSOCKET, payload, b"@c=?", channel=channel)
    label = _fanout.channel_id(channel).encode()
    assert written == in_frame(label + b"?" + payload) + in_frame(label + b"?@c=?")
    assert stats["malformed"] == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"1",
        b'{"a":1}',
        b"@",
        b"@c=",
        b"@c=?1",
        b"@c=a:b",
        b"@c=a?1",
        b"@c=a:?1",
        b"@c=:b?1",
        b"@c=a:b|?1",
        b"@c=|a:b?1",
        b"@c=a:b:c?1",
        b"@c=a:*?1",
        b"@c=a:b c?1",
        b"@c=a:b\n?1",
        b"@c=a:%2?1",
        b"@c=a:%2g?1",
        b"@c=a:%2",
        b"@c=a:%e9?1",
        b"@c=a:b&o=1?1",
        b"@o=1?1",
        "@c=a:é?1".encode(),
        b"@c=" + b"|".join(b"k%02d:v" % n for n in range(17)) + b"?1",
        b"@c=a:" + b"b" * 1023 + b"?1",
    ],
)
@pytest.mark.parametrize("framing", [_fanout.WEBSOCKET, _fanout.RESP])
def test_a_publication_without_its_concrete_channel_is_dropped_and_counted(payload: bytes, framing: int) -> None:
    written, stats = published(framing, payload, LABEL + b"?1")
    assert stats["malformed"] == 1
    assert stats["deliveries"] == 1
    assert written.count(b"@c=") == 1


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=12), min_size=1, max_size=16),
    st.binary(max_size=40).filter(lambda data: data.isascii()),
)
def test_every_channel_and_payload_gets_through(filters: dict[str, str], payload: bytes) -> None:
    try:
        channel = _fanout.canonical(filters)
    except _fanout.InvalidPattern:
        return
    written, _ = published(_fanout.RESP, b"@c=" + channel + b"?" + payload)
    assert written.endswith(in_bulk(b"@c=" + channel + b"?" + payload))


def test_the_longest_channel_gets_through() -> None:
    channel = b"|".join(b"k%02d:" % n + b"v" * (60 if n < 15 else 44) for n in range(16))
    channel += b"v" * (_fanout.MAX_CHANNEL - len(channel))
    written, stats = published(_fanout.WEBSOCKET, b"@c=" + channel + b"?1")
    assert stats["malformed"] == 0
    assert written[4:] == ID + b"@c=" + channel + b"?1"


def test_a_connection_with_both_gets_a_publication_once_for_each() -> None:
    with bench() as b:
        handle, peer = b.connect()
        for channel in (CONCRETE, WILDCARD):
            assert b.engine.subscribe(handle, channel) == _fanout.ADDED
        b.publish((CONCRETE, b"1"), (WILDCARD, LABEL + b"?1"))
        assert peer.texts() == [_fanout.channel_id(CONCRETE).encode() + b"?1", HEAD + b"?1"]


def test_a_wildcard_is_withheld_as_other_channels_are() -> None:
    with bench() as b:
        handle, peer = b.connect()
        b.engine.subscribe(handle, WILDCARD)
        b.engine.hold(WILDCARD, True)
        b.publish((WILDCARD, LABEL + b"?1"), (WILDCARD, b"malformed"))
        b.engine.hold(WILDCARD, False)
        b.publish((WILDCARD, LABEL + b"?2"))
        assert peer.texts() == [HEAD + b"?2"]
        assert (b.engine.stats()["dropped_unclaimed"], b.engine.stats()["malformed"]) == (2, 0)
