"""What a load test found out: figures, latencies, the course of it; and all that as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import realizehit
from realizehit.loadtest.expect import FIGURES, Expectation, Kind, show_time
from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.proc_usage import MachineTimes, Usage
from realizehit.loadtest.target import Target

SCHEMA: Final = 1  # of the JSON; raised when a field changes its meaning or goes

LIMITED: Final = (
    "the load test was at its own limit: the figures are what it could do here, and the server may do better"
)

FAULTS: Final = (
    "lost", "duplicates", "reordered", "unexpected", "foreign", "failed", "dropped", "closed", "refused",
    "protocol_errors", "publish_errors",
)  # fmt: skip

MACHINE_BUSY: Final = 0.95  # share of all cores' time from on which the machine is taken for the limit
OFTEN: Final = 0.1  # share of the moments in which a client process may be busy before it is said
BUSY: Final = 0.9  # share of a core from which on a client process is taken for the limit
LATE_SHARE: Final = 0.01  # of the messages that may be late before it is said
SHORT_SHARE: Final = 0.99  # of the messages on the schedule that have to have been sent


@dataclass(frozen=True, slots=True)
class Point:
    """One moment of the course.

    Attributes:
        seconds: since publishing began; negative before.
        phase: ``connecting``, ``publishing`` or ``settling``.
        connections: connections that are ready.
        rate_in, rate_out: messages published and delivered a second, since the point before.
        p50, p99: latency since the point before, in seconds; ``None`` where nothing was delivered.
        errors: faults so far.
        server_cpu: cores that the server kept busy since the point before; ``None`` where that is not known.
        server_rss: its resident memory in bytes; ``None`` if it cannot be read.
        client_cpu: share of a core that the busiest client process used.
    """

    seconds: float
    phase: str
    connections: int
    rate_in: float
    rate_out: float
    p50: float | None
    p99: float | None
    errors: int
    server_cpu: float | None
    server_rss: int | None
    client_cpu: float | None = None


@dataclass(slots=True)
class Moment:
    """The sums over all processes at one moment, for differences between two.

    Attributes:
        clock: ``time.monotonic()``.
        sampled: when the processes counted, on average, by the same clock.
        counts: as ``Fleet.counts``, added up.
        cpu: processor time of each client process.
        server: what the server has used, where that is known.
        machine: what all cores of this machine have done, where that is known.
    """

    clock: float
    sampled: float
    counts: dict[str, int]
    cpu: list[float]
    server: Usage | None
    machine: MachineTimes | None = None


@dataclass(slots=True, kw_only=True)
class Report:
    """Everything that a load test found out.

    Attributes:
        limited: whether the client's side was at its limit, so that the figures may say nothing about the server; the
            first warnings say how.
    """

    scenario: str
    plan: Plan
    target: Target
    started: datetime
    interrupted: bool
    figures: dict[str, float | None]
    latencies: Histogram
    points: list[Point]
    warnings: list[str]
    problems: list[str]
    notes: list[str]
    close_codes: dict[int, int]
    expectations: list[tuple[str, str | None]] = field(default_factory=list)
    limited: bool = False

    @property
    def summary(self) -> str:
        """What was done, in one line."""
        plan = self.plan
        load = f"{plan.outstanding:,} outstanding" if plan.outstanding else f"{plan.rate:,g} messages/s"
        parts = (
            counted(plan.connections, "connection"),
            counted(plan.patterns, "pattern"),
            load,
            f"{plan.payload_bytes:,} bytes",
            f"published by {self.target.publish}",
            *([counted(plan.processes, "client process", "client processes")] if plan.processes > 1 else []),
        )
        return ", ".join(parts)

    @property
    def headline(self) -> str:
        """What was measured, in a sentence; empty where nothing was delivered."""
        p50, p99 = self.figures["p50"], self.figures["p99"]
        if p50 is None or p99 is None:
            return ""
        since = "after the message was sent" if self.plan.outstanding else "after the message was due"
        return f"half of the deliveries came within {show_time(p50)} {since}, and 99 of 100 within {show_time(p99)}"

    def expect(self, expectations: Sequence[Expectation]) -> None:
        """Check the figures against the expectations."""
        for each in expectations:
            failure = each.failure(self.figures)
            if failure and self.limited and FIGURES[each.figure][0] in (Kind.TIME, Kind.RATE):
                failure += "; the load test was at its own limit, see the warnings: this need not be the server's doing"
            self.expectations.append((each.text, failure))

    @property
    def verdict(self) -> str:
        """The result of the checks, in words."""
        faults = [f"{name.replace('_', ' ')} {self.figures[name]:,.0f}" for name in FAULTS if self.figures[name]]
        if faults:
            return "errors: " + ", ".join(faults)
        if not self.figures["deliveries"]:
            return "nothing was delivered, and nothing was expected"
        return "every message reached every subscriber of its pattern, once and in order"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values; times are in seconds, sizes in bytes."""
        return {
            "schema": SCHEMA,
            "realizehit": realizehit.__version__,
            "started": self.started.isoformat(timespec="seconds"),
            "interrupted": self.interrupted,
            "scenario": self.scenario,
            "plan": {**dataclasses.asdict(self.plan), "publish": self.target.publish},
            "target": {"url": self.target.url, "embedded": self.target.embedded},
            "machine": machine(),
            "figures": self.figures,
            "latency": self.latencies.buckets(),
            "timeline": [dataclasses.asdict(point) for point in self.points],
            "close_codes": {str(code): count for code, count in self.close_codes.items()},
            "warnings": self.warnings,
            "problems": self.problems,
            "notes": self.notes,
            "expectations": [{"text": text, "failure": failure} for text, failure in self.expectations],
        }


