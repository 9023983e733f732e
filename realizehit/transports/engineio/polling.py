"""Engine.IO's long-polling: clients fetch messages by GET and send by POST; the part of an ASGI endpoint.

A polling session is a connection of the engine like any other, with the same bounds: its messages wait in the engine, a
client that polls too seldom is a slow consumer, and a client without any request is closed when its heartbeat is due.

Source: the Engine.IO protocol, revisions 3 and 4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from starlette.types import Receive, Scope, Send

from realizehit import _fanout
from realizehit.access.claimants import Claimant
from realizehit.errors import CloseCode
from realizehit.transports.buffered import BufferedConnection
from realizehit.transports.engineio.errors import EngineIOError, Refused
from realizehit.transports.engineio.packets import CLOSE, NOOP, PayloadError, body, join, split
from realizehit.transports.engineio.passing import disconnected
from realizehit.transports.heads import coding_of

FRAMINGS: Final = {3: _fanout.POLLING_3, 4: _fanout.POLLING_4}

_NOOP_AFTER: Final = 0.1  # seconds that a poll waits during an upgrade; the client waits for the response
_METHODS: Final = (b"access-control-allow-methods", b"GET, POST, OPTIONS")
_TEXT: Final = b"text/plain; charset=UTF-8"
_JSON: Final = b"application/json"


class PollingSession:
    """One client that polls.

    Args:
        engine: holds its connection.
        sid: its id, which is a secret.
        revision: of the protocol: 3 or 4.
        claimant: who opened it; requests of anybody else are refused.
        on_closed: called once when the session has ended or continues over a WebSocket.
        on_disconnected: called with the connection's handle when the session has ended.

    Attributes:
        claimant: who opened it.
        connection: its connection.
        receiving: whether a GET is open.
        sending: whether a POST is being read.
        probed: whether an upgrade to a WebSocket has begun; a second one is refused.
        upgrading: whether the WebSocket of the upgrade has proved that it works, so that GETs must end soon.
    """

    __slots__ = ("_engine", "claimant", "connection", "probed", "receiving", "revision", "sending", "sid", "upgrading")

    def __init__(
        self,
        engine: _fanout.Engine,
        sid: str,
        revision: int,
        claimant: Claimant,
        *,
        on_closed: Callable[[PollingSession], None],
        on_disconnected: Callable[[int], None] | None,
    ) -> None:
        self._engine = engine
        self.sid = sid
        self.revision = revision
        self.claimant = claimant
        self.receiving = self.sending = self.probed = self.upgrading = False
        self.connection = BufferedConnection(
            engine, FRAMINGS[revision], on_closed=lambda: on_closed(self), on_disconnected=on_disconnected
        )

    def close(self, code: int, reason: str = "") -> None:
        """End the session; an open GET is answered with a close packet."""
        self._engine.disconnect(self.connection.handle, code, reason)

    def upgrade(self) -> None:
        """End an open GET, since the client waits for its response before it switches to the WebSocket."""
        self.upgrading = True
        self.connection.wake()

    async def receive(self, receive: Receive) -> bytes:
        """Return the payload that answers a GET.

        Raises:
            Refused: another GET is open; the session has been closed.
        """
        if self.receiving:
            self.close(CloseCode.PROTOCOL_ERROR)
            raise Refused(EngineIOError.BAD_REQUEST, "two polls at once; the session is closed")
        self._engine.seen(self.connection.handle)
        payload = self.connection.take()
        if not payload and not self.connection.ended:
            self.receiving = True
            gone = asyncio.ensure_future(disconnected(receive))
            gone.add_done_callback(lambda _: self.connection.wake())
            try:
                payload = await self.connection.wait(_NOOP_AFTER if self.upgrading else None)
            finally:
                self.receiving = False
                if not gone.cancel():
                    self.close(CloseCode.GOING_AWAY)  # messages sent to this GET may be lost
        if not payload:
            payload = join([CLOSE if self.connection.ended else NOOP], self.revision)
        return body(payload, self.revision)


class Polling:
    """Answers the requests of polling sessions.

    Args:
        engine: holds their connections.
        handle: called with the session and each packet.
        max_payload: bytes that the body of a POST may have.
        count_refusal: called with the name of each limit that a client exceeds.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        handle: Callable[[PollingSession, bytes], None],
        *,
        max_payload: int,
        count_refusal: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._handle = handle
        self._max_payload = max_payload
        self._count_refusal = count_refusal

    async def get(self, session: PollingSession, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a poll."""
        await answer(scope, send, 200, await session.receive(receive))

    async def post(self, session: PollingSession, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the packets of a POST.

        Raises:
            Refused: the packets are malformed, or another POST is being read; the session has been closed.
        """
        coding = coding_of(scope["headers"])
        if coding is not None:
            refused = Refused(EngineIOError.BAD_REQUEST, f"the Content-Encoding is {coding}; send the body as it is")
            await refuse(scope, send, refused, status=415, more=[(b"accept-encoding", b"identity")])
            return
        if session.sending:
            raise self._close(session, CloseCode.PROTOCOL_ERROR, "two POST requests at once")
        headers = dict(scope["headers"])
        if headers.get(b"content-type", b"").startswith(b"application/octet-stream"):
            raise self._close(session, CloseCode.UNSUPPORTED_DATA, "binary messages are not used here")
        session.sending = True
        try:
            data = await self._read(receive)
        finally:
            session.sending = False
        if data is None:
            self._count_refusal("message_too_large")
            raise self._close(session, CloseCode.MESSAGE_TOO_BIG, f"a body has at most {self._max_payload} bytes")
        try:
            packets = split(data, session.revision)
        except PayloadError as error:
            raise self._close(session, CloseCode.PROTOCOL_ERROR, str(error)) from None
        self._engine.seen(session.connection.handle)
        for packet in packets:
            self._handle(session, packet)
            if session.connection.ended:
                break
        await answer(scope, send, 200, b"ok")

    async def _read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(EngineIOError.BAD_REQUEST, "the request was incomplete")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_payload:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)

    def _close(self, session: PollingSession, code: CloseCode, text: str) -> Refused:
        session.close(code, text)
        return Refused(EngineIOError.BAD_REQUEST, text + "; the session is closed")


async def answer(
    scope: Scope,
    send: Send,
    status: int,
    data: bytes,
    *,
    media_type: bytes = _TEXT,
    more: Iterable[tuple[bytes, bytes]] = (),
) -> None:
    """Send a response."""
    headers = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(data)),
        (b"cache-control", b"no-store"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else data})


async def refuse(
    scope: Scope, send: Send, refused: Refused, *, status: int = 400, more: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """Send an error in the form of the reference server."""
    await answer(scope, send, status, refused.body, media_type=_JSON, more=more)


async def preflight(scope: Scope, send: Send) -> None:
    """Answer the preflight request of a browser (CORS)."""
    headers = dict(scope["headers"])
    asked = headers.get(b"access-control-request-headers", b"content-type")
    more = [_METHODS, (b"access-control-allow-headers", asked), (b"access-control-max-age", b"86400")]
    await answer(scope, send, 200, b"", more=more)
