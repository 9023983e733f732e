"""Reasons to doubt the figures of a load test: a client at its limit, a late schedule, shared cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from realizehit.loadtest.expect import show_time
from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.plan import Plan
from realizehit.loadtest.report import Point, counted, machine
from realizehit.loadtest.source_addresses import CROWDED, used_share
from realizehit.loadtest.target import Target

MACHINE_BUSY: Final = 0.95  # from this share of all cores' time on, the machine counts as the limit
OFTEN: Final = 0.1  # share of the points at which a client process may be busy without a warning
BUSY: Final = 0.9  # from this share of a core on, a client process counts as the limit
KERNEL_COST: Final = 300e-6  # seconds of the client's kernel for a connection; 20 to 100 us are usual
KERNEL_BUSY: Final = 0.5  # cores that the client's kernel must keep busy for its cost to count
LATE_SHARE: Final = 0.01  # share of the messages that may be late without a warning
SHORT_SHARE: Final = 0.99  # share of the scheduled messages that must have been sent


def make_limits(
    plan: Plan, target: Target, figures: Mapping[str, float | None], points: Sequence[Point], machine: float | None
) -> list[str]:
    """Describe which part of the load test itself was at its limit.

    Args:
        plan: the plan of the load test.
        target: its server.
        figures: its figures.
        points: its course over time.
        machine: the share of their time in which all cores of this machine were busy.

    Returns:
        One sentence for each limit; empty if the figures are those of the server.
    """
    found = []
    busy = figures["client_cpu"]
    seen = [p.client_cpu for p in points if p.phase == "publishing" and p.client_cpu is not None]
    often = sum(cpu >= BUSY for cpu in seen) / len(seen) if seen else 0.0
    more = (
        "only one process can see that a message reached everyone; for more load use --rate with --processes"
        if plan.outstanding
        else "spread the load with --processes, on cores that the server does not use"
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
        waited = "server and client had to wait for each other" if target.pids else "the client had to wait"
        found.append(
            f"the cores of this machine were busy {machine:.0%} of the time with all of its programs: {waited}, "
            "and the figures may show the machine's limit, not the server's"
        )
    cost = _kernel_cost(points)
    if cost is not None:
        found.append(
            f"the kernel of the client's machine used {show_time(cost)} of CPU for each connection, mostly to find a "
            "free port: while connections were opened, rates and latencies are its limit, not the server's; name more "
            "addresses with --source-address"
        )
    return found


def _kernel_cost(points: Sequence[Point]) -> float | None:
    """Return the client's kernel CPU for a connection while it was high; ``None`` if it never was so for long."""
    course = [point for point in points if point.phase == "connecting" and point.client_kernel is not None]
    total = dear = used = 0.0
    opened = 0
    for before, point in pairwise(course):
        seconds = point.seconds - before.seconds
        kernel = (point.client_kernel or 0.0) * seconds
        fresh = max(0, point.connections - before.connections)
        total += seconds
        if kernel >= KERNEL_BUSY * seconds and kernel >= KERNEL_COST * fresh:
            dear, used, opened = dear + seconds, used + kernel, opened + fresh
    return used / max(1, opened) if dear > OFTEN * total else None


def make_warnings(
    plan: Plan, target: Target, figures: Mapping[str, float | None], lags: Histogram, abandoned: int = 0
) -> list[str]:
    """Describe why the figures are doubtful.

    Args:
        plan: the plan of the load test.
        target: its server.
        figures: its figures.
        lags: how much later than scheduled messages were sent.
        abandoned: outstanding messages that did not arrive and made room for others.
    """
    found = make_limits(plan, target, figures, (), None)
    published, late = figures["published"] or 0, figures["late"] or 0
    if published and late > LATE_SHARE * published and not plan.outstanding:
        worst = lags.percentile(99)
        found.append(
            f"{late / published:.0%} of the messages were sent more than 10 ms after their time "
            f"(99th percentile {(worst or 0) * 1000:.0f} ms): the publisher could not keep the schedule; "
            "latencies count from the intended time"
        )
    rate = figures["rate_in"]
    if not plan.outstanding and rate is not None and rate < SHORT_SHARE * plan.rate:
        found.append(f"{rate:,.0f} messages per second were published instead of {plan.rate:,.0f}")
    if abandoned:
        found.append(
            f"{counted(abandoned, 'outstanding message')} did not reach every subscriber and made room for the next: "
            "rates and latencies are those of fewer messages in flight"
        )
    if figures["connections"] is not None and figures["connections"] < plan.connections:
        found.append(f"only {figures['connections']:,.0f} of {plan.connections:,} connections were ready in time")
    share = used_share(target, plan.connections)
    if share > CROWDED:
        addresses = counted(max(1, len(target.sources)), "source address", "source addresses")
        found.append(
            f"{plan.connections:,} connections from {addresses} use {share:.0%} of the ports: finding a free one takes "
            "the client's kernel long; name more addresses with --source-address"
        )
    cpus = machine()["cpus"]
    needed = plan.processes + target.workers + (1 if target.embedded else 0)
    if target.pids and cpus is not None and cpus < needed:
        server = counted(target.workers, "server process", "server processes")
        found.append(
            f"{server}{', broker' if target.embedded else ''} and "
            f"{counted(plan.processes, 'client process', 'client processes')} share {counted(cpus, 'core')}: "
            "each gets less CPU than it would alone"
        )
    return found
