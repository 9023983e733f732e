"""Incoming WebSocket frames: the engine with its fall-back against the library, on any bytes cut anywhere.

The oracle is a `websockets` server connection fed the same bytes: the same messages must come out, the same pings be
answered, and the same close code be sent.
"""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from realizehit import _fanout
from realizehit.transports.intake import Intake
from realizehit.transports.session import Session
from tests.support.engines import BINARY, CLOSE, PING, PONG, TEXT, Bench, Peer, bench, server_frames

LIMIT = 70_000  # bytes of a message; above the threshold of the longest header
CONT = 0
FAREWELLS = {1000, 1001, 1005, 3000, 4999}  # codes of the close frames that are no error
KINDS = ["epoll", "transport"] if _fanout.HAVE_EPOLL else ["transport"]


class Collector(Session):
    """A session that keeps what it is handed."""

    def __init__(self, *, accepts_binary: bool = True) -> None:
        self.accepts_binary = accepts_binary
        self.messages: list[str | bytes] = []
        self.answer: Callable[[int, bytes], object] = lambda conn, data: None

    def receive(self, conn: int, data: bytes) -> None:
        self.messages.append(data.decode())
        self.answer(conn, data)

    def receive_binary(self, conn: int, data: bytes) -> None:
        self.messages.append(data)


