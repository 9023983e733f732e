"""Time deliveries with positions beside plain ones; print the seconds of each round as JSON.

Run as a script, so that the engine can be another revision's; ``engines`` is found through PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from time import process_time

import engines  # type: ignore[import-not-found]  # benchmarks/engines.py, without its package

REPEATS = 9  # of both sides in turn, of which the least disturbed counts
SUBSCRIBERS = 200
EPOCH = "k3f09a2c"
FIRST = 1_000_000  # so that all offsets have the same number of digits

Side = Callable[[], float]


def plain(number: int, messages: int) -> Side:
    """Return a function that measures seconds a delivery without a log."""
    bench = engines.Bench(slice_seconds=3600.0)
    bench.socket_subscribers(SUBSCRIBERS)
    batch = engines.batch_of(messages)
    return lambda: _timed(bench, [batch] * number, messages)


def with_positions(number: int, messages: int) -> Side:
    """Return a function that measures seconds a delivery of a log, to subscribers that are told positions."""
    bench = engines.Bench(slice_seconds=3600.0)
    bench.socket_subscribers(SUBSCRIBERS)
    bench.engine.log_open(engines.CHANNEL)
    bench.engine.log_set(engines.CHANNEL, EPOCH, FIRST)
    for handle in bench.handles:
        bench.engine.set_positions(handle, engines.CHANNEL)
    offset = FIRST

    def side() -> float:
        nonlocal offset
        batches = []
        for _ in range(number):
            texts = [b"@o=%b.%d?%b" % (EPOCH.encode(), offset + n, engines.PAYLOAD) for n in range(1, messages + 1)]
            batches.append([[b"message", engines.CHANNEL, text] for text in texts])
            offset += messages
        return _timed(bench, batches, messages)

    return side


def _timed(bench: engines.Bench, batches: list[list[list[bytes]]], messages: int) -> float:
    seconds = 0.0
    before = bench.engine.stats()["deliveries"]
    for batch in batches:
        started = process_time()
        bench.engine.dispatch(batch)
        seconds += process_time() - started
        bench.drain()
    deliveries: int = bench.engine.stats()["deliveries"] - before
    if deliveries != len(batches) * messages * SUBSCRIBERS:
        raise RuntimeError(f"{deliveries} deliveries of {len(batches)} batches")
    return seconds / deliveries


def main() -> None:
    core, rounds, scale = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {core})
    cases = {}
    for name, messages in (("one at a time", 1), ("16 at once", 16)):
        sides = plain(scale, messages), with_positions(scale, messages)
        cases[name] = [
            [min(values) for values in zip(*([side() for side in sides] for _ in range(REPEATS)), strict=True)]
            for _ in range(rounds)
        ]
    print(json.dumps(cases))


if __name__ == "__main__":
    main()
