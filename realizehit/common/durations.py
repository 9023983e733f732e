"""Durations, counted in classes, as a histogram of Prometheus shows them."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Final

BOUNDS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds


class Durations:
    """Counts durations. It uses plain numbers, since the counters of the library for metrics take a lock each time.

    Attributes:
        seconds: the sum of all.
    """

    __slots__ = ("_counts", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)  # each duration in one class

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.seconds += seconds
        self._counts[bisect_left(BOUNDS, seconds)] += 1

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self._counts)

    @property
    def buckets(self) -> list[tuple[str, int]]:
        """For each bound, as text, how many durations were not longer; the last bound is ``+Inf``."""
        return list(zip([*map(str, BOUNDS), "+Inf"], accumulate(self._counts), strict=True))
