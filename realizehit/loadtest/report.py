"""The result of a load test: figures, latencies and the course over time; also as JSON."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import realizehit
from realizehit.loadtest.expect import FIGURES, Expectation, Kind, show_time
from realizehit.loadtest.figures import FAULTS
from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.target import Target

SCHEMA: Final = 1  # version of the JSON; raised when a field changes its meaning or is removed

LIMITED: Final = (
    "the load test was at its own limit: the figures show what it could do here, and the server may do better"
)


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the course over time.

    Attributes:
        seconds: since publishing began; negative before.
        phase: ``connecting``, ``publishing`` or ``settling``.
        connections: connections that are ready.
        rate_in, rate_out: messages published and delivered per second since the previous point.
        p50, p99: latency since the previous point, in seconds; ``None`` if nothing was delivered.
        errors: faults so far.
        server_cpu: cores that the server kept busy since the previous point; ``None`` if unknown.
        server_rss: its resident memory in bytes; ``None`` if it cannot be read.
        client_cpu: share of a core that the busiest client process used.
        client_kernel: cores that the kernel kept busy for all client processes since the previous point.
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
    client_kernel: float | None = None


@dataclass(slots=True, kw_only=True)
class Report:
    """The whole result of a load test.

    Attributes:
        limited: whether the client side was at its limit, so that the figures may say nothing about the server; the
            first warnings tell why.
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
        """The plan in one line."""
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
        """The result in one sentence; empty if nothing was delivered."""
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
                failure += "; the load test was at its own limit, see the warnings; the server may not be the cause"
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
        """Return the report as plain values; times are in seconds, sizes in bytes."""
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
    """Describe this machine, as far as it matters for the figures."""
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


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, such as ``1,000 connections``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def describe_problems(found: Sequence[tuple[str, int, int, int, int]]) -> list[str]:
    """Describe examples of wrong deliveries in sentences."""
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
