"""A connection of the engine whose bytes are fetched: by polling requests, or by a task that writes them elsewhere.

For the engine it is a transport that is not ready, so that what is sent to it waits there, within the engine's bounds;
it is made ready only while somebody waits for bytes and there are none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realizehit import _fanout


class Held:
    """One such connection: its handler and its transport in one.

    Args:
        engine: keeps the connection.
        framing: how messages look in its bytes.
        closed: called once when there is nothing to fetch any more, or when the connection goes on elsewhere.
        gone: told the handle when the connection has ended; not where it goes on elsewhere.

    Attributes:
        handle: the engine's handle.
        ended: whether the connection has left the engine's registry; its last bytes can still be fetched.
    """

    def __init__(
        self,
        engine: _fanout.Engine,
        framing: int,
        *,
        closed: Callable[[], None],
        gone: Callable[[int], None] | None = None,
    ) -> None:
        self.ended = False
        self._engine = engine
        self._closed: Callable[[], None] | None = closed
        self._gone = gone
        self._rest = b""
        self._waiter: asyncio.Future[None] | None = None
        self.handle = engine.attach(self, self, framing=framing)
        engine.pause(self.handle)

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for bytes."""
        return self._waiter is not None

    def take(self) -> bytes:
        """Return what there is, and keep nothing of it."""
        data = self._rest + self._engine.take(self.handle)
        self._rest = b""
        if self.ended:
            self._engine.lost(self.handle)
        return data

    async def wait(self, seconds: float | None = None) -> bytes:
        """Return what there is as soon as there is something; nothing at the end, or when the time is over."""
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
        """Let who waits for bytes go on without any."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def drop(self) -> None:
        """End the connection at once."""
        self._engine.lost(self.handle)

    # What the engine calls:

    def write(self, data: bytes) -> None:
        """Keep what could not wait in the engine, as somebody waits for it."""
        self._rest += data
        self._engine.pause(self.handle)
        self.wake()

    def close(self) -> None:
        """Let go of the connection: it is over, or goes on elsewhere."""
        self.handle = 0  # no connection has this one; the old one may go on over another transport
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()

    abort = close

    def on_text(self, handle: int, data: bytes) -> None:
        """Take no notice: nothing comes in here."""

    on_binary = on_bytes = on_text

    def on_gone(self, handle: int) -> None:
        """Learn that the connection has left the registry."""
        self.ended = True
        if self._gone is not None:
            self._gone(handle)
        self.wake()
