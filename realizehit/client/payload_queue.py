"""The bounded queue between a connection and whoever reads a subscription."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum


class Overflow(StrEnum):
    """What happens to a payload that finds the queue full.

    Whatever is chosen, a slow reader never holds up the connection, and thereby the other subscriptions.
    """

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    ERROR = "error"


class Ended(Exception):
    """Nothing more comes."""


class QueueFull(Exception):
    """The policy is ``error`` and there is no room."""


class PayloadQueue:
    """Payloads that wait for their reader.

    Args:
        maxsize: how many may wait, at least 1.
        overflow: what happens to one more.

    Attributes:
        dropped: how many were lost because there was no room.
    """

    def __init__(self, maxsize: int, overflow: Overflow) -> None:
        if maxsize < 1:
            raise ValueError(f"maxsize is {maxsize}; a queue holds at least 1")
        self.dropped = 0
        self._maxsize = maxsize
        self._overflow = overflow
        self._items: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: bytes) -> bool:
        """Add one payload; after the end, do nothing.

        Returns:
            Whether this one took the last place, so that the reader should now have its turn.

        Raises:
            QueueFull: there is no room, and the policy says that this is an error.
        """
        if self._ended:
            return False
        items = self._items
        if len(items) >= self._maxsize:
            if self._overflow is Overflow.ERROR:
                raise QueueFull
            self.dropped += 1
            if self._overflow is Overflow.DROP_OLDEST:
                items.popleft()
                items.append(item)
            return False
        items.append(item)
        self._arrived.set()
        return len(items) == self._maxsize

    def end(self, error: Exception | None = None, *, discard: bool = False) -> None:
        """Let nothing more in; the first call counts.

        Args:
            error: what `get` raises once it is empty; `Ended` where there is none.
            discard: whether what waits is thrown away.
        """
        if discard:
            self._items.clear()
        if not self._ended:
            self._ended = True
            self._error = error
            self._arrived.set()

    async def get(self) -> bytes:
        """Return the oldest payload; wait for one where there is none.

        Raises:
            Ended: nothing more comes; or the error that `end` was given.
        """
        while not self._items:
            if self._ended:
                raise self._error or Ended
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()
