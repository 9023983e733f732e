"""A deadline that moves often, at the cost of few timers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final


class Deadline:
    """The one deadline of a connection.

    Moving it to a later time keeps the timer: when the timer fires too early, it is set again. So a connection that
    serves many requests needs about one timer per timeout, not one per request.

    Args:
        loop: the event loop.
        on_expired: called when the deadline has passed.
    """

    __slots__ = ("_at", "_loop", "_on_expired", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expired: Callable[[], None]) -> None:
        self._loop: Final = loop
        self._on_expired = on_expired
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._at = inf

    def set(self, seconds: float) -> None:
        """Move the deadline to so many seconds from now."""
        self._at = at = self._loop.time() + seconds
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._check)

    def clear(self) -> None:
        """Have no deadline until `set` is called."""
        self._at = inf  # the timer stays: it is likely to be of use for the next request

    def cancel(self) -> None:
        """Have no deadline and no timer any more; `set` has no effect afterwards."""
        self._at = inf
        self._on_expired = _nothing  # it refers to the connection, which would be freed by the garbage collector only
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        left = self._at - self._loop.time()
        if left <= 0:
            self._on_expired()
        elif left < inf:
            self.set(left)


def _nothing() -> None:
    """Do nothing."""
