"""Carries out what the gate decides: turns connections away, warns them, ends them, and takes subscriptions back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Final

from realizehit import _fanout
from realizehit.access.gate import Gate, Opening
from realizehit.access.peers import peer_of_transport
from realizehit.common.upkeep import Failures, keep_up
from realizehit.errors import AccessDenied, CloseCode, ErrorCode, SettingsError
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from realizehit.transports.handshake import refusal
from realizehit.transports.heads import Head

logger: Final = logging.getLogger(__name__)

SLICE: Final = 500  # connections dealt with in one turn of the loop where all are

STATUS: Final = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.NOT_AUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.TOO_MANY_CONNECTIONS: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""How an opening request is answered that is not let in."""


class Guard:
    """Stands between a node's transports and its gate.

    Args:
        engine: holds the connections.
        hub: holds their subscriptions.
        gate: decides.
    """

    def __init__(self, engine: _fanout.Engine, hub: Hub, gate: Gate) -> None:
        self.gate: Final = gate
        self._engine = engine
        self._hub = hub
        self.on_connected: Final = gate.on_connected
        self.left: Final = gate.left
        self.limited: Final = gate.count

    def arrived(self, transport: asyncio.BaseTransport) -> Callable[[], None] | bytes:
        """Count a connection that has said nothing yet.

        Returns:
            What is to be called once when it ends or is handed to the engine; or the response that turns it away.
        """
        if self.gate.addresses is None:
            return _nothing
        try:
            address = self.gate.arrive(peer_of_transport(transport))
        except AccessDenied as error:
            return refusal_of(error)
        return partial(self.gate.depart, address)

    def admit(self, transport: asyncio.BaseTransport, head: Head) -> Opening | bytes:
        """Decide about an opening request.

        Args:
            transport: the connection that it came on.
            head: the request.

        Returns:
            What `on_connected` is to be told with the connection's handle; or the whole response that says no.
        """
        try:
            return self.gate.open(peer_of_transport(transport), head.headers, head.repeated, head.query)
        except AccessDenied as error:
            return refusal_of(error)

    def tick(self) -> None:
        """Warn and end the connections whose time has come; to be called now and then."""
        warned, ended = self.gate.due()
        for conn in ended:  # first, so that no failure of a warning leaves one open
            self._engine.disconnect(conn, CloseCode.NOT_AUTHENTICATED, "the token has expired")
        for conn, seconds in warned:
            self._hub.events.send(conn, "expiring", seconds=max(1, round(seconds)))
        self.gate.tick()

    def reload(self) -> asyncio.Task[None] | None:
        """Read grants and keys anew, take back what is no longer granted, and end whose token's key is gone.

        Returns:
            The work that is left to do; ``None`` where the files are wrong, and all stays as it was.
        """
        try:
            self.gate.reload()
        except SettingsError as error:
            logger.error("nothing is reloaded: %s", error)  # noqa: TRY400 - the text says it all
            return None
        logger.info("grants and keys are reloaded")
        rechecking = keep_up("taking back what is no longer granted", self._recheck_all)
        return asyncio.create_task(rechecking, name="realizehit grants")

    def recheck(self, conn: int) -> int:
        """End the subscriptions that a connection may no longer have, and tell it which.

        Returns:
            How many they were.
        """
        ended = [
            _fanout.channel_id(channel)
            for channel in self._engine.subscriptions(conn)
            if not self.gate.may_subscribe(conn, channel) and self._hub.unsubscribe(conn, Channel(channel))
        ]
        if ended:
            self.gate.refusals["no_longer_granted"] += len(ended)
            self._hub.events.send(
                conn, "unsubscribed", ids=ended, code=ErrorCode.FORBIDDEN, reason="this is no longer granted"
            )
        return len(ended)

    async def _recheck_all(self) -> None:
        if not self.gate.restricts and not self.gate.takes_tokens:
            return
        ended = 0
        failures = Failures("deciding anew what a connection may have")
        for count, conn in enumerate(self._engine.handles(), 1):
            try:
                if self.gate.is_disproved(conn):
                    self.gate.count("key_replaced")
                    self._engine.disconnect(conn, CloseCode.NOT_AUTHENTICATED, "the key of the token was replaced")
                elif self.gate.restricts:
                    ended += self.recheck(conn)
            except Exception as error:  # noqa: BLE001 - the others are still to be looked at
                failures.note(error)
                # Nobody knows what it may still have: it ends, and is let in anew.
                self._engine.disconnect(conn, CloseCode.INTERNAL_ERROR, "its rights could not be decided anew")
            if count % SLICE == 0:
                await asyncio.sleep(0)
        if ended:
            logger.info("subscriptions that are no longer granted were ended: %d", ended)


def refusal_of(error: AccessDenied) -> bytes:
    """Return the response to an opening request that is not let in."""
    status = STATUS[ErrorCode(error.code)]
    more = [] if error.retry_after is None else [f"Retry-After: {ceil(error.retry_after)}"]
    if status is HTTPStatus.UNAUTHORIZED:
        more.append("WWW-Authenticate: Bearer")
    return refusal(status, str(error), error.code, *more)


def _nothing() -> None:
    """Release nothing."""
