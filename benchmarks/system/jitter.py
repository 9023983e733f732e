"""JITTER: the effect of broadcasts to thousands on a small channel.

A channel of 10 subscribers gets 100 messages a second, on a schedule, first alone and then while another channel
broadcasts to 10,000 twice a second. The broadcast's clients are a process of their own that yields to the small
channel's (SCHED_IDLE): they share a core, and the time that they need to read is not the server's delay. Whatever else
runs on the two cores is part of what is measured; how long the server waited for its own is shown beside.
"""

from __future__ import annotations

import json
import sys

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.histogram import percentile
from benchmarks.system.processes import START_TIMEOUT, Child
from benchmarks.system.row import Run

TARGET = Target(must=3.0, aim=1.5)
SMALL = 10
CROWD = 10_000
RATE = 100.0  # messages a second
SECONDS = 10  # of each part of a round


def measure(run: Run) -> list[Result]:
    """Compare the small channel's p99 alone and during broadcasts."""
    result = Result("jitter", f"p99 of {SMALL} subscribers beside broadcasts to {CROWD:,}", "x alone", [], TARGET)
    seconds = float(run.scaled(SECONDS))
    with run.pair() as (valkey, server), Crowd(server.ws_url, valkey, [{"small": 1}], [[0]] * SMALL) as small:
        small.join()
        options = {"ws": server.ws_url, "broker": str(valkey.path), "size": CROWD, "core": run.cores.client}
        with Child([sys.executable, "-m", "benchmarks.system._broadcast", json.dumps(options)]) as broadcast:
            for n in range(run.rounds):
                run.note(f"jitter: round {n + 1} of {run.rounds}")
                alone = _p99(small, seconds)
                broadcast.tell({"seconds": seconds})
                waited = server.waited
                beside = _p99(small, seconds)
                waited = (server.waited - waited) / seconds
                broadcast.hear(seconds + START_TIMEOUT)
                result.samples.append(beside / alone)
                result.raw.setdefault("us, alone", []).append(alone)
                result.raw.setdefault("us, beside broadcasts", []).append(beside)
                result.raw.setdefault("share of the time that the server waited for its core", []).append(waited)
    return [result]


def _p99(crowd: Crowd, seconds: float) -> float:
    crowd.fleet.take_latencies()
    crowd.fleet.schedule(rate=RATE)
    crowd.fleet.run(seconds)
    crowd.fleet.unschedule()
    for _ in range(20):  # wait for the last ones too
        crowd.fleet.run(0.5)
        if not crowd.fleet.missing():
            break
    else:
        raise RuntimeError(f"{crowd.fleet.missing()} messages of the small channel never came")
    crowd.check()
    return percentile(crowd.fleet.take_latencies(), 99)
