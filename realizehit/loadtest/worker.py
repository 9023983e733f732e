"""One client process: it drives its share of the connections, and its share of the channels to publish to."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import orjson

from realizehit.errors import RealizehitError
from realizehit.loadtest._load import READY, TIME, Fleet
from realizehit.loadtest.open_files import raise_open_files
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.target import Target
from realizehit.pattern import Pattern

CONNECT_TIMEOUT: Final = 60.0  # seconds beyond the ramp for all connections to be ready, and
SLOWEST: Final = 1000  # one more second for so many of them
SETTLE_TIMEOUT: Final = 5.0  # seconds without a delivery until missing messages count as lost
API_CONNECTIONS: Final = 8  # of each process; a channel always uses the same one
HANDFUL: Final = 100  # connections that are ended at once
RETRY_FIRST: Final = 0.1  # seconds from a storm's failed connections to the next attempt, doubled up to
RETRY_MOST: Final = 2.0
PROMPT: Final = 0.05  # seconds between two checks for commands of the coordinator, when it matters


@dataclass(frozen=True, slots=True)
class Job:
    """The job of one client process.

    Attributes:
        number: its number, from 0.
        plan: the numbers of the whole load test, of which it does its share.
        target: where.
        run_id: part of every pattern, so that two load tests do not meet.
        sent_path: a file with the last sequence number of each channel, which all processes share.
        interval: seconds between two samples.
    """

    number: int
    plan: Plan
    target: Target
    run_id: str
    sent_path: Path
    interval: float


@dataclass(slots=True)
class Sample:
    """The counts of a client process so far, and latencies since the previous sample.

    Attributes:
        counts: as ``Fleet.counts``.
        latencies, joins, lags: as ``Fleet.take_latencies``.
        cpu: processor time of the process, in seconds.
        kernel: the part of it that the kernel used.
        clock: ``time.monotonic()``.
    """

    counts: dict[str, int]
    latencies: list[tuple[int, int]]
    joins: list[tuple[int, int]]
    lags: list[tuple[int, int]]
    cpu: float
    kernel: float
    clock: float


@dataclass(slots=True)
class Last:
    """The final report of a client process."""

    problems: list[tuple[str, int, int, int, int]]
    notes: list[str]
    close_codes: dict[int, int]
    storm_seconds: float | None


def connect_timeout(plan: Plan) -> float:
    """Return the seconds, beyond the ramp, after which connections that are not ready count as failed."""
    return CONNECT_TIMEOUT + plan.connections / SLOWEST


def pattern_of(run_id: str, channel: int) -> Pattern:
    """Return the pattern with this number."""
    return Pattern({"loadtest": run_id, "n": channel})


def work(pipe: Connection, job: Job) -> None:
    """Run as a client process; the other end of the pipe leads it."""
    # Ctrl+C reaches all processes of a terminal; here the coordinator decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_open_files()
    try:
        _Worker(pipe, job).run()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(1)  # the coordinator has ended, so the error cannot be reported
    except (RealizehitError, OSError, ValueError) as error:
        pipe.send(("error", str(error)))


class _Worker:
    def __init__(self, pipe: Connection, job: Job) -> None:
        plan, target = job.plan, job.target
        self.pipe = pipe
        self.job = job
        self.commands: dict[str, Any] = {}
        self.storm_seconds: float | None = None
        patterns = [pattern_of(job.run_id, n) for n in range(plan.patterns)]
        self.own = range(job.number, plan.patterns, plan.processes)
        connections = range(job.number, plan.connections, plan.processes)
        self.share = len(connections) / plan.connections
        self.size = len(connections)
        with job.sent_path.open("r+b") as file:
            sent = mmap.mmap(file.fileno(), 4 * plan.patterns)
        self.fleet = Fleet(
            (target.ws.host, target.ws.port),
            [(pattern.channel.encode(), orjson.dumps(dict(pattern))) for pattern in patterns],
            [plan.channels_of(connection) for connection in connections],
            path=target.ws.path,
            host=target.ws.authority,
            headers=target.headers,
            sources=target.sources,
            sent=sent,
        )
        self.sampled = 0.0

    def run(self) -> None:
        """Go through the phases: wait for the others, join, wait for the start, publish, settle."""
        plan = self.job.plan
        self.tell("begun")
        while self.commands.keys().isdisjoint(("connect", "stop")):
            self.pipe.poll(None)  # there is nothing else to do yet
            self.listen()
        if "stop" not in self.commands:
            self.fleet.connect(plan.connections / plan.ramp * self.share if plan.ramp else 0.0)
        self.spin(time.monotonic() + plan.ramp + connect_timeout(plan), until=READY)
        self.tell("joined")
        if self.own:
            self.open_publisher()
        self.await_command("start")
        if "stop" not in self.commands:
            self.publish(self.commands["start"])
        self.fleet.churn()
        self.tell("published")
        self.await_command("settle")
        self.settle()
        last = Last(self.fleet.problems(), self.fleet.notes(), self.fleet.close_codes(), self.storm_seconds)
        self.tell("settled")
        self.pipe.send(("last", last))
        self.fleet.close()

    def open_publisher(self) -> None:
        target = self.job.target
        if target.publish == "redis":
            assert target.broker is not None
            self.fleet.publish_over(target.broker.connect())
            return
        batch = target.publish == "batch"
        self.fleet.publish_http(
            (target.api.host, target.api.port),
            path=target.api.path.rstrip("/") + "/batch" if batch else target.api.path,
            host=target.api.authority,
            headers=target.api_headers,
            batch=batch,
            connections=min(API_CONNECTIONS, len(self.own)),
        )

    def publish(self, start: float) -> None:
        plan = self.job.plan
        if self.own:
            self.fleet.schedule(
                rate=plan.rate,
                outstanding=plan.outstanding,
                payload_bytes=plan.payload_bytes,
                channels=self.own,
                start=start,
                total=plan.patterns,
            )
        self.spin(start)
        self.tell("started")
        self.fleet.churn(plan.reconnects * self.share, plan.resubscribes * self.share)
        if plan.storm:
            self.spin(start + plan.duration / 3)
            if "stop" not in self.commands:
                self.storm()
        self.spin(start + plan.duration)
        if self.own:
            self.fleet.unschedule()

    def storm(self) -> None:
        """Disconnect and reconnect all connections at once; failed ones retry until all are back."""
        began, wait = time.monotonic(), RETRY_FIRST
        # In small groups, so that the schedule of messages does not wait until thousands of sockets are closed.
        for first in range(0, self.size, HANDFUL):
            self.fleet.disconnect(first, HANDFUL)
            self.fleet.run(0)
        deadline = began + connect_timeout(self.job.plan)
        while time.monotonic() < deadline and "stop" not in self.commands:
            self.fleet.connect(max_pending=self.size)
            if self.spin(deadline, until=READY) and self.fleet.counts()["ready"] == self.size:
                self.storm_seconds = time.monotonic() - began
                return
            self.spin(min(deadline, time.monotonic() + wait))
            wait = min(2 * wait, RETRY_MOST)

    def settle(self) -> None:
        """Wait for messages in flight, and count missing ones as lost."""
        self.spin(time.monotonic() + connect_timeout(self.job.plan), until=READY, stoppable=False)
        seen, since = -1, time.monotonic()
        while self.fleet.missing():
            if self.fleet.deliveries != seen:
                seen, since = self.fleet.deliveries, time.monotonic()
            elif time.monotonic() - since > SETTLE_TIMEOUT:
                break
            self.step(PROMPT)
        # Duplicates and misdirected messages would arrive soon.
        self.step(PROMPT)
        self.fleet.give_up()

    def spin(self, deadline: float, until: int = TIME, *, stoppable: bool = True) -> bool:
        """Run until a time, a condition, or the command to stop; return whether the condition holds."""
        while (left := deadline - time.monotonic()) > 0 and not (stoppable and "stop" in self.commands):
            if self.step(min(left, self.job.interval), until) and until != TIME:
                return True
        return False

    def step(self, seconds: float, until: int = TIME) -> bool:
        try:
            done = self.fleet.run(seconds, until)
        except ConnectionError as error:
            self.pipe.send(("trouble", str(error)))
            done = False
        if time.monotonic() - self.sampled >= self.job.interval:
            self.tell("sample")
        self.listen()
        return done

    def await_command(self, name: str) -> None:
        """Keep the connections alive until a command comes, or the one to stop."""
        while name not in self.commands and not (name == "start" and "stop" in self.commands):
            self.step(PROMPT)

    def listen(self) -> None:
        while self.pipe.poll():
            name, value = self.pipe.recv()
            self.commands[name] = value

    def tell(self, event: str) -> None:
        self.sampled = time.monotonic()
        fleet = self.fleet
        sample = Sample(
            fleet.counts(),
            fleet.take_latencies(),
            fleet.take_joins(),
            fleet.take_lags(),
            time.process_time(),
            resource.getrusage(resource.RUSAGE_SELF).ru_stime,
            self.sampled,
        )
        self.pipe.send((event, sample))
