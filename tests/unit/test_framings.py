"""What a message looks like in each framing, and how a connection changes from one to another."""

from __future__ import annotations

import json

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from realizehit import _fanout
from tests.support.engines import CLOSE, PING, TEXT, Bench, Recorder, bench, server_frames
from tests.support.event_streams import CORPUS, read_events

CHANNEL = b"user:25442"
ID = b"8ca68b72"

SEPARATOR = b"\x1e"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
payloads = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        errors="surrogatepass"
    ),
    json_values,
    st.booleans(),
    st.sampled_from([None, 1]),
).filter(lambda text: b"\xed\xa0" not in text)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Sink:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = ""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.ended = self.ended or "close"

    def abort(self) -> None:
        self.ended = self.ended or "abort"


def published(framing: int, payload: bytes) -> bytes:
    """What a connection of that framing is sent for one publication."""
    sink = Sink()
    with bench() as b:
        handle = b.engine.attach(sink, b.handler, framing=framing)
        b.engine.subscribe(handle, CHANNEL)
        b.publish((CHANNEL, payload))
        return sink.written


@settings(deadline=None, max_examples=200)
@given(payloads.filter(is_text))
def test_engine_io_over_websocket_has_one_question_mark(payload: bytes) -> None:
    sink = Sink()
    with bench() as b:
        four = b.engine.attach(sink, b.handler, framing=_fanout.ENGINEIO_4)
        three, peer = b.connect(framing=_fanout.ENGINEIO_3)
        for handle in (four, three):
            b.engine.subscribe(handle, CHANNEL)
        b.publish((CHANNEL, payload))
        ((opcode, packet),) = peer.frames()
        assert b.engine.stats()["frames_built"] == 1  # the same for both revisions
    assert opcode == TEXT
    assert packet.startswith(b"4" + ID + b"?")
    assert sink.written.endswith(packet)
    assert b"?" not in packet[10:]
    assert json.loads(packet[10:]) == json.loads(payload)


@settings(deadline=None, max_examples=200)
@given(st.lists(payloads.filter(is_text), min_size=1, max_size=3))
def test_polling_payloads_can_be_taken_apart(texts: list[bytes]) -> None:
    sinks = {_fanout.POLLING_4: Sink(), _fanout.POLLING_3: Sink()}
    with bench() as b:
        for framing, sink in sinks.items():
            handle = b.engine.attach(sink, b.handler, framing=framing)
            b.engine.subscribe(handle, CHANNEL)
        b.publish(*((CHANNEL, text) for text in texts))
    four = sinks[_fanout.POLLING_4].written.split(SEPARATOR)
    assert four.pop() == b""
    three = []
    rest = sinks[_fanout.POLLING_3].written
    assert rest.isascii()  # so that a length in characters is one in bytes
    while rest:
        length, _, rest = rest.partition(b":")
        three.append(rest[: int(length)])
        rest = rest[int(length) :]
    for packets in (four, three):
        assert [json.loads(packet.removeprefix(b"4" + ID + b"?")) for packet in packets] == [
            json.loads(text) for text in texts
        ]
        assert all(b"?" not in packet[10:] for packet in packets)


@pytest.mark.parametrize("framing", [_fanout.POLLING_4, _fanout.POLLING_3, _fanout.ENGINEIO_4])
def test_a_separator_in_text_that_is_not_json_starts_no_packet(framing: int) -> None:
    """The API takes JSON only; what another publisher hands to the broker is not checked."""
    written = published(framing, b'"a\x1e1"')
    assert written.count(SEPARATOR) == (framing == _fanout.POLLING_4)
    assert b'"a\\u001e1"' in written


def test_events_are_read_as_the_standard_says() -> None:
    """What the next tests read with is held to the same corpus as the JavaScript client."""
    for case in CORPUS["streams"]:
        assert [list(event) for event in read_events(case["text"])] == case["events"], case["name"]


