"""Room for one more connection: what happens when a process has as many files open as it may.

The event loop drops what it cannot accept without a word, so the last few descriptors are kept: whoever gets one of
them is told to come back later, and the log says why. They are also what the broker's connections are made with.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
from typing import Final

from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import ErrorCode
from realizehit.transports.handshake import refusal

logger: Final = logging.getLogger(__name__)

RESERVE: Final = 16  # descriptors that no client gets

NO_ROOM: Final = refusal(503, "no room for another connection", ErrorCode.TOO_MANY_CONNECTIONS, "Retry-After: 5")
"""The response to whom there is no room for."""


class Room:
    """Refuses connections while there is no room, and says so in the log, now and then."""

    def __init__(self) -> None:
        self._seldom = Seldom(LOG_INTERVAL)

    def is_full(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a connection got one of the last descriptors; it is to be refused then, and that is noted.

        Descriptors are given out from the lowest on, so a high number says that nearly all are in use.

        Cost: one system call.
        """
        sock = transport.get_extra_info("socket")
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        full = sock is not None and limit != resource.RLIM_INFINITY and sock.fileno() >= max(limit - RESERVE, 1)
        if full:
            self.refused(os.strerror(errno.EMFILE))
        return full

    def refused(self, reason: str) -> None:
        """Note that a connection was refused."""
        left_out = self._seldom.passes("refused")
        if left_out is not None:
            text = "a connection was refused: %s; raise the limit of open files, or start more workers%s"
            logger.error(text, reason, more(left_out))
