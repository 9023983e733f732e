"""Time deliveries and projections of wildcards; print the figures of each round as JSON.

Run as a script, so that the engine can be another revision's; ``engines`` is found through PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from time import process_time

import engines  # type: ignore[import-not-found]  # benchmarks/engines.py, without its package

from realizehit._fanout import canonical, projections, shape_of

REPEATS = 9  # of all that is compared, in turn, of which the least disturbed counts
SUBSCRIBERS, MESSAGES = 200, 16
WILDCARD = b"channel:*|kind:news"
LABEL = b"@c=" + engines.CHANNEL + b"?"

CONNECTION_HOLDS = 1000  # subscriptions
PUBLISHED = 100  # channels that a batch goes to
BATCHES = 20

PUBLICATION = {"channel": "CNN", "country": "ch", "kind": "news", "show": "evening"}
APPLY, SHAPES = 8, 64


def timed(work: Callable[[], None]) -> float:
    started = process_time()
    work()
    return process_time() - started


def least(*sides: Callable[[], float]) -> list[float]:
    """Measure each side in turn and return the least of each."""
    return [min(values) for values in zip(*([side() for side in sides] for _ in range(REPEATS)), strict=True)]


def delivery(number: int) -> Callable[[], list[float]]:
    """Return a function that measures seconds a delivery, to exact subscribers and to those of a wildcard."""

    def side(channel: bytes, payload: bytes) -> Callable[[], float]:
        bench = engines.Bench(slice_seconds=3600.0)
        bench.socket_subscribers(SUBSCRIBERS, channel)
        batch = engines.batch_of(MESSAGES, channel, payload)

        def once() -> float:
            seconds = 0.0
            for _ in range(number):
                seconds += timed(lambda: bench.engine.dispatch(batch))
                bench.drain()
            return seconds / number / MESSAGES / SUBSCRIBERS

        return once

    sides = side(engines.CHANNEL, engines.PAYLOAD), side(WILDCARD, LABEL + engines.PAYLOAD)
    return lambda: least(*sides)


def wildcard(n: int) -> bytes:
    """Return one of many wildcard channels, of 16 shapes in turn."""
    anys = {f"any{bit}": "*" for bit in range(3) if n & 1 << bit}
    return canonical({"user": n, "topic": "*", **anys, **({"*": "*"} if n & 8 else {})}, True)


def crowd(number: int) -> Callable[[], list[float]]:
    """Return a function that measures seconds a publication, with few and with many subscriptions of wildcards."""

    def side(count: int) -> Callable[[], float]:
        bench = engines.Bench(max_queue_messages=1 << 20, max_queue_bytes=1 << 30)
        channels = [wildcard(n) for n in range(count)]
        assert len({shape_of(channel) for channel in channels}) == 16
        for start in range(0, count, CONNECTION_HOLDS):
            handle = bench.engine.attach(bench.null, bench.null)
            for channel in channels[start : start + CONNECTION_HOLDS]:
                bench.engine.subscribe(handle, channel, CONNECTION_HOLDS)
        bench.settle()
        batch = [[b"message", channel, LABEL + engines.PAYLOAD] for channel in channels[:PUBLISHED]]

        def once() -> float:
            seconds: list[float] = []

            def work() -> None:
                def all_of_it() -> None:
                    for _ in range(BATCHES):
                        bench.engine.dispatch(batch)

                seconds.append(timed(all_of_it))

            for _ in range(number):
                bench.unflushed(work)
            return sum(seconds) / number / BATCHES / PUBLISHED

        return once

    sides = side(PUBLISHED), side(100_000)
    return lambda: least(*sides)


def projecting(number: int) -> Callable[[], list[float]]:
    """Return a function that measures seconds a publication that is projected by many shapes."""
    channel = canonical(PUBLICATION)
    keys = sorted(PUBLICATION)
    applying = [shape_of(canonical({**PUBLICATION, **dict.fromkeys(keys[:n], "*")}, True)) for n in range(1, 5)]
    applying += [shape_of(canonical({**dict.fromkeys(keys[:n], "*"), "*": "*"}, True)) for n in range(1, 5)]
    others = [shape_of(canonical({f"key{n}": n, "kind": "*"}, True)) for n in range(SHAPES - len(applying))]
    shapes = (*applying, *others)
    assert len(set(shapes)) == SHAPES
    assert len(projections(channel, shapes)) == APPLY

    def work() -> None:
        for _ in range(number):
            projections(channel, shapes)

    return lambda: least(lambda: timed(work) / number)


def main() -> None:
    core, rounds, scale = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {core})
    cases = {"delivery": delivery(scale), "crowd": crowd(max(1, scale // 10)), "projections": projecting(100 * scale)}
    print(json.dumps({name: [case() for _ in range(rounds)] for name, case in cases.items()}))


if __name__ == "__main__":
    main()
