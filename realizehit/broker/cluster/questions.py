"""A connection to one machine of a cluster, for questions with their answers."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import hiredis

from realizehit.broker.resp import CommandConnection, pack
from realizehit.broker.url import Address
from realizehit.errors import BrokerRefused, BrokerUnavailable


class Questions:
    """One connection, made by the first question and again after it was lost.

    Args:
        address: of the machine.
        name: how the connection is called in the machine's ``CLIENT LIST``.
        seconds: for the answer, connecting included.

    Reentrancy: one question at a time.
    """

    def __init__(self, address: Address, name: str, seconds: float) -> None:
        self._address = address
        self._name = name
        self._seconds = seconds
        self._connection: CommandConnection | None = None
        self._replies: list[Any] = []
        self._answered: asyncio.Future[None] | None = None
        self._missing = 0

    async def ask(self, commands: list[tuple[bytes | str, ...]]) -> list[Any]:
        """Send commands, and return their replies; error replies are among them.

        Raises:
            BrokerRefused: the machine refuses the login, or its certificate is not accepted.
            BrokerUnavailable: it cannot be reached, or does not answer in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                connection = self._connection or await self._open()
                self._replies, self._missing = [], len(commands)
                self._answered = connection.loop.create_future()
                connection.write(b"".join(map(pack, commands)))
                await self._answered
                return self._replies
        except TimeoutError:
            self.close("no answer in time")
            raise BrokerUnavailable(f"{self._address}: no answer in time") from None
        except BaseException:
            self.close("given up")
            raise

    async def _open(self) -> CommandConnection:
        connection = CommandConnection(self, self._address.login(), self._name)
        try:
            await self._address.connect(lambda: connection)
            await connection.ready
        except BaseException as error:
            connection.drop("given up")
            if isinstance(error, ssl.SSLCertVerificationError):
                raise BrokerRefused(f"{self._address}: its certificate is not accepted: {error}") from None
            if isinstance(error, BrokerRefused):
                raise BrokerRefused(f"{self._address} refused the login: {self._address.scrub(str(error))}") from None
            if isinstance(error, OSError):
                raise BrokerUnavailable(f"{self._address}: {error}") from None
            raise
        self._connection = connection
        return connection

    def close(self, reason: str = "closed by this side") -> None:
        """End the connection; a further question makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop(reason)

    def replied(self, connection: CommandConnection, replies: list[Any]) -> None:
        """Take the replies of one read."""
        self._replies += replies
        if self._answered is not None and not self._answered.done() and len(self._replies) >= self._missing:
            self._answered.set_result(None)

    def lost(self, connection: CommandConnection, reason: str) -> None:
        """Fail the question that is under way."""
        if connection is self._connection:
            self._connection = None
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(BrokerUnavailable(f"{self._address}: {reason}"))


def is_error(reply: Any) -> bool:
    """Whether a reply is an error."""
    return isinstance(reply, hiredis.ReplyError)
