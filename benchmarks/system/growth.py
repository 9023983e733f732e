"""GROWTH: the cost of a full node compared with that of a nearly empty one."""

from __future__ import annotations

from collections.abc import Callable
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
    own = Result("growth", "the same, beside the send loop's own growth", "x send loop's", [], SUBSCRIBERS)
    whole.samples = _growth(run, whole, "", lambda valkey, size: run.server(valkey))
    least = _growth(run, whole, "send loop, ", lambda valkey, size: Floor(valkey, size, core=run.cores.server))
    own.raw["x, the send loop's growth"] = least
    own.samples = [ours / loops for ours, loops in zip(whole.samples, least, strict=True)]
    return [whole, own]


def _growth(run: Run, result: Result, name: str, start: Callable[[Valkey, int], Server | Floor]) -> list[float]:
    """Return for each round the ratio of a delivery to many to one to 1,000."""
    grown = []
    with ExitStack() as stack:
        valkey = stack.enter_context(run.valkey())
        sides: list[tuple[Server | Floor, Crowd]] = []
        for size in (1000, MOST):
            run.note(f"growth, {name}{size:,} subscribers")
            child = start(valkey, size)
            stack.push(child)
            patterns: list[dict[str, object]] = [{"size": size}]
            others = sum(crowd.size for _, crowd in sides)
            crowd = stack.enter_context(
                Crowd(child.ws_url, valkey, patterns, [[0]] * size, sources=SOURCES, others=others)
            )
            crowd.join()
            if isinstance(child, Floor):
                child.ready()
            crowd.flow(child, outstanding=1, messages=3)
            sides.append((child, crowd))
        for n in range(run.rounds):
            run.note(f"growth, {name or 'node, '}round {n + 1} of {run.rounds}")
            costs = []
            for child, crowd in sides:
                messages = max(3, run.scaled(150_000) // crowd.size)
                costs.append(crowd.flow(child, outstanding=1, messages=messages).cost)
                result.raw.setdefault(f"us of CPU, {name}{crowd.size:,} subscribers", []).append(costs[-1])
            grown.append(costs[1] / costs[0])
    return grown


def channels(run: Run) -> Result:
    """Compare a ``sub`` and an ``unsub`` on a node with 100 channels and one with 100,000."""
    full = run.scaled(100_000)
    result = Result("growth", f"sub and unsub, {full:,} channels beside 100", "x", [], CHANNELS)
    with ExitStack() as stack:
        sides: list[tuple[Server, Client]] = []
        for present in (100, full):
            # One connection sends more actions than the default allows.
            _, server = stack.enter_context(run.pair(max_actions=0))
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
