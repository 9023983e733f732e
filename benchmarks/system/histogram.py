"""Percentiles of the load client's histograms; ``realizehit/loadtest/_load.pyi`` has their layout."""

from __future__ import annotations

from collections.abc import Sequence


def percentile(counts: Sequence[tuple[int, int]], percent: float) -> float:
    """Return the value, in microseconds, that a share of the samples does not exceed.

    Raises:
        ValueError: nothing was counted.
    """
    total = sum(count for _, count in counts)
    if not total:
        raise ValueError("nothing was counted")
    index, left = 0, total * percent / 100
    for place, count in counts:
        index = place
        left -= count
        if left <= 0:
            break
    if index < 2048:
        return float(index)
    bucket = (index >> 10) - 1
    return float(((index % 1024) + 1024) << bucket)
