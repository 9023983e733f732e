"""Delivery to readers that stall: everything in order and once, or a 4002 after whole messages; and the bounds hold."""

from __future__ import annotations

import struct

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from realizehit import _fanout
from tests.support.engines import CLOSE, TEXT, Bench, Peer

CHANNEL = b"kind:news"
PREFIX = _fanout.channel_id(CHANNEL).encode() + b"?"
MAX_BYTES, MAX_MESSAGES = 60_000, 12


class Reader:
    """One client: what it should get, and what it has read."""

    def __init__(self, handle: int, peer: Peer) -> None:
        self.handle = handle
        self.peer = peer
        self.expected: list[bytes] = []
        self.received: list[bytes] = []
        self.closed_with: bytes | None = None

    def read(self) -> None:
        for opcode, payload in self.peer.frames():
            assert self.closed_with is None, "nothing follows the close frame"
            if opcode == CLOSE:
                self.closed_with = payload
            else:
                assert opcode == TEXT
                self.received.append(payload)
        assert self.received == self.expected[: len(self.received)], "in order, whole, once"


class BackPressureMachine(RuleBasedStateMachine):
    """Publications of all sizes, and readers that read when they like."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(max_queue_bytes=MAX_BYTES, max_queue_messages=MAX_MESSAGES, slice_seconds=0.0)
        self.readers: list[Reader] = []
        self.published = 0
        for small in (True, True, False):
            self.connect(small)

    @rule(small=st.booleans())
    def connect(self, small: bool) -> None:
        if len(self.readers) < 6:
            handle, peer = self.bench.connect(send_buffer=4096 if small else None)
            assert self.bench.engine.subscribe(handle, CHANNEL) == _fanout.ADDED
            self.readers.append(Reader(handle, peer))

    @rule(
        sizes=st.lists(st.sampled_from([1, 10, 300, 3000, 5000, 30_000, 70_000]), min_size=1, max_size=10),
        turn=st.booleans(),
    )
    def publish(self, sizes: list[int], turn: bool) -> None:
        batch = []
        for size in sizes:
            payload = b"%d:" % self.published + b"x" * size
            self.published += 1
            batch.append([b"message", CHANNEL, payload])
            for reader in self.readers:
                if self.bench.engine.is_open(reader.handle):
                    reader.expected.append(PREFIX + payload)
        self.bench.engine.dispatch(batch)
        if turn:
            self.bench.loop.run()

    @rule(n=st.integers(0, 5))
    def one_reads(self, n: int) -> None:
        self.readers[n % len(self.readers)].read()

    @rule()
    def poll(self) -> None:
        self.bench.poll()

    @rule(n=st.integers(0, 5))
    def resubscribe(self, n: int) -> None:
        reader = self.readers[n % len(self.readers)]
        if self.bench.engine.is_open(reader.handle):
            assert self.bench.engine.unsubscribe(reader.handle, CHANNEL)
            assert self.bench.engine.subscribe(reader.handle, CHANNEL) == _fanout.ADDED

    def drain(self) -> None:
        """Let everyone read to the end."""
        idle = 0
        while idle < 3:
            before = sum(len(reader.received) for reader in self.readers), self.bench.engine.stats()["bytes_out"]
            self.bench.poll()
            for reader in self.readers:
                reader.read()
            after = sum(len(reader.received) for reader in self.readers), self.bench.engine.stats()["bytes_out"]
            idle = idle + 1 if before == after else 0

    @rule()
    def all_read(self) -> None:
        self.drain()
        for reader in self.readers:
            if self.bench.engine.is_open(reader.handle):
                assert reader.received == reader.expected
            else:
                assert reader.closed_with == struct.pack(">H", 4002) + b"slow consumer"
                assert len(reader.received) < len(reader.expected)
        slow = sum(reader.closed_with is not None for reader in self.readers)
        assert self.bench.engine.stats()["slow_disconnects"] == slow

    @invariant()
    def who_is_closed_is_in_no_channel(self) -> None:
        alive = [reader for reader in self.readers if self.bench.engine.is_open(reader.handle)]
        assert self.bench.engine.subscribers(CHANNEL) == len(alive)
        assert self.bench.loop.errors == []

    def teardown(self) -> None:
        self.all_read()
        self.bench.engine.close()
        for peer in self.bench.peers:
            peer.sock.close()


TestBackPressure = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="needs epoll")(BackPressureMachine.TestCase)
TestBackPressure.settings = settings(max_examples=200, stateful_step_count=25, deadline=None)