@settings(deadline=None, max_examples=200)
@given(payloads.filter(is_text), st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\r", b"\r\r\n", b" "]))
def test_an_event_has_the_payload_whatever_its_line_ends(payload: bytes, space: bytes) -> None:
    text = space + payload + space
    (event,) = read_events(published(_fanout.SSE, text).decode())
    assert (event.name, event.id) == ("message", ID.decode())
    assert json.loads(event.data) == json.loads(payload)
    assert event.data.split() == text.decode().split()


@pytest.mark.parametrize("payload", CORPUS["payloads"])
def test_an_event_has_the_payload_for_readers_of_one_line_end(payload: str) -> None:
    written = published(_fanout.SSE, payload.encode())
    assert b"\r" not in written
    (event,) = read_events(written.decode())
    assert event == ("message", ID.decode(), payload.replace("\r\n", "\n").replace("\r", "\n"))


@settings(deadline=None, max_examples=100)
@given(payloads.filter(is_text), st.integers(0, 400))
def test_a_compressed_message_is_what_the_library_would_read(payload: bytes, room: int) -> None:
    text = b'{"pad":"' + b"ab" * room + b'","value":' + payload + b"}"
    written = published(_fanout.DEFLATE, text)
    compressed = bool(written[0] & 0x40)
    assert compressed == (9 + len(text) >= 64)
    size, start = written[1], 2
    if size == 126:
        size, start = int.from_bytes(written[2:4], "big"), 4
    assert len(written) == start + size
    frame = Frame(Opcode.TEXT, written[start:], rsv1=compressed)
    extension = PerMessageDeflate(True, True, 15, 15)
    assert extension.decode(frame).data == ID + b"?" + text


def test_a_message_is_built_once_for_each_framing_in_use() -> None:
    framings = [
        _fanout.WEBSOCKET,
        _fanout.DEFLATE,
        _fanout.ENGINEIO_4,
        _fanout.ENGINEIO_3,
        _fanout.POLLING_4,
        _fanout.POLLING_3,
        _fanout.SSE,
        _fanout.SSE_CHUNKED,
        _fanout.RESP,
    ]
    with bench() as b:
        for framing in framings * 5:
            handle = b.engine.attach(Sink(), b.handler, framing=framing)
            b.engine.subscribe(handle, CHANNEL)
        b.publish((CHANNEL, b"1"))
        assert b.engine.stats()["deliveries"] == 45
        assert b.engine.stats()["frames_built"] == 8  # both revisions of Engine.IO have the same


@pytest.mark.parametrize(
    ("framing", "text", "wanted"),
    [
        (_fanout.ENGINEIO_4, b'{"id":"a?"}', b'\x81\x0c4{"id":"a?"}'),
        (_fanout.ENGINEIO_3, b"{}", b"\x81\x034{}"),
        (_fanout.POLLING_4, b'{"e":"\xc3\xa9?"}', b'4{"e":"\xc3\xa9?"}\x1e'),
        (_fanout.POLLING_3, '{"e":"é😀"}'.encode(), b'27:4{"e":"\\u00e9\\ud83d\\ude00"}'),
        (_fanout.SSE, b"{}", b"data: {}\n\n"),
        (_fanout.SSE_CHUNKED, b"{}", b"a\r\ndata: {}\n\n\r\n"),
        (_fanout.DEFLATE, b"{}", b"\x81\x02{}"),
    ],
)
def test_a_reply_is_no_publication(framing: int, text: bytes, wanted: bytes) -> None:
    sink = Sink()
    with bench() as b:
        handle = b.engine.attach(sink, b.handler, framing=framing)
        assert b.engine.send(handle, text)
        b.loop.run()
        assert sink.written == wanted


def test_a_reply_with_invalid_text_is_refused_when_it_is_escaped() -> None:
    with bench() as b:
        handle = b.engine.attach(Sink(), b.handler, framing=_fanout.POLLING_3)
        with pytest.raises(ValueError, match="UTF-8"):
            b.engine.send(handle, b'"\xf0"')


@pytest.mark.parametrize(
    ("framing", "heartbeat"),
    [
        (_fanout.WEBSOCKET, b"\x89\x00"),
        (_fanout.DEFLATE, b"\x89\x00"),
        (_fanout.ENGINEIO_4, b"\x81\x012"),
        (_fanout.POLLING_4, b"2\x1e"),
    ],
)
def test_the_server_asks_and_a_silent_client_is_closed(framing: int, heartbeat: bytes) -> None:
    sink = Sink()
    with bench(heartbeat_interval=1.0, heartbeat_timeout=1.0) as b:
        handle = b.engine.attach(sink, b.handler, framing=framing)
        b.engine.tick(0.0)
        run_until(b, 1.1)
        assert sink.written == heartbeat
        b.engine.seen(handle)
        run_until(b, 2.3)
        assert b.engine.is_open(handle)
        run_until(b, 4.5)
        assert not b.engine.is_open(handle)


@pytest.mark.parametrize("framing", [_fanout.ENGINEIO_3, _fanout.POLLING_3])
def test_in_revision_3_the_client_asks(framing: int) -> None:
    sink = Sink()
    with bench(heartbeat_interval=1.0, heartbeat_timeout=1.0) as b:
        handle = b.engine.attach(sink, b.handler, framing=framing)
        b.engine.tick(0.0)
        for second in range(1, 8):
            run_until(b, second - 0.1)
            b.engine.seen(handle)
        assert b.engine.is_open(handle)
        assert sink.written == b""
        run_until(b, 12.0)
        assert not b.engine.is_open(handle)


@pytest.mark.parametrize(("framing", "heartbeat"), [(_fanout.SSE, b":\n\n"), (_fanout.SSE_CHUNKED, b"3\r\n:\n\n\r\n")])
def test_event_streams_have_a_heartbeat_without_answer(framing: int, heartbeat: bytes) -> None:
    sink = Sink()
    with bench(heartbeat_interval=1.0, heartbeat_timeout=0.2) as b:
        handle = b.engine.attach(sink, b.handler, framing=framing)
        b.engine.tick(0.0)
        run_until(b, 10.0)
        assert b.engine.is_open(handle)
        count = sink.written.count(b":")
        assert 9 <= count <= 11
        assert sink.written == heartbeat * count


def run_until(b: Bench, end: float) -> None:
    now = getattr(b, "now", 0.0)
    while now < end:
        now += b.engine.tick_interval
        b.engine.tick(now)
        b.loop.run()
    b.now = now  # type: ignore[attr-defined]


def test_each_framing_says_farewell_in_its_way() -> None:
    wanted = {
        _fanout.DEFLATE: b"\x88\x07\x0f\xa1later",
        _fanout.ENGINEIO_4: b"\x88\x07\x0f\xa1later",
        _fanout.POLLING_4: b"1\x1e",
        _fanout.POLLING_3: b"1:1",
        _fanout.SSE: b"",
        _fanout.SSE_CHUNKED: b"0\r\n\r\n",
    }
    with bench() as b:
        for framing, farewell in wanted.items():
            sink = Sink()
            handle = b.engine.attach(sink, b.handler, framing=framing)
            b.engine.disconnect(handle, 4001, "later")
            b.loop.run()
            assert sink.written == farewell
        assert len(b.handler.gone) == len(wanted)
        assert b.engine.stats()["connections"] == 0


def test_the_end_of_an_event_stream_comes_after_what_waits() -> None:
    with bench() as b:
        handle, peer = b.connect(framing=_fanout.SSE)
        b.engine.subscribe(handle, CHANNEL)
        b.publish((CHANNEL, b"1"))
        b.engine.send_bytes(handle, b"event: drain\n\n")
        b.engine.disconnect(handle, 4001)
        b.loop.run()
        assert peer.read() == b"id: " + ID + b"\ndata: 1\n\nevent: drain\n\n"
        assert peer.at_eof()


@pytest.mark.parametrize("size", [1, 7, 8, 9, 200, 3000, 70_000])
def test_in_http_1_1_each_event_is_a_chunk(size: int) -> None:
    payload = b'"' + b"x" * size + b'"'
    with bench() as b:
        handle, peer = b.connect(framing=_fanout.SSE_CHUNKED)
        b.engine.subscribe(handle, CHANNEL)
        b.publish((CHANNEL, payload), (CHANNEL, b"[\n1]"))
        assert b.engine.send_bytes(handle, b"event: drain\ndata: 1\n\n")
        assert b.engine.send_bytes(handle, b"")  # which is no end
        b.engine.disconnect(handle, 4001)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            b.loop.run()
            received += peer.read()
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/sse", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + received)
    chunks, chunk = [], b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            chunk += event.data
            if event.chunk_end:
                chunks.append(chunk)
                chunk = b""
    assert client.trailing_data == (b"", False)
    assert chunks == [
        published(_fanout.SSE, payload),
        published(_fanout.SSE, b"[\n1]"),
        b"event: drain\ndata: 1\n\n",
    ]


def test_an_event_stream_over_a_transport_ends_at_once() -> None:
    with bench() as b:
        sink = Sink()
        handle = b.engine.attach(sink, b.handler, framing=_fanout.SSE)
        b.engine.send_bytes(handle, b"event: drain\n\n")
        b.engine.disconnect(handle, 4001)
        b.loop.run()
        assert (sink.written, sink.ended) == (b"event: drain\n\n", "close")
        assert b.engine.stats()["closing"] == 0


def test_a_connection_goes_on_over_another_socket_and_keeps_what_it_has() -> None:
    with bench() as b:
        sink, upgraded = Sink(), Recorder()
        polling = b.engine.attach(sink, b.handler, framing=_fanout.POLLING_4)
        b.engine.pause(polling)
        b.engine.subscribe(polling, CHANNEL)
        b.publish((CHANNEL, b"1"))
        socket, peer = b.connect(framing=_fanout.ENGINEIO_4)
        b.engine.resume(polling)  # its queue goes to whoever looks after it, who sends it on
        b.loop.run()
        assert sink.written == b"4" + ID + b"?1\x1e"
        b.engine.send(socket, b"?1")
        before = b.engine.stats()
        b.splice(polling, socket)
        assert b.engine.stats()["connections"] == before["connections"] - 1
        assert not b.engine.is_open(socket)
        assert b.engine.is_open(polling)
        b.publish((CHANNEL, b"2"))
        assert peer.texts() == [b"4?1", b"4" + ID + b"?2"]
        peer.send(TEXT, b"4hello")
        b.poll()
        assert b.handler.texts == [(polling, b"4hello")]
        assert b.handler.gone == []
        assert sink.ended == "close"
        peer.sock.close()
        b.poll()
        assert b.handler.gone == [polling]
        assert upgraded.gone == []


def test_frames_queued_for_a_transport_can_be_taken() -> None:
    with bench(max_queue_messages=2) as b:
        sink = Sink()
        polling = b.engine.attach(sink, b.handler, framing=_fanout.POLLING_4)
        b.engine.pause(polling)
        b.engine.subscribe(polling, CHANNEL)
        b.publish((CHANNEL, b"1"), (CHANNEL, b"2"))
        assert b.engine.take(polling) == b"4" + ID + b"?1\x1e4" + ID + b"?2\x1e"
        assert b.engine.take(polling) == b""
        b.publish((CHANNEL, b"3"))  # there is room again
        b.engine.resume(polling)
        b.loop.run()
        assert sink.written == b"4" + ID + b"?3\x1e"
        assert b.engine.take(polling) == b""
        b.publish((CHANNEL, b"4"))
        b.engine.pause(polling)
        b.engine.disconnect(polling, 4001)
        assert b.engine.take(polling) == b"1\x1e"
        b.engine.lost(polling)
        assert b.engine.take(polling) == b""
        assert b.engine.stats()["closing"] == 0


def test_packets_after_the_upgrade_packet_are_not_lost() -> None:
    class Upgrading(Recorder):
        def on_text(self, handle: int, data: bytes) -> None:
            super().on_text(handle, data)
            if data == b"5":
                b.engine.splice(polling, handle)

    with bench() as b:
        handler = Upgrading()
        polling = b.engine.attach(Sink(), b.handler, framing=_fanout.POLLING_4)
        b.handler = handler
        socket, peer = b.connect(framing=_fanout.ENGINEIO_4)
        peer.send(TEXT, b"5")
        peer.send(TEXT, b"4a")
        peer.send(TEXT, b"4b")
        b.poll()
        assert handler.texts == [(socket, b"5"), (polling, b"4a"), (polling, b"4b")]


def test_a_full_new_transport_is_written_when_it_has_room() -> None:
    with bench() as b:
        polling = b.engine.attach(Sink(), b.handler, framing=_fanout.POLLING_4)
        b.engine.subscribe(polling, CHANNEL)
        sink = Sink()
        other = b.engine.attach(sink, b.handler, framing=_fanout.ENGINEIO_4)
        b.engine.pause(other)
        b.engine.send(other, b"first")
        b.splice(polling, other)
        b.publish((CHANNEL, b"last"))
        assert sink.written == b""
        b.engine.resume(polling)
        b.loop.run()
        assert [packet for _, packet in server_frames(sink.written)[0]] == [b"4first", b"4" + ID + b"?last"]


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="a socket of the engine's own needs epoll")
def test_a_blocked_socket_that_takes_over_is_written_when_it_can_be() -> None:
    with bench(max_queue_bytes=1 << 24) as b:
        polling = b.engine.attach(Sink(), b.handler, framing=_fanout.POLLING_4)
        b.engine.subscribe(polling, CHANNEL)
        socket, peer = b.connect(framing=_fanout.ENGINEIO_4, send_buffer=4096)
        texts = [b"x" * 2000] * 200
        for text in texts:
            b.engine.send(socket, text)
        b.loop.run()
        assert b.engine.stats()["blocked"] == 1
        b.engine.splice(polling, socket)
        b.publish((CHANNEL, b"last"))
        received: list[bytes] = []
        for _ in range(1000):
            received += peer.texts()
            b.poll()
            if received and received[-1].endswith(b"last"):
                break
        assert received == [b"4" + text for text in texts] + [b"4" + ID + b"?last"]


def test_only_what_can_be_spliced_is() -> None:
    with bench() as b:
        first, _ = b.connect()
        second, _ = b.connect()
        polling = b.engine.attach(Sink(), b.handler, framing=_fanout.POLLING_4)
        b.engine.subscribe(second, CHANNEL)
        for one, other in ((first, second), (polling, second), (polling, 12345), (polling, polling)):
            with pytest.raises(ValueError, match=r"both connections|the first must"):
                b.engine.splice(one, other)
        b.engine.disconnect(first, 1000)
        with pytest.raises(ValueError, match="both connections"):
            b.engine.splice(polling, first)


def test_a_close_frame_still_ends_an_engine_io_connection() -> None:
    with bench() as b:
        handle, peer = b.connect(framing=_fanout.ENGINEIO_4)
        peer.send(PING, b"p")
        peer.send(CLOSE, b"\x03\xe8")
        b.poll()
        assert [opcode for opcode, _ in peer.frames()] == [10, CLOSE]
        assert b.handler.gone == [handle]
