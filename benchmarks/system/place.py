"""Where processes run, and their cost: one core for the server, the other for all other processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PRIORITY: Final = -10

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Cores:
    """The server's core, and the one that the client and Valkey share; the same core where there is only one."""

    server: int
    client: int

    @classmethod
    def choose(cls) -> Cores:
        """Take the first two cores that this process may use, if possible not two threads of one core."""
        server, *others = sorted(os.sched_getaffinity(0))
        apart = [cpu for cpu in others if cpu not in _siblings(server)]
        return cls(server=server, client=(apart or others or [server])[0])


def _siblings(cpu: int) -> set[int]:
    """Return the logical processors that share a core with one."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text(encoding="ascii")
    except OSError:
        return {cpu}
    siblings: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        siblings.update(range(int(first), int(last or first) + 1))
    return siblings


def pin(core: int, pid: int = 0) -> None:
    """Keep a process, this one by default, on a core."""
    for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this process on a core for a while; if allowed, it and its children have priority over other work."""
    affinity, priority = os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    pin(core)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    try:
        yield
    finally:
        os.sched_setaffinity(0, affinity)
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, priority)


def give_way() -> None:
    """Run from now on only while no usual process wants this process's core."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def cpu_clock(pid: int) -> int:
    """Return the clock that counts the CPU time of a process, all its threads, in nanoseconds.

    ``time.clock_gettime`` reads it. Unlike ``/proc/PID/stat``, which counts ticks of 10 ms, it is exact.
    """
    clock = ctypes.c_int()
    error = _libc.clock_getcpuclockid(pid, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return clock.value


def cpu_seconds(clock: int) -> float:
    """Read a clock that `cpu_clock` returned."""
    return time.clock_gettime(clock)


def resident_bytes(pid: int) -> int:
    """Return the anonymous memory of a process that is in RAM: what it allocated, without mapped files."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no RssAnon")


def raise_file_limit(wanted: int) -> None:
    """Raise the limit of descriptors of this process, and of those that it starts, to `wanted`.

    Raises:
        RuntimeError: it may not; the text says what to do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, PermissionError):
        raise RuntimeError(f"this needs {wanted} open files and may have {hard}: raise it with 'ulimit -Hn'") from None
