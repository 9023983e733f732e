"""Calls of the engine in any order, also from inside its callbacks: connections of every framing, over sockets and
transports, that come, subscribe, are spliced, stall, say anything and go.

Invariant: nothing raises but what is documented; after every call the gauges equal what the registry says; who left
was told so once, and so was the owner for each channel that lost its last subscriber; the ring of recent messages keeps
its bound; at the end nothing is alive.
"""

from __future__ import annotations

import contextlib
import socket
from collections import Counter

from realizehit import _fanout
from tests.fuzz.command import main
from tests.support.engines import Loop, client_frame

WILDCARD = b"b:*|c:2"
CHANNELS = [b"a:1", b"a:2", WILDCARD, b"user:25442", b"user:28322"]  # the last two have the same id
FRAMINGS = 9
TEXTS = [b"", b"1", b'"a?b"', '"é€😀?"'.encode(), b"[1,\r\n2]", b'"' + b"x" * 5000 + b'"', b'"' + b"?" * 40_000 + b'"']
EPOCHS = ["aaaaaaaa", "bbbbbbbb"]
TRACE = b"&t=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RING = 20_000
DEPTH = 3  # callbacks inside callbacks


class Ended(Exception):
    """The case has no more bytes."""


class Case:
    """The bytes of a case, one at a time."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self, below: int = 256) -> int:
        if self.at >= len(self.data):
            raise Ended
        self.at += 1
        return self.data[self.at - 1] % below

    def bytes(self) -> bytes:
        size = self.byte(32)
        self.at += size
        return self.data[self.at - size : self.at]


class Wire:
    """A transport, and at the same time its client; each call may run some of the case."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.ended = 0

    def write(self, data: bytes) -> None:
        self.run.inside()

    def close(self) -> None:
        self.ended += 1
        self.run.inside()

    abort = close


