"""One of several processes that serve together: how its parent starts, watches and ends it, and what it does itself.

All that the two say goes over their `line`: no secret stands in a command line, and no worker outlives its parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import DEVNULL
from typing import Any, Final

from realizehit.common import children
from realizehit.common.exchange import ANSWER_TIMEOUT, QUESTION, Exchange, Handler
from realizehit.errors import BrokerError, RealizehitError, SettingsError
from realizehit.logs.lines import configure
from realizehit.process.line import BEAT, DRAIN, Line, Report
from realizehit.process.running import run
from realizehit.settings import Settings

START_TIMEOUT: Final = 60.0  # seconds for a worker to get ready
MOST_LINE: Final = 4 << 20  # bytes of a line from a worker
SILENCE: Final = 10.0  # seconds without a beat after which a worker is looked at once more, and then hangs


class Worker:
    """A worker as its parent sees it; `spawn` makes one."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handlers: Mapping[str, Handler],
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._exchange = Exchange(self._send, handlers)

    @classmethod
    async def spawn(
        cls,
        settings: Settings,
        broker_url: str,
        relay_url: str | None,
        unix: socket.socket | None,
        *,
        number: int,
        directory: Path,
        handlers: Mapping[str, Handler],
    ) -> Worker:
        """Start a process: a fresh interpreter, not a fork.

        Args:
            settings: what to serve and where.
            broker_url: the broker.
            relay_url: where to subscribe instead of at the broker.
            unix: a bound Unix socket to listen on as well.
            number: its place among the workers.
            directory: where the workers' own sockets are.
            handlers: answer the worker's questions, by kind.

        Raises:
            OSError: the system cannot start another process.
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
        reader, writer = await asyncio.open_connection(sock=ours, limit=MOST_LINE)
        work = {
            "settings": dataclasses.asdict(settings), "broker": broker_url, "relay": relay_url, "unix": shared,
            "number": number, "directory": str(directory),
        }  # fmt: skip
        writer.write(json.dumps(work).encode() + b"\n")
        return cls(process, reader, writer, handlers)

    async def report(self) -> Report:
        """Wait until the worker is ready, says why not, or is gone without a word."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while (line := await self._reader.readline()).startswith((b"\n", QUESTION)):
                    self._receive(line)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return Report(error=f"it was not ready within {START_TIMEOUT:g} seconds")
        except ConnectionError:
            line = b""
        return Report(**json.loads(line)) if line else Report()

    async def silence(self) -> float:
        """Wait until the worker has been silent for so long that it hangs; return for how many seconds it was.

        Its questions and answers are taken meanwhile.
        Of each second between two looks at most two count, however long it was: a parent that was stopped or held up
        itself, perhaps with its workers, sees old beats or new ones at its next looks. For a worker that let go of its
        line, since it is ending, this waits without an end.
        """
        loop = asyncio.get_running_loop()
        silent = 0.0
        while silent < SILENCE + BEAT:
            began = loop.time()
            try:
                async with asyncio.timeout(BEAT):
                    line = await self._reader.readline()
            except TimeoutError:
                silent += min(loop.time() - began, 2 * BEAT)
                continue
            except ConnectionError:
                line = b""
            if not line:
                await loop.create_future()
            self._receive(line)
            silent = 0.0
        return silent

    def _receive(self, line: bytes) -> None:
        if line != b"\n":  # a beat
            self._exchange.receive(line)

    async def ask(self, kind: str, data: Any = None, *, patience: float = ANSWER_TIMEOUT) -> Any:
        """Ask the worker, which serves. See `Exchange.ask`."""
        return await self._exchange.ask(kind, data, patience=patience)

    def _send(self, line: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(line + b"\n")

    def drain(self) -> None:
        """Tell the worker to send its clients away and end."""
        self._send(DRAIN)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, where it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> None:
        """Let go of the line, which makes a worker that still runs leave at once."""
        self._exchange.close()
        self._writer.close()


def work(fd: int) -> int:
    """Be a worker: take the work from a descriptor, serve until the line there or a signal says to end, and drain.

    Returns:
        The exit status.
    """
    line = Line(socket.socket(fileno=fd))
    order = line.order()
    if order is None:
        return 0  # the parent is gone already
    settings = Settings(**order["settings"])
    configure(settings.log_format, settings.log_level)
    try:
        run(
            settings,
            order["broker"],
            relay_url=order["relay"],
            reuse_port=True,
            unix=socket.socket(fileno=order["unix"][0]) if order["unix"] else None,
            on_started=lambda node: line.tell(Report(ready=True)),
            line=line,
            number=order["number"],
            directory=Path(order["directory"]),
            write_rules=False,  # the parent does
        )
    except RealizehitError as error:
        kinds: dict[str, type[RealizehitError]] = {"settings": SettingsError, "broker": BrokerError}
        kind = next((name for name, cls in kinds.items() if isinstance(error, cls)), "")
        line.tell(Report(error=str(error), kind=kind))
        return 1
    return 0


def main() -> None:
    """Run a worker, whose line to its parent is the descriptor that the command line names."""
    sys.exit(work(int(sys.argv[1])))
