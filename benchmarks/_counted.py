"""What `benchmarks.instructions` counts: one of three kinds of work, done so many times.

Run as a script. It ends in the middle, so that nothing but the work differs between two numbers of rounds.
"""

from __future__ import annotations

import os
import sys

from benchmarks.engines import Bench, batch_of

NULL_SUBSCRIBERS = 1000
SOCKET_SUBSCRIBERS = 200
MESSAGES = 16


def dispatch(rounds: int) -> None:
    """Fill queues; nothing is written."""
    bench = Bench()
    bench.null_subscribers(NULL_SUBSCRIBERS)
    batch = batch_of(MESSAGES)
    bench.engine.dispatch(batch)  # now there is memory in the pools

    def work() -> None:
        for _ in range(rounds):
            bench.engine.dispatch(batch)
        os._exit(0)

    bench.unflushed(work)


def flush(rounds: int, messages: int) -> None:
    """Fill queues and write them to sockets, which have room for all of it."""
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
