"""Delays before another attempt: exponential back-off up to a bound, with full jitter."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

_MAX_DOUBLINGS: Final = 64  # more change nothing and would overflow a float


class Backoff:
    """Exponential back-off with an upper bound.

    The bound of the delay is ``first`` seconds for the first attempt, doubles with each further attempt, and stays at
    ``most``. With full jitter each delay is drawn evenly from zero to its bound. So clients that lost one server at the
    same time do not come back at the same time.

    Args:
        first: seconds, the bound of the first delay.
        most: seconds, the bound of every delay.
        jitter: whether to draw the delays. Without jitter each delay is its bound; use that where one process alone
            repeats the attempt.
        draw: returns a number from 0 to 1; for tests.
    """

    def __init__(
        self, first: float, most: float, *, jitter: bool = True, draw: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._most = most
        self._draw = draw if jitter else lambda: 1.0
        self._doublings = 0

    def next(self) -> float:
        """Return the seconds to wait before the next attempt, and double the bound."""
        bound = min(self._most, self._first * 2.0**self._doublings)
        self._doublings = min(self._doublings + 1, _MAX_DOUBLINGS)
        return self._draw() * bound

    def reset(self) -> None:
        """Begin with ``first`` again, after an attempt that succeeded."""
        self._doublings = 0
