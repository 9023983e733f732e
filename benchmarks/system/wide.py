"""WIDE: one channel, many subscribers."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.against_floor import Case
from benchmarks.system.against_floor import measure as measure_cases
from benchmarks.system.row import Run

TARGET_ONE = Target(must=1.10, aim=1.03)
TARGET_EIGHT = Target(must=0.20, aim=0.16)
EIGHT = Case("1,000 subscribers, 8 outstanding", 8, 400_000, TARGET_EIGHT)


def measure(run: Run) -> list[Result]:
    """Measure with one message at a time, which sends the next when the last reached all, and with eight."""
    one, five = (Case(f"{n:,} subscribers, one at a time", 1, 100_000, TARGET_ONE) for n in (1000, 5000))
    return [*measure_cases(run, "wide", 1000, 1, [one, EIGHT]), *measure_cases(run, "wide", 5000, 1, [five])]
