"""FRAMINGS: the cost of a delivery over Engine.IO and as a Server-Sent Event, compared with a plain WebSocket."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final, NamedTuple
from urllib.parse import quote

import orjson

from benchmarks.results import Result, Target
from benchmarks.system.client import HANDSHAKE, masked
from benchmarks.system.crowd import PAYLOAD
from benchmarks.system.drain import Drain
from benchmarks.system.processes import Server, Valkey
from benchmarks.system.row import Run
from realizehit.pattern import Pattern

TARGET = Target(must=1.10, aim=1.03)
SUBSCRIBERS = 1000
WARM = 3  # rounds before the measurement, to warm the caches
DATA: Final = b'"' + b"x" * (PAYLOAD - 2) + b'"'


class Framing(NamedTuple):
    """One kind of subscriber.

    Attributes:
        name: what it is called.
        pattern: what its subscribers ask for.
        opening: what one sends.
        answered: what ends the answer to that.
        size: bytes of a delivery.
    """

    name: str
    pattern: Pattern
    opening: bytes
    answered: bytes
    size: int


def _framings() -> list[Framing]:
    plain, engineio, sse = (Pattern(load=f"framing {name}") for name in ("websocket", "engineio", "sse"))

    def sub(pattern: Pattern) -> bytes:
        return orjson.dumps({"id": 1, "act": "sub", "pat": dict(pattern)})

    eio = HANDSHAKE.replace(b"/ws ", b"/ws/?EIO=4&transport=websocket ") + masked(b"4" + sub(engineio))
    events = f"GET /sse?pat={quote(sub_text(sse))} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    label, event = len("3bf1d979?"), len("id: 3bf1d979\ndata: \n\n") + PAYLOAD
    return [
        Framing("websocket", plain, HANDSHAKE + masked(sub(plain)), b'"ret"', 4 + label + PAYLOAD),
        Framing("Engine.IO", engineio, eio, b'"ret"', 4 + 1 + label + PAYLOAD),
        Framing("Server-Sent Events", sse, events, b"]}\n\n\r\n", len(b"%x\r\n\r\n" % event) + event),
    ]


def sub_text(pattern: Pattern) -> str:
    """Return a pattern as JSON."""
    return orjson.dumps(dict(pattern)).decode()


def measure(run: Run) -> list[Result]:
    """Measure them in turn, with one message at a time and with eight; a sample is the ratio to the WebSocket's."""
    plain, *others = _framings()
    cases = [(1, 100_000, "one at a time"), (8, 400_000, "8 outstanding")]
    results = {
        (framing, outstanding): Result("framings", f"{framing.name}, {text}", "x WebSocket", [], TARGET)
        for outstanding, _, text in cases
        for framing in others
    }
    with ExitStack() as stack:
        valkey, server = stack.enter_context(run.pair(heartbeat_interval=3600.0))  # no heartbeat bytes
        drains = {
            framing: stack.enter_context(Drain(server.port, SUBSCRIBERS, framing.opening, framing.answered))
            for framing in (plain, *others)
        }

        def cost(framing: Framing, outstanding: int, deliveries: int) -> float:
            return _cost(server, valkey, framing, drains[framing], outstanding, run.scaled(deliveries))

        for n in range(run.rounds):
            run.note(f"framings: round {n + 1} of {run.rounds}")
            for outstanding, deliveries, _ in cases:
                before = cost(plain, outstanding, deliveries)
                for framing in others:
                    own, after = cost(framing, outstanding, deliveries), cost(plain, outstanding, deliveries)
                    least, before = (before + after) / 2, after
                    result = results[framing, outstanding]
                    result.samples.append(own / least)
                    result.raw.setdefault("us of CPU a delivery", []).append(own)
                    result.raw.setdefault("us of CPU a delivery, WebSocket", []).append(least)
    return list(results.values())


def _cost(server: Server, valkey: Valkey, framing: Framing, drain: Drain, outstanding: int, deliveries: int) -> float:
    """Publish until all have their bytes; return the server's CPU for a delivery, in microseconds."""
    rounds = max(3, deliveries // drain.size // outstanding)
    before = server.cpu
    for n in range(WARM + rounds):
        if n == WARM:
            before = server.cpu
        pipeline = valkey.client.pipeline(transaction=False)
        for _ in range(outstanding):
            pipeline.publish(str(framing.pattern), DATA)
        pipeline.execute()
        drain.take(framing.size * drain.size * outstanding)
    return (server.cpu - before) / (rounds * outstanding * drain.size) * 1e6
