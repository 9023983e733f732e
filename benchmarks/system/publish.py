"""PUBLISH: single messages over HTTP, keep-alive.

A server is compared with an ASGI application that does nothing, by requests per second of CPU, which is what they would
answer with their core to themselves; it does not depend on how fast the client is. Servers with `--allow-origin` and
with the access log are compared with the one without, by CPU for a request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any

import orjson

from benchmarks.results import Result, Target
from benchmarks.system.http_client import Connections, request
from benchmarks.system.processes import Child
from benchmarks.system.row import Run

TARGET = Target(must=0.7, aim=0.9, lower=False)
TARGET_SETTING = Target(must=1.15, aim=1.05)
CONNECTIONS = 32
REQUESTS = 20_000
BODY = orjson.dumps({"pattern": {"kind": "news", "channel": "CNN"}, "payload": {"title": "x" * 116}})
ORIGIN = "https://app.example"
SETTINGS: dict[str, dict[str, Any]] = {
    "--allow-origin": {"allow_origin": (ORIGIN,)},
    "--access-log": {"access_log": True},
}


def measure(run: Run) -> list[Result]:
    """Send to all in turn."""
    empty = Result("publish", f"POST, {CONNECTIONS} connections", "x empty ASGI app", [], TARGET)
    others = [Result("publish", f"POST, {name}", "x without", [], TARGET_SETTING) for name in SETTINGS]
    requests = run.scaled(REQUESTS)
    empty_app = [run.python, "-P", str(Path(__file__).with_name("_empty_app.py")), str(run.cores.server)]
    with ExitStack() as stack:
        valkey = stack.enter_context(run.valkey())

        def side(child: Child, port: int) -> Callable[[], tuple[float, float]]:
            connections = Connections(port, CONNECTIONS, repeat(request("/", BODY)))
            stack.callback(connections.close)
            connections.send(requests // 10)

            def cost() -> tuple[float, float]:
                before = child.cpu
                seconds = connections.send(requests)
                return (child.cpu - before) / requests * 1e6, requests / seconds

            return cost

        server = stack.enter_context(run.server(valkey))
        plain = side(server, server.port)
        app = stack.enter_context(Child(empty_app))
        nothing = side(app, int(app.said["port"]))
        set_up = []
        for settings in SETTINGS.values():
            other = stack.enter_context(run.server(valkey, **settings))
            set_up.append(side(other, other.port))
        for n in range(run.rounds):
            run.note(f"publish: round {n + 1} of {run.rounds}")
            cost, rate = plain()
            least, least_rate = nothing()
            empty.samples.append(least / cost)
            for name, value in (
                ("us of CPU a request", cost),
                ("us of CPU a request, empty app", least),
                ("requests/s", rate),
                ("requests/s, empty app", least_rate),
            ):
                empty.raw.setdefault(name, []).append(value)
            for result, measured in zip(others, set_up, strict=True):
                with_it, _ = measured()
                after, _ = plain()
                result.samples.append(with_it / ((cost + after) / 2))
                result.raw.setdefault("us of CPU a request", []).append(with_it)
                result.raw.setdefault("us of CPU a request, without", []).append((cost + after) / 2)
                cost = after
    return [empty, *others]
