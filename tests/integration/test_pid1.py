"""A server as process 1, as in a container: it obeys signals from the first moment, and leaves no zombies."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.processes import SCRIPTS, SECONDS, Process, running, serving
from tests.support.valkey import Valkey
from tests.support.wire import RawClient

T = TypeVar("T")

SERVER = str(SCRIPTS / "realizehit-server")


@cache
def unshare() -> list[str]:
    """A command that runs another one as process 1; empty where there is none, or no right to use it."""
    program = shutil.which("unshare")
    if program is not None:
        for more in ([], ["--user", "--map-root-user"]):
            words = [program, *more, "--pid", "--fork", "--mount-proc", "--kill-child"]
            if subprocess.run([*words, "true"], check=False, capture_output=True).returncode == 0:
                return words
    return []


@contextmanager
def first_process(*words: str) -> Iterator[tuple[Process, int]]:
    """Run a command as process 1, and give the process around it and its number out here."""
    if not unshare():
        pytest.skip("no right to make a process namespace (unshare --pid)")
    with running(*unshare(), *words) as process:
        (first,) = eventually(lambda: children(process.pid))
        try:
            yield process, first
        finally:
            if process.poll() is None:
                os.kill(first, signal.SIGKILL)


def eventually(look: Callable[[], T]) -> T:
    """Look until something is there."""
    deadline = time.monotonic() + SECONDS
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.002)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process is the server, and has a handler for a signal or waits for it."""
    if Path(f"/proc/{pid}/exe").resolve() != Path(sys.executable).resolve():
        return False  # it is still `unshare`, which blocks signals for a moment
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(status["SigCgt"], 16) | int(status["SigBlk"], 16)) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_first_moment_ends_it(number: signal.Signals, shared_valkey: Valkey) -> None:
    began = time.monotonic()
    with first_process(SERVER, "--port", "0", "--redis", shared_valkey.url) as (process, first):
        eventually(lambda: handles(first, signal.SIGTERM))  # the interpreter itself has a handler for SIGINT
        handled = time.monotonic() - began
        os.kill(first, number)
        assert process.wait() == 0
        assert not [line for line in process.out if "is serving" in line], f"too late for this test: {handled} s"


@pytest.mark.slow
def test_a_signal_while_the_broker_does_not_answer_ends_it(valkey: Valkey) -> None:
    valkey.pause()
    before = valkey_clients(valkey)
    with first_process(SERVER, "--port", "0", "--redis", valkey.url, "--log-level", "debug") as (process, first):
        eventually(lambda: valkey_clients(valkey) > before)
        os.kill(first, signal.SIGTERM)
        began = time.monotonic()
        assert process.wait() == 0
        assert time.monotonic() - began < 4  # of the 5 s that it gives a broker


def valkey_clients(valkey: Valkey) -> int:
    """How many connections to a Valkey's socket there are, accepted or not."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {valkey.socket}") and line.split()[5] in ("02", "03") for line in lines)


@pytest.mark.slow
def test_orphans_that_end_leave_no_zombies(shared_valkey: Valkey) -> None:
    script = f"(sleep 30 & echo orphan); exec {SERVER} --port 0 --redis {shared_valkey.url}"
    with first_process("/bin/sh", "-c", script) as (process, first):
        process.find("is serving")
        assert "orphan" in process.out
        orphans = [pid for pid in children(first) if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        (orphan,) = orphans
        os.kill(orphan, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{orphan}").exists())
        os.kill(first, signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.slow
async def test_it_drains_its_workers(shared_valkey: Valkey) -> None:
    words = ("--port", "0", "--redis", shared_valkey.url, "--workers", "2", "--drain-seconds", "0.2")
    with first_process(SERVER, *words) as (process, first):
        (line,) = await asyncio.to_thread(process.find, "^  WebSocket +(ws:.*)")
        client = await RawClient.connect(line[1])
        os.kill(first, signal.SIGTERM)
        await asyncio.wait_for(client.closed.wait(), 20)
        assert client.close_code == 4001
        assert await asyncio.to_thread(process.wait) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_client_command_obeys_signals_too(number: signal.Signals, status: int, shared_valkey: Valkey) -> None:
    with serving("--redis", shared_valkey.url) as server:
        command = [str(SCRIPTS / "realizehit"), "subscribe", "--url", server.ws, "kind=news"]
        with first_process(*command) as (process, first):
            process.find("^subscribed to")
            os.kill(first, number)
            assert process.wait() == status


@pytest.mark.slow
def test_it_ends_with_the_status_of_a_server_that_is_killed_or_refuses(shared_valkey: Valkey) -> None:
    with first_process(SERVER, "--port", "0", "--redis", shared_valkey.url) as (process, first):
        process.find("is serving")
        (server,) = children(first)
        os.kill(server, signal.SIGKILL)
        assert process.wait() == 128 + signal.SIGKILL
    with first_process(SERVER, "--redis", "http://nonsense") as (process, _):
        assert process.wait() == 2
