"""CONNECT: TCP connect, handshake, ``sub`` to a channel of one's own, reply."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.row import Run

TARGET = Target(must=6000, aim=15_000, lower=False)
CONNECTIONS = 5000


def measure(run: Run) -> list[Result]:
    """Let a crowd join a node that is up, and leave."""
    result = Result("connect", f"{CONNECTIONS:,} connections, a channel each", "/s", [], TARGET)
    patterns: list[dict[str, object]] = [{"user": n} for n in range(CONNECTIONS)]
    with run.pair() as (valkey, server):
        for n in range(run.rounds + 1):
            run.note(f"connect: round {n} of {run.rounds}")
            with Crowd(server.ws_url, valkey, patterns, [[n] for n in range(CONNECTIONS)]) as crowd:
                before = server.cpu
                seconds = crowd.join()
                cost = (server.cpu - before) / CONNECTIONS
            if n:  # the first finds a server that has not yet allocated anything
                result.samples.append(CONNECTIONS / seconds)
                result.raw.setdefault("us of CPU a connection", []).append(cost * 1e6)
    return [result]
