"""The bounded queue between a connection and the reader of one subscription."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import StrEnum
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Overflow(StrEnum):
    """What happens to a payload that arrives when the queue is full.

    With every policy a slow reader never stops the connection, so it does not delay other subscriptions.
    """

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    ERROR = "error"


class Ended(Exception):
    """Nothing more comes."""


class QueueFull(Exception):
    """The policy is ``error`` and the queue is full."""


class PayloadQueue(Generic[_T]):
    """Payloads that wait for their reader.

    Args:
        maxsize: how many may wait, at least 1.
        overflow: what happens to one more.

    Attributes:
        dropped: how many were lost because the queue was full.
    """

    def __init__(self, maxsize: int, overflow: Overflow) -> None:
        if maxsize < 1:
            raise ValueError(f"maxsize is {maxsize}; a queue holds at least 1")
        self.dropped = 0
        self._maxsize = maxsize
        self._overflow = overflow
        self._items: deque[_T] = deque()
        self._arrived = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: _T) -> bool:
        """Add one payload; after the end, do nothing.

        Returns:
            Whether this one took the last place, so that the reader should run now.

        Raises:
            QueueFull: the queue is full, and the policy is ``error``.
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
        """Accept nothing more. Only the first call sets the error.

        Args:
            error: what `get` raises when the queue is empty; ``None`` for `Ended`.
            discard: whether to throw away what waits.
        """
        if discard:
            self._items.clear()
        if not self._ended:
            self._ended = True
            self._error = error
            self._arrived.set()

    async def get(self) -> _T:
        """Return the oldest payload; wait for one if the queue is empty.

        Raises:
            Ended: nothing more comes. If `end` got an error, that error is raised instead.
        """
        while not self._items:
            if self._ended:
                raise self._error or Ended
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()
