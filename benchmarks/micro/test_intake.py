"""The broker's bytes to queues: hiredis and dispatch, against redis-py's own parser, which returns each message."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest
from redis import _parsers

from benchmarks.engines import CHANNEL, PAYLOAD, Bench
from benchmarks.models import Registry

MESSAGES = 256  # in a round, about one read of the broker's socket
ROUNDS = 20
ONE = b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(CHANNEL), CHANNEL, len(PAYLOAD), PAYLOAD)


parsers: Any = _parsers  # private and untyped


@pytest.fixture(autouse=True)
def _group(benchmark: Any) -> None:
    benchmark.group = f"{MESSAGES} publications off the broker's connection, one subscriber"


def test_engine(benchmark: Any) -> None:
    bench = Bench(max_queue_messages=32768, max_queue_bytes=1 << 30)
    bench.null_subscribers(1)
    data, no_more = ONE * MESSAGES, object()
    reader = hiredis.Reader(notEnoughData=no_more)
    dispatch = bench.engine.dispatch

    def work() -> None:
        reader.feed(data)
        dispatch([reply for reply in iter(reader.gets, no_more) if type(reply) is list and reply[0] == b"message"])

    bench.unflushed(lambda: benchmark.pedantic(work, rounds=ROUNDS, warmup_rounds=1))
    assert bench.engine.stats()["deliveries"] == (ROUNDS + 1) * MESSAGES
    bench.close()


def test_redis_py(benchmark: Any) -> None:
    ours, theirs = socket.socketpair()
    parser: Any = parsers._RESP2Parser(socket_read_size=65536)
    connection = SimpleNamespace(_sock=ours, socket_timeout=None, encoder=parsers.Encoder("utf-8", "strict", False))
    parser.on_connect(connection)
    model = Registry()
    model.add(0)
    model.subscribe(0, CHANNEL)

    def work() -> None:
        for _ in range(MESSAGES):
            _, channel, payload = parser.read_response()
            model.dispatch(channel, payload)

    benchmark.pedantic(work, setup=lambda: theirs.sendall(ONE * MESSAGES), rounds=ROUNDS, warmup_rounds=1)
    assert len(model.queues[0]) == (ROUNDS + 1) * MESSAGES
    parser.on_disconnect()
    ours.close()
    theirs.close()
