"""Publications to queues: the cost of a message before any system call."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.engines import CHANNEL, MIXED, PAYLOAD, Bench, batch_of
from benchmarks.models import Registry

MESSAGES = 16  # in a round
ROUNDS = 20


@pytest.mark.parametrize("subscribers", [1, 100, 10_000])
@pytest.mark.parametrize("side", ["engine", "python"])
def test_dispatch(benchmark: Any, subscribers: int, side: str) -> None:
    benchmark.group = f"dispatch of {MESSAGES} messages to {subscribers:,} null sinks"
    batch = batch_of(MESSAGES)
    if side == "engine":
        bench = Bench(max_queue_messages=32768, max_queue_bytes=1 << 30)
        bench.null_subscribers(subscribers)
        before = _warm(bench)
        dispatch = bench.engine.dispatch
        bench.unflushed(lambda: benchmark.pedantic(dispatch, (batch,), rounds=ROUNDS, warmup_rounds=1))
        assert bench.engine.stats()["deliveries"] - before["deliveries"] == (ROUNDS + 1) * MESSAGES * subscribers
        bench.close()
        return
    _model(benchmark, subscribers)


def test_mixed_framings(benchmark: Any) -> None:
    benchmark.group = f"dispatch of {MESSAGES} messages to 10,000 null sinks"
    bench = Bench(max_queue_messages=32768, max_queue_bytes=1 << 30)
    bench.null_subscribers(10_000, framings=MIXED)
    batch, before = batch_of(MESSAGES), _warm(bench)
    dispatch = bench.engine.dispatch
    bench.unflushed(lambda: benchmark.pedantic(dispatch, (batch,), rounds=ROUNDS, warmup_rounds=1))
    after = bench.engine.stats()
    assert after["deliveries"] - before["deliveries"] == (ROUNDS + 1) * MESSAGES * 10_000
    assert after["frames_built"] - before["frames_built"] == (ROUNDS + 1) * MESSAGES * len(MIXED)
    bench.close()


def _warm(bench: Bench) -> dict[str, int]:
    """Fill the pools as in a server under load; return the counters."""
    bench.engine.dispatch(batch_of((ROUNDS + 1) * MESSAGES))
    bench.settle()
    return bench.engine.stats()


def _model(benchmark: Any, subscribers: int) -> None:
    model = Registry()
    for handle in range(subscribers):
        model.add(handle)
        model.subscribe(handle, CHANNEL)

    def work() -> None:
        for _ in range(MESSAGES):
            model.dispatch(CHANNEL, PAYLOAD)

    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    assert sum(map(len, model.queues.values())) == (ROUNDS + 1) * MESSAGES * subscribers
