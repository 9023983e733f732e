"""The life of a WebSocket client: it connects, connects again when the connection is lost, and ends.

One task serves the connection and opens the next one (`Reconnecting`). `Topics` holds what the client is subscribed to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realizehit.client.connection import Connection, Lost
from realizehit.client.ownership import Owner
from realizehit.client.protocol import Notice
from realizehit.client.reconnecting import Handlers, Reconnecting
from realizehit.client.token_renewal import TokenRenewal
from realizehit.client.topics import Topics
from realizehit.common.backoff import Backoff
from realizehit.errors import ClientError


class Session:
    """Connects one client, and keeps it connected until it is closed or refused.

    Args:
        reconnecting: opens the connections.
        topics: what the client is subscribed to.
        renewal_backoff: the delays before asking for a token again.
        response_timeout: seconds for the reply to a new token.
        emit: called with the name and the values of each event of the client.

    Attributes:
        connection: the connection; ``None`` while there is none.
    """

    def __init__(
        self,
        reconnecting: Reconnecting,
        topics: Topics,
        renewal_backoff: Backoff,
        response_timeout: float,
        emit: Callable[..., None],
    ) -> None:
        self.connection: Connection | None = None
        self._reconnecting = reconnecting
        self._topics = topics
        self._emit = emit
        self._handlers = Handlers(
            self._on_connected, self._on_disconnected, self._on_failure, topics.deliver, self._on_event
        )
        self._renewal = TokenRenewal(renewal_backoff, response_timeout, self._on_failure)
        self._runner: asyncio.Task[None] | None = None
        self._opened = False
        self._owner: Owner | None = None
        self._ended: asyncio.Future[None] | None = None

    @property
    def closing(self) -> bool:
        """Whether the client is being closed, or was closed."""
        return self._reconnecting.closing

    async def connect(self) -> None:
        """Connect for the first time; see `WSClient.connect`."""
        if self._opened or self._reconnecting.closing:
            raise RuntimeError("a client connects once; make another one")
        self._opened = True
        self._owner = Owner("client")
        try:
            connection = await self._reconnecting.open()
        except BaseException:
            self._opened = False
            raise
        if self._reconnecting.closing:
            await connection.close()
            raise ClientError("the client was closed")
        self.connection = connection
        self._topics.attach(connection)
        self._ended = asyncio.get_running_loop().create_future()
        self._runner = asyncio.create_task(self._run(connection), name="realizehit client")

    async def close(self) -> None:
        """Disconnect, and end all subscriptions."""
        if self._owner is not None and self._owner.is_inherited:
            self._reconnecting.closing = True
            return  # the connection belongs to the process that this one was forked from
        if self._owner is not None:
            self._owner.check()
        self._reconnecting.closing = True
        if self._runner is None:
            return
        subscriptions = self._topics.members
        try:
            if self.connection is not None:
                await self.connection.close()
                await asyncio.wait({self._runner}, timeout=1.0)  # it ends by itself
        finally:
            self._runner.cancel()
        await asyncio.wait({self._runner})
        callbacks = [task for each in subscriptions if (task := each.stop_callbacks()) is not None]
        if callbacks:
            await asyncio.wait(callbacks)

    async def wait_closed(self) -> None:
        """Wait until the client has ended; raise the error for which it ended."""
        if self._ended is None or self._owner is None:
            raise RuntimeError("the client is not connected")
        self._owner.check()
        await asyncio.shield(self._ended)

    def check_open(self) -> None:
        """Check that the client can be used.

        Raises:
            ClientError: it is closed or not connected yet; or the error for which it ended.
        """
        if self._reconnecting.closing:
            raise ClientError("the client is closed")
        if self._ended is None:
            raise ClientError("the client is not connected; use `async with` or `connect`")
        if self._owner is not None:
            self._owner.check()
        if self._ended.done():
            error = self._ended.exception()
            assert error is not None
            raise error

    async def _run(self, connection: Connection) -> None:
        error: ClientError | None = None
        try:
            error = await self._reconnecting.serve(connection, self._handlers)
        finally:
            self._finish(error)

    def _on_event(self, event: Notice) -> None:
        if event.name == "note":
            self._emit("note", event.note)
            return
        if event.name != "expiring":
            self._topics.notice(event)
            return
        self._emit("expiring", event.seconds)
        if callable(self._reconnecting.token) and self.connection is not None:
            self._renewal.start(self.connection, lambda: self._reconnecting.token, event.seconds)

    def _on_connected(self, connection: Connection) -> None:
        if self.connection is None:
            self.connection = connection
            self._topics.attach(connection)
        self._emit("connected")

    def _on_disconnected(self, connection: Connection, lost: Lost) -> None:
        self.connection = None
        self._renewal.stop()
        if not self._reconnecting.closing:
            self._topics.detach(connection.last_heard)
        self._emit("disconnect", lost)

    def _on_failure(self, error: ClientError) -> None:
        self._emit("error", error)

    def _finish(self, error: ClientError | None) -> None:
        """End everything, with an error or because the client was closed."""
        self.connection = None
        self._renewal.stop()
        self._topics.end(error)
        assert self._ended is not None
        if error is None:
            self._ended.set_result(None)
            return
        self._ended.set_exception(error)
        self._ended.exception()  # mark it as retrieved: the event and the subscriptions report it
        self._emit("error", error)
