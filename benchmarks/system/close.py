"""CLOSE: what it costs the server that all of its clients leave at once.

Each client sends a close frame and closes its connection. The CPU counts until the server has nothing more to do.
Beside it stands the CPU of the C floor, which reads the frame and closes the socket.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import Result, Target
from benchmarks.system.connect_floor import ConnectFloor
from benchmarks.system.crowd import Crowd
from benchmarks.system.processes import Child
from benchmarks.system.row import Run

TARGET = Target(must=15.0, aim=10.0)
CLIENTS = 10_000
PATTERN = {"kind": "close"}


def measure(run: Run) -> list[Result]:
    """Close clients of one channel, and clients with a channel each, which the broker unsubscribes."""
    size = run.scaled(CLIENTS)
    one = Result("close", f"{size:,} clients of one channel", "us of CPU each", [], TARGET)
    many = Result("close", f"{size:,} clients, a channel each", "us of CPU each", [], None)
    channels: list[dict[str, object]] = [{"user": n} for n in range(size)]
    with run.pair() as (_, server), ConnectFloor(run.cores.server, PATTERN) as floor:
        for n in range(run.rounds + 1):
            run.note(f"close: round {n} of {run.rounds}")
            least = _close(floor, floor.ws_url, [dict(PATTERN)], size, n)
            shared = _close(server, server.ws_url, [dict(PATTERN)], size, n)
            own = _close(server, server.ws_url, channels, size, n + 100)
            if n:  # in the first one the server has not allocated anything yet
                one.samples.append(shared)
                many.samples.append(own)
                for result in (one, many):
                    result.raw.setdefault("us of CPU each, C floor", []).append(least)
    return [one, many]


def _close(process: Child, url: str, patterns: Sequence[dict[str, object]], size: int, number: int) -> float:
    """Return the CPU of a close, in microseconds."""
    # An address of its own for each round: the ports of the round before are still in TIME_WAIT.
    source = f"127.0.2.{number % 250 + 1}"
    subscriptions = [[n % len(patterns)] for n in range(size)]
    with Crowd(url, None, patterns, subscriptions, sources=[source]) as crowd:
        crowd.join()
        process.settle()
        before = process.cpu
        crowd.fleet.disconnect()
        process.settle()
        return (process.cpu - before) / size * 1e6
