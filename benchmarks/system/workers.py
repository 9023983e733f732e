"""WORKERS: the broker's cost of a host's workers, with one subscription each and with one shared through a relay.

The real command with ``--workers``, on the server's core. Measured are the CPU of Valkey and of the relay, which runs
in the parent process, and what Valkey sends. Every worker has clients on the one channel, so each wants every message.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer

from benchmarks.environment import environment_for
from benchmarks.results import Result
from benchmarks.system.crowd import Crowd
from benchmarks.system.place import cpu_clock, cpu_seconds, pin
from benchmarks.system.processes import START_TIMEOUT, Valkey
from benchmarks.system.row import Run

WORKERS = (2, 4, 8)
CLIENTS = 16  # for each worker, so that each gets some
CASES = ((1, 2_000), (256, 50_000))  # outstanding, messages


def measure(run: Run) -> list[Result]:
    """Compare both for several numbers of workers, with one message at a time and with many under way."""
    return [result for workers in WORKERS for result in _measure(run, workers)]


def _measure(run: Run, workers: int) -> list[Result]:
    results = [
        Result("workers", f"{workers} workers, {outstanding} outstanding, a relay", "x own subscriptions", [], None)
        for outstanding, _ in CASES
    ]
    with ExitStack() as stack:
        sides = []
        for relay in ("off", "on"):
            valkey = stack.enter_context(run.valkey())
            parent, url = stack.enter_context(_command(run, valkey, workers, relay))
            crowd = Crowd(url, valkey, [{"workers": relay}], [[0]] * (CLIENTS * workers))
            stack.enter_context(crowd).join()
            sides.append((relay, valkey, parent, crowd))
        for n in range(run.rounds):
            run.note(f"workers, {workers}: round {n + 1} of {run.rounds}")
            for result, (outstanding, wanted) in zip(results, CASES, strict=True):
                costs = []
                for relay, valkey, parent, crowd in sides:
                    messages = run.scaled(wanted)
                    clocks = [cpu_clock(pid) for pid in (valkey.pid, parent.pid)]
                    before, sent = [cpu_seconds(clock) for clock in clocks], _egress(valkey)
                    crowd.deliver(outstanding=outstanding, messages=messages)
                    broker, above = (
                        (cpu_seconds(clock) - then) / messages * 1e6 for clock, then in zip(clocks, before, strict=True)
                    )
                    costs.append(broker + above)
                    name = "a relay" if relay == "on" else "own subscriptions"
                    for what, value in (
                        ("us of Valkey's CPU a message", broker),
                        ("us of the parent's CPU a message", above),
                        ("bytes that Valkey sends a message", (_egress(valkey) - sent) / messages),
                    ):
                        result.raw.setdefault(f"{what}, {name}", []).append(value)
                result.samples.append(costs[1] / costs[0])
    return results


def _egress(valkey: Valkey) -> int:
    return int(valkey.client.info("stats")["total_net_output_bytes"])


@contextmanager
def _command(run: Run, valkey: Valkey, workers: int, relay: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the server's command; yield its process and its address for clients."""
    command = [run.python, "-P", "-m", "realizehit", "server", "--port", "0", "--redis", valkey.url]
    options = ["--workers", str(workers), "--relay", relay, "--drain-seconds", "0"]
    with subprocess.Popen(
        [*command, *options],
        env=environment_for(run.python),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        try:
            assert parent.stdout is not None
            overdue = Timer(START_TIMEOUT, parent.kill)
            overdue.start()
            url = next((word for line in parent.stdout for word in line.split() if word.startswith("ws://")), None)
            overdue.cancel()
            if url is None:
                raise RuntimeError(f"the server did not start with {workers} workers")
            for pid in (parent.pid, *_children(parent.pid)):
                pin(run.cores.server, pid)
            yield parent, url
        finally:
            parent.terminate()
            parent.wait(timeout=30)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
