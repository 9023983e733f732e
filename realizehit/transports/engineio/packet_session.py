"""What Engine.IO clients send, packet by packet: messages are passed on, all other packets are handled here.

Also the upgrade of a polling session: a second connection, a WebSocket, sends a probe and then takes the session over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realizehit import _fanout
from realizehit.errors import CloseCode, ErrorCode
from realizehit.transports.engineio.packets import (
    BASE64,
    CLOSE,
    MESSAGE,
    NOOP,
    PING,
    PONG,
    PROBE,
    UPGRADE,
    frame,
    join,
)
from realizehit.transports.engineio.polling import PollingSession
from realizehit.transports.session import Session


class Upgrade:
    """A WebSocket that is about to take over a polling session.

    Args:
        session: the polling session.
        transport: the WebSocket's connection, as it was given to the engine.
        timer: ends the WebSocket when the upgrade takes too long.
    """

    def __init__(self, session: PollingSession, transport: asyncio.Transport, timer: asyncio.TimerHandle) -> None:
        self.session = session
        self.transport = transport
        self.timer = timer


class PacketSession(Session):
    """Handles the packets of all clients of one revision.

    Args:
        engine: sends the answers.
        session: is given the messages.
        revision: of the protocol: 3 or 4.
        complete: called with an upgrade and its handle when the WebSocket takes over.

    Attributes:
        upgrades: the upgrades under way, by the handle of their WebSocket.
    """

    accepts_binary = False

    def __init__(
        self,
        engine: _fanout.Engine,
        session: Session,
        revision: int,
        complete: Callable[[Upgrade, int], None],
    ) -> None:
        self._engine = engine
        self._session = session
        self._revision = revision
        self._complete = complete
        self.upgrades: dict[int, Upgrade] = {}

    def receive(self, conn: int, data: bytes) -> None:
        """Handle a packet that came over a WebSocket."""
        if data.startswith(MESSAGE) and conn not in self.upgrades:
            self._session.receive(conn, data[1:])
        elif conn in self.upgrades:
            if self._is_within_rate(conn):
                self._continue_upgrade(conn, data)
        else:
            self.handle(conn, data, frame)

    def receive_binary(self, conn: int, data: bytes) -> None:
        self._session.receive_binary(conn, data)

    def handle(self, conn: int, packet: bytes, wrap: Callable[[bytes], bytes]) -> None:
        """Handle a packet.

        Args:
            conn: the engine's handle.
            packet: its type, one character, and its data.
            wrap: frames the packet of an answer for this connection.
        """
        kind, data = packet[:1], packet[1:]
        if kind == MESSAGE:
            self._session.receive(conn, data)  # the session counts it against the rate
        elif not self._is_within_rate(conn):
            pass
        elif kind == PING and self._revision == 3:
            self._engine.send_bytes(conn, wrap(PONG + data))
        elif (kind == PONG and self._revision == 4) or kind == NOOP:
            pass  # the engine has noted that the client is alive
        elif kind == CLOSE:
            self._engine.disconnect(conn, 1000)
        elif kind == BASE64:
            self._session.receive_binary(conn, data)
        else:
            self._engine.disconnect(
                conn, CloseCode.PROTOCOL_ERROR, f"a client of Engine.IO {self._revision} sends no such packet"
            )

    def on_disconnected(self, conn: int) -> None:
        """Forget a connection; where it was an upgrade, the session may be upgraded by another one."""
        upgrade = self.upgrades.pop(conn, None)
        if upgrade is not None:
            upgrade.timer.cancel()
            upgrade.session.probed = upgrade.session.upgrading = False

    def _is_within_rate(self, conn: int) -> bool:
        """Count a packet that is not a message against the rate limit; a client that keeps exceeding it is closed."""
        paid = self._engine.charge(conn)
        if paid == _fanout.HOPELESS:
            self._engine.disconnect(conn, CloseCode.FORBIDDEN, ErrorCode.RATE_LIMITED.value)
        return paid == _fanout.PAID

    def _continue_upgrade(self, conn: int, data: bytes) -> None:
        upgrade = self.upgrades[conn]
        if data == PING + PROBE and not upgrade.session.upgrading:
            self._engine.send_bytes(conn, frame(PONG + PROBE))
            upgrade.session.upgrade()
        elif data == UPGRADE and upgrade.session.upgrading:
            upgrade.timer.cancel()
            del self.upgrades[conn]
            self._complete(upgrade, conn)
        elif data != NOOP:
            self._engine.disconnect(conn, CloseCode.PROTOCOL_ERROR, "this packet is not part of an upgrade")


def as_payload(packet: bytes, revision: int) -> bytes:
    """Return a polling payload of one packet.

    Revision 3 puts a length before each packet, and outside ASCII clients differ in whether it counts bytes or
    characters. So only the type of such a packet is kept. This concerns only the data of a ping, sent back in a pong.
    """
    return join([packet if packet.isascii() else packet[:1]], revision)
