"""The endpoint of Engine.IO clients, revisions 3 and 4: WebSockets, and long-polling as an ASGI application.

A session begins over a WebSocket or by polling, and a polling session can be upgraded to a WebSocket. The actions and
the engine are the same for both. The engine frames message packets; all other packets are handled in Python.

Source: the Engine.IO protocol, revisions 3 and 4; section 2 of the wire protocol, ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from realizehit import _fanout
from realizehit.access.claimants import Claimant
from realizehit.access.gate import Gate
from realizehit.access.peers import peer_of, peer_of_transport
from realizehit.errors import AccessDenied, CloseCode, ErrorCode
from realizehit.node.messages import problem
from realizehit.transports.admission import adding, check_claimant, claimant_of, cross_origin, headers_of, opening_of
from realizehit.transports.engineio.errors import EngineIOError, Refused
from realizehit.transports.engineio.packet_session import PacketSession, Upgrade, as_payload
from realizehit.transports.engineio.packets import REVISIONS, body, frame, join, open_packet, split_own
from realizehit.transports.engineio.passing import SID_BYTES, Passing
from realizehit.transports.engineio.polling import Polling, PollingSession, answer, preflight, refuse
from realizehit.transports.engineio.query import Query
from realizehit.transports.guard import STATUS, Guard
from realizehit.transports.handover import adopt, rename
from realizehit.transports.handshake import last_response
from realizehit.transports.heads import Head
from realizehit.transports.intake import Intake
from realizehit.transports.session import Session

MIN_PAYLOAD: Final = 64 * 1024  # bytes that a POST's body may always have, since it can hold many small packets
UPGRADE_TIMEOUT: Final = 10.0  # seconds for an upgrade from polling to a WebSocket

_FRAMINGS: Final = {3: _fanout.ENGINEIO_3, 4: _fanout.ENGINEIO_4}


class EngineIO:
    """All Engine.IO clients of a node.

    Args:
        engine: owns the connections.
        session: is given the content of their message packets.
        max_message: largest message that a client may send, in bytes.
        ping_interval: seconds between heartbeats, the same as in the engine.
        ping_timeout: seconds that a client has to answer a heartbeat, the same as in the engine.
        draining: returns whether new sessions are refused.
        guard: decides who is let in; ``None`` for everybody.
        passing: makes one `Passing` for this endpoint, from the bytes that a payload may have, where other workers may
            have polling sessions; ``None`` where this process is the only one.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        session: Session,
        *,
        max_message: int,
        ping_interval: float,
        ping_timeout: float,
        draining: Callable[[], bool] = lambda: False,
        guard: Guard | None = None,
        passing: Callable[[int], Passing] | None = None,
    ) -> None:
        self._engine = engine
        self._gate = None if guard is None else guard.gate
        self._draining = draining
        self._max_message = max_message
        max_payload = max(4 * max_message, MIN_PAYLOAD)
        self._passing = None if passing is None else passing(max_payload)
        self._open_packet = partial(
            open_packet, ping_interval=ping_interval, ping_timeout=ping_timeout, max_payload=max_payload
        )
        self._sessions: dict[str, PollingSession] = {}
        self._packets = {
            revision: PacketSession(engine, session, revision, self._complete_upgrade) for revision in REVISIONS
        }
        self._intakes = {
            revision: Intake(
                engine,
                packets,
                max_message=max_message,
                on_disconnected=partial(self._on_disconnected, packets),
                count_refusal=self._count_refusal,
            )
            for revision, packets in self._packets.items()
        }
        self._polling = Polling(engine, self._handle, max_payload=max_payload, count_refusal=self._count_refusal)

    @property
    def sessions(self) -> int:
        """How many polling sessions there are."""
        return len(self._sessions)

    def close(self) -> None:
        """End the polling sessions, so that their requests end."""
        for session in list(self._sessions.values()):
            session.close(CloseCode.GOING_AWAY)

    def _count_refusal(self, reason: str) -> None:
        if self._gate is not None:
            self._gate.refusals.count(reason)

    # WebSockets:

    def pass_on(self, transport: asyncio.Transport, head: Head, data: bytes) -> bool:
        """Give the connection of an upgrade away, if another worker has its session.

        Args:
            transport: the connection; the caller must not use it any more if it was given away.
            head: the request.
            data: all that the connection has sent, with the head.

        Returns:
            Whether it was given away. A connection over TLS cannot be.
        """
        if self._passing is None or transport.get_extra_info("sslcontext") is not None:
            return False
        try:
            query = Query.parse(head.query)
        except Refused:
            return False
        number = None if query.sid is None else self._passing.other_worker(query.sid)
        if number is None:
            return False
        if not self._passing.send_connection(number, transport.get_extra_info("socket").fileno(), data):
            return False
        # The connection stays open, since the other worker has a descriptor of it.
        transport.set_protocol(asyncio.Protocol())
        transport.abort()
        return True

    def refusal(self, transport: asyncio.BaseTransport, head: Head) -> bytes | None:
        """Return the response that refuses a handshake, or ``None`` for a handshake that can be accepted."""
        try:
            self._check(Query.parse(head.query), transport, head)
        except Refused as refused:
            return last_response(400, "application/json", refused.body)
        except AccessDenied as error:
            return last_response(STATUS[ErrorCode(error.code)], "application/json", _denied(error).body)
        return None

    def _check(self, query: Query, transport: asyncio.BaseTransport, head: Head) -> None:
        if query.transport != "websocket":
            raise Refused(EngineIOError.BAD_REQUEST, "a WebSocket handshake for another transport")
        if query.sid is None:
            return

        def check(gate: Gate, claimant: Claimant | None) -> None:
            gate.clients.check_claimant(claimant, peer_of_transport(transport), head.headers, head.repeated, head.query)

        if self._session(query.sid, query.revision, check).probed:
            raise Refused(EngineIOError.BAD_REQUEST, "another WebSocket already upgrades this session")

    def open(self, transport: asyncio.Transport, head: Head, response: bytes, rest: bytes) -> int:
        """Take over a connection whose handshake is accepted: a new session, or the upgrade of a polling session.

        Returns:
            The engine's handle.

        Raises:
            OSError: no file descriptor is left.
        """
        query = Query.parse(head.query)
        take_over = partial(
            adopt, self._engine, transport, self._intakes[query.revision], framing=_FRAMINGS[query.revision]
        )
        if query.sid is None:
            return take_over(response + frame(self._open_packet(self._new_sid(), upgrades=())), rest)
        session = self._sessions[query.sid]
        handle = take_over(response, rest)
        session.probed = True
        timer = asyncio.get_running_loop().call_later(
            UPGRADE_TIMEOUT, self._engine.disconnect, handle, CloseCode.PROTOCOL_ERROR, "the upgrade took too long"
        )
        self._packets[query.revision].upgrades[handle] = Upgrade(session, transport, timer)
        return handle

    def _complete_upgrade(self, upgrade: Upgrade, handle: int) -> None:
        """Continue a polling session over its WebSocket, which the engine has under another handle until now."""
        session = upgrade.session
        self._engine.send_newest(session.connection.handle)
        waiting = b"".join(frame(packet) for packet in split_own(session.connection.take(), session.revision))
        ours = session.connection.handle
        try:
            if waiting:
                self._engine.send_bytes(handle, waiting)
            self._engine.splice(ours, handle)
        except (ValueError, OSError):  # the session has just ended, or no file descriptor is left
            session.close(CloseCode.INTERNAL_ERROR)
            self._engine.disconnect(handle, CloseCode.INTERNAL_ERROR, "the session has ended")
            return
        if self._gate is not None:
            self._gate.connected.on_disconnected(handle)  # the session has its identity already
        rename(upgrade.transport, ours)
        self._intakes[session.revision].moved(handle, ours)

    def _on_disconnected(self, packets: PacketSession, handle: int) -> None:
        packets.on_disconnected(handle)
        if self._gate is not None:
            self._gate.connected.on_disconnected(handle)

    # Polling:

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; an ASGI application."""
        if scope["type"] != "http":
            raise RuntimeError(f"Engine.IO's polling is HTTP, not {scope['type']}")
        send = adding(send, cross_origin(headers_of(scope)[0], self._gate))
        if scope["method"] == "OPTIONS":
            await preflight(scope, send)
        elif not any(pair.startswith(b"EIO=") for pair in scope["query_string"].split(b"&")):
            self._count_bad_handshake(scope)
            more = [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13")]
            text = problem(426, "connect with a WebSocket or an Engine.IO client", ErrorCode.BAD_REQUEST)
            await answer(scope, send, 426, text, media_type=b"application/problem+json", more=more)
        else:
            await self._poll(scope, receive, send)

    async def passed(self, request: Any) -> Any:
        """Serve a request that another worker passed on; see `Passing.passed`."""
        return await Passing.passed(self._poll, request)

    async def _poll(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._serve(scope, receive, send)
        except Refused as refused:
            await refuse(scope, send, refused)
        except AccessDenied as error:
            wait = [] if error.retry_after is None else [(b"retry-after", b"%d" % ceil(error.retry_after))]
            await refuse(scope, send, _denied(error), status=STATUS[ErrorCode(error.code)], more=wait)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        query = Query.parse(scope["query_string"])
        if query.transport != "polling":
            self._count_bad_handshake(scope)
            raise Refused(
                EngineIOError.BAD_REQUEST, "the transport is websocket, but the request is not a WebSocket handshake"
            )
        other = None if self._passing is None or query.sid is None else self._passing.other_worker(query.sid)
        if self._passing is not None and other is not None:
            await self._passing.pass_on(other, scope, receive, send)
        elif query.sid is not None:
            session = self._session(query.sid, query.revision, partial(check_claimant, scope))
            if method == "GET":
                await self._polling.get(session, scope, receive, send)
            elif method == "POST":
                await self._polling.post(session, scope, receive, send)
            else:
                raise Refused(EngineIOError.BAD_REQUEST, "a session is used by GET and POST")
        elif method != "GET":
            raise Refused(EngineIOError.BAD_HANDSHAKE_METHOD)
        elif self._draining():
            await refuse(scope, send, Refused(EngineIOError.FORBIDDEN, "this server is going away"), status=503)
        else:
            opening = None if self._gate is None else opening_of(scope, self._gate)
            on_disconnected = None if self._gate is None else self._gate.connected.on_disconnected
            claimant = Claimant() if self._gate is None else claimant_of(scope, self._gate)
            session = PollingSession(
                self._engine,
                self._new_sid(),
                query.revision,
                claimant,
                on_closed=self._forget,
                on_disconnected=on_disconnected,
            )
            self._sessions[session.sid] = session
            if self._gate is not None and opening is not None:
                self._gate.connected.on_connected(session.connection.handle, opening)
            payload = join([self._open_packet(session.sid, upgrades=("websocket",))], query.revision)
            await answer(scope, send, 200, body(payload, query.revision))

    def _new_sid(self) -> str:
        return secrets.token_urlsafe(SID_BYTES) if self._passing is None else self._passing.new_sid()

    def _count_bad_handshake(self, scope: Scope) -> None:
        if self._gate is not None:
            detail = "a WebSocket handshake without an upgrade" if _wants_websocket(scope) else "a plain request"
            peer = peer_of(scope.get("client"))
            self._gate.refusals.count("bad_handshake", peer=peer, headers=headers_of(scope)[0], detail=detail)

    def _session(self, sid: str, revision: int, check: Callable[[Gate, Claimant | None], None]) -> PollingSession:
        """Return the session of a request; `check` raises where somebody else opened it."""
        session = self._sessions.get(sid)
        if self._gate is not None:
            # Checked first, so that nobody else learns anything about the session.
            check(self._gate, None if session is None else session.claimant)
        if session is None:
            raise Refused(EngineIOError.UNKNOWN_SID)
        if session.revision != revision:
            raise Refused(EngineIOError.BAD_REQUEST, f"the session was opened with EIO={session.revision}")
        return session

    def _forget(self, session: PollingSession) -> None:
        self._sessions.pop(session.sid, None)
        if not self._sessions:
            self._sessions.clear()  # frees the memory of a large table

    def _handle(self, session: PollingSession, packet: bytes) -> None:
        if len(packet) > self._max_message + 1:  # without the packet's type
            self._count_refusal("message_too_large")
            session.close(CloseCode.MESSAGE_TOO_BIG)
            return
        wrap = partial(as_payload, revision=session.revision)
        self._packets[session.revision].handle(session.connection.handle, packet, wrap)


def _wants_websocket(scope: Scope) -> bool:
    """Whether a request was a WebSocket handshake before a proxy removed the ``Upgrade`` header."""
    return b"sec-websocket-key" in dict(scope["headers"])


def _denied(error: AccessDenied) -> Refused:
    return Refused(EngineIOError.FORBIDDEN, f"{error} ({error.code})")
