"""One timer for many deadlines, which gives what has arrived a chance before the verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LAST_LOOK: Final = 0.02
"""Seconds between the end of a time and the verdict. A loop that was held up may run its timers before it reads what
has long arrived; this lets it read first."""


class Deadlines:
    """Calls back once the first deadline has passed, and again for the next one.

    Args:
        expired: called with the loop's time; it may set further deadlines.
        next_due: returns the loop's time of the next deadline, ``None`` if nothing is due.
    """

    def __init__(self, expired: Callable[[float], None], next_due: Callable[[], float | None]) -> None:
        self._expired = expired
        self._next_due = next_due
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float) -> None:
        """Look after so many seconds, unless a look is due already."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LAST_LOOK, self._judge)

    def _judge(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        try:
            self._expired(loop.time())
        finally:  # also where a callback failed
            due = self._next_due()
            self.stop()  # what was set meanwhile may be later
            if due is not None:
                self._timer = loop.call_at(max(due, loop.time() + LAST_LOOK), self._look)
