"""The figures of a load test, computed from counts and latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from realizehit.loadtest.histogram import Histogram
from realizehit.loadtest.proc_usage import MachineTimes, Usage

FAULTS: Final = (
    "lost", "duplicates", "reordered", "unexpected", "foreign", "failed", "dropped", "closed", "refused",
    "protocol_errors", "publish_errors",
)  # fmt: skip


@dataclass(slots=True)
class Moment:
    """Sums over all processes at one moment. Figures are differences between two of them.

    Attributes:
        clock: ``time.monotonic()``.
        sampled: the average time at which the processes counted, by the same clock.
        counts: the sums of ``Fleet.counts``.
        cpu: seconds of CPU of each client process.
        server: resources that the server has used, if known.
        machine: CPU times of all cores of this machine, if known.
        kernel: seconds of CPU that the kernel used for all client processes.
    """

    clock: float
    sampled: float
    counts: dict[str, int]
    cpu: list[float]
    server: Usage | None
    machine: MachineTimes | None = None
    kernel: float = 0.0


def errors_of(counts: Mapping[str, int]) -> int:
    """Return the number of faults in the counts of a fleet."""
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
    """Compute the figures, with the names in `realizehit.loadtest.expect.FIGURES`.

    Args:
        began: the moment of the first connection attempt.
        joined: the moment when all connections were ready.
        started: the moment when publishing began.
        published: the moment when publishing ended.
        last: the last moment.
        latencies: of all deliveries.
        joins: of connections before publishing began.
        rejoins: of connections after that.
        storm_seconds: seconds from the storm until all clients were back; ``None`` if one did not come back.
        rss: the server's highest resident memory in bytes.
    """
    counts = last.counts
    figures: dict[str, float | None] = {**latencies.percentiles(), "mean": latencies.mean}
    figures["deliveries"], figures["published"] = counts["deliveries"], counts["published"]
    figures |= dict.fromkeys(("rate_in", "rate_out", "client_cpu", "server_cpu", "server_cpu_per_delivery"))
    figures |= {name: counts[name] for name in FAULTS}
    figures["errors"] = errors_of(counts)
    figures["connections"] = (started or last).counts["ready"]
    figures["connect_rate"] = None
    figures |= dict.fromkeys(("rss_per_connection", "server_cpu_per_connection", "client_kernel_per_connection"))
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
        if ready:
            figures["client_kernel_per_connection"] = (joined.kernel - began.kernel) / ready
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