class Run:
    """One engine, what was done to it, and what it must say."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.loop = Loop()
        kind = case.byte()
        self.epoll = bool(kind & 1) and _fanout.HAVE_EPOLL
        self.now = 0.0
        self.depth = 0
        self.engine = _fanout.Engine(
            self.loop.soon.append,
            self.loop.errors.append,
            max_queue_bytes=6000 if kind & 2 else 1 << 20,
            max_queue_messages=4 if kind & 4 else 100,
            max_message=64 if kind & 8 else 16384,
            heartbeat_interval=1.0,
            heartbeat_timeout=0.5,
            close_timeout=0.5,
            slice_seconds=0.0 if kind & 16 else 0.002,
            # With a grace, queues may be over their limits for some ticks; with a rate, input ends connections.
            grace=2.0 if kind & 32 else 0.0,
            stall=0.5,
            burst_bytes=30_000,
            burst_messages=200,
            burst_total=60_000,
            input_rate=1e-3 if kind & 64 else 0.0,
            input_burst=20,
            input_strikes=5,
            ring_bytes=RING,
            epoll=self.epoll,
        )
        self.engine.on_vacant = self.on_vacant
        self.engine.on_left = self.on_left
        self.engine.on_hole = self.on_hole
        self.engine.on_starved = self.on_starved
        self.engine.follow_traces(self.on_traced)
        self.handles: list[int] = []
        self.peers: dict[int, socket.socket] = {}
        self.wires: list[Wire] = []
        self.spliced: set[int] = set()
        self.gone: Counter[int] = Counter()
        self.begun: Counter[bytes] = Counter()
        self.vacant: Counter[bytes] = Counter()

    # ---- what the engine calls

    def on_traced(self, channel: bytes, traceparent: bytes, subscribers: int, nanoseconds: int) -> None:
        assert (len(traceparent), nanoseconds >= 0) == (55, True)
        assert subscribers >= 1
        self.inside()

    def on_text(self, handle: int, data: bytes) -> None:
        data.decode()
        self.inside()

    def on_binary(self, handle: int, data: bytes) -> None:
        self.inside()

    def on_bytes(self, handle: int, data: bytes) -> None:
        assert data
        self.inside()

    def on_gone(self, handle: int) -> None:
        self.gone[handle] += 1
        assert handle not in self.spliced
        assert not self.engine.is_open(handle)
        self.inside()

    def on_vacant(self, channel: bytes) -> None:
        self.vacant[channel] += 1
        self.inside()

    def on_left(self, channel: bytes, handles: list[int]) -> None:
        assert channel in CHANNELS
        assert handles
        assert set(handles) <= set(self.handles)

    def on_hole(self, channel: bytes, epoch: str, offset: int) -> None:
        assert epoch in EPOCHS
        assert offset > 0
        assert self.engine.log_state(channel) is not None
        self.inside()

    def on_starved(self, channel: bytes, replays: list[tuple[int, int]]) -> None:
        assert {handle for handle, _ in replays} <= set(self.handles)
        self.inside()

    def inside(self) -> None:
        """Do some of the case where the engine has called."""
        if self.depth < DEPTH:
            self.depth += 1
            with contextlib.suppress(Ended):
                for _ in range(self.case.byte(4)):
                    self.step()
            self.depth -= 1

    # ---- what is done to it

    def some(self) -> int:
        which = self.case.byte()
        return self.handles[which % len(self.handles)] if self.handles else which

    def channel(self) -> bytes:
        return CHANNELS[self.case.byte(len(CHANNELS))]

    def text(self) -> bytes:
        return TEXTS[self.case.byte(len(TEXTS))]

    def step(self) -> None:
        STEPS[self.case.byte(len(STEPS))](self)

    def connect(self) -> None:
        framing = self.case.byte(FRAMINGS)
        how = self.case.byte(8)
        rest = client_frame(1, b"at once") if how & 4 else b""
        if how & 1 and self.epoll:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            if how & 2:
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            handle = self.engine.adopt(ours.detach(), self, b"head", rest, framing)
            theirs.setblocking(False)
            self.peers[handle] = theirs
        else:
            self.wires.append(Wire(self))
            handle = self.engine.attach(self.wires[-1], self, b"head" if how & 2 else b"", rest, framing)
        self.handles.append(handle)

    def subscribe(self) -> None:
        channel = self.channel()
        fresh = not self.engine.subscribers(channel)
        handle = self.some()
        if self.engine.subscribe(handle, channel, 3, muted=len(self.handles) % 3 == 0) == _fanout.ADDED:
            self.begun[channel] += fresh
            self.engine.watch_leavers(channel, len(self.handles) % 2 == 0)
        if len(self.handles) % 4 == 1:
            self.engine.set_every(handle, channel, len(self.wires) * 200)

    def unsubscribe(self) -> None:
        self.engine.unsubscribe(self.some(), self.channel())

    def dispatch(self) -> None:
        batch = [(b"message", self.channel(), self.text()) for _ in range(self.case.byte(6))]
        # Every second message on the wildcard's channel says which channel it is of; the others are malformed.
        for n, (kind, channel, text) in enumerate(batch):
            if channel == WILDCARD and n % 2:
                batch[n] = (kind, channel, b"@c=b:1|c:2?" + text)
        if self.case.byte(8) == 0:
            batch.append((b"message", self.channel(), b"\xff"))
        self.engine.dispatch(batch)

    def offset(self, channel: bytes) -> int:
        """An offset near the position of a log."""
        state = self.engine.log_state(channel)
        return max(1, (0 if state is None else state[1]) + self.case.byte(12) - 4)

    def messages(self, channel: bytes, first: int) -> list[tuple[int, bytes]]:
        label = b"@c=b:1|c:2?" if channel == WILDCARD else b""
        return [(first + n, label + self.text()) for n in range(self.case.byte(8))]

    def positioned(self) -> None:
        channel = self.channel()
        label = b"&c=b:1|c:2?" if channel == WILDCARD else b"?"
        text = self.text()
        if len(text) % 3 == 0:
            label = TRACE + label
        epoch = EPOCHS[self.case.byte(8) == 0].encode()
        first = self.offset(channel)
        self.engine.dispatch(
            [(b"message", channel, b"@o=%b.%d%b%b" % (epoch, first + n, label, text)) for n in range(self.case.byte(6))]
        )

    def log(self) -> None:
        channel, what = self.channel(), self.case.byte(8)
        epoch = EPOCHS[self.case.byte(4) == 0]
        if what < 3:
            self.engine.log_open(channel)
            last = self.offset(channel)
            kept = self.messages(channel, last)
            self.engine.log_set(channel, epoch, last + len(kept) - 1, kept)
        elif what == 3:
            state = self.engine.log_state(channel)
            if state is not None:
                kept = self.messages(channel, max(1, state[2] - 3))
                self.engine.log_fill(channel, [part for part in kept if part[0] < state[2]])
        elif what == 4:
            self.engine.log_close(channel)
        else:
            with contextlib.suppress(ValueError):  # they do not follow the position
                self.engine.log_repair(channel, epoch, self.messages(channel, self.offset(channel)))

    def replay(self) -> None:
        channel, what = self.channel(), self.case.byte(8)
        if what == 0:
            self.engine.unmute(self.some(), channel)
        elif what == 1:
            self.engine.replay_end(self.some(), channel, self.offset(channel))
        elif what == 2:
            self.engine.replay_part(channel, self.messages(channel, self.offset(channel)))
        elif what == 3:
            self.engine.set_positions(self.some(), channel)
        elif what == 4:
            self.engine.tell_traces(self.some(), channel)
        else:
            self.engine.set_positions(self.some(), channel, self.offset(channel) - 1)

    def send(self) -> None:
        how = self.case.byte(4)
        if how == 0:
            self.engine.send(self.some(), self.text(), binary=True)
        elif how == 1:
            self.engine.send_bytes(self.some(), self.text())
        else:
            self.engine.send(self.some(), self.text())

    def disconnect(self) -> None:
        code = (1000, 1005, 4001, 4501)[self.case.byte(4)]
        self.engine.disconnect(self.some(), code, "é" * self.case.byte(), peer_done=self.case.byte(2) == 1)

    def splice(self) -> None:
        first, other = self.some(), self.some()
        try:
            self.engine.splice(first, other)
        except ValueError as error:
            assert str(error).startswith(("both connections", "the first must"))
        else:
            self.spliced.add(other)

    def say(self) -> None:
        handle, data = self.some(), self.case.bytes()
        kind = self.case.byte(16)
        data = data if kind == 15 else client_frame(kind, data)
        if handle in self.peers:
            with contextlib.suppress(OSError):
                self.peers[handle].send(data)
        else:
            self.engine.feed(handle, data)

    def read(self) -> None:
        for peer in self.peers.values():
            with contextlib.suppress(OSError):
                while peer.recv(1 << 20):
                    pass

    def leave(self) -> None:
        peer = self.peers.pop(self.some(), None)
        if peer is not None:
            peer.close()

    def poll(self) -> None:
        self.engine.on_readable()

    def tick(self) -> None:
        self.now += self.case.byte(8) * self.engine.tick_interval
        self.engine.tick(self.now)

    def soon(self) -> None:
        if self.loop.soon:
            self.loop.soon.pop(0)()

    def transport(self) -> None:
        # An owner calls these for connections with a transport only.
        handle, what = self.some(), self.case.byte(4)
        if handle in self.peers:
            return
        if what == 0:
            self.engine.pause(handle)
        elif what == 1:
            self.engine.resume(handle)
        elif what == 2:
            self.engine.lost(handle)
        else:
            self.engine.take(handle)

    def note(self) -> None:
        what = self.case.byte(4)
        if what == 0:
            self.engine.resume_fast_path(self.some())
        elif what == 1:
            handle = self.some()
            self.engine.seen(handle)
            self.engine.send_newest(handle)
        elif what == 2:
            self.engine.queues()
        else:
            self.engine.busiest(1 + self.case.byte(4))

    def flush(self) -> None:
        self.engine.flush()

    # ---- what must hold

    def check(self) -> None:
        engine = self.engine
        opened = engine.handles()
        stats = engine.stats()
        assert stats["connections"] >= len(opened)  # those that are too slow count until they are sent away
        held = [(handle, channel) for handle in self.handles for channel in engine.subscriptions(handle)]
        # What has ended without a farewell leaves its channels when it is reaped, at the end of the next call.
        if stats["connections"] == len(opened) and not stats["closing"]:
            assert stats["subscriptions"] == len(held)
            assert Counter(channel for _, channel in held) == {
                channel: engine.subscribers(channel) for channel in engine.channel_names()
            }
        assert stats["channels"] == len(engine.channel_names())
        assert stats["ring_bytes"] <= RING
        assert stats["replays"] + stats["conflating"] <= stats["subscriptions"]
        self.raise_errors()

    def end(self) -> None:
        self.depth = DEPTH  # callbacks do nothing more
        self.engine.close()
        self.loop.run()
        for peer in self.peers.values():
            peer.close()
        stats = self.engine.stats()
        for name in ("connections", "closing", "subscriptions", "channels"):
            assert stats[name] == 0
        for name in ("ring_messages", "ring_bytes", "replays", "kept_back", "conflating"):
            assert stats[name] == 0
        assert self.gone == Counter(set(self.handles) - self.spliced), (self.gone, self.handles, self.spliced)
        assert self.vacant == +self.begun
        assert all(wire.ended == 1 for wire in self.wires)
        self.raise_errors()

    def raise_errors(self) -> None:
        for error in self.loop.errors:
            raise error


STEPS = (
    Run.connect, Run.connect, Run.subscribe, Run.subscribe, Run.unsubscribe, Run.dispatch, Run.dispatch, Run.send,
    Run.disconnect, Run.splice, Run.say, Run.read, Run.leave, Run.poll, Run.tick, Run.soon, Run.transport, Run.note,
    Run.flush, Run.positioned, Run.positioned, Run.positioned, Run.log, Run.log, Run.replay, Run.replay,
)  # fmt: skip


def one(data: bytes) -> None:
    """Take a case as an engine's bounds and a run of calls."""
    before = _fanout.debug_counts()
    try:
        run = Run(Case(data))
    except Ended:
        return
    try:
        while True:
            run.step()
            run.check()
    except Ended:
        pass
    run.end()
    del run
    assert _fanout.debug_counts() == before


if __name__ == "__main__":
    main(__spec__.name)
