"""A connection of the engine whose bytes are fetched: by polling requests, or by a task that writes them elsewhere.

The engine sees a transport that is not ready to write, so its queue and its bounds hold what is sent to the client. The
transport becomes ready only while a reader waits and the queue is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realizehit import _fanout


class BufferedConnection:
    """One such connection: its handler and its transport in one.

    Args:
        engine: keeps the connection.
        framing: how messages look in its bytes.
        on_closed: called once when nothing is left to fetch, or when the connection continues on another transport.
        on_disconnected: called with the handle when the connection has ended; not when it continues elsewhere.

    Attributes:
        handle: the engine's handle.
        ended: whether the connection has left the engine's registry; its last bytes can still be fetched.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        framing: int,
        *,
        on_closed: Callable[[], None],
        on_disconnected: Callable[[int], None] | None = None,
    ) -> None:
        self.ended = False
        self._engine = engine
        self._on_closed: Callable[[], None] | None = on_closed
        self._on_disconnected = on_disconnected
        self._rest = b""
        self._waiter: asyncio.Future[None] | None = None
        self.handle = engine.attach(self, self, framing=framing)
        engine.pause(self.handle)

    @property
    def waiting(self) -> bool:
        """Whether a reader waits for bytes."""
        return self._waiter is not None

    def take(self) -> bytes:
        """Return the bytes that are there, and remove them from the queue."""
        data = self._rest + self._engine.take(self.handle)
        self._rest = b""
        if self.ended:
            self._engine.lost(self.handle)
        return data

    async def wait(self, seconds: float | None = None) -> bytes:
        """Return bytes as soon as there are some; no bytes at the end, or when the seconds are over."""
        data = self.take()
        if data or self.ended:
            return data
        self._waiter = asyncio.get_running_loop().create_future()
        self._engine.resume(self.handle)
        try:
            await asyncio.wait((self._waiter,), timeout=seconds)
        finally:
            self._waiter = None
            self._engine.pause(self.handle)
        return self.take()

    def wake(self) -> None:
        """Let the waiting reader go on without bytes."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self) -> None:
        """End the connection at once."""
        self._engine.lost(self.handle)

    # What the engine calls:

    def write(self, data: bytes) -> None:
        """Accept bytes from the engine for the waiting reader."""
        self._rest += data
        self._engine.pause(self.handle)
        self.wake()

    def close(self) -> None:
        """Detach from the connection: it has ended, or continues on another transport."""
        self.handle = 0  # the handle of no connection; the old one may stay in use on another transport
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()

    def abort(self) -> None:
        """Detach from the connection: its bytes are lost."""
        self.close()

    def on_text(self, handle: int, data: bytes) -> None:
        """Ignore: nothing is read from this connection."""

    def on_binary(self, handle: int, data: bytes) -> None:
        """Ignore: nothing is read from this connection."""

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Ignore: nothing is read from this connection."""

    def on_gone(self, handle: int) -> None:
        """Note that the connection has left the engine's registry."""
        self.ended = True
        if self._on_disconnected is not None:
            self._on_disconnected(handle)
        self.wake()
