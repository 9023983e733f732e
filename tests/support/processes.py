"""The commands as processes: started like a user does, with their output line by line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from realizehit.settings import OPTIONS, variable_of

SCRIPTS = Path(sysconfig.get_path("scripts"))
SECONDS = 30.0  # more than anything takes, even on a busy machine


class Process:
    """A running command.

    Args:
        *words: the command and its arguments.
        env: variables besides those of this process, from which the server's are taken out.
        stdin: text for its standard input.

    Attributes:
        out, err: the lines that came so far.
    """

    def __init__(self, *words: str, env: Mapping[str, str] | None = None, stdin: str | None = None) -> None:
        own = {variable_of(option.name) for option in OPTIONS} | {"REALIZEHIT_CONFIG", "NO_COLOR", "FORCE_COLOR"}
        self._popen = subprocess.Popen(
            [str(SCRIPTS / words[0]), *words[1:]],
            env={**{name: value for name, value in os.environ.items() if name not in own}, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl+C for the tests does not reach it
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = threading.Condition()
        self._open = 2
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(self._popen.stdout, self.out)),
            threading.Thread(target=self._read, args=(self._popen.stderr, self.err)),
        ]
        for reader in self._readers:
            reader.start()
        if stdin is not None:
            assert self._popen.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._popen.stdin as pipe:
                pipe.write(stdin)

    def _read(self, pipe: IO[str], lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                with self._news:
                    lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._open -= 1
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def output(self) -> str:
        return "\n".join([*self.out, *self.err])

    def find(self, pattern: str, count: int = 1) -> list[re.Match[str]]:
        """Wait for a number of matching lines, and return the matches."""
        found: list[re.Match[str]] = []

        def enough() -> bool:
            found[:] = [match for line in [*self.out, *self.err] if (match := re.search(pattern, line))]
            return len(found) >= count

        with self._news:
            self._news.wait_for(lambda: enough() or not self._open, SECONDS)
        assert len(found) >= count, f"{pattern!r} is not in:\n{self.output}"
        return found

    def poll(self) -> int | None:
        """Return the exit status; ``None`` while it runs."""
        return self._popen.poll()

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self) -> int:
        """Wait for its end and for all of its output; return the exit status."""
        status = self._popen.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return status

    def stop(self) -> int:
        """End it like Ctrl+C; kill it if that does not help."""
        if self._popen.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self._popen.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        return self.wait()


@contextmanager
def running(*words: str, env: Mapping[str, str] | None = None, stdin: str | None = None) -> Iterator[Process]:
    process = Process(*words, env=env, stdin=stdin)
    try:
        yield process
    finally:
        process.stop()


class Server(Process):
    """A running ``realizehit-server``, on a free port unless the arguments name one.

    Args:
        *words: its arguments.
        env: as in `Process`.
        before: a command that starts the server, which is added to its arguments.

    Attributes:
        ws, api: its addresses, as it prints them.
    """

    def __init__(self, *words: str, env: Mapping[str, str] | None = None, before: Sequence[str] = ()) -> None:
        super().__init__(*before, str(SCRIPTS / "realizehit-server"), "--port", "0", *words, env=env)
        try:
            self.find("^$", 1)  # the empty line after the addresses
            self.ws = self._address("WebSocket")
            self.api = self._address("API")
        except BaseException:
            self.stop()
            raise

    def die(self) -> None:
        """Kill it with its workers, as if the machine had failed."""
        self.signal(signal.SIGSTOP)  # it replaces no worker
        for pid in [*children(self.pid), self.pid]:
            os.kill(pid, signal.SIGKILL)
        self.wait()

    def _address(self, name: str) -> str:
        return next((line.split()[1] for line in self.out if line.startswith(f"  {name} ")), "")


@contextmanager
def serving(*words: str, env: Mapping[str, str] | None = None, before: Sequence[str] = ()) -> Iterator[Server]:
    server = Server(*words, env=env, before=before)
    try:
        yield server
    finally:
        server.stop()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def private_tmp() -> Iterator[dict[str, str]]:
    """A variable that gives a server a private temporary directory, with a path short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="rh-", ignore_cleanup_errors=True) as directory:
        yield {"TMPDIR": directory}


def embedded_pids(tmp: Mapping[str, str]) -> list[int]:
    """The embedded Valkeys of servers with that temporary directory."""
    return [int(file.read_text()) for file in Path(tmp["TMPDIR"]).glob("realizehit-*/*/v.pid")]


def embedded_url(tmp: Mapping[str, str]) -> str:
    """The address of the embedded Valkey of the one server with that temporary directory."""
    (socket,) = Path(tmp["TMPDIR"]).glob("realizehit-*/*/v.sock")
    return f"unix://{socket}"


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_gone(*pids: int) -> None:
    """Wait for the end of processes that are not our children."""
    deadline = time.monotonic() + SECONDS
    while alive := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline, f"still there: {alive}"
        time.sleep(0.02)
