"""Engine.IO on the path of the WebSockets, for the clients that exist: revisions 3 and 4 of its protocol.

A session begins over a WebSocket or by polling, and may go on from polling to a WebSocket. Either way it ends in the
same actions and the same engine; what the engine frames is the message packets, the others are seen to here.

Source: the Engine.IO protocol, revisions 3 and 4; section 2 of the wire protocol, ``docs/protocol.md``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from realizehit import _fanout
from realizehit.access.claimants import Claimant
from realizehit.access.gate import Gate
from realizehit.access.peers import peer_of, peer_of_transport
from realizehit.errors import AccessDenied, CloseCode, ErrorCode
from realizehit.node.messages import problem
from realizehit.transports.admission import adding, check_claimant, claimant_of, cross_origin, headers_of, opening_of
from realizehit.transports.engineio.errors import EngineIOError, Refused
from realizehit.transports.engineio.packets import (
    BASE64,
    CLOSE,
    MESSAGE,
    NOOP,
    PING,
    PONG,
    PROBE,
    REVISIONS,
    UPGRADE,
    body,
    frame,
    join,
    open_packet,
    split_own,
)
from realizehit.transports.engineio.polling import Polling, PollingSession, answer, preflight, refuse
from realizehit.transports.guard import STATUS, Guard
from realizehit.transports.handover import adopt, rename
from realizehit.transports.handshake import last_response
from realizehit.transports.heads import Head
from realizehit.transports.intake import Intake
from realizehit.transports.session import Session

MIN_PAYLOAD: Final = 64 * 1024  # bytes of a POST's body that are taken at least: many small packets may come together
UPGRADE_TIMEOUT: Final = 10.0  # seconds for a WebSocket to take over from polling

_FRAMINGS: Final = {3: _fanout.ENGINEIO_3, 4: _fanout.ENGINEIO_4}
_SID_BYTES: Final = 15


class EngineIO:
    """All Engine.IO clients of a node: what becomes of their WebSockets, and the endpoint of their polling.

    Args:
        engine: owns the connections.
        session: is handed what their message packets carry.
        max_message: largest message that a client may send, in bytes.
        ping_interval: seconds between heartbeats, as the engine has it.
        ping_timeout: seconds that a client may stay silent after that, as the engine has it.
        draining: whether new sessions are to be turned away.
        guard: says who is let in; ``None`` for everybody.
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
    ) -> None:
        self._engine = engine
        self._gate = None if guard is None else guard.gate
        self._draining = draining
        self._max_message = max_message
        max_payload = max(4 * max_message, MIN_PAYLOAD)
        self._open_packet = partial(
            open_packet, ping_interval=ping_interval, ping_timeout=ping_timeout, max_payload=max_payload
        )
        self._sessions: dict[str, PollingSession] = {}
        self._packets = {revision: _Packets(engine, session, revision, self._change_over) for revision in REVISIONS}
        self._intakes = {
            revision: Intake(
                engine, packets, max_message=max_message, gone=partial(self._gone, packets), limited=self._limited
            )
            for revision, packets in self._packets.items()
        }
        self._polling = Polling(engine, self._take, max_payload=max_payload, limited=self._limited)

    @property
    def sessions(self) -> int:
        """How many clients poll now."""
        return len(self._sessions)

    def close(self) -> None:
        """End the sessions that poll, so that their requests come to an end."""
        for session in list(self._sessions.values()):
            session.close(CloseCode.GOING_AWAY)

    def _limited(self, reason: str) -> None:
        if self._gate is not None:
            self._gate.count(reason)

    # WebSockets:

    def refusal(self, transport: asyncio.BaseTransport, head: Head) -> bytes | None:
        """Return the response to a handshake that cannot be served, or ``None`` for one that can."""
        try:
            self._check(_Query.parse(head.query), transport, head)
        except Refused as refused:
            return last_response(400, "application/json", refused.body)
        except AccessDenied as error:
            return last_response(STATUS[ErrorCode(error.code)], "application/json", _denied(error).body)
        return None

    def _check(self, query: _Query, transport: asyncio.BaseTransport, head: Head) -> None:
        if query.transport != "websocket":
            raise Refused(EngineIOError.BAD_REQUEST, "a WebSocket handshake for another transport")
        if query.sid is None:
            return

        def check(gate: Gate, claimant: Claimant | None) -> None:
            gate.check_claimant(claimant, peer_of_transport(transport), head.headers, head.repeated, head.query)

        if self._session(query.sid, query.revision, check).probed:
            raise Refused(EngineIOError.BAD_REQUEST, "another WebSocket is taking over")

    def open(self, transport: asyncio.Transport, head: Head, response: bytes, rest: bytes) -> int:
        """Take over a connection whose handshake is accepted: a new session, or one that polled until now.

        Returns:
            The engine's handle.

        Raises:
            OSError: there is no descriptor left.
        """
        query = _Query.parse(head.query)
        take_over = partial(
            adopt, self._engine, transport, self._intakes[query.revision], framing=_FRAMINGS[query.revision]
        )
        if query.sid is None:
            return take_over(response + frame(self._open_packet(_new_sid(), upgrades=())), rest)
        session = self._sessions[query.sid]
        handle = take_over(response, rest)
        session.probed = True
        timer = asyncio.get_running_loop().call_later(
            UPGRADE_TIMEOUT, self._engine.disconnect, handle, CloseCode.PROTOCOL_ERROR, "the upgrade took too long"
        )
        self._packets[query.revision].probes[handle] = _Probe(session, transport, timer)
        return handle

    def _change_over(self, probe: _Probe, handle: int) -> None:
        session = probe.session
        waiting = b"".join(frame(packet) for packet in split_own(session.held.take(), session.revision))
        ours = session.held.handle
        try:
            if waiting:
                self._engine.send_bytes(handle, waiting)
            self._engine.splice(ours, handle)
        except (ValueError, OSError):  # the session has just ended, or there is no descriptor left
            session.close(CloseCode.INTERNAL_ERROR)
            self._engine.disconnect(handle, CloseCode.INTERNAL_ERROR, "the session is over")
            return
        if self._gate is not None:
            self._gate.left(handle)  # who it is was known before
        rename(probe.transport, ours)
        self._intakes[session.revision].moved(handle, ours)

    def _gone(self, packets: _Packets, handle: int) -> None:
        packets.gone(handle)
        if self._gate is not None:
            self._gate.left(handle)

    # Polling:

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; an ASGI application."""
        if scope["type"] != "http":
            raise RuntimeError(f"Engine.IO's polling is HTTP, not {scope['type']}")
        send = adding(send, cross_origin(headers_of(scope)[0], self._gate))
        if scope["method"] == "OPTIONS":
            await preflight(scope, send)
        elif not any(pair.startswith(b"EIO=") for pair in scope["query_string"].split(b"&")):
            self._not_upgraded(scope)
            more = [(b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-version", b"13")]
            text = problem(426, "connect with a WebSocket or an Engine.IO client", ErrorCode.BAD_REQUEST)
            await answer(scope, send, 426, text, media_type=b"application/problem+json", more=more)
        else:
            try:
                await self._serve(scope, receive, send)
            except Refused as refused:
                await refuse(scope, send, refused)
            except AccessDenied as error:
                wait = [] if error.retry_after is None else [(b"retry-after", b"%d" % ceil(error.retry_after))]
                await refuse(scope, send, _denied(error), status=STATUS[ErrorCode(error.code)], more=wait)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"]
        query = _Query.parse(scope["query_string"])
        if query.transport != "polling":
            self._not_upgraded(scope)
            raise Refused(EngineIOError.BAD_REQUEST, "the transport is websocket, and the request no handshake")
        if query.sid is not None:
            session = self._session(query.sid, query.revision, partial(check_claimant, scope))
            if method == "GET":
                await self._polling.get(session, scope, receive, send)
            elif method == "POST":
                await self._polling.post(session, scope, receive, send)
            else:
                raise Refused(EngineIOError.BAD_REQUEST, "a session has GET and POST")
        elif method != "GET":
            raise Refused(EngineIOError.BAD_HANDSHAKE_METHOD)
        elif self._draining():
            await refuse(scope, send, Refused(EngineIOError.FORBIDDEN, "this server is going away"), status=503)
        else:
            opening = None if self._gate is None else opening_of(scope, self._gate)
            gone = None if self._gate is None else self._gate.left
            claimant = Claimant() if self._gate is None else claimant_of(scope, self._gate)
            session = PollingSession(self._engine, _new_sid(), query.revision, claimant, closed=self._forget, gone=gone)
            self._sessions[session.sid] = session
            if self._gate is not None and opening is not None:
                self._gate.on_connected(session.held.handle, opening)
            payload = join([self._open_packet(session.sid, upgrades=("websocket",))], query.revision)
            await answer(scope, send, 200, body(payload, query.revision))

    def _not_upgraded(self, scope: Scope) -> None:
        if self._gate is not None:
            detail = "a WebSocket was asked for without an upgrade" if _wants_websocket(scope) else "a plain request"
            peer = peer_of(scope.get("client"))
            self._gate.count("bad_handshake", peer=peer, headers=headers_of(scope)[0], detail=detail)

    def _session(self, sid: str, revision: int, check: Callable[[Gate, Claimant | None], None]) -> PollingSession:
        """Return the session of a request; `check` raises where it is not the session of who asks."""
        session = self._sessions.get(sid)
        if self._gate is not None:
            # First, so that nobody else learns anything about the session.
            check(self._gate, None if session is None else session.claimant)
        if session is None:
            raise Refused(EngineIOError.UNKNOWN_SID)
        if session.revision != revision:
            raise Refused(EngineIOError.BAD_REQUEST, f"the session is one of EIO={session.revision}")
        return session

    def _forget(self, session: PollingSession) -> None:
        self._sessions.pop(session.sid, None)
        if not self._sessions:
            self._sessions.clear()  # which gives back the room that a crowd took

    def _take(self, session: PollingSession, packet: bytes) -> None:
        if len(packet) > self._max_message + 1:  # the packet's type is not counted
            self._limited("message_too_large")
            session.close(CloseCode.MESSAGE_TOO_BIG)
            return
        wrap = partial(_payload, revision=session.revision)
        self._packets[session.revision].take(session.held.handle, packet, wrap)


class _Query(NamedTuple):
    """What a request's query asks for."""

    revision: int
    transport: str
    sid: str | None

    @classmethod
    def parse(cls, text: bytes) -> _Query:
        """Read a query.

        Raises:
            Refused: it asks for something that is not served.
        """
        try:
            pairs: Mapping[str, str] = dict(parse_qsl(text.decode("ascii"), keep_blank_values=True, max_num_fields=32))
        except ValueError:
            raise Refused(EngineIOError.BAD_REQUEST, "the query cannot be read") from None
        transport = pairs.get("transport", "")
        if transport not in ("polling", "websocket"):
            raise Refused(EngineIOError.UNKNOWN_TRANSPORT)
        if pairs.get("EIO") not in ("3", "4"):
            raise Refused(EngineIOError.UNSUPPORTED_PROTOCOL_VERSION)
        if "j" in pairs:
            raise Refused(EngineIOError.BAD_REQUEST, "polling by script elements (j=) is not served")
        return cls(int(pairs["EIO"]), transport, pairs.get("sid"))


