"""Payloads of Engine.IO's long-polling, and the packets in them and in WebSocket frames.

Invariant: a payload is taken apart or refused by a `PayloadError` with a text; the packets are UTF-8, and joined again
they are the payload where nobody encoded it twice; every packet is acted on or ends the connection with 1002 or 1003.
"""

from __future__ import annotations

from realizehit import _fanout
from realizehit.transports.engineio.packet_session import PacketSession, as_payload
from realizehit.transports.engineio.packets import REVISIONS, PayloadError, frame, split
from realizehit.transports.session import Session
from tests.fuzz.command import main
from tests.support.engines import bench

FRAMINGS = {3: _fanout.POLLING_3, 4: _fanout.POLLING_4}


class Texts(Session):
    """Keeps the messages; binary ones are not wanted."""

    accepts_binary = False

    def __init__(self, engine: _fanout.Engine) -> None:
        self.engine = engine
        self.messages: list[str] = []

    def receive(self, conn: int, data: bytes) -> None:
        self.messages.append(data.decode())

    def receive_binary(self, conn: int, data: bytes) -> None:
        self.engine.disconnect(conn, 1003)


def one(data: bytes) -> None:
    """Take a case as a payload of each revision, and as a packet in a frame."""
    for revision in REVISIONS:
        try:
            packets = split(data, revision)
        except PayloadError as error:
            assert str(error)
            packets = []
        else:
            check(data, packets, revision)
        try:
            data.decode()
        except UnicodeDecodeError:
            act(packets, revision, FRAMINGS[revision])
        else:
            act([*packets, data], revision, FRAMINGS[revision])
            act([data, *packets], revision, _fanout.ENGINEIO_3 if revision == 3 else _fanout.ENGINEIO_4)


def check(data: bytes, packets: list[bytes], revision: int) -> None:
    texts = [packet.decode() for packet in packets]
    if revision == 4:
        assert "\x1e".join(texts).encode() == data
    elif data.isascii():
        # A length may have zeros before it.
        assert "".join(texts) in data.decode() or len(texts) > 1
        assert sum(len(text) for text in texts) + 2 * len(texts) <= len(data)


def act(packets: list[bytes], revision: int, framing: int) -> None:
    with bench() as b:
        session = Texts(b.engine)
        kind = PacketSession(b.engine, session, revision, lambda _probe, _conn: None)
        b.handler = kind  # type: ignore[assignment]
        conn, peer = b.connect(framing=framing)
        polling = framing in FRAMINGS.values()
        expected = []
        for packet in packets:
            if not b.engine.is_open(conn):
                break
            if packet[:1] == b"4":
                expected.append(packet[1:].decode())
            if polling:
                kind.handle(conn, packet, lambda answer: as_payload(answer, revision))
            else:
                kind.handle(conn, packet, frame)
            known = packet[:1] in (b"1", b"4", b"6", b"2" if revision == 3 else b"3")
            assert b.engine.is_open(conn) == (known and packet[:1] != b"1")
        b.loop.run()
        peer.read()
        assert session.messages == expected
        b.engine.close()  # before the recorder's place is taken by what has no `on_gone`
        b.loop.errors.clear()


if __name__ == "__main__":
    main(__spec__.name)
