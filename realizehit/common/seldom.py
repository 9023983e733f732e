"""Few lines of a kind: the one mechanism that bounds what strangers, defects and outages can write into a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LOG_INTERVAL: Final = 10.0
"""Seconds between two lines of a kind that a stranger or an outage can cause."""

REMINDER: Final = 60.0
"""Seconds between two lines about a trouble that lasts."""


class Seldom:
    """Decides which lines of a kind are written: one, then none for a while; those left out are counted.

    It bounds what strangers and outages can write into a log, whose lines would fill a disk otherwise.

    Args:
        interval: seconds between two lines of a kind.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        # By kind, of which there are few: when the next line may be written, and how many were left out since the last.
        self._kinds: dict[str, tuple[float, int]] = {}

    def passes(self, kind: str) -> int | None:
        """Ask for one line.

        Returns:
            How many were left out since the last line of this kind; ``None`` where this one is left out too.
        """
        now = self._clock()
        quiet_until, left_out = self._kinds.get(kind, (now, 0))
        if now < quiet_until:
            self._kinds[kind] = (quiet_until, left_out + 1)
            return None
        self._kinds[kind] = (now + self._interval, 0)
        return left_out

    def overdue(self) -> list[tuple[str, int]]:
        """Return the kinds whose time is over, with how many of their lines were left out, for a line about these."""
        now = self._clock()
        found = [
            (kind, left_out) for kind, (quiet_until, left_out) in self._kinds.items() if left_out and now >= quiet_until
        ]
        for kind, _ in found:
            self._kinds[kind] = (now + self._interval, 0)
        return found


def more(left_out: int) -> str:
    """Return the words, with a space before them, that say how many lines were left out; none for 0."""
    return f" ({left_out} more like this since the last line)" if left_out else ""
