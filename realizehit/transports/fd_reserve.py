"""File descriptors in reserve: what happens when a process reaches its limit of open files.

The event loop silently drops connections that it cannot accept. So the last few descriptors are reserved: a client that
gets one of them is told to come back later, and the log says why. Connections to the broker use the reserve too.
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

RESERVE: Final = 16  # descriptors that are not for clients

NO_DESCRIPTOR: Final = refusal(503, "no room for another connection", ErrorCode.TOO_MANY_CONNECTIONS, "Retry-After: 5")
"""The response to a client for which no descriptor is left."""


class FdReserve:
    """Tells which connections to refuse because descriptors run out, and logs that at a bounded rate."""

    def __init__(self) -> None:
        self._seldom = Seldom(LOG_INTERVAL)

    def is_exhausted(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a connection got one of the reserved descriptors and must be refused; a refusal is logged.

        The lowest free descriptor is always used first, so a high number means that nearly all are in use.

        Cost: one system call.
        """
        sock = transport.get_extra_info("socket")
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        full = sock is not None and limit != resource.RLIM_INFINITY and sock.fileno() >= max(limit - RESERVE, 1)
        if full:
            self.log_refusal(os.strerror(errno.EMFILE))
        return full

    def log_refusal(self, reason: str) -> None:
        """Log that a connection was refused."""
        left_out = self._seldom.passes("refused")
        if left_out is not None:
            text = "a connection was refused: %s; raise the limit of open files, or start more workers%s"
            logger.error(text, reason, more(left_out))
