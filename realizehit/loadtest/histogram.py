"""Latencies as `realizehit.loadtest._load` counts them: an HdrHistogram of 3 significant figures, from 1 us to 67 s."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Final

LINEAR: Final = 2048  # values that have a bucket of their own

PERCENTILES: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}


def bounds(index: int) -> tuple[int, int]:
    """Return the lowest and the highest value of a bucket, in microseconds."""
    if index < LINEAR:
        return index, index
    shift = (index >> 10) - 1
    low = (index % 1024 + 1024) << shift
    return low, low + (1 << shift) - 1


class Histogram:
    """Counts by bucket; buckets without counts take no room."""

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._counts: Counter[int] = Counter()
        self.add(counts)

    def add(self, counts: Iterable[tuple[int, int]]) -> None:
        """Add counts, as ``Fleet.take_latencies`` gives them."""
        for index, count in counts:
            self._counts[index] += count

    def merge(self, other: Histogram) -> None:
        """Add all counts of another histogram."""
        self._counts.update(other._counts)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return self._counts.total()

    def percentile(self, percent: float) -> float | None:
        """Return the value that so many percent do not exceed, in seconds; ``None`` where nothing was counted.

        The highest value of the bucket that holds it, as HdrHistogram does: never too good.
        """
        total = self.total
        if not total:
            return None
        rank = max(1, math.ceil(total * percent / 100 - 1e-9))  # a product of floats may be a little too high
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= rank:
                return bounds(index)[1] / 1e6
        return bounds(max(self._counts))[1] / 1e6

    @property
    def mean(self) -> float | None:
        """The mean in seconds, each value taken as the middle of its bucket."""
        total = self.total
        if not total:
            return None
        return sum(sum(bounds(index)) / 2 * count for index, count in self._counts.items()) / total / 1e6

    def percentiles(self) -> dict[str, float | None]:
        """Return the percentiles that reports show, by name, in seconds."""
        return {name: self.percentile(percent) for name, percent in PERCENTILES.items()}

    def above(self, seconds: float) -> int:
        """Return how many values were certainly above so many seconds."""
        return sum(count for index, count in self._counts.items() if bounds(index)[0] > seconds * 1e6)

    def buckets(self) -> list[tuple[float, int]]:
        """Return the highest value in seconds, and the count, of each bucket that has one, in order."""
        return [(bounds(index)[1] / 1e6, self._counts[index]) for index in sorted(self._counts)]
