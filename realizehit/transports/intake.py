"""What WebSocket clients send: the engine's handler, and a parser for the input that the engine leaves to Python.

The engine parses plain frames itself, also text messages in fragments. All other input of a connection arrives here as
bytes and goes to a parser of the `websockets` library, which handles the protocol's hard cases and decides which error
closes with which code. The parser is created when a connection needs it, and dropped as soon as it holds no part of a
message. Each frame counts against the rate of its connection, here as in the engine.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from realizehit import _fanout
from realizehit.errors import CloseCode, ErrorCode
from realizehit.logs.lines import WEBSOCKET_LOGGER
from realizehit.transports.session import Session

WINDOW_BITS: Final = 15  # the window of DEFLATE that both sides use; RFC 7692, section 7.1.2
SLICE: Final = 2048  # bytes that the library parses at once; their frames are then counted and handled


class Intake:
    """The engine's handler for WebSocket connections of one kind.

    Args:
        engine: owns the connections.
        session: is given whole messages.
        max_message: largest message that a client may send, in bytes, after decompression.
        compressed: whether permessage-deflate was negotiated, without context takeover.
        on_disconnected: called with the handle of each connection that ends.
        count_refusal: called with the name of each limit that a client exceeds.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        session: Session,
        *,
        max_message: int,
        compressed: bool = False,
        on_disconnected: Callable[[int], None] | None = None,
        count_refusal: Callable[[str], None] | None = None,
    ) -> None:
        self._engine = engine
        self._session = session
        self._max_message = max_message
        self._compressed = compressed
        self._on_disconnected = on_disconnected
        self._count_refusal = count_refusal
        self._parsers: dict[int, _Parser] = {}
        self._reading = 0  # the connection whose bytes are being parsed

    @property
    def parsers(self) -> int:
        """How many connections have a parser now."""
        return len(self._parsers)

    def on_text(self, handle: int, data: bytes) -> None:
        """Pass on a whole text message."""
        self._session.receive(handle, data)

    def on_sub(self, handle: int, sub: _fanout.PlainSub) -> None:
        """Pass on a plain ``sub``, see `realizehit._fanout.plain_sub`."""
        self._session.subscribe(handle, *sub)

    def on_binary(self, handle: int, data: bytes) -> None:
        """Pass on a whole binary message."""
        self._session.receive_binary(handle, data)

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Parse input that is not a run of whole, plain frames."""
        parser = self._parsers.get(handle)
        if parser is None:
            parser = self._parsers[handle] = _Parser(
                self._max_message, binary=self._session.accepts_binary, compressed=self._compressed
            )
        self._reading = handle
        for start in range(0, len(data), SLICE):
            for opcode, payload in parser.feed(data[start : start + SLICE]):
                self._handle(opcode, payload)
                if not self._engine.is_open(self._reading):
                    return
            if parser.end is not None:
                break
        handle = self._reading
        if parser.end is not None:
            code, reason, peer_done = parser.end
            if code == CloseCode.MESSAGE_TOO_BIG and not peer_done and self._count_refusal is not None:
                self._count_refusal("message_too_large")
            self._engine.disconnect(handle, code, reason, peer_done=peer_done)
        elif parser.is_empty():
            del self._parsers[handle]
            self._engine.resume_fast_path(handle)

    def _handle(self, opcode: Opcode, payload: bytes) -> None:
        conn = self._reading
        if opcode is Opcode.TEXT:
            self._session.receive(conn, payload)  # the session counts it against the rate
        elif opcode is Opcode.BINARY:
            self._session.receive_binary(conn, payload)
        else:
            paid = self._engine.charge(conn)
            if paid == _fanout.HOPELESS:
                self._engine.disconnect(conn, CloseCode.FORBIDDEN, ErrorCode.RATE_LIMITED.value)
            elif paid == _fanout.PAID and opcode is Opcode.PING:
                self._engine.send_bytes(conn, Frame(Opcode.PONG, payload).serialize(mask=False))

    def moved(self, handle: int, other: int) -> None:
        """Continue a connection under another handle, also in the middle of parsing its input."""
        parser = self._parsers.pop(handle, None)
        if parser is not None:
            self._parsers[other] = parser
        if self._reading == handle:
            self._reading = other

    def on_gone(self, handle: int) -> None:
        """Forget a connection."""
        self._parsers.pop(handle, None)
        if self._on_disconnected is not None:
            self._on_disconnected(handle)


class _Parser:
    """Assembles whole messages from bytes, with the library's state machine.

    A message in many fragments costs no more memory than its bytes, which the library bounds.

    Args:
        max_message: largest message, in bytes.
        binary: whether binary messages are collected; otherwise the first frame of one ends the connection.
        compressed: whether messages may be compressed, each by itself.

    Attributes:
        end: once the connection must end: close code, reason, and whether the peer sent a close frame.
    """

    def __init__(self, max_message: int, *, binary: bool, compressed: bool) -> None:
        self._protocol = ServerProtocol(state=State.OPEN, max_size=max_message, logger=WEBSOCKET_LOGGER)
        if compressed:
            self._protocol.extensions = [PerMessageDeflate(True, True, WINDOW_BITS, WINDOW_BITS)]
        self._binary = binary
        self._message = bytearray()  # the fragments so far
        self._decoder: codecs.IncrementalDecoder | None = None
        self.end: tuple[int, str, bool] | None = None

    def feed(self, data: bytes) -> Iterator[tuple[Opcode, bytes]]:
        """Parse bytes, and yield in order the messages that they complete and the other frames.

        Returns:
            `Opcode.TEXT` or `Opcode.BINARY` with a whole message; `Opcode.PING` or `Opcode.PONG` with its payload;
            `Opcode.CONT` without one, for a fragment that completes nothing.
        """
        self._protocol.receive_data(data)
        self._protocol.data_to_send()  # dropped: pongs are sent by `Intake` in order, the close frame by the engine
        for event in self._protocol.events_received():
            frame = cast(Frame, event)  # requests come only before the handshake is complete
            if frame.opcode is Opcode.TEXT:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
            elif frame.opcode is Opcode.BINARY:
                if not self._binary:
                    self.end = (CloseCode.UNSUPPORTED_DATA, "binary messages are not used here", False)
                    return
                self._decoder = None
            elif frame.opcode in (Opcode.PING, Opcode.PONG):
                yield frame.opcode, bytes(frame.data)
                continue
            elif frame.opcode is not Opcode.CONT:
                continue
            # Each fragment is checked when it arrives, so that invalid text fails at once.
            if self._decoder is not None:
                try:
                    self._decoder.decode(frame.data, frame.fin)
                except UnicodeDecodeError:
                    self.end = (CloseCode.INVALID_DATA, "the text is not UTF-8", False)
                    return
            self._message += frame.data
            if frame.fin:
                message, self._message = bytes(self._message), bytearray()
                yield Opcode.BINARY if self._decoder is None else Opcode.TEXT, message
            else:
                yield Opcode.CONT, b""
        close, theirs = self._protocol.close_sent, self._protocol.close_rcvd
        if theirs is not None:
            # A client may close in the middle of a fragmented message; the library calls that an error.
            self.end = (theirs.code, "", True)
        elif close is not None:
            self.end = (close.code, close.reason, False)

    def is_empty(self) -> bool:
        """Whether no part of a frame or message is held, so that the engine can parse the input again."""
        # Between frames, and only there, the innermost of the library's parsing generators waits in `at_eof`. If the
        # library changed that, connections would keep their parser, which costs memory and breaks nothing.
        waiting: Any = self._protocol.parser
        while getattr(waiting, "gi_yieldfrom", None) is not None:
            waiting = waiting.gi_yieldfrom
        return (
            self._protocol.current_size is None
            and not self._protocol.reader.buffer
            and getattr(waiting, "__name__", "") == "at_eof"
        )
