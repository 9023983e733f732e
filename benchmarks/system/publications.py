"""What a publication costs the node and the broker: plain, under a rule of history, and with an idempotency key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import NamedTuple

import orjson

from benchmarks.system.history_rules import KIND, rules_file
from benchmarks.system.http_client import Connections, request
from benchmarks.system.place import cpu_clock, cpu_seconds
from benchmarks.system.row import Run

CONNECTIONS = 32
REQUESTS = 20_000  # of each kind in a round
BATCHES = 10
IN_ONE = 2_000  # messages of a batch
PAYLOAD = {"title": "x" * 116}


class Way(NamedTuple):
    """A way to publish.

    Attributes:
        name: what it is called.
        kind: the first filter of its pattern, which the rule knows or not.
        keyed: whether each publication has an idempotency key of its own.
    """

    name: str
    kind: str
    keyed: bool = False


class Cost(NamedTuple):
    """CPU of a publication, in microseconds."""

    node: float
    broker: float


PLAIN = Way("plain", "news")
KEYED = Way("with a key", "news", keyed=True)
LOGGED = Way("under a rule", KIND)
LOGGED_KEYED = Way("under a rule, with a key", KIND, keyed=True)


def measure_publications(run: Run, name: str, *ways: Way) -> dict[str, list[list[Cost]]]:
    """Measure the ways in turn.

    Returns:
        For single requests and for batches the costs of each round, in the order of the ways.
    """
    costs: dict[str, list[list[Cost]]] = {"single": [], "batch": []}
    requests, batches = run.scaled(REQUESTS), run.scaled(BATCHES)
    with rules_file() as history, ExitStack() as stack:
        valkey, server = stack.enter_context(run.pair(history=history))
        broker_clock = cpu_clock(valkey.pid)
        numbers = count()

        def cost(connections: Connections, sent: int, messages: int) -> Cost:
            node, broker = server.cpu, cpu_seconds(broker_clock)
            connections.send(sent)
            node, broker = server.cpu - node, cpu_seconds(broker_clock) - broker
            return Cost(node / messages * 1e6, broker / messages * 1e6)

        singles: list[Connections] = []
        many: list[Connections] = []
        for way in ways:
            for size, connections, of, scaled in (
                (CONNECTIONS, singles, _single(way, numbers), requests // 10),
                (1, many, _batch(way, numbers), 1),
            ):
                client = Connections(server.port, size, of)
                stack.callback(client.close)
                client.send(scaled)  # opens the broker's connection, fills caches
                connections.append(client)
        for n in range(run.rounds):
            run.note(f"{name}: round {n + 1} of {run.rounds}")
            costs["single"].append([cost(client, requests, requests) for client in singles])
            costs["batch"].append([cost(client, batches, batches * IN_ONE) for client in many])
    return costs


def _single(way: Way, numbers: Iterator[int]) -> Iterator[bytes]:
    body = orjson.dumps({"pattern": {"kind": way.kind, "channel": "CNN"}, "payload": PAYLOAD})
    while True:
        yield request("/", body, f"Idempotency-Key: {_key(numbers)}") if way.keyed else request("/", body)


def _batch(way: Way, numbers: Iterator[int]) -> Iterator[bytes]:
    message = {"pattern": {"kind": way.kind, "channel": "CNN"}, "payload": PAYLOAD}
    plain = [message] * IN_ONE
    while True:
        messages = [{**message, "key": _key(numbers)} for _ in plain] if way.keyed else plain
        yield request("/batch", orjson.dumps({"messages": messages}))


def _key(numbers: Iterator[int]) -> str:
    return f"2f1e6c1e-3c1b-4d7e-9d55-{next(numbers):012d}"  # as long as a UUID
