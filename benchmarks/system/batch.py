"""BATCH: messages to Valkey, through one ``batch`` request after another, and by `Publisher.publish_many`."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import orjson

from benchmarks.results import Result, Target
from benchmarks.system.http_client import exchange, request
from benchmarks.system.processes import Child, Server, Valkey
from benchmarks.system.row import Run

TARGET = Target(must=150_000, aim=400_000, lower=False)
IN_ONE = 10_000  # messages of a request, the server's maximum
MESSAGE = {"pattern": {"kind": "news", "channel": "CNN"}, "payload": {"title": "x" * 116}}


def measure(run: Run) -> list[Result]:
    """Publish both ways."""
    with run.pair() as (valkey, server):
        return [_requests(run, server), _publisher(run, valkey)]


def _requests(run: Run, server: Server) -> Result:
    result = Result("batch", f"batch requests of {IN_ONE:,}, one after another", "messages/s", [], TARGET)
    data = request("/batch", orjson.dumps({"messages": [MESSAGE] * IN_ONE}))
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        exchange(sock, data)
        for n in range(run.rounds):
            run.note(f"batch requests: round {n + 1} of {run.rounds}")
            before, start = server.cpu, time.perf_counter()
            times = run.scaled(5)
            for _ in range(times):
                exchange(sock, data)
            result.samples.append(times * IN_ONE / (time.perf_counter() - start))
            result.raw.setdefault("us of CPU a message", []).append((server.cpu - before) / times / IN_ONE * 1e6)
    return result


def _publisher(run: Run, valkey: Valkey) -> Result:
    result = Result("batch", "Publisher.publish_many", "messages/s", [], TARGET)
    script = Path(__file__).with_name("_publisher.py")
    with Child([run.python, "-P", str(script), str(run.cores.server), valkey.url]) as publisher:
        for n in range(run.rounds + 1):
            run.note(f"publish_many: round {n} of {run.rounds}")
            publisher.tell({"messages": run.scaled(5) * IN_ONE})
            said = publisher.hear(60)
            if n:  # the first opens the connections
                result.samples.append(said["messages"] / said["seconds"])
                result.raw.setdefault("us of CPU a message", []).append(said["cpu"] / said["messages"] * 1e6)
    return result
