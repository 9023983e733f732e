"""Engine.IO's long-polling: sessions whose messages are fetched by GET and sent by POST, as an ASGI endpoint.

A session is a connection of the engine like any other, with the same bounds: what waits for it waits in the engine, who
asks for too little is a slow consumer, and who shows itself in no request is closed when its heartbeat is due.

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
from realizehit.transports.buffered import Held
from realizehit.transports.engineio.errors import EngineIOError, Refused
from realizehit.transports.engineio.packets import CLOSE, NOOP, PayloadError, body, join, split
from realizehit.transports.heads import coding_of

FRAMINGS: Final = {3: _fanout.POLLING_3, 4: _fanout.POLLING_4}

_NOOP_AFTER: Final = 0.1  # seconds that a poll during an upgrade waits for messages; the client waits for its answer
_METHODS: Final = (b"access-control-allow-methods", b"GET, POST, OPTIONS")
_TEXT: Final = b"text/plain; charset=UTF-8"
_JSON: Final = b"application/json"


class PollingSession:
    """One client that polls.

    Args:
        engine: keeps its connection.
        sid: its name, which is a secret.
        revision: of the protocol: 3 or 4.
        claimant: who opened it, and alone may go on with it.
        closed: called once when the session is over or goes on over a WebSocket.
        gone: told the handle of its connection when that has ended without going on.

    Attributes:
        claimant: who opened it.
        held: its connection.
        receiving: whether a GET is being answered.
        sending: whether a POST is being read.
        probed: whether a WebSocket asks to take over; no second one may.
        upgrading: whether that WebSocket has shown that it works, so that no GET should stay open.
    """

    __slots__ = ("_engine", "claimant", "held", "probed", "receiving", "revision", "sending", "sid", "upgrading")

    def __init__(
        self,
        engine: _fanout.Engine,
        sid: str,
        revision: int,
        claimant: Claimant,
        *,
        closed: Callable[[PollingSession], None],
        gone: Callable[[int], None] | None,
    ) -> None:
        self._engine = engine
        self.sid = sid
        self.revision = revision
        self.claimant = claimant
        self.receiving = self.sending = self.probed = self.upgrading = False
        self.held = Held(engine, FRAMINGS[revision], closed=lambda: closed(self), gone=gone)

    def close(self, code: int, reason: str = "") -> None:
        """End the session; a GET that waits is answered with the packet that says so."""
        self._engine.disconnect(self.held.handle, code, reason)

    def upgrade(self) -> None:
        """Let a GET that waits come to its end, as the client waits for that before it changes over."""
        self.upgrading = True
        self.held.wake()

    async def receive(self, receive: Receive) -> bytes:
        """Return the payload that answers a GET.

        Raises:
            Refused: another GET is waiting; the session is over.
        """
        if self.receiving:
            self.close(CloseCode.PROTOCOL_ERROR)
            raise Refused(EngineIOError.BAD_REQUEST, "two polls at once; the session is closed")
        self._engine.seen(self.held.handle)
        payload = self.held.take()
        if not payload and not self.held.ended:
            self.receiving = True
            gone = asyncio.ensure_future(_disconnected(receive))
            gone.add_done_callback(lambda _: self.held.wake())
            try:
                payload = await self.held.wait(_NOOP_AFTER if self.upgrading else None)
            finally:
                self.receiving = False
                if not gone.cancel():
                    self.close(CloseCode.GOING_AWAY)  # what it was sent may be lost
        if not payload:
            payload = join([CLOSE if self.held.ended else NOOP], self.revision)
        return body(payload, self.revision)


class Polling:
    """Answers the requests of sessions.

    Args:
        engine: keeps their connections.
        take: is handed each packet: the session and the packet.
        max_payload: bytes that the body of a POST may have.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        take: Callable[[PollingSession, bytes], None],
        *,
        max_payload: int,
        limited: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._take = take
        self._max_payload = max_payload
        self._limited = limited

    async def get(self, session: PollingSession, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a poll."""
        await answer(scope, send, 200, await session.receive(receive))

    async def post(self, session: PollingSession, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the packets of a request.

        Raises:
            Refused: they cannot be read, or another POST is being read; the session is over.
        """
        coding = coding_of(scope["headers"])
        if coding is not None:
            refused = Refused(EngineIOError.BAD_REQUEST, f"the Content-Encoding is {coding}; send the body as it is")
            await refuse(scope, send, refused, status=415, more=[(b"accept-encoding", b"identity")])
            return
        if session.sending:
            raise self._close(session, CloseCode.PROTOCOL_ERROR, "two requests with packets at once")
        headers = dict(scope["headers"])
        if headers.get(b"content-type", b"").startswith(b"application/octet-stream"):
            raise self._close(session, CloseCode.UNSUPPORTED_DATA, "binary messages are not used here")
        session.sending = True
        try:
            data = await self._read(receive)
        finally:
            session.sending = False
        if data is None:
            self._limited("message_too_large")
            raise self._close(session, CloseCode.MESSAGE_TOO_BIG, f"a body has at most {self._max_payload} bytes")
        try:
            packets = split(data, session.revision)
        except PayloadError as error:
            raise self._close(session, CloseCode.PROTOCOL_ERROR, str(error)) from None
        self._engine.seen(session.held.handle)
        for packet in packets:
            self._take(session, packet)
            if session.held.ended:
                break
        await answer(scope, send, 200, b"ok")

    async def _read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Refused(EngineIOError.BAD_REQUEST, "the request was broken off")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_payload:
                return None
            if not message.get("more_body", False):
                return b"".join(parts)

    def _close(self, session: PollingSession, code: CloseCode, text: str) -> Refused:
        session.close(code, text)
        return Refused(EngineIOError.BAD_REQUEST, text + "; the session is closed")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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
    """Send an error as the reference server does."""
    await answer(scope, send, status, refused.body, media_type=_JSON, more=more)


async def preflight(scope: Scope, send: Send) -> None:
    """Answer the request by which a browser asks whether it may."""
    headers = dict(scope["headers"])
    asked = headers.get(b"access-control-request-headers", b"content-type")
    more = [_METHODS, (b"access-control-allow-headers", asked), (b"access-control-max-age", b"86400")]
    await answer(scope, send, 200, b"", more=more)