class _Probe:
    """A WebSocket that is to take over from polling.

    Args:
        session: the session that polls.
        transport: the WebSocket's connection, as it was given to the engine.
        timer: ends it when it takes too long.
    """

    def __init__(self, session: PollingSession, transport: asyncio.Transport, timer: asyncio.TimerHandle) -> None:
        self.session = session
        self.transport = transport
        self.timer = timer


class _Packets(Session):
    """What clients of one revision send: the messages go on, the other packets are acted on here.

    Args:
        engine: sends the answers.
        session: is handed the messages.
        revision: of the protocol.
        change_over: called with a probe and its handle when it takes over.

    Attributes:
        probes: the WebSockets that are to take over, by their handles.
    """

    accepts_binary = False

    def __init__(
        self,
        engine: _fanout.Engine,
        session: Session,
        revision: int,
        change_over: Callable[[_Probe, int], None],
    ) -> None:
        self._engine = engine
        self._session = session
        self._revision = revision
        self._change_over = change_over
        self.probes: dict[int, _Probe] = {}

    def receive(self, conn: int, data: bytes) -> None:
        """Take a packet that came over a WebSocket."""
        if data.startswith(MESSAGE) and conn not in self.probes:
            self._session.receive(conn, data[1:])
        elif conn in self.probes:
            if self._is_paid(conn):
                self._probe(conn, data)
        else:
            self.take(conn, data, frame)

    def receive_binary(self, conn: int, data: bytes) -> None:
        self._session.receive_binary(conn, data)

    def take(self, conn: int, packet: bytes, wrap: Callable[[bytes], bytes]) -> None:
        """Act on a packet; `wrap` makes an answer's packet fit for the connection."""
        kind, data = packet[:1], packet[1:]
        if kind == MESSAGE:
            self._session.receive(conn, data)  # which counts it
        elif not self._is_paid(conn):
            pass
        elif kind == PING and self._revision == 3:
            self._engine.send_bytes(conn, wrap(PONG + data))
        elif (kind == PONG and self._revision == 4) or kind == NOOP:
            pass  # that it came is all it says
        elif kind == CLOSE:
            self._engine.disconnect(conn, 1000)
        elif kind == BASE64:
            self._session.receive_binary(conn, data)
        else:
            self._engine.disconnect(
                conn, CloseCode.PROTOCOL_ERROR, f"no packet of Engine.IO {self._revision} that a client sends"
            )

    def _is_paid(self, conn: int) -> bool:
        """Count a packet that is no message; false where it is one too many, which may end the connection."""
        paid = self._engine.charge(conn)
        if paid == _fanout.HOPELESS:
            self._engine.disconnect(conn, CloseCode.FORBIDDEN, ErrorCode.RATE_LIMITED.value)
        return paid == _fanout.PAID

    def gone(self, conn: int) -> None:
        """Forget a connection."""
        probe = self.probes.pop(conn, None)
        if probe is not None:
            probe.timer.cancel()
            probe.session.probed = probe.session.upgrading = False

    def _probe(self, conn: int, data: bytes) -> None:
        probe = self.probes[conn]
        if data == PING + PROBE and not probe.session.upgrading:
            self._engine.send_bytes(conn, frame(PONG + PROBE))
            probe.session.upgrade()
        elif data == UPGRADE and probe.session.upgrading:
            probe.timer.cancel()
            del self.probes[conn]
            self._change_over(probe, conn)
        elif data != NOOP:
            self._engine.disconnect(conn, CloseCode.PROTOCOL_ERROR, "this is no upgrade")


def _payload(packet: bytes, revision: int) -> bytes:
    # The length that stands before a packet counts bytes or characters: what is no ASCII is not worth a dispute.
    return join([packet if packet.isascii() else packet[:1]], revision)


def _wants_websocket(scope: Scope) -> bool:
    """Whether a request was a WebSocket's handshake before a proxy took the upgrade out."""
    return b"sec-websocket-key" in dict(scope["headers"])


def _denied(error: AccessDenied) -> Refused:
    return Refused(EngineIOError.FORBIDDEN, f"{error} ({error.code})")


def _new_sid() -> str:
    return secrets.token_urlsafe(_SID_BYTES)
