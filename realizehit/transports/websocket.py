"""WebSocket connections: from the opening handshake into the engine, and the input that the engine leaves to Python.

The engine reads whole, unfragmented frames itself. Everything else of a connection comes here as bytes and goes to a
parser of the `websockets` library, made for that connection when it is needed and dropped as soon as it holds no part
of a message any more; so the protocol's hard cases, and which error closes with which code, are the library's.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from realizehit import _fanout
from realizehit.errors import CloseCode
from realizehit.transports.adoption import adopt
from realizehit.transports.handshake import Head, accept, refusal
from realizehit.transports.session import Session

logger: Final = logging.getLogger(__name__)

WS_PATH: Final = "/ws"

_NO_ROOM: Final = refusal(503, "Service Unavailable", "no room for another connection", "Retry-After: 5")


class WebSocketTransport:
    """All WebSocket connections of a node: the engine's handler for them.

    Args:
        engine: owns the connections.
        session: is handed whole messages.
        max_message: largest message that a client may send, in bytes.
        path: where clients connect, with or without a slash at its end; ``None`` for anywhere.
        draining: whether new connections are to be turned away.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        session: Session,
        *,
        max_message: int,
        path: str | None = WS_PATH,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._session = session
        self._max_message = max_message
        self._path = None if path is None else path.encode()
        self._draining = draining
        self._parsers: dict[int, _Parser] = {}
        # What comes whole goes to the session without a step between.
        self.on_text = session.receive
        self.on_binary = session.receive_binary

    @property
    def parsers(self) -> int:
        """How many connections have a parser of their own now."""
        return len(self._parsers)

    def open(self, transport: asyncio.Transport, head: Head, rest: bytes) -> None:
        """Answer an opening handshake, and hand an accepted connection to the engine.

        Args:
            transport: the connection; not the caller's any more from here on.
            head: the request.
            rest: bytes that came after it.
        """
        refused = self._refusal(head)
        accepted = False
        if refused is None:
            accepted, response = accept(head)
        else:
            response = refused
        if not accepted:
            _turn_away(transport, response)
            return
        try:
            adopt(self._engine, transport, self, response, rest)
        except OSError as error:
            logger.error("a connection was refused: %s", error.strerror)  # noqa: TRY400 - no traceback for a full table
            _turn_away(transport, _NO_ROOM)

    def _refusal(self, head: Head) -> bytes | None:
        if self._path is not None and head.path.rstrip(b"/") != self._path:
            return refusal(404, "Not Found", f"WebSocket clients connect to {self._path.decode()}")
        if any(pair.startswith(b"EIO=") for pair in head.query.split(b"&")):
            return refusal(501, "Not Implemented", "Engine.IO is not served by this version; connect without EIO")
        if self._draining():
            return refusal(503, "Service Unavailable", "this server is going away; try another", "Retry-After: 1")
        return None

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Take input that is not a run of whole, plain frames."""
        parser = self._parsers.get(handle)
        if parser is None:
            parser = self._parsers[handle] = _Parser(self._max_message, binary=self._session.accepts_binary)
        for message in parser.feed(data):
            if isinstance(message, str):
                self._session.receive(handle, message.encode())
            else:
                self._session.receive_binary(handle, message)
            if not self._engine.is_open(handle):
                return
        for frame in parser.answers():
            self._engine.send_bytes(handle, frame)
        if parser.end is not None:
            code, reason, peer_done = parser.end
            self._engine.disconnect(handle, code, reason, peer_done=peer_done)
        elif parser.is_empty():
            del self._parsers[handle]
            self._engine.soften(handle)

    def on_gone(self, handle: int) -> None:
        """Forget a connection."""
        self._parsers.pop(handle, None)


def _turn_away(transport: asyncio.Transport, response: bytes) -> None:
    transport.set_protocol(asyncio.Protocol())
    transport.write(response)
    transport.close()


class _Parser:
    """Whole messages out of any valid run of bytes; the library's state machine with the fragments put together.

    Args:
        max_message: largest message, in bytes.
        binary: whether binary messages are collected; otherwise one ends the connection at its first frame.

    Attributes:
        end: close code, reason, and whether the peer's close frame came, once the connection is to end.
    """

    def __init__(self, max_message: int, *, binary: bool) -> None:
        self._protocol = ServerProtocol(state=State.OPEN, max_size=max_message)
        self._binary = binary
        self._parts: list[bytes | str] = []
        self._decoder: codecs.IncrementalDecoder | None = None
        self.end: tuple[int, str, bool] | None = None

    def feed(self, data: bytes) -> list[str | bytes]:
        """Take bytes and return the messages that they complete."""
        self._protocol.receive_data(data)
        messages: list[str | bytes] = []
        for event in self._protocol.events_received():
            frame = cast(Frame, event)  # the handshake is over, so it is no request
            if frame.opcode is Opcode.TEXT:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
            elif frame.opcode is Opcode.BINARY:
                if not self._binary:
                    self.end = (CloseCode.UNSUPPORTED_DATA, "binary messages are not used here", False)
                    return messages
                self._decoder = None
            elif frame.opcode is not Opcode.CONT:
                continue
            # Each fragment is checked when it comes: wrong text fails at once, not at its end.
            try:
                part = bytes(frame.data) if self._decoder is None else self._decoder.decode(frame.data, frame.fin)
            except UnicodeDecodeError:
                self.end = (CloseCode.INVALID_DATA, "the text is not UTF-8", False)
                return messages
            self._parts.append(part)
            if frame.fin:
                messages.append(b"".join(self._parts) if self._decoder is None else "".join(self._parts))  # type: ignore[arg-type]
                self._parts = []
        close = self._protocol.close_sent
        if close is not None:
            self.end = (close.code, close.reason, self._protocol.close_rcvd is not None)
        return messages

    def answers(self) -> list[bytes]:
        """Return the frames that answer what came: pongs. The close frame is the engine's to send."""
        frames = [frame for frame in self._protocol.data_to_send() if frame]
        return frames[:-1] if self._protocol.close_sent is not None else frames

    def is_empty(self) -> bool:
        """Tell whether no part of a frame or message is held, so that the engine can read on by itself."""
        # Between frames, and only there, the innermost of the library's parsing generators waits to see whether the
        # stream ends. Were it to change that, connections would keep their parser: a cost, and no error.
        waiting: Any = self._protocol.parser
        while getattr(waiting, "gi_yieldfrom", None) is not None:
            waiting = waiting.gi_yieldfrom
        return (
            self._protocol.current_size is None
            and not self._protocol.reader.buffer
            and getattr(waiting, "__name__", "") == "at_eof"
        )
