"""Finds out in time that an idle connection is dead, such as one that a router has forgotten.

A connection with nothing under way is probed with a PING. Until that is answered nothing else is sent, so that no
message is lost on a dead connection: it waits, and goes over the next one.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from realizehit.broker.chunks import Chunk
from realizehit.broker.deadlines import LAST_LOOK
from realizehit.broker.resp import CommandConnection
from realizehit.common.upkeep import Failures

PROBE_AFTER: Final = 1.0  # seconds; also what keeps a router from forgetting a connection that nothing is published on
PROBE_TIMEOUT: Final = 1.0  # seconds; little, since a connection with nothing under way is given up without a loss


class Probed(Protocol):
    """Whose connection is probed."""

    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits."""

    def send_probe(self, connection: CommandConnection) -> Chunk:
        """Send a PING."""

    def give_up(self, connection: CommandConnection, reason: str) -> None:
        """End a connection that did not answer the probe."""


class IdleProbe:
    """Probes a connection while it is idle.

    Args:
        probed: whose connection it is.
        after: seconds without a reply after which an idle connection is probed.
        timeout: seconds for the answer.

    Attributes:
        under_way: the PING that is not answered yet; whose connection it is sets it to ``None`` at the answer.
        last_reply: time of the loop at which the last reply came.
    """

    def __init__(self, probed: Probed, after: float, timeout: float) -> None:
        self.under_way: Chunk | None = None
        self.last_reply = 0.0
        self._probed = probed
        self._after = after
        self._timeout = timeout
        self._connection: CommandConnection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._defects = Failures("the probe of the connection for publishing")

    def start(self, connection: CommandConnection) -> None:
        """Watch a new connection."""
        self._connection = connection
        self.last_reply = connection.loop.time()
        self._timer = connection.loop.call_later(self._after, self._watch)

    def stop(self) -> None:
        """Watch no more."""
        self._connection = self.under_way = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            self._look(connection)
        except Exception as error:  # noqa: BLE001 - a new connection has a probe again
            self._defects.note(error)
            connection.drop(f"the probe failed: {error!r}")

    def _look(self, connection: CommandConnection) -> None:
        loop = connection.loop
        if self.under_way is not None:
            self._timer = loop.call_later(LAST_LOOK, self._judge, self.under_way)
            return
        due = self.last_reply + self._after
        if loop.time() < due or not self._probed.is_idle():
            # What is under way has a time of its own, and its replies tell as much.
            self._timer = loop.call_at(max(due, loop.time() + self._after / 2), self._watch)
            return
        self.under_way = self._probed.send_probe(connection)
        self._timer = loop.call_later(self._timeout, self._watch)

    def _judge(self, probe: Chunk) -> None:
        if self.under_way is not probe:
            self._watch()
        elif self._connection is not None:
            self._probed.give_up(self._connection, f"no answer to a PING within {self._timeout:g} seconds")
