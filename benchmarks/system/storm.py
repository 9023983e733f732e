"""STORM: all clients are gone at once and back at once, each with a channel of its own, over a real broker.

The time is that from the moment at which all have left to the last reply; the server learns of both at once. It is
compared with the time in which the same clients connect while none of them is there. Meanwhile 500 messages a second go
to 10 other subscribers of one channel. The p99 of their latencies during a storm is compared with that of a time about
as long in which nothing else happens; both are medians of several storms and times, since work of the system that has
nothing to do with either holds up one in a few.

What the clients cost their own machine is not the server's delay. They are a process that runs while neither the reader
of these messages nor the broker wants their common core, and a latency is that from sending a message until the kernel
has it for the reader, whether or not that has its turn.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from time import monotonic
from typing import Any

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.histogram import percentile
from benchmarks.system.processes import START_TIMEOUT, Child, Server
from benchmarks.system.row import Run

TARGET_TIME = Target(must=1.1, aim=1.0)
TARGET_LIVE = Target(must=3.0, aim=1.5)
CLIENTS = 10_000
READERS = 10
RATE = 500.0  # live messages a second
TIMEOUT = 20.0  # seconds for the last of them
ALONE = 0.5  # seconds of them while nothing else happens, about as long as a storm
STORMS = 5  # of a round
SOURCES = [f"127.0.3.{n}" for n in range(1, 9)]  # the ports of those that left are in TIME_WAIT


class Live:
    """Subscribers that get messages on a schedule, while other things happen."""

    def __init__(self, crowd: Crowd, server: Server) -> None:
        self._crowd = crowd
        self._server = server
        self.waited = 0.0

    def alone(self, seconds: float) -> Counter[int]:
        """Return the latencies of some seconds."""
        self._begin()
        self._crowd.fleet.run(seconds)
        return self._end()

    def during(self, clients: Child, task: str) -> tuple[float, Counter[int]]:
        """Let the clients do something; return its seconds, and the latencies meanwhile."""
        self._begin()
        waited = self._server.waited
        clients.tell({"do": task})
        while not clients.has_said():
            self._crowd.fleet.run(0.05)
        self.waited = self._server.waited - waited
        latencies = self._end()
        said: dict[str, Any] = clients.hear(START_TIMEOUT)
        if "error" in said:
            raise RuntimeError(said["error"])
        return float(said["seconds"]), latencies

    def _begin(self) -> None:
        self._crowd.fleet.take_latencies()
        self._crowd.fleet.schedule(rate=RATE)

    def _end(self) -> Counter[int]:
        fleet = self._crowd.fleet
        fleet.unschedule()
        deadline = monotonic() + TIMEOUT
        while fleet.missing():
            if monotonic() > deadline:
                raise RuntimeError(f"{fleet.missing()} live messages never came")
            fleet.run(0.1)
        self._crowd.check()
        return Counter(dict(fleet.take_latencies()))


def measure(run: Run) -> list[Result]:
    """Let all clients come, and go and come back, while others get messages."""
    size = run.scaled(CLIENTS)
    time = Result("storm", f"{size:,} clients, a channel each, until all are back", "x connects", [], TARGET_TIME)
    late = Result("storm", "p99 of others' messages meanwhile", "x alone", [], TARGET_LIVE)
    with (
        run.pair() as (valkey, server),
        Crowd(server.ws_url, valkey, [{"live": 1}], [[0]] * READERS, kernel_times=True) as readers,
    ):
        readers.join()
        live = Live(readers, server)
        options = {"ws": server.ws_url, "size": size, "core": run.cores.client, "sources": SOURCES}
        with Child([sys.executable, "-m", "benchmarks.system._storm", json.dumps(options)]) as clients:
            for n in range(run.rounds + 1):
                run.note(f"storm: round {n} of {run.rounds}")
                _round(run, live, server, clients, time, late)
                if not n:  # the first fills the memory pools
                    for result in (time, late):
                        result.samples.clear()
                        result.raw.clear()
    return [time, late]


def _round(run: Run, live: Live, server: Server, clients: Child, time: Result, late: Result) -> None:
    alone = statistics.median(_p99(live.alone(ALONE)) for _ in range(STORMS))
    joins, storms, waited = 0.0, 0.0, 0.0
    beside: list[Counter[int]] = []
    cpu = {"join": 0.0, "storm": 0.0}
    for _ in range(STORMS):
        for task in cpu:
            server.settle()
            before = server.cpu
            seconds, latencies = live.during(clients, task)
            cpu[task] += server.cpu - before
            if task == "join":
                joins += seconds
            else:
                storms += seconds
                waited += live.waited
                beside.append(latencies)
        live.during(clients, "leave")
    time.samples.append(storms / joins)
    meanwhile = statistics.median(map(_p99, beside))
    late.samples.append(meanwhile / alone)
    size = STORMS * run.scaled(CLIENTS)
    for result, name, value in (
        (time, "s, until all are back", storms / STORMS),
        (time, "s, connects alone", joins / STORMS),
        (time, "us of CPU a client, storm", cpu["storm"] / size * 1e6),
        (time, "us of CPU a client, connects alone", cpu["join"] / size * 1e6),
        (late, "us, meanwhile", meanwhile),
        (late, "us, alone", alone),
        (late, "us, half of them meanwhile", percentile(sorted(sum(beside, Counter()).items()), 50)),
        (late, "us, latest meanwhile", percentile(sorted(sum(beside, Counter()).items()), 100)),
        (late, "share of the time that the server waited for its core", waited / storms),
    ):
        result.raw.setdefault(name, []).append(value)


def _p99(latencies: Counter[int]) -> float:
    return percentile(sorted(latencies.items()), 99)