def machine() -> dict[str, Any]:
    """Return what this machine is, as far as it matters for the figures."""
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "model": model,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def errors_of(counts: Mapping[str, int]) -> int:
    """Return how many faults there are in the counts of a fleet."""
    return sum(counts.get(name, 0) for name in FAULTS)


def make_figures(
    *,
    began: Moment | None,
    joined: Moment | None,
    started: Moment | None,
    published: Moment | None,
    last: Moment,
    latencies: Histogram,
    joins: Histogram,
    rejoins: Histogram,
    storm_seconds: float | None,
    rss: int | None,
) -> dict[str, float | None]:
    """Make the figures, by the names in `realizehit.loadtest.expect.FIGURES`.

    Args:
        began: when the first connection was begun.
        joined: when all connections were ready.
        started: when publishing began.
        published: when it ended.
        last: after everything.
        latencies: of all deliveries.
        joins: of connections before publishing began.
        rejoins: of connections after that.
        storm_seconds: seconds from the storm until all clients were back; ``None`` if one was not.
        rss: the server's highest memory.
    """
    counts = last.counts
    figures: dict[str, float | None] = {**latencies.percentiles(), "mean": latencies.mean}
    figures["deliveries"], figures["published"] = counts["deliveries"], counts["published"]
    figures |= dict.fromkeys(("rate_in", "rate_out", "client_cpu", "server_cpu", "server_cpu_per_delivery"))
    figures |= {name: counts[name] for name in FAULTS}
    figures["errors"] = errors_of(counts)
    figures["connections"] = (started or last).counts["ready"]
    figures["connect_rate"] = None
    figures |= dict.fromkeys(("rss_per_connection", "server_cpu_per_connection"))
    for name, histogram in (("join", joins), ("rejoin", rejoins)):
        for percent in ("p50", "p99", "max"):
            figures[f"{name}_{percent}"] = histogram.percentiles()[percent]
    figures["storm_seconds"] = storm_seconds
    for name in ("reconnects", "resubscribes", "late", "forgone"):
        figures[name] = counts[name]
    figures["server_rss"] = rss
    if began and joined and joined.clock > began.clock:
        ready = joined.counts["ready"]
        figures["connect_rate"] = ready / (joined.clock - began.clock)
        if began.server and joined.server and ready:
            figures["rss_per_connection"] = (joined.server.rss - began.server.rss) / ready
            figures["server_cpu_per_connection"] = (joined.server.cpu - began.server.cpu) / ready
    if started and published and published.sampled > started.sampled:
        seconds = published.sampled - started.sampled
        deliveries = published.counts["deliveries"] - started.counts["deliveries"]
        figures["rate_in"] = (published.counts["published"] - started.counts["published"]) / seconds
        figures["rate_out"] = deliveries / seconds
        figures["client_cpu"] = max(b - a for a, b in zip(started.cpu, published.cpu, strict=True)) / seconds
        if started.server and published.server:
            cpu = published.server.cpu - started.server.cpu
            figures["server_cpu"] = cpu / seconds
            figures["server_cpu_per_delivery"] = cpu / deliveries if deliveries else None
    return figures


