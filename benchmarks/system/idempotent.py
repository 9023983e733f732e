"""IDEMPOTENT: what an idempotency key costs, each publication having a new one."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.logged import compared
from benchmarks.system.publications import KEYED, LOGGED, LOGGED_KEYED, PLAIN, measure_publications
from benchmarks.system.row import Run

TARGET = Target(must=2.0, aim=1.5)


def measure(run: Run) -> list[Result]:
    """Measure publications with and without a key in turn, outside of history and under a rule."""
    costs = measure_publications(run, "idempotent", PLAIN, KEYED, LOGGED, LOGGED_KEYED)
    single, batch = costs["single"], costs["batch"]
    return [
        compared("idempotent", "a POST with a key", [costs[:2] for costs in single], TARGET),
        compared("idempotent", "a message of a batch with a key", [costs[:2] for costs in batch], None),
        compared("idempotent", "a POST with a key under a rule, x without key", [c[2:] for c in single], TARGET),
    ]
