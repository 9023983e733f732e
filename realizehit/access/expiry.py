"""When identities end: one heap for all connections instead of a timer for each."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

_SLACK: Final = 64  # entries that may be stale before the heap is made anew


class Deadlines:
    """Connections and the time at which each has to be warned, and then ended.

    Args:
        warning: seconds between the two.
    """

    def __init__(self, warning: float) -> None:
        self._warning = warning
        self._ends: dict[int, float] = {}
        self._heap: list[tuple[float, float, int]] = []  # when, the end that it belongs to, whose

    def __len__(self) -> int:
        return len(self._ends)

    def set(self, conn: int, end: float, now: float) -> None:
        """Give a connection an end, in place of the one that it has."""
        self._ends[conn] = end
        # A connection that begins within the warning is told at once.
        heappush(self._heap, (max(now, end - self._warning), end, conn))
        # What was renewed leaves a stale entry; a client that renews all the time must not fill the memory.
        if len(self._heap) > 2 * len(self._ends) + _SLACK:
            self._heap = [entry for entry in self._heap if self._ends.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def clear(self, conn: int) -> None:
        """Let a connection live on without an end; one without needs nothing."""
        self._ends.pop(conn, None)

    def due(self, now: float) -> tuple[list[tuple[int, float]], list[int]]:
        """Return who is to be warned, with the seconds left, and who is to be ended; each is told once."""
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