@dataclass
class Outcome:
    """What became of a connection's input."""

    messages: list[str | bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    close_code: int | None = None  # of the close frame that was sent; 1005 for one without a code


class Sink:
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None: ...

    def abort(self) -> None: ...


class Server:
    """An engine with the product's transport class and one connection, over a socket pair or a transport."""

    def __init__(self, b: Bench, kind: str, max_message: int, session: Collector) -> None:
        self.bench = b
        self.session = session
        self.transport = Intake(b.engine, session, max_message=max_message)
        self.peer: Peer | None = None
        self.sink = Sink()
        if kind == "epoll":
            b.handler = self.transport  # type: ignore[assignment]
            self.conn, self.peer = b.connect()
        else:
            self.conn = b.engine.attach(self.sink, self.transport)

    def feed(self, data: bytes) -> None:
        # A socket takes a limited number of bytes before the engine must read.
        for start in range(0, len(data), 50_000):
            part = data[start : start + 50_000]
            if self.peer is None:
                self.bench.engine.feed(self.conn, part)
            else:
                try:
                    self.peer.sock.sendall(part)
                except BrokenPipeError:
                    return  # closed already
                self.bench.poll()
            self.bench.loop.run()
            self.bench.poll()

    def outcome(self) -> Outcome:
        frames, rest = server_frames(self.sink.data if self.peer is None else self.peer.read())
        assert rest == b""
        result = Outcome(self.session.messages)
        for opcode, payload in frames:
            assert result.close_code is None, "nothing follows a close frame"
            if opcode == PONG:
                result.pongs.append(payload)
            else:
                assert opcode == CLOSE
                result.close_code = int.from_bytes(payload[:2]) if payload else 1005
        return result


@contextmanager
def server(kind: str, *, max_message: int = LIMIT, binary: bool = True) -> Iterator[Server]:
    with bench(max_message=max_message, epoll=kind == "epoll", max_queue_bytes=10 << 20) as b:
        yield Server(b, kind, max_message, Collector(accepts_binary=binary))


def by_library(data: bytes, *, max_message: int = LIMIT) -> Outcome:
    """What a connection of the library makes of it; it checks text at the end of a message, as its connections do."""
    protocol = ServerProtocol(state=State.OPEN, max_size=max_message)
    protocol.receive_data(data)
    result = Outcome()
    parts: list[bytes] = []
    text = False
    for event in protocol.events_received():
        opcode = event.opcode  # type: ignore[union-attr]
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            text = opcode is Opcode.TEXT
        elif opcode is not Opcode.CONT:
            if opcode is Opcode.PING:
                result.pongs.append(bytes(event.data))  # type: ignore[union-attr]
            continue
        parts.append(bytes(event.data))  # type: ignore[union-attr]
        if event.fin:  # type: ignore[union-attr]
            message = b"".join(parts)
            parts = []
            if result.close_code is not None:
                continue
            if text:
                try:
                    result.messages.append(message.decode())
                except UnicodeDecodeError:
                    result.close_code = 1007
            else:
                result.messages.append(message)
    if protocol.close_sent is not None and result.close_code is None:
        # A close frame may stand between the fragments of a message (RFC 6455, section 5.4); the library fails there.
        result.close_code = (protocol.close_rcvd or protocol.close_sent).code
    return result


def frame(
    opcode: int,
    payload: bytes,
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\xa1\x02\x7f\x80",
    form: int = 0,
) -> bytes:
    """A client's frame; `form` asks for a longer length than needed: 1 for two bytes, 2 for eight."""
    size = len(payload)
    form = max(form, 0 if size < 126 else 1 if size < 65536 else 2)
    bit = 0 if mask is None else 0x80
    length = [
        bytes([bit | size]) if form == 0 else b"",
        bytes([bit | 126]) + struct.pack(">H", size & 0xFFFF),
        bytes([bit | 127]) + struct.pack(">Q", size),
    ][form]
    head = bytes([(0x80 if fin else 0) | reserved << 4 | opcode]) + length
    if mask is None:
        return head + payload
    repeated = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(size)
    return head + mask + masked


masks = st.binary(min_size=4, max_size=4)
sizes = st.sampled_from([0, 1, 7, 8, 125, 126, 127, 1000, 65535, 65536, LIMIT])
controls = st.builds(
    lambda opcode, payload, mask: frame(opcode, payload, mask=mask),
    st.sampled_from([PING, PONG]),
    st.binary(max_size=125),
    masks,
)
payloads = st.one_of(
    st.text(max_size=30).map(str.encode),
    st.builds(
        lambda text, size: (text.encode() * (size // len(text.encode()) + 1))[:size].decode(errors="ignore").encode(),
        st.sampled_from(["a", "é", "😀"]),
        sizes,
    ),
)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A valid message in any number of fragments, with control frames between them."""
    if draw(st.booleans()):
        opcode, payload = TEXT, draw(payloads)
    else:
        opcode, payload = BINARY, draw(st.binary(max_size=200))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
    bounds = [0, *cuts, len(payload)]
    data = b""
    for n, (start, end) in enumerate(itertools.pairwise(bounds)):
        last = n == len(bounds) - 2
        part = payload[start:end]
        form = draw(st.sampled_from([0, 0, 0, 1, 2])) if len(part) < 126 else 0
        data += frame(opcode if n == 0 else CONT, part, fin=last, mask=draw(masks), form=form)
        # The library counts a control frame against what is left of the message's bound; so large ones stay outside.
        if not last and len(payload) < LIMIT - 200:
            data += b"".join(draw(st.lists(controls, max_size=2)))
    return data


valid = st.lists(messages() | controls, max_size=6).map(b"".join)
close_payloads = st.one_of(
    st.just(b""),
    st.builds(
        lambda code, reason: struct.pack(">H", code) + reason.encode()[:100],
        st.sampled_from([1000, 1001, 3000, 4999]),
        st.text("aé", max_size=9),
    ),
    st.binary(max_size=20),
    st.builds(lambda code: struct.pack(">H", code), st.integers(0, 65535)),
)
controls_only = st.sampled_from([PING, PONG, CLOSE])
bad_texts = st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"a\xe2\x82"])
broken = st.one_of(
    st.builds(lambda payload: frame(CLOSE, payload), close_payloads),
    st.builds(lambda opcode: frame(opcode, b"x"), st.sampled_from([3, 4, 7, 11, 15])),
    st.builds(lambda bits: frame(TEXT, b"x", reserved=bits), st.integers(1, 7)),
    st.builds(lambda bits: frame(PING, b"x", reserved=bits), st.integers(1, 7)),
    st.builds(lambda opcode: frame(opcode, b"x", mask=None), st.sampled_from([TEXT, PING, CLOSE])),
    st.builds(lambda opcode, size: frame(opcode, b"x" * size), controls_only, st.sampled_from([126, 127, 70_000])),
    st.builds(lambda opcode: frame(opcode, b"", fin=False), controls_only),
    st.builds(lambda payload, fin: frame(CONT, payload, fin=fin), st.binary(max_size=3), st.booleans()),
    st.just(frame(TEXT, b"begun", fin=False) + frame(TEXT, b"another")),
    st.just(frame(TEXT, b"begun", fin=False) + frame(CLOSE, struct.pack(">H", 1000))),
    st.builds(lambda text: frame(TEXT, text), bad_texts),
    st.just(frame(TEXT, "é".encode()[:1], fin=False) + frame(CONT, b"e")),
    st.builds(lambda more: frame(TEXT, b"x" * (LIMIT + more)), st.integers(1, 3)),
    st.builds(lambda more: frame(BINARY, b"x" * (LIMIT + more)), st.integers(1, 3)),
    st.just(frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONT, b"x")),
    st.just(b"\x81\xff\x80" + b"\x00" * 11),  # a length with its highest bit set
    st.binary(min_size=1, max_size=40),
)  # fmt: skip
cuts = st.lists(st.floats(0, 1), max_size=8)


def pieces(data: bytes, where: list[float]) -> list[bytes]:
    bounds = [0, *sorted(int(x * len(data)) for x in where), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds) if end > start]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=valid, where=cuts)
def test_valid_frames_give_the_librarys_messages(kind: str, data: bytes, where: list[float]) -> None:
    expected = by_library(data)
    assert expected.close_code is None
    with server(kind) as s:
        for piece in pieces(data, where):
            s.feed(piece)
        assert s.outcome() == expected
        # Between messages nothing is left of the fall-back, and the engine reads by itself again.
        assert s.transport.parsers == 0
        s.feed(frame(TEXT, b"more"))
        assert s.session.messages[-1] == "more"


@pytest.mark.parametrize("kind", KINDS)
def test_a_ping_between_fragments_is_answered_before_the_message(kind: str) -> None:
    with server(kind) as s:
        s.session.answer = s.bench.engine.send
        s.feed(frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONT, b"b") + frame(PING, b"q"))
        frames, _ = server_frames(s.sink.data if s.peer is None else s.peer.read())
        assert frames == [(PONG, b"p"), (TEXT, b"ab"), (PONG, b"q")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fragment", [b"", "é".encode()])
def test_a_message_costs_its_bytes_however_many_fragments_it_has(kind: str, fragment: bytes) -> None:
    times = 200
    some = frame(CONT, fragment, fin=False) * 50
    with server(kind) as s:
        s.feed(frame(TEXT, b"", fin=False) + some)
        tracemalloc.start()
        try:
            for _ in range(times):
                s.feed(some)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 2 * times * 50 * len(fragment) + 10_000  # a buffer that grows has some room
        s.feed(frame(CONT, b"."))
        assert s.session.messages == [fragment.decode() * 50 * (times + 1) + "."]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=50, deadline=None)
@given(data=st.lists(messages().filter(lambda data: len(data) < 300) | controls, max_size=3).map(b"".join))
def test_valid_frames_byte_by_byte(kind: str, data: bytes) -> None:
    expected = by_library(data)
    with server(kind) as s:
        for i in range(len(data)):
            s.feed(data[i : i + 1])
        assert s.outcome() == expected
        assert s.transport.parsers == 0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(before=valid, wrong=broken, after=valid, where=cuts)
def test_invalid_frames_close_with_the_librarys_code(
    kind: str, before: bytes, wrong: bytes, after: bytes, where: list[float]
) -> None:
    data = before + wrong + after
    expected = by_library(data)
    with server(kind) as s:
        for piece in pieces(data, where):
            s.feed(piece)
        outcome = s.outcome()
        assert outcome.close_code == expected.close_code
        if expected.close_code is None or expected.close_code in FAREWELLS:
            assert outcome == expected
            return
        assert not s.bench.engine.is_open(s.conn)
        assert s.transport.parsers == 0
        # What came in one read with the error may be lost with the connection; nothing else is added or changed.
        assert outcome.messages == expected.messages[: len(outcome.messages)]
        assert outcome.pongs == expected.pongs[: len(outcome.pongs)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=100), where=cuts)
def test_any_bytes_at_all(kind: str, data: bytes, where: list[float]) -> None:
    expected = by_library(data)
    with server(kind) as s:
        for piece in pieces(data, where):
            s.feed(piece)
        outcome = s.outcome()
        assert (outcome.messages, outcome.close_code) == (expected.messages, expected.close_code)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xc3e", b"\xf8", b"\xf4\x90"])
def test_wrong_text_in_the_middle_of_a_message_fails_at_once(kind: str, bad: bytes) -> None:
    with server(kind) as s:
        s.feed(frame(TEXT, "first é".encode()[:-1], fin=False))
        s.feed(frame(CONT, "é".encode()[1:] + b"fine so far", fin=False))
        assert s.bench.engine.is_open(s.conn)
        s.feed(frame(CONT, b"then " + bad, fin=False))
        assert not s.bench.engine.is_open(s.conn)
        assert s.outcome() == Outcome([], [], 1007)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_over_the_limit_closes_with_1009_before_it_is_whole(kind: str, opcode: int) -> None:
    for data in (
        frame(opcode, b"x" * 1001)[:8],  # its header alone
        frame(opcode, b"x" * 600, fin=False) + frame(CONT, b"x" * 401)[:8],
        b"".join([frame(opcode, b"", fin=False)] + [frame(CONT, b"x" * 100, fin=False)] * 11),
    ):
        with server(kind, max_message=1000) as s:
            s.feed(data)
            assert s.outcome() == Outcome([], [], 1009)
    with server(kind, max_message=1000) as s:
        s.feed(frame(opcode, b"x" * 1000))
        s.feed(frame(opcode, b"x" * 999, fin=False) + frame(CONT, b"x"))
        assert [len(message) for message in s.session.messages] == [1000, 1000]
        assert s.outcome().close_code is None


@pytest.mark.parametrize("kind", KINDS)
def test_unwanted_binary_ends_at_its_first_frame(kind: str) -> None:
    with server(kind, binary=False) as s:
        s.feed(frame(TEXT, b"text") + frame(BINARY, b"\x00", fin=False))
        assert s.outcome() == Outcome(["text"], [], 1003)


@pytest.mark.parametrize("kind", KINDS)
def test_pongs_are_sent_in_the_middle_of_a_message(kind: str) -> None:
    with server(kind) as s:
        s.feed(frame(TEXT, b"begun", fin=False) + frame(PING, b"1") + frame(PING, b""))
        assert s.outcome().pongs == [b"1", b""]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("payload", "code"), [(b"", 1005), (struct.pack(">H", 1000) + b"bye", 1000), (struct.pack(">H", 4999), 4999)]
)
def test_a_close_frame_that_comes_in_parts_is_answered(kind: str, payload: bytes, code: int) -> None:
    with server(kind) as s:
        s.feed(frame(TEXT, b"last"))
        data = frame(CLOSE, payload)
        for i in range(len(data)):
            s.feed(data[i : i + 1])
        s.feed(frame(TEXT, b"too late"))
        assert s.outcome() == Outcome(["last"], [], code)
