"""The metrics of several processes as those of one server: counters and histograms add up, also those that ended.

A process hands its metrics on as plain lists, which JSON can hold. A counter that was seen once never falls: what an
ended process had counted stays in the sum.

Source: https://prometheus.io/docs/concepts/metric_types/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

Family: TypeAlias = list[Any]
"""A metric: name, text, type, and its samples, each with name, labels and value."""

_COUNTED: Final = ("counter", "histogram")
_LEAST: Final = ("realizehit_broker_up", "process_start_time_seconds")
_MOST: Final = ("realizehit_build", "realizehit_shapes", "realizehit_publisher_shapes")
"""Gauges whose sum says nothing: a server is up when all its processes are, and they have the same shapes."""


def families_of(metrics: Iterable[Metric]) -> list[Family]:
    """Return metrics as plain lists."""
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [[sample.name, sample.labels, float(sample.value)] for sample in metric.samples],
        ]
        for metric in metrics
    ]


def counted(families: Iterable[Family]) -> list[Family]:
    """Return those of a process that has ended which stay in the sum."""
    return [family for family in families if family[2] in _COUNTED]


def added_up(processes: Iterable[Iterable[Family]]) -> list[Family]:
    """Return the metrics of processes as one list, in the order in which they come first."""
    sums: dict[str, tuple[Family, dict[tuple[Any, ...], list[Any]]]] = {}
    for families in processes:
        for name, text, kind, samples in families:
            _, known = sums.setdefault(name, ([name, text, kind], {}))
            for sample, labels, value in samples:
                entry = known.setdefault((sample, *sorted(labels.items())), [sample, labels, None])
                entry[2] = value if entry[2] is None else _both(name, entry[2], value)
    return [[*family, list(known.values())] for family, known in sums.values()]


def _both(name: str, one: float, other: float) -> float:
    if name in _LEAST:
        return min(one, other)
    return max(one, other) if name in _MOST else one + other


def text_of(families: Iterable[Family]) -> bytes:
    """Return metrics in the text format."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, samples in self._families:
            metric = Metric(name, text, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric
