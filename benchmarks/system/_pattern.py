"""Time the compiled and the plain-Python way from filters to channel and id; print pairs of seconds as JSON.

Run as a script, so that the compiled side can be another revision's; ``models`` is found through PYTHONPATH.
"""

from __future__ import annotations

import json
import os
import sys
from time import process_time
from timeit import timeit

import models  # type: ignore[import-not-found]  # benchmarks/models.py, without its package

from realizehit._fanout import canonical, channel_id

REPEATS = 7  # of both in turn; the fastest one counts
FILTERS = {"kind": "news", "channel": "CNN", "show": "evening"}


def main() -> None:
    core, rounds, number = map(int, sys.argv[1:])
    os.sched_setaffinity(0, {core})
    names = {"c": canonical, "i": channel_id, "f": FILTERS}
    plain = {"c": models.canonical, "i": models.channel_id, "f": FILTERS}
    if canonical(FILTERS) != models.canonical(FILTERS):
        raise SystemExit("the two sides disagree")
    pairs = []
    for _ in range(rounds):
        engine, model = [], []
        for _ in range(REPEATS):
            engine.append(timeit("x = c(f); i(x)", globals=names, number=number, timer=process_time) / number)
            model.append(timeit("x = c(f); i(x)", globals=plain, number=number, timer=process_time) / number)
        pairs.append((min(engine), min(model)))
    print(json.dumps(pairs))


if __name__ == "__main__":
    main()
