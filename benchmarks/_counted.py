"""The work that `benchmarks.instructions` counts: a number of rounds of one of three kinds.

It runs as a script, and exits directly after the work, so that two numbers of rounds differ only by their work.
"""

from __future__ import annotations

import os
import sys

from benchmarks.engines import Bench, batch_of

NULL_SUBSCRIBERS = 1000
SOCKET_SUBSCRIBERS = 200
MESSAGES = 16


def dispatch(rounds: int) -> None:
    """Fill queues without writing."""
    bench = Bench()
    bench.null_subscribers(NULL_SUBSCRIBERS)
    batch = batch_of(MESSAGES)
    bench.engine.dispatch(batch)  # fills the memory pools

    def work() -> None:
        for _ in range(rounds):
            bench.engine.dispatch(batch)
        os._exit(0)

    bench.unflushed(work)


def flush(rounds: int, messages: int) -> None:
    """Fill queues and write them to sockets with enough room."""
    bench = Bench(slice_seconds=3600.0)
    bench.socket_subscribers(SOCKET_SUBSCRIBERS)
    batch = batch_of(messages)
    bench.engine.dispatch(batch)
    for _ in range(rounds):
        bench.engine.dispatch(batch)
    os._exit(0)


if __name__ == "__main__":
    kind, count = sys.argv[1], int(sys.argv[2])
    if kind == "dispatch":
        dispatch(count)
    else:
        flush(count, {"flush 1": 1, "flush 16": MESSAGES}[kind])
