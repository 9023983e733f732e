"""Starts the client processes of a load test, and exchanges messages with them."""

from __future__ import annotations

import contextlib
import multiprocessing
import subprocess
from collections.abc import Collection, Iterable
from multiprocessing.connection import Connection, wait
from typing import Any, Final

from realizehit.common import children
from realizehit.errors import LoadTestError
from realizehit.loadtest.worker import Job

END_TIMEOUT: Final = 10.0  # seconds for a client process to end


class ClientProcesses:
    """The client processes of one load test, numbered from 0."""

    def __init__(self) -> None:
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, jobs: Iterable[Job]) -> None:
        """Start a process for each job, and send it the job.

        Raises:
            LoadTestError: a process cannot be started.
        """
        environment = children.environment()
        for job in jobs:
            ours, theirs = multiprocessing.Pipe()
            self._pipes.append(ours)
            with theirs:
                try:
                    process = subprocess.Popen(  # noqa: S603 - this package's own module
                        children.command("realizehit.loadtest.client_main", str(theirs.fileno())),
                        stdin=subprocess.DEVNULL,
                        pass_fds=[theirs.fileno()],
                        env=environment,
                        start_new_session=True,  # only this process gets a terminal's Ctrl+C, and decides what to do
                    )
                except OSError as error:
                    raise LoadTestError(f"no client process can be started: {error.strerror}") from None
            self._processes.append(process)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `receive` reports how it ended
                ours.send(job)

    def send(self, command: str, value: Any = None) -> None:
        """Send a command to all processes. One that has ended is skipped: `receive` reports how it ended."""
        for pipe in self._pipes:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                pipe.send((command, value))

    def wait(self, numbers: Collection[int], timeout: float) -> list[int]:
        """Wait until one of some processes has sent something, and return the numbers of those that have.

        Args:
            numbers: the processes to wait for.
            timeout: seconds; after that the list is empty.
        """
        pipes = [self._pipes[number] for number in numbers]
        return [self._pipes.index(pipe) for pipe in wait(pipes, timeout=timeout)]  # type: ignore[arg-type]  # only pipes

    def receive(self, number: int) -> tuple[str, Any]:
        """Return what a process has sent: the name of an event, and its value.

        Raises:
            LoadTestError: the process has ended.
        """
        try:
            event, value = self._pipes[number].recv()
        except (EOFError, ConnectionResetError):
            status = _status_of(self._processes[number])
            raise LoadTestError(f"client process {number} ended unexpectedly, with status {status}") from None
        return event, value

    def pid(self, number: int) -> int:
        """Return the id of a process."""
        return self._processes[number].pid

    def end(self) -> None:
        """Wait for the processes to end, and kill those that do not end in time."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if _status_of(process) is None:
                process.kill()
                process.wait()


def _status_of(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(END_TIMEOUT)
    return None
