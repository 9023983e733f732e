"""DEEP: few subscribers, many messages under way."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.against_floor import Case
from benchmarks.system.against_floor import measure as measure_cases
from benchmarks.system.row import Run

TARGET = Target(must=0.03, aim=0.016)


def measure(run: Run) -> list[Result]:
    """Measure with 512 messages outstanding."""
    return measure_cases(run, "deep", 100, 1, [Case("100 subscribers, 512 outstanding", 512, 5_000_000, TARGET)])
