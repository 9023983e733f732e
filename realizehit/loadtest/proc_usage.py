"""Processor time and memory of a server's processes on this machine, from ``/proc``; nothing on systems without it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_LISTEN: Final = "0A"  # the state, as /proc/net/tcp writes it


class Usage(NamedTuple):
    """Resources that processes have used.

    Attributes:
        cpu: processor time in seconds, user and system.
        rss: resident memory in bytes.
    """

    cpu: float
    rss: int


def is_local(host: str) -> bool:
    """Whether a numeric address is one of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def listening(port: int) -> list[int]:
    """Return the processes that listen on a TCP port, as far as this user may see them."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return []
    return [pid for pid in _pids() if not inodes.isdisjoint(_descriptors(pid))]


def parents(pids: Iterable[int]) -> list[int]:
    """Return the parents of worker processes: a parent may hold the subscription at the broker."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if b"realizehit.worker" in (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0"):
                found.add(int(_stat(pid)[1]))
    return sorted(found)


def usage(pids: Iterable[int]) -> Usage | None:
    """Return what the processes have used together; ``None`` if none of them can be read."""
    cpu, rss, found = 0.0, 0, False
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = _stat(pid)
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            rss += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            found = True
    return Usage(cpu, rss) if found else None


class MachineTimes(NamedTuple):
    """What all cores of this machine have done since it started, in the system's ticks.

    Attributes:
        busy: they worked, for whomever.
        total: the same and the time in which they had nothing to do.
    """

    busy: int
    total: int

    def share_since(self, before: MachineTimes) -> float | None:
        """Return the share of the time in which the cores were busy; ``None`` where no tick has passed."""
        total = self.total - before.total
        return (self.busy - before.busy) / total if total > 0 else None


def machine_times() -> MachineTimes | None:
    """Return the times of all cores; ``None`` where they cannot be read."""
    try:
        user, nice, system, idle, iowait, irq, softirq, steal = map(
            int, (_PROC / "stat").read_text().partition("\n")[0].split()[1:9]
        )
    except (OSError, ValueError):
        return None
    busy = user + nice + system + irq + softirq + steal  # a guest's time is in the user's
    return MachineTimes(busy, busy + idle + iowait)


def _stat(pid: int) -> list[str]:
    # The second field is the name in parentheses, and may hold blanks and parentheses.
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _pids() -> list[int]:
    try:
        return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _descriptors(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(entry.readlink()))
    return found
