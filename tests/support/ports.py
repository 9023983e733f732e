"""Free ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Container

LASTING = range(20_000, 32_000)  # below those that systems give to outgoing connections

_random = random.SystemRandom()  # so that processes side by side do not choose the same


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lasting_port(taken: Container[int]) -> int:
    """Return a loopback port that is free now, and that no outgoing connection takes while its server restarts.

    Args:
        taken: ports that were chosen before and that nobody listens on yet.
    """
    while True:
        port = _random.choice(LASTING)
        if port not in taken:
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            return port
