"""Joining and leaving channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.engines import Bench
from benchmarks.models import Registry

CHANNELS = 100  # in a round: each joined and left


@pytest.mark.parametrize("others", [100, 100_000])
@pytest.mark.parametrize("side", ["engine", "python"])
def test_subscribe_and_unsubscribe(benchmark: Any, others: int, side: str) -> None:
    benchmark.group = f"{CHANNELS} channels joined and left, {others:,} more on the node"
    names = [b"user:%d" % n for n in range(CHANNELS)]
    present = [b"room:%d" % n for n in range(others)]
    bench = Bench()
    join: Callable[[int, bytes], object]
    leave: Callable[[int, bytes], object]
    model = Registry()
    if side == "engine":
        bench.null_subscribers(1)
        handle = bench.handles[0]
        for start in range(0, others, 1000):
            bench.null_subscribers(1)
            for name in present[start : start + 1000]:
                bench.engine.subscribe(bench.handles[-1], name, 4096)
        join, leave = bench.engine.subscribe, bench.engine.unsubscribe
    else:
        handle = 0
        model.add(0)
        for n, name in enumerate(present):
            if n % 1000 == 0:
                model.add(n + 1)
            model.subscribe(n - n % 1000 + 1, name)
        join, leave = model.subscribe, model.unsubscribe

    def work() -> None:
        for name in names:
            join(handle, name)
        for name in names:
            leave(handle, name)
        bench.settle()

    work()
    benchmark.pedantic(work, rounds=50, warmup_rounds=2)
    left = bench.engine.subscribers(names[0]) if side == "engine" else len(model.channels.get(names[0], ()))
    assert left == 0
    bench.close()
