"""MANY: thousands of channels with one subscriber each."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.against_floor import Case
from benchmarks.system.against_floor import measure as measure_cases
from benchmarks.system.row import Run

TARGET = Target(must=1.4, aim=1.1)


def measure(run: Run) -> list[Result]:
    """Publish to 5,000 channels in turn, 2,000 messages outstanding."""
    case = Case("5,000 channels of one subscriber, 2,000 outstanding", 2000, 100_000, TARGET)
    return measure_cases(run, "many", 5000, 5000, [case])
