"""GROWTH: what a node costs when it is full, beside what it costs when it is nearly empty."""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.results import Result, Target
from benchmarks.system.client import Client
from benchmarks.system.crowd import Crowd
from benchmarks.system.floor import Floor
from benchmarks.system.processes import Server, Valkey
from benchmarks.system.row import Run

SUBSCRIBERS = Target(must=1.15, aim=1.0)
CHANNELS = Target(must=1.5, aim=1.0)
MOST = 15_000  # subscribers
SOURCES = [f"127.0.0.{n}" for n in range(1, 5)]
IN_ONE = 1000  # subscriptions of a connection that fills the node; it may hold 1,024
AT_ONCE = 500  # subscriptions that are measured together


def measure(run: Run) -> list[Result]:
    """Measure both kinds of growth."""
    return [*subscribers(run), channels(run)]


def subscribers(run: Run) -> list[Result]:
    """Compare a delivery to one of 1,000 subscribers and to one of 15,000, one message at a time.

    A plain send loop grows as well: a socket that was not written to for long has left the cache. The second result is
    what is left when that is taken out.
    """
    case = f"a delivery, {MOST:,} subscribers beside 1,000"
    whole = Result("growth", case, "x", [], SUBSCRIBERS)
    own = Result("growth", f"{case}, beside the send loop's", "x send loop's", [], SUBSCRIBERS)
    for n in range(run.rounds):
        grown = []
        with run.valkey() as valkey:
            for name in ("", "send loop, "):
                costs = []
                for size in (1000, MOST):
                    run.note(f"growth, {name}{size:,} subscribers: round {n + 1} of {run.rounds}")
                    costs.append(_delivery(run, valkey, size, floor=bool(name)))
                    whole.raw.setdefault(f"us of CPU, {name}{size:,} subscribers", []).append(costs[-1])
                grown.append(costs[1] / costs[0])
        whole.samples.append(grown[0])
        own.samples.append(grown[0] / grown[1])
        own.raw.setdefault("x, the send loop's growth", []).append(grown[1])
    return [whole, own]


def _delivery(run: Run, valkey: Valkey, size: int, *, floor: bool) -> float:
    with ExitStack() as stack:
        child: Floor | Server
        child = Floor(valkey, size, core=run.cores.server) if floor else run.server(valkey)
        stack.push(child)
        crowd = stack.enter_context(Crowd(child.ws_url, valkey, [{"size": size}], [[0]] * size, sources=SOURCES))
        crowd.join()
        if isinstance(child, Floor):
            child.ready()
        crowd.flow(child, outstanding=1, messages=3)
        return crowd.flow(child, outstanding=1, messages=max(3, run.scaled(150_000) // size)).cost


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
