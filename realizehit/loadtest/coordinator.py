"""Leads the client processes through a load test, and collects what they report.

The phases: when all processes run, they open their connections (``connecting``); when these are open, all processes
begin to publish at the same moment (``publishing``); then each waits for messages that are under way (``settling``) and
reports those that never came.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from realizehit.errors import LoadTestError
from realizehit.loadtest import proc_usage
from realizehit.loadtest.client_processes import ClientProcesses
from realizehit.loadtest.doubts import make_limits, make_warnings
from realizehit.loadtest.figures import Moment, errors_of, make_figures
from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.open_files import raise_open_files
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.report import Point, Report, describe_problems
from realizehit.loadtest.target import Target
from realizehit.loadtest.worker import SETTLE_TIMEOUT, Job, Last, Sample, connect_timeout, pattern_of

START_DELAY: Final = 0.3  # seconds from the command to the start, so that all processes have received it
MIN_INTERVAL: Final = 0.25  # seconds between two points of the course
MAX_POINTS: Final = 400
MAX_PROBLEMS: Final = 20


class Coordinator:
    """One load test.

    Args:
        plan: what to do.
        target: the server to measure.
        scenario: its name, for the report.
        on_point: called with each point of the course.
        on_joined: called when all connections are ready, before anything is published. They stay until it returns.
    """

    def __init__(
        self,
        plan: Plan,
        target: Target,
        *,
        scenario: str = "",
        on_point: Callable[[Point], None] = lambda point: None,
        on_joined: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self.target = target
        self.scenario = scenario
        self.points: list[Point] = []
        self.phase = "connecting"
        self._connect_timeout = connect_timeout(plan)
        self._run_id = secrets.token_hex(4)
        self._on_point = on_point
        self._on_joined = on_joined
        self._interrupted = False
        self._interval = max(MIN_INTERVAL, (plan.duration + plan.ramp) / MAX_POINTS)
        self._processes = ClientProcesses()
        self._samples: list[Sample | None] = [None] * plan.processes
        self._fresh: set[int] = set()
        self._events: list[str] = [""] * plan.processes
        self._last: list[Last | None] = [None] * plan.processes
        self._latencies, self._recent = Histogram(), Histogram()
        self._joins, self._rejoins, self._lags = Histogram(), Histogram(), Histogram()
        self._moments: dict[str, Moment] = {}
        self._previous: Moment | None = None
        self._rss: int | None = None
        self._start: float | None = None
        self._trouble: list[str] = []

    def stop(self) -> None:
        """Stop early and report what was measured so far; a signal handler may call this."""
        self._interrupted = True

    def run(self) -> Report:
        """Run the load test.

        Raises:
            LoadTestError: it cannot run; the text says why.
        """
        self._check_limits()
        if self.target.publish != "redis":
            self.target.try_publishing(pattern_of(self._run_id, 0))  # there is no subscriber yet
        started = datetime.now(UTC)
        try:
            descriptor, name = tempfile.mkstemp(prefix="realizehit-loadtest-")
        except OSError as error:
            raise LoadTestError(f"no temporary file can be made, see TMPDIR: {error.strerror or error}") from None
        try:
            os.ftruncate(descriptor, 4 * self.plan.patterns)
            os.close(descriptor)
            self._processes.start(
                Job(number, self.plan, self.target, self._run_id, Path(name), self._interval)
                for number in range(self.plan.processes)
            )
            self._connect()
            self._on_joined()
            self._publish()
            self._settle()
        finally:
            self._processes.end()
            Path(name).unlink()
        return self._report(started)

    def _check_limits(self) -> None:
        allowed, needed = raise_open_files(), -(-self.plan.connections // self.plan.processes) + 64
        if needed > allowed:
            raise LoadTestError(
                f"each client process needs {needed} open files and may have {allowed}: "
                "raise the limit (ulimit -n), or use more --processes"
            )

    def _connect(self) -> None:
        self._until("begun", self._connect_timeout, stoppable=True)
        # The connect rate must not include the time in which interpreters start.
        self._moments["begun"] = self._moment()
        self._processes.send("connect")
        self._until("joined", self.plan.ramp + self._connect_timeout + 30, stoppable=True)
        joined = self._moments["joined"] = self._moment()
        if not joined.counts["ready"] and not self._interrupted:
            notes = self._stop_all()
            said = self.target.why_refused()
            notes += [said] if said else []
            raise LoadTestError(f"no connection to {self.target.url} could be made: {'; '.join(notes) or 'no answer'}")

    def _publish(self) -> None:
        self._start = time.monotonic() + START_DELAY
        if self._interrupted:
            self._processes.send("stop")
        else:
            self._processes.send("start", self._start)
        self._phase("publishing")
        self._until("published", self.plan.duration + self._connect_timeout + 30, stoppable=True)
        self._moments["published"] = self._moment()

    def _settle(self) -> None:
        self._phase("settling")
        self._processes.send("settle")
        # Messages that still arrive extend the wait, so its length is not known; the processes bound it.
        self._until("last", 10 * SETTLE_TIMEOUT + self._connect_timeout)
        self._point()  # the charts end with how it ended

    def _stop_all(self) -> list[str]:
        self._processes.send("stop")
        self._processes.send("settle")
        self._until("last", SETTLE_TIMEOUT + self._connect_timeout)
        return list(dict.fromkeys(note for last in self._last if last for note in last.notes))[:3]

    def _phase(self, name: str) -> None:
        self.phase = name

    def _until(self, event: str, seconds: float, *, stoppable: bool = False) -> None:
        """Handle what the processes send until all have sent one event."""
        deadline = time.monotonic() + seconds
        next_point = time.monotonic() + self._interval
        stopped = False
        while not all(_reached(said, event) for said in self._events):
            now = time.monotonic()
            if now > deadline:
                raise LoadTestError(f"a client process is stuck: it did not come to {event!r} in {seconds:.0f} s")
            if stoppable and self._interrupted and not stopped:
                stopped = True
                self._processes.send("stop")
            due = next_point if now < next_point else next_point + self._interval
            # A process that has sent its last event may be gone before the others have sent theirs.
            running = [number for number, last in enumerate(self._last) if last is None]
            for number in self._processes.wait(running, max(0.0, due - now)):
                self._hear(number)
            # A point sums up what all processes sent since the last one; it does not wait long for a silent process.
            late = time.monotonic() - next_point
            if late >= self._interval or (late >= 0 and len(self._fresh) == self.plan.processes):
                next_point = time.monotonic() + self._interval
                if "begun" in self._moments:
                    self._point()

    def _hear(self, number: int) -> None:
        event, value = self._processes.receive(number)
        if event == "error":
            raise LoadTestError(str(value))
        if event == "trouble":
            if value not in self._trouble:
                self._trouble.append(str(value))
            return
        if event == "last":
            self._last[number] = value
        else:
            self._take(number, value)
        if event != "sample":
            self._events[number] = event
            if event == "started" and all(_reached(said, event) for said in self._events):
                self._moments[event] = self._moment()

    def _take(self, number: int, sample: Sample) -> None:
        self._samples[number] = sample
        self._fresh.add(number)
        self._recent.add(sample.latencies)
        self._lags.add(sample.lags)
        joined = _reached(self._events[number], "joined")
        (self._rejoins if joined else self._joins).add(sample.joins)

    def _moment(self) -> Moment:
        samples = [sample for sample in self._samples if sample is not None]
        names = ("ready", "deliveries", "published", "reconnects", "resubscribes", "late", "abandoned", "forgone")
        counts = {name: sum(sample.counts[name] for sample in samples) for name in names}
        for sample in samples:
            for name, value in sample.counts.items():
                if name not in names:
                    counts[name] = counts.get(name, 0) + value
        cpu = [sample.cpu if sample else 0.0 for sample in self._samples]
        server = proc_usage.usage(self.target.pids) if self.target.pids else None
        if server is not None:
            self._rss = max(self._rss or 0, server.rss)
        kernel = sum(sample.kernel for sample in samples)
        sampled = sum(sample.clock for sample in samples) / len(samples) if samples else 0.0
        return Moment(time.monotonic(), sampled, counts, cpu, server, proc_usage.machine_times(), kernel)

    def _point(self) -> None:
        now, before = self._moment(), self._previous or self._moments["begun"]
        self._previous = now
        seconds = max(now.clock - before.clock, 1e-3)
        # Each process samples its counts at its own times.
        counted = max(now.sampled - before.sampled, 1e-3)
        self._fresh.clear()
        point = Point(
            seconds=now.clock - (self._start if self._start is not None else now.clock),
            phase=self.phase,
            connections=now.counts["ready"],
            rate_in=(now.counts["published"] - before.counts["published"]) / counted,
            rate_out=(now.counts["deliveries"] - before.counts["deliveries"]) / counted,
            p50=self._recent.percentile(50),
            p99=self._recent.percentile(99),
            errors=errors_of(now.counts),
            server_cpu=(now.server.cpu - before.server.cpu) / seconds if now.server and before.server else None,
            server_rss=now.server.rss if now.server else None,
            client_cpu=max(b - a for a, b in zip(before.cpu, now.cpu, strict=True)) / counted,
            client_kernel=(now.kernel - before.kernel) / counted,
        )
        self._latencies.merge(self._recent)
        self._recent = Histogram()
        if self._start is None:
            # The time before publishing is known when publishing begins.
            point = _moved(point, now.clock)
        self.points.append(point)
        self._on_point(point)

    def _machine_busy(self) -> float | None:
        """Return how busy this machine was while messages were published."""
        began, ended = self._moments.get("started"), self._moments.get("published")
        if began is None or ended is None or began.machine is None or ended.machine is None:
            return None
        return ended.machine.share_since(began.machine)

    def _report(self, started: datetime) -> Report:
        self._latencies.merge(self._recent)
        last = [each for each in self._last if each is not None]
        storms = [each.storm_seconds for each in last if each.storm_seconds is not None]
        end = self._moment()
        figures = make_figures(
            began=self._moments.get("begun"),
            joined=self._moments.get("joined"),
            started=self._moments.get("started"),
            published=self._moments.get("published"),
            last=end,
            latencies=self._latencies,
            joins=self._joins,
            rejoins=self._rejoins,
            storm_seconds=max(storms) if len(storms) == self.plan.processes else None,
            rss=self._rss,
        )
        warnings = make_warnings(self.plan, self.target, figures, self._lags, end.counts["abandoned"])
        limits = make_limits(self.plan, self.target, figures, self.points, self._machine_busy())
        warnings = [*limits, *(warning for warning in warnings if warning not in limits)]
        if self._interrupted:
            warnings.insert(0, "stopped early: the figures are of a part of the load test")
        elif self.plan.storm and figures["storm_seconds"] is None:
            warnings.insert(0, f"after the storm not everyone was back within {self._connect_timeout:.0f} s")
        codes: dict[int, int] = {}
        for each in last:
            for code, count in each.close_codes.items():
                codes[code] = codes.get(code, 0) + count
        # Each process numbers its own connections; convert to the numbers of the plan.
        problems = [
            (kind, number + connection * self.plan.processes, *rest)
            for number, each in enumerate(last)
            for kind, connection, *rest in each.problems
        ]
        start = self._start or 0.0
        return Report(
            scenario=self.scenario,
            plan=self.plan,
            target=self.target,
            started=started,
            interrupted=self._interrupted,
            figures=figures,
            latencies=self._latencies,
            points=[_moved(p, p.seconds - start) if p.phase == "connecting" else p for p in self.points],
            warnings=warnings,
            limited=bool(limits),
            problems=describe_problems(problems[:MAX_PROBLEMS]),  # type: ignore[arg-type]  # five values each
            notes=self._trouble + list(dict.fromkeys(note for each in last for note in each.notes)),
            close_codes=codes,
        )


_ORDER: Final = ("", "begun", "joined", "started", "published", "settled", "last")


def _reached(said: str, event: str) -> bool:
    """Tell whether a process whose last event is ``said`` has reached ``event``."""
    return _ORDER.index(said) >= _ORDER.index(event)


def _moved(point: Point, seconds: float) -> Point:
    return replace(point, seconds=seconds)
