"""Carries out what the gate decides: refuses connections, warns and ends clients, and ends subscriptions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from math import ceil
from typing import Final

from realizehit import _fanout
from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.common.upkeep import Failures, keep_up
from realizehit.errors import AccessDenied, CloseCode, ErrorCode, SettingsError
from realizehit.node.hub import Hub
from realizehit.pattern import Channel
from realizehit.transports.handshake import refusal
from realizehit.transports.heads import Head

logger: Final = logging.getLogger(__name__)

SLICE: Final = 500  # connections handled in one turn of the event loop, where all connections are handled

STATUS: Final = {
    ErrorCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.NOT_AUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.TOO_MANY_CONNECTIONS: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of the response to an opening request that is refused, by the error's code."""


class Guard:
    """Connects a node's transports to its gate.

    Args:
        engine: holds the connections.
        hub: holds their subscriptions.
        gate: decides.

    Attributes:
        gate: as given.
    """

    def __init__(self, engine: _fanout.Engine, hub: Hub, gate: Gate) -> None:
        self.gate: Final = gate
        self._engine = engine
        self._hub = hub

    def count_connection(self, peer: Callable[[], str]) -> Callable[[], None] | bytes:
        """Count a new connection, before its first request.

        Args:
            peer: returns where it comes from; called only where connections are counted.

        Returns:
            A function to call once, when the connection ends or goes to the engine; or the response that refuses it.
        """
        clients = self.gate.clients
        if clients.addresses is None:
            return _nothing
        try:
            address = clients.count_connection(peer())
        except AccessDenied as error:
            return refusal_of(error)
        return partial(clients.release_connection, address)

    def admit(self, peer: str, head: Head) -> Opening | bytes:
        """Decide about an opening request.

        Args:
            peer: where the connection comes from.
            head: the request.

        Returns:
            What `on_connected` needs, with the connection's handle; or the whole response that refuses the request.
        """
        try:
            return self.gate.clients.open(peer, head.headers, head.repeated, head.query)
        except AccessDenied as error:
            return refusal_of(error)

    def on_connected(self, conn: int, opening: Opening) -> None:
        """Remember a client that `admit` let in."""
        self.gate.connected.on_connected(conn, opening)

    def on_disconnected(self, conn: int) -> None:
        """Forget a client."""
        self.gate.connected.on_disconnected(conn)

    def count_refusal(
        self,
        reason: str,
        *,
        peer: str | None = None,
        headers: Mapping[bytes, bytes] | None = None,
        detail: str = "",
    ) -> None:
        """Count and log a refusal, see `realizehit.access.refusals.Refusals.count`."""
        self.gate.refusals.count(reason, peer=peer, headers=headers, detail=detail)

    def tick(self) -> None:
        """Warn and end the clients whose tokens expire; to be called regularly."""
        warned, ended = self.gate.connected.due()
        for conn in ended:  # before the warnings, so that a failing warning keeps no client connected
            self._engine.disconnect(conn, CloseCode.NOT_AUTHENTICATED, "the token has expired")
        for conn, seconds in warned:
            self._hub.events.send(conn, "expiring", seconds=max(1, round(seconds)))
        self.gate.tick()

    def reload(self) -> asyncio.Task[None] | None:
        """Read grants and keys again, end subscriptions that are no longer granted and clients with a revoked key.

        Returns:
            The task that checks the clients; ``None`` where a file is wrong and nothing changed.
        """
        try:
            self.gate.reload()
        except SettingsError as error:
            logger.error("nothing is reloaded: %s", error)  # noqa: TRY400 - the error's text names the cause
            return None
        logger.info("grants and keys are reloaded")
        rechecking = keep_up("ending subscriptions that are no longer granted", self._recheck_all)
        return asyncio.create_task(rechecking, name="realizehit grants")

    def recheck(self, conn: int) -> int:
        """End the subscriptions that a client may no longer have, and tell the client which ones.

        Returns:
            How many were ended.
        """
        ended = [
            _fanout.channel_id(channel)
            for channel in self._engine.subscriptions(conn)
            if not self.gate.connected.may_subscribe(conn, channel) and self._hub.unsubscribe(conn, Channel(channel))
        ]
        if ended:
            self.gate.refusals.counts["no_longer_granted"] += len(ended)
            self._hub.events.send(
                conn, "unsubscribed", ids=ended, code=ErrorCode.FORBIDDEN, reason="this is no longer granted"
            )
        return len(ended)

    async def _recheck_all(self) -> None:
        clients = self.gate.connected
        if not clients.are_restricted and not clients.take_tokens:
            return
        ended = 0
        failures = Failures("checking what a client may have")
        for count, conn in enumerate(self._engine.handles(), 1):
            try:
                if clients.has_revoked_key(conn):
                    self.gate.refusals.count("key_replaced")
                    self._engine.disconnect(conn, CloseCode.NOT_AUTHENTICATED, "the key of the token was replaced")
                elif clients.are_restricted:
                    ended += self.recheck(conn)
            except Exception as error:  # noqa: BLE001 - the other clients must still be checked
                failures.note(error)
                # What this client may have is unknown, so it is closed; it can connect again.
                self._engine.disconnect(conn, CloseCode.INTERNAL_ERROR, "its rights could not be checked")
            if count % SLICE == 0:
                await asyncio.sleep(0)
        if ended:
            logger.info("subscriptions that are no longer granted were ended: %d", ended)


def refusal_of(error: AccessDenied) -> bytes:
    """Return the response to an opening request that is refused."""
    status = STATUS[ErrorCode(error.code)]
    more = [] if error.retry_after is None else [f"Retry-After: {ceil(error.retry_after)}"]
    if status is HTTPStatus.UNAUTHORIZED:
        more.append("WWW-Authenticate: Bearer")
    return refusal(status, str(error), error.code, *more)


def _nothing() -> None:
    """Release nothing."""
