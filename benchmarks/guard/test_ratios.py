"""The "must" of the rows that are stable on a busy machine: ratios of CPU time in one run, and memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

from benchmarks.results import Result, Verdict
from benchmarks.system import connect, deep, growth, harness, idle, logged, many, pattern, recover, wide, wildcards
from benchmarks.system.against_floor import measure
from benchmarks.system.place import pinned
from benchmarks.system.row import Run

JUDGED_ELSEWHERE = (  # a person judges these
    "connect", "close", "storm", "jitter", "publish", "batch", "logged", "idempotent", "framings", "cores", "workers",
    pytest.param("tls", marks=pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")),
)  # fmt: skip
ATTEMPTS = 3  # other work may spoil one; a real slowdown shows in all


def wide_eight(run: Run) -> list[Result]:
    return measure(run, "wide", 1000, 1, [wide.EIGHT])


def connects(run: Run) -> list[Result]:
    return connect.against_floor(run, connect.REGRESSED)


def policies(run: Run) -> list[Result]:
    return connect.under_policies(run, connect.REGRESSED_POLICY)


def growth_channels(run: Run) -> list[Result]:
    return [growth.channels(run)]


def wildcard_ratios(run: Run) -> list[Result]:
    return [result for result in wildcards.measure(run) if result.unit != "us"]  # those depend on the machine


def recover_counts(run: Run) -> list[Result]:
    return [
        result for result in recover.measure(run) if result.unit in ("x no history", "x logs")
    ]  # times depend on other work


@pytest.fixture
def run() -> Iterator[Run]:
    """A short run, with this process on the client's core meanwhile."""
    short = Run(rounds=3, quick=True)
    with pinned(short.cores.client):
        yield short


@pytest.mark.parametrize(
    "row",
    [
        wide_eight,
        deep.measure,
        many.measure,
        idle.measure,
        connects,
        policies,
        pattern.measure,
        growth_channels,
        harness.measure,
        wildcard_ratios,
        recover_counts,
        logged.deliveries,
    ],
    ids=[
        "wide", "deep", "many", "idle", "connect", "policies", "pattern", "growth", "harness", "wildcards", "recover",
        "logged",
    ],
)  # fmt: skip
def test_a_must_is_met(row: Callable[[Run], list[Result]], run: Run) -> None:
    seen = []
    for _ in range(ATTEMPTS):
        results = row(run)
        missed = [result for result in results if result.verdict is Verdict.MISSED]
        if results and not missed:
            return
        seen += [f"{result.case}: {result.value:.4g} {result.unit}, {result.target}" for result in missed]
    pytest.fail("\n".join(seen))


@pytest.mark.parametrize("name", JUDGED_ELSEWHERE)
def test_the_other_rows_can_be_measured(name: str, run: Run) -> None:
    run.rounds = 1
    results = import_module(f"benchmarks.system.{name}").measure(run)
    assert results
    assert all(value > 0 for result in results for value in result.samples)
    assert all(len(result.samples) == 1 for result in results)
