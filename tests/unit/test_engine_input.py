"""What clients send: parts and fragments are put together in the engine, and each frame counts against an allowance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from realizehit import _fanout
from realizehit.transports.intake import Intake
from realizehit.transports.session import Session
from tests.support.engines import BINARY, CLOSE, PING, PONG, TEXT, Bench, Peer, bench, client_frame

CONT = 0
BURST, STRIKES = 50, 100
SLOW = 1e-6  # frames per second: none comes back while a test runs
KINDS = [pytest.param(True, id="epoll"), pytest.param(False, id="transport")] if _fanout.HAVE_EPOLL else [False]


def fragment(opcode: int, payload: bytes = b"") -> bytes:
    return client_frame(opcode, payload, first=opcode)


class Counting(Session):
    """A session that counts what it is handed, as the one of the actions does."""

    accepts_binary = True

    def __init__(self, engine: _fanout.Engine) -> None:
        self._engine = engine
        self.taken: list[bytes] = []
        self.answers: list[int] = []

    def receive(self, conn: int, data: bytes) -> None:
        self.taken.append(data)
        self.answers.append(self._engine.charge(conn))
        if self.answers[-1] == _fanout.HOPELESS:
            self._engine.disconnect(conn, 4502, "rate-limited")

    receive_binary = receive


@contextmanager
def limited(epoll: bool = True, *, compressed: bool = False, rate: float = SLOW) -> Iterator[tuple[Bench, Counting]]:
    with bench(input_rate=rate, input_burst=BURST, epoll=epoll) as b:
        session = Counting(b.engine)
        b.handler = Intake(b.engine, session, max_message=16384, compressed=compressed)  # type: ignore[assignment]
        yield b, session


def closed_with(peer: Peer) -> bytes | None:
    return next((payload for opcode, payload in peer.frames() if opcode == CLOSE), None)


FLOODS = {
    "pongs": client_frame(PONG),
    "pings": client_frame(PING),
    "pings of 125 bytes": client_frame(PING, b"x" * 125),
    "empty fragments": fragment(CONT),
    "fragments of a byte": fragment(CONT, b"a"),
    "fragments with half a character each": fragment(CONT, b"\xc3") + fragment(CONT, b"\xa9"),
    "whole messages": client_frame(TEXT),
    "messages in two fragments": fragment(TEXT) + client_frame(CONT, b"x"),
    "binary messages": client_frame(BINARY, b"x"),
    "binary fragments": fragment(CONT, b"x"),
    "pongs with a length in two bytes too many": b"\x81\xfe\x00\x00\0\0\0\0" + client_frame(PONG),
}


@pytest.mark.parametrize("epoll", KINDS)
@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("step", [65000, 997], ids=["in large reads", "in parts of frames"])
def test_a_flood_of_any_frames_ends_the_connection(name: str, epoll: bool, step: int) -> None:
    first = {"binary fragments": fragment(BINARY)}.get(name, fragment(TEXT) if "fragments" in name else b"")
    if name == "messages in two fragments":
        first = b""
    data = first + FLOODS[name] * (2 * (BURST + STRIKES))
    with limited(epoll) as (b, session):
        conn, peer = b.connect()
        for start in range(0, len(data), step):
            if b.engine.is_open(conn):
                peer.sock.sendall(data[start : start + step])
                b.poll()
        assert not b.engine.is_open(conn)
        assert closed_with(peer) == (4502).to_bytes(2) + b"rate-limited"
        assert b.engine.stats()["refused_frames"] <= 2 * STRIKES  # of messages in one read, some are counted later
        assert len(session.taken) <= BURST + STRIKES


@pytest.mark.parametrize("epoll", KINDS)
def test_a_ping_that_is_one_too_many_is_not_answered(epoll: bool) -> None:
    with limited(epoll) as (b, _):
        conn, peer = b.connect()
        peer.sock.sendall(client_frame(PING) * (BURST + 10))
        b.poll()
        assert peer.frames() == [(PONG, b"")] * BURST
        assert b.engine.is_open(conn)
        assert b.engine.stats()["refused_frames"] == 10


def test_frames_and_messages_share_one_allowance() -> None:
    with limited() as (b, session):
        _, peer = b.connect()
        mixed = client_frame(PONG) + fragment(TEXT) + fragment(CONT) + client_frame(CONT, b"x") + client_frame(TEXT)
        peer.sock.sendall(mixed * (BURST // 5))  # five frames each
        b.poll()
        assert session.answers == [_fanout.PAID] * (2 * BURST // 5)
        peer.send(TEXT)
        b.poll()
        assert session.answers[-1] == _fanout.REFUSED


def test_the_allowance_comes_back_and_each_connection_has_its_own() -> None:
    with limited(rate=5e5) as (b, session):
        conn, peer = b.connect()
        _, other = b.connect()
        while b.engine.charge(conn) == _fanout.PAID:
            pass
        other.send(TEXT)
        b.poll()
        assert session.answers == [_fanout.PAID]
        while b.engine.charge(conn) != _fanout.PAID:  # comes back within 2 µs
            pass
        peer.send(PONG)
        b.poll()
        assert b.engine.is_open(conn)


def test_without_a_rate_everything_passes() -> None:
    with bench() as b:
        conn, peer = b.connect()
        for _ in range(20):
            peer.sock.sendall(client_frame(PONG) * 5000)
            b.poll()
        assert b.engine.charge(conn) == _fanout.PAID
        assert b.engine.is_open(conn)


def test_an_invalid_rate_is_refused() -> None:
    for options in (
        {"input_rate": -1.0},
        {"input_rate": 2e9},
        {"input_burst": 0},
        {"input_strikes": 0},
        {"input_strikes": 256},
    ):
        with pytest.raises(ValueError, match="input_"):
            Bench(**options)


def test_what_follows_an_event_streams_request_is_bounded() -> None:
    with limited() as (b, _):
        conn, peer = b.connect(framing=_fanout.SSE)
        reads = 0
        while b.engine.is_open(conn):
            peer.sock.sendall(b"x" * 10)
            b.poll()
            reads += 1
        assert reads == BURST + STRIKES


def test_compressed_connections_are_counted_too() -> None:
    empty = client_frame(TEXT, b"\x02\x00", first=0x41)  # compressed, and more follows
    with limited(compressed=True) as (b, _):
        conn, peer = b.connect(framing=_fanout.DEFLATE)
        peer.sock.sendall(empty + fragment(CONT) * 8000)
        b.poll()
        assert not b.engine.is_open(conn)
        assert closed_with(peer) == (4502).to_bytes(2) + b"rate-limited"
        assert b.engine.stats()["refused_frames"] == STRIKES


@pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="the engine reads no sockets without epoll")
def test_a_closing_connection_that_goes_on_sending_is_let_go() -> None:
    with bench() as b:
        conn, peer = b.connect()
        b.engine.disconnect(conn, 1000)
        b.loop.run()
        sent = 0
        while b.engine.stats()["closing"]:
            sent += peer.sock.send(b"x" * 60000)
            b.poll()
        assert 1 << 20 < sent < 2 << 20


def test_many_messages_in_many_connections_are_handed_over_in_turns() -> None:
    # What one call reads is bounded: each message that waits for its callback takes memory.
    connections, messages = 40, 2000
    with bench() as b:
        peers = [b.connect()[1] for _ in range(connections)]
        for peer in peers:
            peer.sock.sendall(client_frame(TEXT) * messages)
        if b.engine.owns_sockets:
            b.engine.poll()
            assert 0 < len(b.handler.texts) < connections * messages
        while len(b.handler.texts) < connections * messages:
            b.poll()
        assert len({conn for conn, _ in b.handler.texts}) == connections


@pytest.mark.parametrize("epoll", KINDS)
def test_fragments_and_parts_need_no_parser_of_python(epoll: bool) -> None:
    text = "aé€😀" * 300
    data = text.encode()
    frames = [fragment(TEXT)]
    frames += [fragment(CONT, data[i : i + 1]) + client_frame(PING, b"p") for i in range(len(data) - 1)]
    stream = b"".join(frames) + client_frame(CONT, data[-1:]) + client_frame(TEXT, b"next")
    for step in (1, 3, 64, 4096):
        with bench(epoll=epoll) as b:
            conn, peer = b.connect()
            pongs = 0
            for start in range(0, len(stream), step):
                peer.sock.sendall(stream[start : start + step])
                if start % (16 * step) == 0:
                    b.poll()
                    pongs += len(peer.frames())
            b.poll()
            assert pongs + len(peer.frames()) == len(data) - 1
            assert b.handler.texts == [(conn, data), (conn, b"next")]
            assert b.handler.raw == []


def test_a_message_goes_on_in_python_where_the_engine_stops() -> None:
    # A length in more bytes than it needs is valid and unusual: the library reads it, with the fragments before.
    odd = b"\x80\xfe\x00\x01\0\0\0\0c"
    with limited(rate=0) as (b, session):
        _, peer = b.connect()
        for data in (fragment(TEXT, b"a") + fragment(CONT, b"b"), odd, client_frame(TEXT, b"d")):
            peer.sock.sendall(data)
            b.poll()
        assert session.taken == [b"abc", b"d"]
