"""When the identities of clients end: one heap for all connections instead of a timer for each."""

from __future__ import annotations

import time
from heapq import heapify, heappop, heappush
from typing import Final

_SLACK: Final = 64  # stale entries with which the heap may stay as it is


def monotonic_end(expires: float, now: float) -> float:
    """Return when a token ends, on a monotonic clock, so that setting the machine's time moves no end.

    Args:
        expires: seconds since the epoch, as the token says.
        now: seconds of the monotonic clock.
    """
    return now + expires - time.time()


class Deadlines:
    """When each connection must be warned, and when it must be closed.

    Args:
        warning: seconds between warning and end.
    """

    def __init__(self, warning: float) -> None:
        self._warning = warning
        self._ends: dict[int, float] = {}
        self._heap: list[tuple[float, float, int]] = []  # when to look, the end, the connection

    def __len__(self) -> int:
        return len(self._ends)

    def set(self, conn: int, end: float, now: float) -> None:
        """Set the end of a connection, in place of an earlier one."""
        self._ends[conn] = end
        # A connection whose end is closer than the warning is warned at once.
        heappush(self._heap, (max(now, end - self._warning), end, conn))
        # A renewal leaves a stale entry behind; a client that renews all the time must not fill the memory.
        if len(self._heap) > 2 * len(self._ends) + _SLACK:
            self._heap = [entry for entry in self._heap if self._ends.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def clear(self, conn: int) -> None:
        """Remove the end of a connection, if it has one."""
        self._ends.pop(conn, None)

    def due(self, now: float) -> tuple[list[tuple[int, float]], list[int]]:
        """Return the connections to warn, with the seconds left, and those to end; each is returned once."""
        warned: list[tuple[int, float]] = []
        ended: list[int] = []
        while self._heap and self._heap[0][0] <= now:
            _, end, conn = heappop(self._heap)
            if self._ends.get(conn) != end:
                continue
            if end <= now:
                del self._ends[conn]
                ended.append(conn)
            else:
                warned.append((conn, end - now))
                heappush(self._heap, (end, end, conn))
        return warned, ended
