"""The work that `benchmarks.instructions` counts: a number of rounds of one kind.

It runs as a script, and exits directly after the work, so that two numbers of rounds differ only by their work.
"""

from __future__ import annotations

import os
import sys

from benchmarks.engines import CHANNEL, PAYLOAD, Bench, batch_of
from realizehit import _fanout

NULL_SUBSCRIBERS = 1000
SOCKET_SUBSCRIBERS = 200
MESSAGES = 16
PROJECTED = 100  # publications
ROUNDS_PREPARED = 10  # so that preparing costs the same for all numbers of rounds
WILDCARD = b"channel:*|kind:news"
TRACEPARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def dispatch(rounds: int, channel: bytes = CHANNEL, payload: bytes = PAYLOAD, *, asks: bool = False) -> None:
    """Fill queues without writing; `asks` says whether the subscribers ask for traceparents."""
    bench = Bench()
    bench.null_subscribers(NULL_SUBSCRIBERS, channel)
    for handle in bench.handles if asks else ():
        bench.engine.tell_traces(handle, channel)
    batch = batch_of(MESSAGES, channel, payload)
    bench.engine.dispatch(batch)  # fills the memory pools

    def work() -> None:
        for _ in range(rounds):
            bench.engine.dispatch(batch)
        os._exit(0)

    bench.unflushed(work)


def dispatch_positions(rounds: int, subscribers: int = NULL_SUBSCRIBERS, *, told: bool = True) -> None:
    """Fill queues of a channel with a log, whose subscribers are told positions; the ring is full."""
    bench = Bench(ring_bytes=4096)
    bench.null_subscribers(subscribers)
    bench.engine.log_open(CHANNEL)
    bench.engine.log_set(CHANNEL, "aaaaaaaa", 100_000)  # all offsets have the same number of digits
    for handle in bench.handles if told else ():
        bench.engine.set_positions(handle, CHANNEL)
    batches = [
        [[b"message", CHANNEL, b"@o=aaaaaaaa.%d?%b" % (100_001 + n * MESSAGES + i, PAYLOAD)] for i in range(MESSAGES)]
        for n in range(max(ROUNDS_PREPARED, rounds + 1))
    ]
    bench.engine.dispatch(batches[0])

    def work() -> None:
        for batch in batches[1 : rounds + 1]:
            bench.engine.dispatch(batch)
        os._exit(0)

    bench.unflushed(work)


def flush(rounds: int, messages: int) -> None:
    """Fill queues and write them to sockets with enough room."""
    bench = Bench(slice_seconds=3600.0)
    bench.socket_subscribers(SOCKET_SUBSCRIBERS)
    batch = batch_of(messages)
    bench.engine.dispatch(batch)
    for _ in range(rounds):
        bench.engine.dispatch(batch)
    os._exit(0)


def project(rounds: int) -> None:
    """Project publications of four filters by 64 shapes, of which 8 apply."""
    keys = ["channel", "country", "kind", "show"]
    shapes = []
    for n in range(4):
        anys = b"|".join(b"%s:%s" % (key.encode(), b"*" if k <= n else b"=") for k, key in enumerate(keys))
        shapes += [anys, b"|".join([b"*:*", *(b"%s:*" % key.encode() for key in keys[: n + 1])])]
    shapes += [b"key%d:=|kind:*" % n for n in range(56)]
    channel = b"channel:CNN|country:ch|kind:news|show:evening"
    if len(_fanout.projections(channel, tuple(shapes))) != 8:
        raise SystemExit("other shapes apply than should")
    of = tuple(shapes)
    for _ in range(rounds * PROJECTED):
        _fanout.projections(channel, of)
    os._exit(0)


if __name__ == "__main__":
    kind, count = sys.argv[1], int(sys.argv[2])
    if kind == "dispatch":
        dispatch(count)
    elif kind == "dispatch wildcard":
        dispatch(count, WILDCARD, b"@c=" + CHANNEL + b"?" + PAYLOAD)
    elif kind == "dispatch untraced":
        dispatch(count, asks=True)
    elif kind == "dispatch traced":
        dispatch(count, payload=b"@t=" + TRACEPARENT + b"?" + PAYLOAD, asks=True)
    elif kind == "dispatch positions":
        dispatch_positions(count)
    elif kind == "projections":
        project(count)
    else:
        flush(count, {"flush 1": 1, "flush 16": MESSAGES}[kind])
