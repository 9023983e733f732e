"""Publications to queues: what a message costs before any system call."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.engines import CHANNEL, PAYLOAD, Bench, batch_of
from benchmarks.models import Registry

MESSAGES = 16  # in a round
ROUNDS = 20


@pytest.mark.parametrize("subscribers", [1, 100, 10_000])
@pytest.mark.parametrize("side", ["engine", "python"])
def test_dispatch(benchmark: Any, subscribers: int, side: str) -> None:
    benchmark.group = f"dispatch of {MESSAGES} messages to {subscribers:,} null sinks"
    expected = (ROUNDS + 1) * MESSAGES * subscribers
    batch = batch_of(MESSAGES)
    if side == "engine":
        bench = Bench(max_queue_messages=32768, max_queue_bytes=1 << 30)
        bench.null_subscribers(subscribers)
        dispatch = bench.engine.dispatch
        bench.unflushed(lambda: benchmark.pedantic(dispatch, (batch,), rounds=ROUNDS, warmup_rounds=1))
        assert bench.engine.stats()["deliveries"] == expected
        bench.close()
        return
    model = Registry()
    for handle in range(subscribers):
        model.add(handle)
        model.subscribe(handle, CHANNEL)

    def work() -> None:
        for _ in range(MESSAGES):
            model.dispatch(CHANNEL, PAYLOAD)

    benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1)
    assert sum(map(len, model.queues.values())) == expected
