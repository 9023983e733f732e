"""One machine of a cluster of brokers: a process that a test can stop, kill and start again."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis

SECONDS = 30.0  # more than anything takes, even on a busy machine


class Machine:
    """One process of a cluster.

    Attributes:
        port: where clients reach it.
        bus_port: where it listens for the other machines.
        announced: where the other machines connect to for that.
        id: its name in the cluster, from its first start on.
    """

    def __init__(self, binary: str, directory: Path, port: int, bus_port: int, lines: Iterable[str]) -> None:
        self.port = port
        self.bus_port = self.announced = bus_port
        self.id = ""
        self._binary = binary
        self._file = directory / f"{self.port}.conf"
        own = (
            f"port {self.port}",
            f"cluster-port {self.bus_port}",
            "bind 127.0.0.1",
            f"dir {directory}",
            f'logfile "{self.port}.log"',
            'save ""',
            "cluster-enabled yes",
            f"cluster-config-file {self.port}.nodes",
        )
        self._file.write_text("\n".join([*own, *lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None
        self._client = redis.Redis(port=self.port, protocol=2, decode_responses=True, socket_timeout=SECONDS)
        self._client.response_callbacks.clear()

    def __repr__(self) -> str:
        return f"<Machine {self.port}{'' if self.alive else ', ended'}>"

    @property
    def place(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None

    def announce(self, port: int) -> None:
        """Have the other machines connect to another port; before its first start."""
        self.announced = port
        with self._file.open("a") as file:
            file.write(f"cluster-announce-bus-port {port}\n")

    def launch(self) -> None:
        """Start it without waiting until it answers."""
        self._process = subprocess.Popen([self._binary, str(self._file)], process_group=0)

    def start(self) -> None:
        """Start it, and wait until it answers. One that was killed comes back without data."""
        self.launch()
        self.wait_started()

    def wait_started(self) -> None:
        """Wait until it answers after `launch`."""
        wait(self._answers)
        self.id = self.command("CLUSTER", "MYID")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"{self} ended by itself"
        with contextlib.suppress(redis.ConnectionError):
            return bool(self.command("PING"))
        return False

    def command(self, *words: str | bytes | int) -> Any:
        """Send one command and return the raw reply.

        Raises:
            redis.RedisError: it answered an error, or not at all.
        """
        return self._client.execute_command(*words)  # type: ignore[no-untyped-call]

    def info(self, *words: str) -> dict[str, str]:
        """Return the fields of ``INFO``, or of another command with that form."""
        text = self.command(*(words or ("INFO",)))
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def clients(self, *words: str) -> list[dict[str, str]]:
        """Return ``CLIENT LIST``, a dict for each connection."""
        lines = self.command("CLIENT", "LIST", *words).splitlines()
        return [dict(field.split("=", 1) for field in line.split()) for line in lines]

    def calls(self, command: str) -> int:
        """Return how often it has executed a command."""
        fields = self.info("INFO", "commandstats").get(f"cmdstat_{command}", "calls=0,")
        return int(fields.partition("calls=")[2].partition(",")[0])

    def pause(self) -> None:
        """Stop it without closing its connections (SIGSTOP): to the others, and to clients, it is cut off."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with SIGKILL, also when it is paused."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        self._client.connection_pool.disconnect()

    def close(self) -> None:
        self.kill()
        self._client.close()


def wait(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.02)
