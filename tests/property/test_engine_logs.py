"""Logs in the engine against a naive model: a broker that keeps everything, a network that loses and doubles, and a
node that answers holes and starved replays in its own time.

Invariant: a subscriber sees each message after its position once, in order, whatever happens between; no position that
a client can tell is wrong; the ring keeps its bound; and no client is too slow because of a replay.
"""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realizehit import _fanout
from tests.support.engines import Bench, Peer, bench
from tests.support.event_streams import read_events

CHANNEL = b"channel:chat"
ID = _fanout.channel_id(CHANNEL)
_LABELLED = re.compile(ID + r"(?:@o=(?:([a-z0-9]{8})\.)?(\d+))?\?(.*)")


def epoch_name(number: int) -> str:
    return f"epoch{number:03}"


class Buffered:
    """A transport; what is written to it can be read as text."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        """Do nothing."""

    abort = close


class Client:
    """A subscriber, what it expects and what it saw."""

    def __init__(self, machine: Logs, framing: int) -> None:
        self.bench, self.framing = machine.bench, framing
        self.peer: Peer | None = None
        self.sink = Buffered()
        if framing == _fanout.WEBSOCKET:
            self.handle, self.peer = self.bench.connect()
        else:
            self.handle = self.bench.engine.attach(self.sink, self.bench.handler, framing=framing)
        if framing == _fanout.POLLING_4:
            self.bench.engine.pause(self.handle)
        self.epoch: str | None = None  # None for a plain subscription
        self.ahead = False  # it came with a position beyond that of the log
        self.next = 0
        self.strange = 0

    def texts(self) -> list[str]:
        if self.peer is not None:
            return [text.decode() for text in self.peer.texts()]
        if self.framing == _fanout.POLLING_4:
            return [text[1:] for text in self.bench.engine.take(self.handle).decode().split("\x1e")[:-1]]
        data, self.sink.data = self.sink.data, b""
        return [f"{event.id}?{event.data}" for event in read_events(data.decode())]

    def read(self, ends: dict[str, int]) -> int:
        """Take what came; return the number of messages."""
        texts = self.texts()
        for text in texts:
            match = _LABELLED.fullmatch(text)
            assert match is not None, text
            epoch, offset, payload = match.groups()
            if payload == "strange":
                assert offset is None
                self.strange += 1
                continue
            assert payload == str(self.next)
            if self.epoch is None:
                assert offset is None
            else:
                assert offset == payload
                self.epoch = epoch or self.epoch
                # The epoch of a client that came ahead may end before the log's position reaches it.
                assert self.ahead or self.next <= ends.get(self.epoch, self.next)
            self.next += 1
        return len(texts)


class Logs(RuleBasedStateMachine):
    """One channel with a log."""

    def __init__(self) -> None:
        super().__init__()
        self.last = self.before = 0
        self.epochs = 0
        self.ends: dict[str, int] = {}  # the last offset of each earlier epoch
        self.clients: list[Client] = []
        self.holes: list[tuple[str, int]] = []
        self.starved: dict[int, int] = {}
        self.strange = 0

    @initialize(
        ring=st.sampled_from([0, 300, 1500, 1 << 20]),
        queue=st.sampled_from([8, 4096]),
        before=st.integers(0, 30),
        kept=st.integers(0, 30),
    )
    def begin(self, ring: int, queue: int, before: int, kept: int) -> None:
        self.ring = ring
        self.context = bench(ring_bytes=ring, max_queue_messages=queue)
        self.bench: Bench = self.context.__enter__()
        self.engine = self.bench.engine
        self.engine.on_hole = self.on_hole
        self.engine.on_starved = self.on_starved
        self.last = self.before = before
        self.first = Client(self, _fanout.WEBSOCKET)  # keeps the channel
        self.engine.subscribe(self.first.handle, CHANNEL)
        self.first.next = before + 1
        self.engine.log_open(CHANNEL)
        self.engine.log_set(CHANNEL, epoch_name(0), before, self.messages(max(0, before - kept), before))
        self.clients.append(self.first)

    def messages(self, after: int, last: int) -> list[tuple[int, bytes]]:
        return [(offset, b"%d" % offset) for offset in range(after + 1, last + 1)]

    def position(self) -> int:
        state = self.engine.log_state(CHANNEL)
        assert state is not None
        return state[1]

    def on_hole(self, channel: bytes, epoch: str, offset: int) -> None:
        assert channel == CHANNEL
        self.holes.append((epoch, offset))

    def on_starved(self, channel: bytes, replays: list[tuple[int, int]]) -> None:
        assert channel == CHANNEL
        for handle, after in replays:
            assert handle not in self.starved
            self.starved[handle] = after

    @rule(faults=st.lists(st.sampled_from(["", "", "", "lost", "twice", "strange", "old"]), min_size=1, max_size=2))
    def publish(self, faults: list[str]) -> None:
        batch = []
        for fault in faults:
            if fault == "strange":
                self.strange += 1
                batch.append(b"strange")
                continue
            # Until the log goes on, one that was read with it is still owed to plain subscribers.
            if fault == "old" and self.position() > self.before:
                batch.append(b"@o=%s.%d?%d" % (epoch_name(self.epochs).encode(), self.last, self.last))
                continue
            self.last += 1
            text = b"@o=%s.%d?%d" % (epoch_name(self.epochs).encode(), self.last, self.last)
            batch += [text] * {"lost": 0, "twice": 2}.get(fault, 1)
        self.bench.publish(*((CHANNEL, text) for text in batch))
        self.read()

    @rule()
    def renew(self) -> None:
        self.ends[epoch_name(self.epochs)] = self.last
        self.epochs += 1

    @rule(
        framing=st.sampled_from([_fanout.WEBSOCKET, _fanout.SSE, _fanout.POLLING_4]),
        how=st.sampled_from(["plain", "live", "after", "after", "ahead"]),
        back=st.integers(0, 40),
    )
    def join(self, framing: int, how: str, back: int) -> None:
        client = Client(self, framing)
        self.engine.subscribe(client.handle, CHANNEL, muted=True)
        self.read()
        state = self.engine.log_state(CHANNEL)
        assert state is not None
        epoch, position, _ = state
        client.next = position + 1
        if how == "plain":
            self.engine.unmute(client.handle, CHANNEL)
        else:
            client.epoch = epoch
            after = max(0, position - back) if how == "after" else min(self.last, position + back)
            client.ahead = after > position
            if how != "live":
                client.next = after + 1
            assert self.engine.set_positions(client.handle, CHANNEL, None if how == "live" else after)
        self.clients.append(client)
        self.bench.loop.run()

    @precondition(lambda self: self.holes)
    @rule(part=st.integers(1, 3))
    def repair(self, part: int) -> None:
        self.holes.clear()
        position = self.position()
        last = min(self.last, position + part)
        assert self.engine.log_repair(CHANNEL, epoch_name(self.epochs), self.messages(max(0, position - 1), last))
        self.bench.loop.run()
        self.read()

    @precondition(lambda self: self.starved)
    @rule(part=st.integers(1, 40))
    def feed(self, part: int) -> None:
        lowest = min(self.starved.values())
        last = min(self.position(), lowest + part)
        self.starved = {handle: after for handle, after in self.starved.items() if after >= last}
        self.engine.replay_part(CHANNEL, self.messages(lowest, last))
        self.bench.loop.run()

    @precondition(lambda self: self.starved)
    @rule(which=st.integers(0), skip=st.integers(0, 5))
    def give_up(self, which: int, skip: int) -> None:
        handle = sorted(self.starved)[which % len(self.starved)]
        after = min(self.position(), self.starved.pop(handle) + skip)
        client = next(client for client in self.clients if client.handle == handle)
        while client.read(self.ends):
            self.bench.loop.run()
        client.next = after + 1
        state = self.engine.log_state(CHANNEL)
        assert state is not None
        client.epoch = state[0]  # a node tells it in the gap
        assert self.engine.replay_end(handle, CHANNEL, after)
        self.bench.loop.run()

    @rule(part=st.integers(1, 10))
    def fill(self, part: int) -> None:
        state = self.engine.log_state(CHANNEL)
        assert state is not None
        end = state[2] - 1
        fits = self.engine.log_fill(CHANNEL, self.messages(max(0, end - part), end))
        assert fits == (end > 0)
        now = self.engine.log_state(CHANNEL)
        assert now is not None
        # What a replay waits for may be there now.
        self.starved = {handle: after for handle, after in self.starved.items() if after + 1 < now[2]}
        self.bench.loop.run()

    @precondition(lambda self: len(self.clients) > 1)
    @rule(which=st.integers(0))
    def leave(self, which: int) -> None:
        client = self.clients.pop(1 + which % (len(self.clients) - 1))
        self.starved.pop(client.handle, None)
        if which % 2:
            self.engine.unsubscribe(client.handle, CHANNEL)
        else:
            self.engine.disconnect(client.handle, 1000)
        self.bench.loop.run()

    @rule()
    def read(self) -> None:
        for client in self.clients:
            client.read(self.ends)
        self.bench.loop.run()

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "engine"):
            return
        stats = self.engine.stats()
        assert stats["ring_bytes"] <= self.ring
        assert stats["slow_disconnects"] == 0
        assert stats["malformed"] == 0

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            # A last message shows what was lost at the end.
            self.publish([""])
            for _ in range(10_000):
                if self.holes:
                    self.repair(3)
                elif self.starved:
                    self.feed(40)
                elif not sum(client.read(self.ends) for client in self.clients) and not self.bench.loop.soon:
                    break
                self.bench.loop.run()
            assert self.position() == self.last
            for client in self.clients:
                assert client.next == self.last + 1, client.framing
            assert self.first.strange == self.strange
            assert self.engine.stats()["replays"] == 0
            assert self.engine.stats()["kept_back"] == 0
            self.bounds_hold()
        finally:
            self.context.__exit__(None, None, None)


TestLogs = Logs.TestCase
TestLogs.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
