"""PUBLISH: single messages over HTTP, keep-alive, compared with an ASGI application that does nothing.

Both are compared by requests per second of the server's CPU, which is what they would answer with their core to
themselves; it does not depend on how fast the client is.
"""

from __future__ import annotations

from itertools import repeat
from pathlib import Path

import orjson

from benchmarks.results import Result, Target
from benchmarks.system.http_client import Connections, request
from benchmarks.system.processes import Child
from benchmarks.system.row import Run

TARGET = Target(must=0.7, aim=0.9, lower=False)
CONNECTIONS = 32
BODY = orjson.dumps({"pattern": {"kind": "news", "channel": "CNN"}, "payload": {"title": "x" * 116}})


def measure(run: Run) -> list[Result]:
    """Send to both in turn."""
    result = Result("publish", f"POST, {CONNECTIONS} connections", "x empty ASGI app", [], TARGET)
    requests = run.scaled(20_000)
    data = request("/", BODY)
    empty_app = [run.python, "-P", str(Path(__file__).with_name("_empty_app.py")), str(run.cores.server)]
    with run.pair() as (_, server), Child(empty_app) as empty:
        ports = ((server, server.port), (empty, int(empty.said["port"])))
        sides = [(child, Connections(port, CONNECTIONS, repeat(data))) for child, port in ports]
        for _, connections in sides:
            connections.send(requests // 10)
        for n in range(run.rounds):
            run.note(f"publish: round {n + 1} of {run.rounds}")
            costs, rates = [], []
            for child, connections in sides:
                before = child.cpu
                seconds = connections.send(requests)
                costs.append((child.cpu - before) / requests)
                rates.append(requests / seconds)
            result.samples.append(costs[1] / costs[0])
            for name, value in (
                ("us of CPU a request", costs[0] * 1e6),
                ("us of CPU a request, empty app", costs[1] * 1e6),
                ("requests/s", rates[0]),
                ("requests/s, empty app", rates[1]),
            ):
                result.raw.setdefault(name, []).append(value)
        for _, connections in sides:
            connections.close()
    return [result]
