"""CAPACITY: as many connections as the machine's memory takes, idle and under one broadcast a second.

Not part of a complete run, because it takes minutes and most of the machine: ``--rows capacity``. As many workers and
client processes as the limit of open files asks for, all workers on the server's core and all clients on the other one.
``REALIZEHIT_CAPACITY`` sets the number of connections; ``--quick`` takes a fifth.

The kernel's memory is the growth of ``Slab`` in ``/proc/meminfo``. It counts both ends of each connection, since the
clients are on this machine too, and is divided by two. Memory that other programs take meanwhile is in the figure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.results import Result
from benchmarks.system.place import pin, resident_bytes
from benchmarks.system.row import Run
from realizehit.errors import LoadTestError
from realizehit.loadtest.coordinator import Coordinator
from realizehit.loadtest.open_files import raise_open_files
from realizehit.loadtest.plan import make_plan
from realizehit.loadtest.report import Point, Report
from realizehit.loadtest.source_addresses import with_sources
from realizehit.loadtest.started_server import embedded_target

VARIABLE = "REALIZEHIT_CAPACITY"
PER_GIB = 15_000  # connections for each GiB that is available, with both ends and the processes: about three quarters
SPARE_FILES = 1_500  # of a process; workers get unequal numbers of connections
IDLE = 10.0  # seconds without a message
BROADCASTS = 30.0  # seconds of one broadcast a second


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in use, in bytes.

    Attributes:
        user: anonymous memory of the server's processes.
        kernel: the kernel's objects.
    """

    user: int
    kernel: int

    @classmethod
    def of(cls, pids: Sequence[int]) -> Memory:
        """Read it from ``/proc``."""
        return cls(sum(resident_bytes(pid) for pid in pids), _of_meminfo("Slab"))


def measure(run: Run) -> list[Result]:
    """Connect all, wait, broadcast; return memory, rates and latency."""
    size = run.scaled(connections_for(_of_meminfo("MemAvailable")))
    processes = -(-size // (raise_open_files() - SPARE_FILES))
    plan = make_plan("wide", {"connections": size, "processes": processes, "rate": 1.0, "duration": BROADCASTS})
    run.note(f"capacity: {size:,} connections to {processes} workers, from as many client processes")
    seen: dict[str, tuple[float, float, Memory]] = {}
    course: list[tuple[float, int]] = []
    try:
        with embedded_target(workers=processes) as found:
            pids = found.pids
            for pid in pids:
                pin(run.cores.server, pid)

            def note(name: str) -> None:
                seen[name] = (time.monotonic(), _cpu(pids), Memory.of(pids))

            def wait_idle() -> None:
                # Before publishing begins, the points have the clock's time.
                course.extend((point.seconds, point.connections) for point in coordinator.points)
                course.append((time.monotonic(), size))
                note("connected")
                time.sleep(IDLE)
                note("idle")

            def note_broadcasts(point: Point) -> None:
                if point.phase == "publishing":
                    note("broadcasts")

            note("before")
            target = with_sources(found, size)
            coordinator = Coordinator(plan, target, on_joined=wait_idle, on_point=note_broadcasts)
            report = coordinator.run()
    except LoadTestError as error:
        raise RuntimeError(str(error)) from None
    wrong = {name: report.figures[name] for name in ("lost", "failed", "dropped") if report.figures[name]}
    if wrong or report.figures["connections"] != size:
        raise RuntimeError(f"{report.figures['connections']:,.0f} of {size:,} connected; {wrong}")
    return [*_memory(seen, size, processes), *_times(report, course, size)]


def _memory(seen: dict[str, tuple[float, float, Memory]], size: int, processes: int) -> list[Result]:
    results = []
    before = seen["before"][2]
    for name, earlier, words in (("idle", "connected", "idle"), ("broadcasts", "idle", "a broadcast a second")):
        (clock, cpu, memory), (then, cpu_then, _) = seen[name], seen[earlier]
        result = Result("capacity", f"{size:,} connections, {processes} workers, {words}", "KiB each", [], None)
        user, kernel = (memory.user - before.user) / size / 1024, (memory.kernel - before.kernel) / 2 / size / 1024
        result.samples.append(user + kernel)
        result.raw = {
            "KiB of the server's processes": [user],
            "KiB of the kernel, one end": [kernel],
            "cores of the server": [(cpu - cpu_then) / (clock - then)],
        }
        results.append(result)
    return results


def _times(report: Report, course: Sequence[tuple[float, int]], size: int) -> list[Result]:
    began = course[-1][0] - size / (report.figures["connect_rate"] or 1.0)  # before the first point
    course = [(began, 0), *course]
    first, last = rate_between(course, 0, size // 10), rate_between(course, size - size // 10, size)
    rates = Result("capacity", "connects, the last tenth beside the first", "x", [last / first], None)
    rates.raw = {"connects/s, first tenth": [first], "connects/s, last tenth": [last]}
    kernel = report.figures["client_kernel_per_connection"]
    if kernel is not None:
        rates.raw["us of CPU of the client's kernel a connect"] = [kernel * 1e6]
    limit = ", load test at its limit" if report.limited else ""
    p50, p99, most = (1000 * (report.figures[name] or 0.0) for name in ("p50", "p99", "max"))
    latency = Result("capacity", f"p99 of a broadcast a second to all{limit}", "ms", [p99], None)
    latency.raw = {"ms, p50": [p50], "ms, highest": [most]}
    return [rates, latency]


def connections_for(available: int) -> int:
    """Return how many connections to make with so many bytes of memory, unless the environment says a number."""
    given = os.environ.get(VARIABLE)
    return int(given) if given else int(available / (1 << 30) * PER_GIB)


def rate_between(course: Sequence[tuple[float, int]], low: int, high: int) -> float:
    """Return the connections a second from one number of connections to another.

    Args:
        course: times, and how many connections there were; in between their number grows evenly.
        low, high: the two numbers.
    """
    return (high - low) / max(_time_of(course, high) - _time_of(course, low), 1e-9)


def _time_of(course: Sequence[tuple[float, int]], connections: int) -> float:
    for (then, fewer), (now, more) in pairwise(course):
        if more >= connections > fewer:
            return then + (now - then) * (connections - fewer) / (more - fewer)
    return course[0][0]


def _of_meminfo(name: str) -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/meminfo has no {name}")


def _cpu(pids: Sequence[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
