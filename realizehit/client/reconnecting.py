"""Keeps a WebSocket client connected: serves one connection after another until the server refuses the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from realizehit.client.connection import Connection, Lost, open_connection
from realizehit.client.protocol import Notice
from realizehit.client.reconnect_rules import STABLE_AFTER, asked_delay, may_return, may_try_again
from realizehit.client.token import Token, current, with_token
from realizehit.common.backoff import Backoff
from realizehit.errors import ClientError, Rejected, TokenUnavailable, Unavailable


class Handlers(NamedTuple):
    """The functions that `Reconnecting` calls.

    Attributes:
        connected: there is a connection, the first one or a new one.
        disconnected: a connection is lost.
        attempt_failed: an attempt to connect again failed; another one follows.
        deliver: a payload came; see `Connection.serve`.
        event: the server sent an event.
    """

    connected: Callable[[Connection], object]
    disconnected: Callable[[Connection, Lost], object]
    attempt_failed: Callable[[ClientError], object]
    deliver: Callable[[bytes, bytes], bool | None]
    event: Callable[[Notice], object]


class Reconnecting:
    """Opens the connections of one client, and serves them.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: sent with each opening handshake.
        token: the client's token, or a function that returns a fresh one.
        backoff: the delays between attempts.
        options: of the library's ``connect``.

    Attributes:
        token: as given; it may change, and counts for later connections.
        closing: whether the client is being closed; set it before closing the connection.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        token: Token | None,
        backoff: Backoff,
        options: Mapping[str, Any],
    ) -> None:
        self.token = token
        self.closing = False
        self._url = url
        self._headers = headers
        self._backoff = backoff
        self._options = options

    async def open(self) -> Connection:
        """Connect once.

        Raises:
            Unavailable, Rejected, SettingsError: as `open_connection`.
            TokenUnavailable: the function that gives tokens failed.
        """
        headers = self._headers if self.token is None else with_token(self._headers, await current(self.token))
        return await open_connection(self._url, additional_headers=headers, **self._options)

    async def serve(self, connection: Connection, handlers: Handlers) -> ClientError | None:
        """Serve a connection, and each one that follows it.

        Returns:
            ``None`` after `closing` was set; otherwise the error for which the client cannot go on.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                handlers.connected(connection)
                lost = await connection.serve(handlers.deliver, handlers.event)
                if loop.time() - began >= STABLE_AFTER:
                    self._backoff.reset()
                handlers.disconnected(connection, lost)
                if not may_return(lost.close_code, self.token):
                    return lost
                if self.closing:
                    return None
                delay = asked_delay(lost.close_code, lost.reason)
                connection = await self._open_again(self._backoff.next() if delay is None else delay, handlers)
        except Rejected as refused:
            return refused
        except Exception as defect:  # noqa: BLE001 - those who wait for the client must learn of it
            error = ClientError(f"the client failed: {defect!r}")
            error.__cause__ = defect
            return error

    async def _open_again(self, delay: float, handlers: Handlers) -> Connection:
        while True:
            await asyncio.sleep(delay)
            try:
                return await self.open()
            except (Rejected, Unavailable, TokenUnavailable) as error:
                if not may_try_again(error):
                    raise
                handlers.attempt_failed(error)
            delay = self._backoff.next()
