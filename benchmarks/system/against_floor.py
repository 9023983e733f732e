"""A node and the C floor with the same subscribers, measured in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.floor import Floor
from benchmarks.system.processes import Server
from benchmarks.system.row import Run

FLOOR_DELIVERIES = 100_000  # of the floor in one round


@dataclass(frozen=True, slots=True)
class Case:
    """One way to load the same subscribers: how many messages are outstanding, and how many deliveries to measure."""

    name: str
    outstanding: int
    deliveries: int
    target: Target


@contextmanager
def both(run: Run, subscribers: int, channels: int) -> Iterator[tuple[Server, Crowd, Floor, Crowd]]:
    """Set up a node whose subscribers are spread over channels, and a floor with as many on one."""
    patterns: list[dict[str, object]] = [{"load": f"node{n:05}"} for n in range(channels)]
    with (
        run.pair() as (valkey, server),
        Crowd(server.ws_url, valkey, patterns, [[n % channels] for n in range(subscribers)]) as crowd,
        Floor(valkey, subscribers, core=run.cores.server) as floor,
        Crowd(floor.ws_url, valkey, [{"load": "floor0000"}], [[0]] * subscribers) as crowd_of_floor,
    ):
        crowd.join()
        crowd_of_floor.join()
        floor.ready()
        yield server, crowd, floor, crowd_of_floor


def measure(run: Run, row: str, subscribers: int, channels: int, cases: Sequence[Case]) -> list[Result]:
    """Measure the floor before and after each case; a sample is the ratio of their CPU per delivery."""
    results = [Result(row, case.name, "x send loop", [], case.target) for case in cases]
    each = subscribers // channels  # deliveries of a message
    with both(run, subscribers, channels) as (server, crowd, floor, crowd_of_floor):
        # The first messages meet cold caches and queues without memory.
        crowd_of_floor.flow(floor, outstanding=1, messages=5)
        for case in cases:
            crowd.flow(server, outstanding=case.outstanding, messages=max(5, case.outstanding))
        for n in range(run.rounds):
            run.note(f"{row}, {subscribers:,} subscribers: round {n + 1} of {run.rounds}")
            before = _least(run, floor, crowd_of_floor)
            for case, result in zip(cases, results, strict=True):
                messages = max(3, run.scaled(case.deliveries) // each)
                flow = crowd.flow(server, outstanding=case.outstanding, messages=messages)
                after = _least(run, floor, crowd_of_floor)
                least, before = (before + after) / 2, after
                result.samples.append(flow.cost / least)
                for name, value in (
                    ("us of CPU a delivery", flow.cost),
                    ("us of CPU a delivery, send loop", least),
                    ("deliveries/s", flow.rate),
                    ("server busy", flow.server_cpu / flow.seconds),
                    ("us of the client's CPU a delivery", flow.client_cpu / flow.deliveries * 1e6),
                ):
                    result.raw.setdefault(name, []).append(value)
    return results


def _least(run: Run, floor: Floor, crowd: Crowd) -> float:
    """Return the send loop's CPU for a delivery, in microseconds."""
    messages = max(3, run.scaled(FLOOR_DELIVERIES) // crowd.size)
    return crowd.flow(floor, outstanding=1, messages=messages).cost
