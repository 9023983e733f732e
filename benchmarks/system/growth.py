"""GROWTH: what a node costs when it is full, beside what it costs when it is nearly empty."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.results import Result, Target
from benchmarks.system.client import Client
from benchmarks.system.processes import Server
from benchmarks.system.row import Run

CHANNELS = Target(must=1.5, aim=1.0)
IN_ONE = 1000  # subscriptions of a connection that fills the node; it may hold 1,024
AT_ONCE = 500  # subscriptions that are measured together


def measure(run: Run) -> list[Result]:
    """Measure both kinds of growth."""
    return [channels(run)]


def channels(run: Run) -> Result:
    """Compare a ``sub`` and an ``unsub`` on a node with 100 channels and one with 100,000."""
    full = run.scaled(100_000)
    result = Result("growth", f"sub and unsub, {full:,} channels beside 100", "x", [], CHANNELS)
    with ExitStack() as stack:
        sides: list[tuple[Server, Client]] = []
        for present in (100, full):
            _, server = stack.enter_context(run.pair())
            run.note(f"growth: {present:,} channels")
            for start in range(0, present, IN_ONE):
                filler = stack.enter_context(Client(server.port))
                filler.act("sub", ({"room": n} for n in range(start, min(start + IN_ONE, present))))
            client = stack.enter_context(Client(server.port))
            _there_and_back(client)
            sides.append((server, client))
        for n in range(run.rounds):
            run.note(f"growth, channels: round {n + 1} of {run.rounds}")
            small, large = (_cost(server, client, run.scaled(10)) for server, client in sides)
            result.samples.append(large / small)
            result.raw.setdefault("us of CPU, 100 channels", []).append(small * 1e6)
            result.raw.setdefault(f"us of CPU, {full:,} channels", []).append(large * 1e6)
    return result


def _there_and_back(client: Client) -> None:
    patterns: list[dict[str, object]] = [{"user": n, "kind": "growth"} for n in range(AT_ONCE)]
    client.act("sub", patterns)
    client.act("unsub", patterns)


def _cost(server: Server, client: Client, times: int) -> float:
    before = server.cpu
    for _ in range(times):
        _there_and_back(client)
    return (server.cpu - before) / times / AT_ONCE / 2
