"""Metrics with labels, and histograms, built at each scrape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from realizehit.common.durations import Durations


def counter(name: str, text: str, values: Mapping[Any, float], label: str = "reason") -> CounterMetricFamily:
    """Return a counter with one label.

    Args:
        name: without ``realizehit_`` and ``_total``.
        text: what it counts.
        values: the count for each value of the label, a text.
        label: its name.
    """
    family = CounterMetricFamily(f"realizehit_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def histogram(name: str, text: str, durations: Durations) -> HistogramMetricFamily:
    """Return a histogram of durations; ``name`` is without ``realizehit_``."""
    return HistogramMetricFamily(f"realizehit_{name}", text, buckets=durations.buckets, sum_value=durations.seconds)
