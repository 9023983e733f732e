"""IDLE: the memory of a subscribed connection without messages."""

from __future__ import annotations

from benchmarks.results import Result, Target
from benchmarks.system.crowd import Crowd
from benchmarks.system.row import Run

TARGET = Target(must=0.6, aim=0.25)
CONNECTIONS = 15_000
SOURCES = [f"127.0.0.{n}" for n in range(1, 5)]


def measure(run: Run) -> list[Result]:
    """Compare a node's memory with all connections and with a few."""
    results = []
    for case, channels in (("one channel", 1), ("a channel each", CONNECTIONS)):
        result = Result("idle", f"{CONNECTIONS:,} connections, {case}", "KiB", [], TARGET)
        patterns: list[dict[str, object]] = [{"user": n} for n in range(channels)]
        subscriptions = [[n % channels] for n in range(CONNECTIONS)]
        for n in range(1 if run.quick else min(3, run.rounds)):
            run.note(f"idle, {case}: round {n + 1}")
            with run.pair() as (valkey, server):
                with Crowd(server.ws_url, valkey, patterns, subscriptions[:100]) as few:
                    few.join()
                    before = server.resident
                with Crowd(server.ws_url, valkey, patterns, subscriptions, sources=SOURCES) as crowd:
                    crowd.join()
                    crowd.fleet.run(2.0)  # the memory of the handshakes is free again
                    result.samples.append((server.resident - before) / CONNECTIONS / 1024)
        results.append(result)
    return results
