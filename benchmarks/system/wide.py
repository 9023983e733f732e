"""WIDE: one channel, many subscribers."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.against_floor import Case
from benchmarks.system.against_floor import measure as measure_cases
from benchmarks.system.row import Run

ONE = Target(must=1.10, aim=1.03)
EIGHT = Target(must=0.20, aim=0.16)


def measure(run: Run) -> list[Result]:
    """Measure with one message at a time, where the next goes out when the last reached all, and with eight."""
    results = []
    for subscribers in (1000, 5000):
        cases = [Case(f"{subscribers:,} subscribers, one at a time", 1, 100_000, ONE)]
        if subscribers == 1000:
            cases.append(Case(f"{subscribers:,} subscribers, 8 outstanding", 8, 400_000, EIGHT))
        results += measure_cases(run, "wide", subscribers, 1, cases)
    return results
