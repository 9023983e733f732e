"""HARNESS: how many deliveries a second one load client can receive, check and time.

The client's core to itself is what it would need: here it shares it with Valkey, so what is taken is its own CPU per
delivery, under the load of the row DEEP. Publishing is part of it.
"""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.row import Run

TARGET = Target(must=2e6, aim=5e6, lower=False)
SUBSCRIBERS = 100
OUTSTANDING = 512


def measure(run: Run) -> list[Result]:
    """Divide deliveries by the client's CPU."""
    result = Result("harness", "one load client, 100 subscribers", "deliveries/s", [], TARGET)
    with (
        run.pair() as (valkey, server),
        Crowd(server.ws_url, valkey, [{"load": "harness"}], [[0]] * SUBSCRIBERS) as crowd,
    ):
        crowd.join()
        crowd.flow(server, outstanding=OUTSTANDING, messages=OUTSTANDING)
        for n in range(run.rounds):
            run.note(f"harness: round {n + 1} of {run.rounds}")
            flow = crowd.flow(server, outstanding=OUTSTANDING, messages=run.scaled(50_000))
            result.samples.append(flow.deliveries / flow.client_cpu)
            result.raw.setdefault("deliveries/s by the clock", []).append(flow.rate)
    return [result]
