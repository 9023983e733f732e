"""The connection for publishing: made when it is needed, and made again after it was lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from realizehit.broker.publish_errors import PublishErrors
from realizehit.broker.resp import CommandConnection, Owner
from realizehit.common.causes import reason_of
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, BrokerRefused


class Broker(Protocol):
    """Where to publish and how to get in; its ``str`` is for people and holds no secret."""

    def login(self) -> list[str]:
        """Return the arguments of AUTH, an empty list for none."""

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        """Open one connection and return where it leads; an `OSError` says that the broker cannot be reached."""

    def scrub(self, text: str) -> str:
        """Return a text of the broker's without secrets."""


class ConnectionUser(Owner, Protocol):
    """What uses the connection. It is told of replies and of the end, as `Owner` says."""

    async def prepare(self, connection: CommandConnection) -> BrokerError | None:
        """Say what has to be said on a new connection before anything is published; return why that failed."""

    def connected(self, connection: CommandConnection) -> None:
        """Learn that a connection is ready."""

    def failed(self, error: BrokerError) -> None:
        """Learn that no connection could be made."""


class ConnectionKeeper:
    """Keeps one connection.

    Args:
        broker: where to connect.
        user: what uses the connection.
        errors: builds the errors.
        timeout: seconds for connecting and logging in.
        name: how the connection is called in the broker's ``CLIENT LIST``.

    Attributes:
        connection: only while it is ready.
        connects: how often a connection was made.
    """

    def __init__(
        self, broker: Broker, user: ConnectionUser, errors: PublishErrors, *, timeout: float, name: str
    ) -> None:
        self.connection: CommandConnection | None = None
        self.connects = 0
        self._broker = broker
        self._user = user
        self._errors = errors
        self._timeout = timeout
        self._name = name
        self._connecting: asyncio.Task[None] | None = None
        self._place = ""  # where the connection leads
        self._defects = Failures("the connection for publishing")

    def connect(self) -> None:
        """Begin to connect, unless that is under way."""
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), name="realizehit publisher")

    def take(self) -> CommandConnection | None:
        """Return the connection, which is no longer used."""
        connection, self.connection = self.connection, None
        return connection

    def leads_elsewhere(self, place: str) -> bool:
        """Whether there is a connection, and not to this place."""
        return self.connection is not None and self._place != place

    async def stop_connecting(self) -> None:
        """End an attempt that is under way."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})

    async def _connect(self) -> None:
        connection = CommandConnection(self._user, self._broker.login(), self._name)
        try:
            failure = await self._open(connection)
        except BaseException:
            connection.drop("given up")
            raise
        finally:
            self._connecting = None
        if failure is None and connection.closed.done():
            failure = self._errors.lost(connection.closed.result())
        if failure is None:
            self.connects += 1
            self.connection = connection
            self._user.connected(connection)
        else:
            connection.drop("given up")
            self._user.failed(failure)

    async def _open(self, connection: CommandConnection) -> BrokerError | None:
        try:
            async with asyncio.timeout(self._timeout):
                self._place = await self._broker.connect(lambda: connection)
                await connection.ready
                return await self._user.prepare(connection)
        except TimeoutError:
            return self._errors.late()
        except ssl.SSLCertVerificationError as error:
            return self._errors.bad_certificate(error)
        except BrokerRefused as error:
            return self._errors.no_login(error)
        except OSError as error:  # BrokerUnavailable is one
            return self._errors.lost(reason_of(error))
        except Exception as error:  # noqa: BLE001 - no caller awaits this task: what waits for the connection has to fail
            self._defects.note(error)
            return self._errors.unavailable(f"connecting failed: {type(error).__name__}")
