"""CONNECT: TCP connect, handshake, ``sub`` to a separate channel, reply."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.row import Run

TARGET = Target(must=6000, aim=15_000, lower=False)
CONNECTIONS = 5000


def measure(run: Run) -> list[Result]:
    """Connect a crowd to a running node, and disconnect it."""
    result = Result("connect", f"{CONNECTIONS:,} connections, a channel each", "/s", [], TARGET)
    patterns: list[dict[str, object]] = [{"user": n} for n in range(CONNECTIONS)]
    with run.pair() as (valkey, server):
        for n in range(run.rounds + 1):
            run.note(f"connect: round {n} of {run.rounds}")
            with Crowd(server.ws_url, valkey, patterns, [[n] for n in range(CONNECTIONS)]) as crowd:
                before = server.cpu
                seconds = crowd.join()
                cost = (server.cpu - before) / CONNECTIONS
            if n:  # in the first one the server has not allocated anything yet
                result.samples.append(CONNECTIONS / seconds)
                result.raw.setdefault("us of CPU a connection", []).append(cost * 1e6)
    return [result]
