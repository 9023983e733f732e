"""Bounds how many log lines of a kind strangers, defects and outages can cause."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LOG_INTERVAL: Final = 10.0
"""Seconds between two lines of a kind that a stranger or an outage can cause."""

REMINDER: Final = 60.0
"""Seconds between two lines about a lasting problem."""


class Seldom:
    """Decides which log lines of a kind are written: one, then none for an interval; it counts those left out.

    Without a bound, strangers and outages could fill a disk with log lines.

    Args:
        interval: seconds between two lines of a kind.
        clock: returns seconds of a monotonic clock.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        # By kind, of which there are few: when the next line may be written, and how many were left out since the last.
        self._kinds: dict[str, tuple[float, int]] = {}

    def passes(self, kind: str) -> int | None:
        """Ask whether to write one line.

        Returns:
            How many were left out since the last line of this kind; ``None`` if this one is left out too.
        """
        now = self._clock()
        quiet_until, left_out = self._kinds.get(kind, (now, 0))
        if now < quiet_until:
            self._kinds[kind] = (quiet_until, left_out + 1)
            return None
        self._kinds[kind] = (now + self._interval, 0)
        return left_out

    def overdue(self) -> list[tuple[str, int]]:
        """Return the kinds whose interval is over, and how many of their lines were left out, to log that number."""
        now = self._clock()
        found = [
            (kind, left_out) for kind, (quiet_until, left_out) in self._kinds.items() if left_out and now >= quiet_until
        ]
        for kind, _ in found:
            self._kinds[kind] = (now + self._interval, 0)
        return found


def more(left_out: int) -> str:
    """Return `` (3 more like this since the last line)``, or an empty text for 0."""
    return f" ({left_out} more like this since the last line)" if left_out else ""
