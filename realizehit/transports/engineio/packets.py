"""The packets of Engine.IO, and the payloads in which long-polling carries several of them.

Only parsing and building, without I/O. The engine frames the messages that the server sends; this module has all other
packets of the server, and all packets of clients.

Source: the Engine.IO protocol, revisions 3 and 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import orjson
from websockets.frames import Frame, Opcode

OPEN: Final = b"0"
CLOSE: Final = b"1"
PING: Final = b"2"
PONG: Final = b"3"
MESSAGE: Final = b"4"
UPGRADE: Final = b"5"
NOOP: Final = b"6"
BASE64: Final = b"b"  # a binary message in polling, or in a WebSocket without binary frames

PROBE: Final = b"probe"

REVISIONS: Final = (3, 4)

_SEPARATOR: Final = b"\x1e"
_MAX_DIGITS: Final = 10  # of a packet's length in a payload of revision 3


class PayloadError(ValueError):
    """A polling payload is malformed."""


def open_packet(
    sid: str, *, upgrades: Iterable[str], ping_interval: float, ping_timeout: float, max_payload: int
) -> bytes:
    """Build the first packet of a session.

    Args:
        sid: the session's id.
        upgrades: transports to which the client may upgrade.
        ping_interval: seconds between heartbeats.
        ping_timeout: seconds to wait for the answer to a heartbeat.
        max_payload: bytes that a polling request's body may have.
    """
    return OPEN + orjson.dumps(
        {
            "sid": sid,
            "upgrades": list(upgrades),
            "pingInterval": round(ping_interval * 1000),
            "pingTimeout": round(ping_timeout * 1000),
            "maxPayload": max_payload,
        }
    )


def frame(packet: bytes) -> bytes:
    """Put a packet into a WebSocket frame."""
    return Frame(Opcode.TEXT, packet).serialize(mask=False)


def join(packets: Iterable[bytes], revision: int) -> bytes:
    """Build a polling payload of ASCII packets, as the engine does: in revision 4 a separator ends each."""
    if revision == 4:
        return b"".join(packet + _SEPARATOR for packet in packets)
    return b"".join(b"%d:%b" % (len(packet), packet) for packet in packets)


def body(payload: bytes, revision: int) -> bytes:
    """Return a payload of the engine as the body of a response, without the separator behind the last packet."""
    return payload.removesuffix(_SEPARATOR) if revision == 4 else payload


def split_own(payload: bytes, revision: int) -> Iterator[bytes]:
    """Split a payload that the engine built into its packets."""
    if revision == 4:
        yield from payload.split(_SEPARATOR)[:-1]
        return
    start = 0
    while start < len(payload):
        colon = payload.index(b":", start)
        start = colon + 1 + int(payload[start:colon])
        yield payload[colon + 1 : start]


def split(payload: bytes, revision: int) -> list[bytes]:
    """Split a payload that a client sent into its packets.

    Raises:
        PayloadError: the payload is malformed; the text says what is wrong.
    """
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise PayloadError("the payload is not UTF-8") from None
    if not text:
        raise PayloadError("the payload is empty")
    if revision == 4:
        return [part.encode() for part in text.split("\x1e")]
    # Lengths count UTF-16 units, as in JavaScript's strings; each is two bytes of this copy.
    wide = text.encode("utf-16-le")
    packets = []
    start = 0
    while start < len(wide):
        colon = _colon(wide, start)
        digits = wide[start:colon].decode("utf-16-le", "replace")
        if not digits.isascii() or not digits.isdecimal():
            raise PayloadError(f"a packet's length is not a number: {digits[:_MAX_DIGITS]!r}")
        start = colon + 2 + 2 * int(digits)
        if start > len(wide):
            raise PayloadError("a packet is shorter than its length says")
        try:
            packet = wide[colon + 2 : start].decode("utf-16-le")
        except UnicodeDecodeError:
            raise PayloadError("a packet ends inside a character") from None
        packets.append(_encoded(packet))
    return packets


def _colon(wide: bytes, start: int) -> int:
    for position in range(start, start + 2 * _MAX_DIGITS + 2, 2):
        if wide[position : position + 2] == b":\0":
            return position
    raise PayloadError("a packet has no length before it")


def _encoded(packet: str) -> bytes:
    """Return a packet as UTF-8; clients with engine.io-parser 1.x encode it twice."""
    data = packet.encode()
    if not packet.isascii():
        try:
            once = packet.encode("latin-1")
            once.decode()
        except UnicodeError:
            return data
        # Text of other clients looks like this only if it was garbled deliberately.
        return once
    return data
