"""A driver as a process: commands in, events out, as the README beside this file says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

PROTOCOL: Final = 1
START_TIMEOUT: Final = 30.0  # seconds until a driver says hello; a virtual machine on a busy computer takes some
STDERR_LINES: Final = 40  # of the last output that are shown when a case fails
MAX_LINE: Final = 32 << 20

Event = dict[str, Any]


class DriverError(Exception):
    """The driver broke its protocol, ended, or did not answer in time."""


class CommandFailed(Exception):
    """A command was answered with ``failed``.

    Attributes:
        error: the error object that the driver sent.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(error))
        self.error = dict(error)


class Driver:
    """A running driver.

    Attributes:
        hello: its first line.
        events: all events of the case that runs, in the order in which they came.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.hello: Event = {}
        self.events: list[Event] = []
        self._process = process
        self._numbers = 0
        self._pending: dict[int, asyncio.Future[Event]] = {}
        self._news = asyncio.Event()
        self._log: deque[str] = deque(maxlen=STDERR_LINES)
        self._failure: DriverError | None = None
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._read_log())]

    @classmethod
    async def start(cls, command: Sequence[str], directory: Path, env: Mapping[str, str]) -> Driver:
        """Start a driver and wait for its first line.

        Raises:
            DriverError: it cannot be started, or speaks another version of the protocol.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=directory,
                env=dict(env),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_LINE,
            )
        except OSError as error:
            raise DriverError(f"the driver {command[0]} cannot be started: {error}") from None
        driver = cls(process)
        try:
            await driver.wait_for(lambda: bool(driver.hello), START_TIMEOUT, "the line hello")
            version = driver.hello.get("protocol")
            if version != PROTOCOL:
                raise DriverError(f"the driver speaks version {version!r} of the protocol, the kit {PROTOCOL}")
        except BaseException:
            await driver.stop()
            raise
        return driver

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the driver ended or broke its protocol."""
        return self._failure is not None

    @property
    def log(self) -> str:
        """The last lines that the driver wrote to its standard error."""
        return "\n".join(self._log)

    def send(self, do: str, keys: Mapping[str, Any]) -> asyncio.Future[Event]:
        """Send a command.

        Returns:
            A future of its answer; it fails with `CommandFailed` or `DriverError`.
        """
        self._numbers += 1
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # a case may not await it
        if self._failure is not None:
            answer.set_exception(self._failure)
            return answer
        self._pending[self._numbers] = answer
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "n": self._numbers, **keys}).encode() + b"\n")
        return answer

    async def call(self, do: str, **keys: Any) -> Event:
        """Send a command and wait for its answer.

        Raises:
            DriverError: it failed, or was not answered in time.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return await self.send(do, keys)
        except TimeoutError:
            raise DriverError(f"no answer to {do}") from None
        except CommandFailed as failed:
            raise DriverError(f"{do} failed: {failed}") from None

    async def wait_for(self, condition: Callable[[], bool], timeout: float, what: str) -> None:  # noqa: ASYNC109 - the step's
        """Wait until something holds that events make true.

        Raises:
            DriverError: it did not in ``timeout`` seconds, or the driver ended.
        """
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    if self._failure is not None:
                        raise self._failure
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise DriverError(f"{what} did not come within {timeout:g} s") from None

    async def stop(self) -> None:
        """End the driver: by the end of its input, and by force after two seconds."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(2.0):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._tasks)

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._take(line)
            self._fail(DriverError("the driver ended"))
        except (ValueError, KeyError, TypeError) as error:
            self._fail(DriverError(f"the driver wrote a line that is not an event: {error}"))

    def _take(self, line: bytes) -> None:
        event = json.loads(line)
        kind = event["on"]
        if kind == "hello":
            self.hello = event
        elif kind in ("done", "failed"):
            answer = self._pending.pop(event["n"], None)
            if answer is None:
                raise ValueError(f"an answer to command {event['n']}, which is not pending")
            if not answer.done():
                answer.set_result(event) if kind == "done" else answer.set_exception(CommandFailed(event["error"]))
        else:
            self.events.append(event)
        self._news.set()

    def _fail(self, failure: DriverError) -> None:
        self._failure = failure
        pending, self._pending = self._pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_exception(failure)
        self._news.set()

    async def _read_log(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):  # a line longer than the bound
            while line := await self._process.stderr.readline():
                self._log.append(line.decode(errors="replace").rstrip("\n"))
