"""CORES: two workers compared with one, by calculation.

Two workers would need a core each, and the clients more than one. Instead both run on the server's core, with half of
the subscribers each, and what they spend on a delivery is measured: workers with a core each would deliver twice the
inverse of that a second. Each gets every message from Valkey, which is what a second worker costs. The kernel spreads
connections by chance; how uneven that came out is shown beside, and evens out with their number.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.processes import Server, Valkey
from benchmarks.system.row import Run

TARGET = Target(must=1.7, aim=1.9, lower=False)


def measure(run: Run) -> list[Result]:
    """Measure one worker with all subscribers, and two with half of them each.

    The target is for enough subscribers. What each worker pays for every message shows when there are few.
    """
    return [_measure(run, 2000, 8, 1_000_000, TARGET), _measure(run, 200, 512, 8_000_000, None)]


def _measure(run: Run, subscribers: int, outstanding: int, deliveries: int, target: Target | None) -> Result:
    case = f"2 workers beside 1, {subscribers:,} subscribers, {outstanding} outstanding"
    result = Result("cores", case, "x deliveries/s", [], target)
    with ExitStack() as stack:
        valkey = stack.enter_context(run.valkey())
        alone = stack.enter_context(run.server(valkey))
        all_of_them = _crowd(stack, alone, valkey, "one", subscribers)
        pair = [stack.enter_context(run.server(valkey, reuse_port=True))]
        pair.append(stack.enter_context(run.server(valkey, reuse_port=True, port=pair[0].port)))
        # SO_REUSEPORT distributes the connections by their ports, so each worker gets about half of them.
        halves = _crowd(stack, pair[0], valkey, "two", subscribers)
        for server, crowd in ((alone, all_of_them), (pair[0], halves)):
            crowd.flow(server, outstanding=outstanding, messages=outstanding)
        for n in range(run.rounds):
            run.note(f"cores, {subscribers:,} subscribers: round {n + 1} of {run.rounds}")
            messages = max(5, run.scaled(deliveries) // subscribers)
            one = all_of_them.flow(alone, outstanding=outstanding, messages=messages)
            before = [server.cpu for server in pair]
            both = halves.flow(pair[0], outstanding=outstanding, messages=messages)
            spent = [server.cpu - then for server, then in zip(pair, before, strict=True)]
            cost = sum(spent) / both.deliveries * 1e6
            result.samples.append(2 * one.cost / cost)
            for name, value in (
                ("us of CPU a delivery, 1 worker", one.cost),
                ("us of CPU a delivery, 2 workers", cost),
                ("the busier worker's share", max(spent) / sum(spent)),
            ):
                result.raw.setdefault(name, []).append(value)
    return result


def _crowd(stack: ExitStack, server: Server, valkey: Valkey, name: str, size: int) -> Crowd:
    crowd = stack.enter_context(Crowd(server.ws_url, valkey, [{"cores": name}], [[0]] * size))
    crowd.join()
    return crowd
