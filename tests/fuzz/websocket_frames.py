"""Incoming WebSocket bytes: the engine with its parser in Python behind it, against the `websockets` library.

Invariant: the same close code, and as many of the same messages and pongs as came before an error; all of them where
there is none. Byte by byte gives every message that the library gives. Nothing raises, and no parser is left over.
"""

from __future__ import annotations

import codecs

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from tests.fuzz.command import main
from tests.property.test_websocket_frames import FAREWELLS, KINDS, Outcome, server

LIMIT = 1000  # bytes of a message, so that short cases pass it


def one(data: bytes) -> None:
    """Take a case whole, in two, and byte by byte; its first byte says where it is cut."""
    cut, stream = (data[0] if data else 0), data[1:]
    expected = by_library(stream)
    kind = KINDS[cut % len(KINDS)]
    compare(expected, fed(kind, [stream]), whole=False)
    at = cut * len(stream) // 256
    compare(expected, fed(kind, [stream[:at], stream[at:]]), whole=False)
    if len(stream) <= 256:
        compare(expected, fed(kind, [stream[i : i + 1] for i in range(len(stream))]), whole=True)


def by_library(stream: bytes) -> Outcome:
    """What the library makes of it, with wrong text as an error where it stands."""
    protocol = ServerProtocol(state=State.OPEN, max_size=LIMIT)
    protocol.receive_data(stream)
    result = Outcome()
    parts: list[bytes] = []
    text = codecs.getincrementaldecoder("utf-8")
    decoder: codecs.IncrementalDecoder | None = None
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode is Opcode.PING:
            result.pongs.append(bytes(frame.data))
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            continue
        if frame.opcode is not Opcode.CONT:
            decoder = text() if frame.opcode is Opcode.TEXT else None
        parts.append(bytes(frame.data))
        if decoder is not None:
            try:
                decoder.decode(frame.data, frame.fin)
            except UnicodeDecodeError:
                result.close_code = 1007
                return result
        if frame.fin:
            message = b"".join(parts)
            result.messages.append(message if decoder is None else message.decode())
            parts = []
    if protocol.close_rcvd is not None:
        result.close_code = protocol.close_rcvd.code  # also where it comes inside of a message, an error to the library
    elif protocol.close_sent is not None:
        result.close_code = protocol.close_sent.code
    return result


def fed(kind: str, parts: list[bytes]) -> Outcome:
    with server(kind, max_message=LIMIT) as s:
        for part in parts:
            if part:
                s.feed(part)
        outcome = s.outcome()
        assert s.bench.engine.is_open(s.conn) == (outcome.close_code is None)
        assert s.transport.parsers <= (outcome.close_code is None)
        return outcome


def compare(expected: Outcome, outcome: Outcome, *, whole: bool) -> None:
    assert outcome.close_code == expected.close_code, f"{outcome} and should be {expected}"
    if whole or expected.close_code is None or expected.close_code in FAREWELLS:
        assert outcome.messages == expected.messages, f"{outcome} and should be {expected}"
    assert outcome.messages == expected.messages[: len(outcome.messages)], f"{outcome} and should be {expected}"
    if not whole and expected.close_code == 1007:
        return  # pings that came in one read with the wrong text may be answered before it is judged
    assert outcome.pongs == expected.pongs[: len(outcome.pongs)], f"{outcome} and should be {expected}"


if __name__ == "__main__":
    main(__spec__.name)