def make_limits(
    plan: Plan, target: Target, figures: Mapping[str, float | None], points: Sequence[Point], machine: float | None
) -> list[str]:
    """Say what of the load test's own side was at its limit; nothing where the figures are the server's.

    Args:
        plan: what was done.
        target: where.
        figures: what was measured.
        points: the course.
        machine: the share of their time in which all cores of this machine were busy.
    """
    found = []
    busy = figures["client_cpu"]
    seen = [p.client_cpu for p in points if p.phase == "publishing" and p.client_cpu is not None]
    often = sum(cpu >= BUSY for cpu in seen) / len(seen) if seen else 0.0
    more = (
        "it takes one process to see that a message reached everyone: for more use a --rate with --processes"
        if plan.outstanding
        else "spread the load with --processes, on cores that the server does not need"
    )
    if busy is not None and busy >= BUSY:
        found.append(
            f"a client process used {busy:.0%} of a core: the figures may be the client's limit, not the server's; "
            f"{more}"
        )
    elif often > OFTEN:
        found.append(
            f"a client process used over {BUSY:.0%} of a core for {often:.0%} of the time: the highest latencies may "
            f"be the client's, not the server's; {more}"
        )
    if machine is not None and machine >= MACHINE_BUSY:
        whose = "server and client had to wait for each other" if target.pids else "the client had to wait"
        found.append(
            f"the cores of this machine were busy {machine:.0%} of the time, with whatever ran on it: {whose}, and the "
            "figures may be the machine's limit, not the server's"
        )
    return found


def make_warnings(
    plan: Plan, target: Target, figures: Mapping[str, float | None], lags: Histogram, abandoned: int = 0
) -> list[str]:
    """Say what makes the figures doubtful; ``abandoned`` outstanding messages made room for others without coming."""
    found = make_limits(plan, target, figures, (), None)
    published, late = figures["published"] or 0, figures["late"] or 0
    if published and late > LATE_SHARE * published and not plan.outstanding:
        worst = lags.percentile(99)
        found.append(
            f"{late / published:.0%} of the messages were sent more than 10 ms after their time "
            f"(99th percentile {(worst or 0) * 1000:.0f} ms): the publishing side could not keep the schedule; "
            "latencies count from the intended time"
        )
    rate = figures["rate_in"]
    if not plan.outstanding and rate is not None and rate < SHORT_SHARE * plan.rate:
        found.append(f"{rate:,.0f} messages a second were published, and {plan.rate:,.0f} were asked for")
    if abandoned:
        found.append(
            f"{counted(abandoned, 'outstanding message')} did not reach every subscriber and made room for the next: "
            "the rates and latencies are those of fewer messages under way"
        )
    if figures["connections"] is not None and figures["connections"] < plan.connections:
        found.append(f"only {figures['connections']:,.0f} of {plan.connections:,} connections were ready in time")
    cpus = machine()["cpus"]
    needed = plan.processes + target.workers + (1 if target.embedded else 0)
    if target.pids and cpus is not None and cpus < needed:
        server = counted(target.workers, "server process", "server processes")
        found.append(
            f"{server}{', broker' if target.embedded else ''} and "
            f"{counted(plan.processes, 'client process', 'client processes')} share {counted(cpus, 'core')}: "
            "each has less than it would have alone"
        )
    return found


def counted(number: int, one: str, many: str = "") -> str:
    """Write a number of things."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def describe_problems(found: Sequence[tuple[str, int, int, int, int]]) -> list[str]:
    """Write examples of wrong deliveries as sentences."""
    texts = {
        "lost": "connection {0}, pattern {1}: expected message {2}, then came {3}",
        "duplicate": "connection {0}, pattern {1}: message {3} came again, after it {2} was next",
        "reordered": "connection {0}, pattern {1}: message {3} came late, {2} was next",
        "unexpected": "connection {0}, pattern {1}: message {3} came without a subscription",
    }
    return [
        f"{kind}: connection {numbers[0]}, pattern {numbers[1]}: message {numbers[2]} and what followed never came"
        if kind == "lost" and not numbers[3]
        else f"{kind}: {texts[kind].format(*numbers)}"
        for kind, *numbers in found
    ]
