"""A host of the test's own, with the addresses and names that the pages use, on which a reader works at terminals.

It is made of namespaces of Linux: its network has only loopback, so that every port is free and each page can be
followed to the letter; what is written below ``/etc``, ``/run`` and ``/var/log`` is gone with it. ``pip`` and ``npm``
alone use the machine's own network, since they fetch packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from tests.support.processes import SECONDS

ADDRESSES = ("10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.9")
NAMES = ("localhost", "redis", "rt.example", "app.example")
_CLONE_NEWNET = 0x40000000

_SETUP = f"""set -e
ip link set lo up
for address in {" ".join(ADDRESSES)}; do ip addr add "$address/32" dev lo; done
mount -t tmpfs none "$1"
for name in etc run var/log; do
    mkdir -p "$1/new/$name" "$1/scratch/$name"
    mount -t overlay none -o "lowerdir=/$name,upperdir=$1/new/$name,workdir=$1/scratch/$name" "/$name"
done
echo "127.0.0.1 {" ".join(NAMES)}" > /etc/hosts
echo ready
exec cat
"""


@cache
def can_make_hosts() -> bool:
    """Tell whether one can be made here: it takes root, and a Linux that lets root make namespaces and overlays."""
    if os.environ.get("REALIZEHIT_ALL_PROGRAMS"):
        return True  # nothing is to be skipped, as in CI
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as directory:
        try:
            Host(Path(directory)).close()
        except RuntimeError:
            return False
    return True


class Host:
    """The host; its namespaces end with the process that holds them."""

    def __init__(self, directory: Path) -> None:
        scratch = directory / "written"
        scratch.mkdir()
        words = ["unshare", "--mount", "--net", "--", "sh", "-c", _SETUP, "sh", str(scratch)]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        if said != b"ready\n":
            text = (said + self._holder.stdout.read()).decode()
            self.close()
            raise RuntimeError(f"cannot make a host: {text}")

    @property
    def _network(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/ns/net")

    @property
    def enter(self) -> list[str]:
        """The words before a command that run it on this host."""
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--"]

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread open its sockets, and start its processes, on this host's network."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path("/proc/thread-self/ns/net").open("rb") as own, self._network.open("rb") as other:

            def go(network: BinaryIO) -> None:
                if libc.setns(network.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")

            go(other)
            try:
                yield
            finally:
                go(own)

    def accepts(self, port: int) -> bool:
        with self.inside():
            try:
                socket.create_connection(("127.0.0.1", port), SECONDS).close()
            except ConnectionRefusedError:
                return False
            return True

    def close(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(SECONDS)
        self._holder.stdout.close()


@dataclass
class Running:
    """A command that a terminal runs, or has run.

    Attributes:
        text: the command.
        out: the file with what it prints, errors included.
        pid: its process group, where it goes on.
    """

    text: str
    out: Path
    pid: int = 0

    @property
    def printed(self) -> str:
        return self.out.read_text(encoding="utf-8", errors="replace")

    def goes_on(self) -> bool:
        if not self.pid:
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def interrupt(self) -> None:
        """Do what Ctrl+C does, and more where that does not help."""
        for number, patience in ((signal.SIGINT, SECONDS), (signal.SIGKILL, SECONDS)):
            deadline = time.monotonic() + patience
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            while self.goes_on() and time.monotonic() < deadline:
                time.sleep(0.02)
            if not self.goes_on():
                return
        raise AssertionError(f"does not end: {self.text}")


class Terminal:
    """A shell on the host, which keeps its directory and variables from one command to the next."""

    def __init__(self, host: Host, directory: Path, env: Mapping[str, str], scratch: Path) -> None:
        self._scratch = scratch
        self._count = 0
        reading, writing = os.pipe()
        self._replies = os.fdopen(reading, "r", encoding="utf-8")
        # The directory is entered inside: another mount namespace has another root.
        start = f'cd "$1"; exec {writing}>&{writing}; set -m; while read -r line; do eval "$line"; done'
        self._shell = subprocess.Popen(
            [*host.enter, "bash", "--noprofile", "--norc", "-c", start, "bash", str(directory)],
            env=dict(env),
            stdin=subprocess.PIPE,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)
        self._fd = writing
        for program in ("pip", "npm"):
            words = f'nsenter --net=/proc/{os.getpid()}/ns/net -- "$(type -P {program})" "$@"'
            self._tell(f"{program}() {{ {words}; }}; echo >&{writing}")

    def _tell(self, line: str) -> str:
        assert self._shell.stdin is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()
        return self._replies.readline().strip()

    def _prepare(self, text: str) -> tuple[Path, Running]:
        self._count += 1
        script = self._scratch / f"{id(self)}-{self._count}.sh"
        script.write_text(text + "\n", encoding="utf-8")
        out = script.with_suffix(".out")
        out.touch()
        return script, Running(text, out)

    def run(self, text: str) -> tuple[int, Running]:
        """Run a command to its end; return its exit status too."""
        script, command = self._prepare(text)
        said = self._tell(f"source {script} </dev/null >{command.out} 2>&1 {self._fd}>&-; echo $? >&{self._fd}")
        return int(said), command

    def start(self, text: str) -> Running:
        """Start a command that goes on."""
        script, command = self._prepare(text)
        said = self._tell(f"source {script} </dev/null >{command.out} 2>&1 {self._fd}>&- & echo $! >&{self._fd}")
        command.pid = int(said)
        return command

    def status(self, command: Running) -> int:
        """Return the exit status of a command that was started here and has ended."""
        return int(self._tell(f"wait {command.pid}; echo $? >&{self._fd}"))

    def close(self) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        self._shell.wait(SECONDS)
        self._replies.close()


def commands(block: str) -> list[str]:
    """Split a block into commands, as a shell takes them: a line, or several that belong together."""
    found, lines = [], [""]
    for line in block.splitlines():
        lines.append(line)
        text = "\n".join(lines).strip()
        if not text or (len(lines) == 2 and text.startswith("#")):
            lines = [""]
        elif not text.endswith("\\") and not _open(text):
            found.append(text)
            lines = [""]
    if "".join(lines).strip():
        raise ValueError(f"is not a whole command: {lines}")
    return found


def _open(text: str) -> bool:
    """Tell whether a shell would read on: a quote, a group or a here-document is open."""
    done = subprocess.run(
        ["bash", "-n"], input=text + "\n", capture_output=True, text=True, check=False, timeout=SECONDS
    )
    return bool(re.search("unexpected (end of file|EOF)|here-document", done.stderr))
