"""Sends a fresh token on a connection before the token that it has expires."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realizehit.client.connection import Connection
from realizehit.client.token import Token, current, renewal_delay
from realizehit.common.backoff import Backoff
from realizehit.errors import ClientError, Disconnected, Rejected, ResponseTimeout, TokenUnavailable, Unavailable


class TokenRenewal:
    """Renews the token of a client's connection; one renewal runs at a time.

    Args:
        backoff: the delays between attempts.
        timeout: seconds for the server's answer.
        failed: called with the error of each attempt that failed.
    """

    def __init__(self, backoff: Backoff, timeout: float, failed: Callable[[ClientError], object]) -> None:
        self._backoff = backoff
        self._timeout = timeout
        self._failed = failed
        self._task: asyncio.Task[None] | None = None

    def start(self, connection: Connection, token: Callable[[], Token | None], seconds: float) -> None:
        """Renew the token of a connection, unless a renewal runs already.

        Args:
            connection: gets the new token.
            token: returns the client's setting. The renewal ends if that is not a function any more.
            seconds: how long the old token is still valid.
        """
        if self._task is None:
            self._backoff.reset()
            work = self._run(connection, token, renewal_delay(seconds))
            self._task = asyncio.create_task(work, name="realizehit client token")

    def stop(self) -> None:
        """Cancel the renewal that runs."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _run(self, connection: Connection, token: Callable[[], Token | None], delay: float) -> None:
        """Try until the server has accepted a fresh token or the connection is lost."""
        await asyncio.sleep(delay)
        while callable(setting := token()):
            try:
                await connection.request("auth", token=await current(setting), timeout=self._timeout)
            except Disconnected:
                break
            except (TokenUnavailable, Rejected, Unavailable, ResponseTimeout) as error:
                self._failed(error)
            except Exception as defect:  # noqa: BLE001 - nobody awaits this task, and the token still expires
                self._failed(ClientError(f"renewing the token failed: {defect!r}"))
            else:
                break
            await asyncio.sleep(self._backoff.next())
        self._task = None
