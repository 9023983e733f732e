"""Queues to sockets: one send per connection, against the same bytes sent from a Python loop."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from benchmarks.engines import CHANNEL, PAYLOAD, Bench, batch_of
from benchmarks.models import channel_id, text_frame

SUBSCRIBERS = 200
ROUNDS = 30


@pytest.mark.parametrize("messages", [1, 16])
def test_engine(benchmark: Any, messages: int) -> None:
    benchmark.group = f"{messages} messages to {SUBSCRIBERS} socket pairs"
    bench = Bench(slice_seconds=10.0)
    bench.socket_subscribers(SUBSCRIBERS)
    before = bench.engine.stats()["sends"]
    benchmark.pedantic(bench.engine.dispatch, (batch_of(messages),), setup=bench.drain, rounds=ROUNDS, warmup_rounds=1)
    assert bench.engine.stats()["sends"] - before == (ROUNDS + 1) * SUBSCRIBERS
    bench.close()


@pytest.mark.parametrize("messages", [1, 16])
def test_python(benchmark: Any, messages: int) -> None:
    benchmark.group = f"{messages} messages to {SUBSCRIBERS} socket pairs"
    pairs = [socket.socketpair() for _ in range(SUBSCRIBERS)]
    joined = text_frame(channel_id(CHANNEL).encode() + b"?" + PAYLOAD) * messages

    def drain() -> None:
        for _, theirs in pairs:
            with contextlib.suppress(BlockingIOError):
                theirs.recv(1 << 20, socket.MSG_DONTWAIT)

    def send() -> int:
        return sum(ours.send(joined) for ours, _ in pairs)

    assert benchmark.pedantic(send, setup=drain, rounds=ROUNDS, warmup_rounds=1) == SUBSCRIBERS * len(joined)
    for pair in pairs:
        for end in pair:
            end.close()
