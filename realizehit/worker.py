"""One of several processes that serve together, and the line that ties it to its parent.

The line is a socket pair: the work goes down, "ready" or the reason why not comes up, and its end, when the parent
stops or dies, tells the worker to drain. So no worker outlives its parent, and no secret stands in a command line.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import socket
import sys
from subprocess import DEVNULL
from typing import Final, NamedTuple

from realizehit import children, logs
from realizehit.errors import BrokerError, RealizehitError, SettingsError
from realizehit.server import Node, run
from realizehit.settings import Settings

START_TIMEOUT: Final = 60.0  # seconds for a worker to get ready


class Report(NamedTuple):
    """What a worker said about its start.

    Attributes:
        ready: whether it serves.
        error: why it does not, where it could say so.
        kind: ``settings`` or ``broker`` where the error is of that class and will be the same next time.
    """

    ready: bool = False
    error: str = ""
    kind: str = ""


class Worker:
    """A worker as its parent sees it; `spawn` makes one."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(
        cls, settings: Settings, broker_url: str, relay_url: str | None, unix: socket.socket | None
    ) -> Worker:
        """Start a process: a fresh interpreter, not a fork.

        Raises:
            OSError: there is no room for another process.
        """
        ours, theirs = socket.socketpair()
        shared = [] if unix is None else [unix.fileno()]
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *children.command("realizehit.worker", str(theirs.fileno())),
                    stdin=DEVNULL,
                    pass_fds=[theirs.fileno(), *shared],
                    env=children.environment(),
                    start_new_session=True,  # a terminal's Ctrl+C is for the parent, who tells its workers
                )
            except BaseException:
                ours.close()
                raise
        reader, writer = await asyncio.open_connection(sock=ours)
        work = {
            "settings": dataclasses.asdict(settings), "broker": broker_url, "relay": relay_url, "unix": shared,
        }  # fmt: skip
        writer.write(json.dumps(work).encode() + b"\n")
        return cls(process, reader, writer)

    async def report(self) -> Report:
        """Wait until the worker is ready, says why not, or is gone without a word."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                line = await self._reader.readline()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return Report(error=f"it was not ready within {START_TIMEOUT:g} seconds")
        except ConnectionError:
            line = b""
        return Report(**json.loads(line)) if line else Report()

    def drain(self) -> None:
        """Tell the worker to send its clients away and end."""
        if not self._writer.is_closing():
            self._writer.write_eof()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, where it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> None:
        """Let go of the line, which makes a worker that still runs drain."""
        self._writer.close()


def work(fd: int) -> int:
    """Be a worker: take the work from a descriptor, serve until that ends or a signal comes, and drain.

    Returns:
        The exit status.
    """
    with socket.socket(fileno=fd) as parent, parent.makefile("rb") as lines:
        line = lines.readline()
        if not line:
            return 0  # the parent is gone already
        order = json.loads(line)
        settings = Settings(**order["settings"])
        logs.configure(settings.log_format, settings.log_level)

        def tell(report: Report) -> None:
            with contextlib.suppress(OSError):  # the parent is gone; the end of the line says so
                parent.sendall(json.dumps(report._asdict()).encode() + b"\n")

        def ready(_node: Node) -> None:
            tell(Report(ready=True))

        try:
            run(
                settings,
                order["broker"],
                relay_url=order["relay"],
                reuse_port=True,
                unix=socket.socket(fileno=order["unix"][0]) if order["unix"] else None,
                on_started=ready,
                stop_fd=fd,
            )
        except RealizehitError as error:
            kinds: dict[str, type[RealizehitError]] = {"settings": SettingsError, "broker": BrokerError}
            kind = next((name for name, cls in kinds.items() if isinstance(error, cls)), "")
            tell(Report(error=str(error), kind=kind))
            return 1
    return 0


def _main() -> None:
    sys.exit(work(int(sys.argv[1])))


if __name__ == "__main__":
    _main()
