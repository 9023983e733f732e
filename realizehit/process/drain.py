"""Sends the clients of a node away: spread evenly over some seconds, or all together.

Each client is closed with 4001 and a delay of its own in the reason, so that they do not reconnect all at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

from realizehit import _fanout
from realizehit.errors import CloseCode
from realizehit.node.hub import Hub
from realizehit.transports.guard import SLICE
from realizehit.transports.session import DRAIN_REASON
from realizehit.transports.sse_responses import RETRY

logger: Final = logging.getLogger(__name__)

CLOSE_TIMEOUT: Final = 5.0  # seconds for a client to end the connection after the server's close frame
LEAVE_TIMEOUT: Final = 0.5  # seconds for the same where the node has to be gone at once
DRAIN_STEP: Final = 0.05  # seconds between two groups of clients that are sent away, at least


class Drain:
    """Sends the clients of one node away.

    Args:
        engine: holds the connections.
        hub: tells clients what they may have missed, and event streams, which have no close frame, when to come back.
        seconds: over which the clients are spread.
    """

    def __init__(self, engine: _fanout.Engine, hub: Hub, seconds: float) -> None:
        self._engine = engine
        self._hub = hub
        self._events = hub.events
        self._seconds = seconds

    async def spread(self) -> None:
        """Send all clients away, spread evenly over the time, and wait until they have left.

        Event streams end last. An ``EventSource`` that came back sooner would find this server; and it waits for its
        ``retry:`` again after each attempt that fails, as while another server starts in this one's place, so that
        this is to be short.
        """
        loop = asyncio.get_running_loop()
        handles = self._engine.handles()
        streams = [handle for handle in handles if handle in self._events.named]
        if handles:
            logger.info("draining: %d clients over %g s", len(handles), self._seconds)
        handles = [handle for handle in handles if handle not in self._events.named]
        random.shuffle(handles)
        steps = min(max(1, round(self._seconds / DRAIN_STEP)), len(handles))
        began = loop.time()
        for step in range(steps):
            await asyncio.sleep(0)  # however late it is, others have their turn
            due = began + self._seconds * step / steps
            while (left := due - loop.time()) > 0 and self._engine.stats()["connections"]:
                await asyncio.sleep(min(left, DRAIN_STEP))
            for handle in handles[step::steps]:
                self._send_away(handle, self._random_delay())
        for count, handle in enumerate(streams, 1):
            self._send_away(handle, self._random_delay())
            if count % SLICE == 0:
                await asyncio.sleep(0)
        # Clients that connected in the meantime, and those whose close frame has yet to go out.
        for handle in self._engine.handles():
            self._send_away(handle, 0)
        await self._closed_within(CLOSE_TIMEOUT)

    async def at_once(self) -> None:
        """Send all clients away together, and give them `LEAVE_TIMEOUT` to leave.

        Each is told a delay of its own all the same, so that they come back spread over the time.
        """
        for handle in self._engine.handles():
            self._send_away(handle, self._random_delay())
        await self._closed_within(LEAVE_TIMEOUT)

    async def _closed_within(self, seconds: float) -> None:
        """Wait until the clients that were sent away have closed their connections, or the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._engine.stats()["closing"] and loop.time() < deadline:
            await asyncio.sleep(DRAIN_STEP / 5)

    def _random_delay(self) -> int:
        """Return milliseconds after which one of many clients is to come back."""
        return random.randint(0, max(1000, round(self._seconds * 1000)))  # noqa: S311 - no secret

    def _send_away(self, handle: int, delay: int) -> None:
        self._hub.tell_up_to_now(handle)
        if handle in self._events.named:  # an event stream has no close frame to carry a reason
            self._events.send(handle, "drain", retry=RETRY + delay // 5, delay=delay)
        self._engine.disconnect(handle, CloseCode.DRAIN, DRAIN_REASON.format(milliseconds=delay))
