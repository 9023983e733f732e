"""Conflation in the engine against a naive model with a clock of its own.

Invariant: a subscription with a time receives messages in their order, no two of them nearer to each other than that
time less a tick; the first one after a quiet time at once; and the newest one at the latest two ticks after the time.
Nothing stays alive in the engine at the end.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from realizehit import _fanout
from tests.support.engines import Bench, bench

CHANNELS = (b"kind:price", b"kind:news")
TICK = 10  # milliseconds
EVERY = st.sampled_from([0, 1, 10, 25, 50, 300, 6000])


class Subscription:
    """What a subscription is expected to receive, and what it received. Times are milliseconds."""

    def __init__(self, channel: bytes, every: int) -> None:
        self.channel, self.every = channel, every
        self.received: list[int] = []
        self.received_at: int | None = None
        self.newest: int | None = None  # the last message that was published since it began
        self.newest_at = 0
        self.held_up_at = 0  # the end of the last time in which the engine was not called

    @property
    def window(self) -> int:
        return -(-self.every // TICK) * TICK

    def take(self, number: int, now: int) -> None:
        assert not self.received or number > self.received[-1]
        if self.every and self.received_at is not None:
            assert now - self.received_at >= self.window - TICK
        self.received.append(number)
        self.received_at = now

    def check(self, now: int) -> None:
        if self.newest is None or (self.received and self.received[-1] == self.newest):
            return
        assert self.every, "a plain subscription receives each message at once"
        assert self.received_at is not None
        assert now < max(self.received_at, self.newest_at) + self.window + 2 * TICK

    def is_quiet(self, now: int) -> bool:
        if self.received_at is None:
            return True
        return now >= max(self.received_at, self.held_up_at) + 2 * self.window + 3 * TICK


class Client:
    """A connection and its subscriptions."""

    def __init__(self, bench: Bench) -> None:
        self.handle, self.peer = bench.connect()
        self.subscriptions: dict[bytes, Subscription] = {}

    def read(self, now: int) -> None:
        for text in self.peer.texts():
            label, _, payload = text.decode().partition("?")
            channel = next(one for one in CHANNELS if _fanout.channel_id(one) == label)
            self.subscriptions[channel].take(int(payload), now)


class Conflation(RuleBasedStateMachine):
    """Some clients of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.number = 0
        self.wanted = False  # the engine asked to be told the time

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        self.context = bench()
        self.bench = self.context.__enter__()
        self.engine = self.bench.engine
        self.engine.on_windows = self.on_windows
        self.clients = [Client(self.bench) for _ in range(count)]

    def on_windows(self) -> None:
        assert not self.wanted
        self.wanted = True
        self.advance()

    def advance(self) -> None:
        seconds = self.engine.advance_windows(self.now / 1000)
        assert seconds <= TICK / 1000 + 1e-6
        self.wanted = seconds > 0

    def read(self) -> None:
        self.bench.loop.run()
        for client in self.clients:
            client.read(self.now)

    def some(self, which: int) -> Client:
        return self.clients[which % len(self.clients)]

    @rule(which=st.integers(0, 2), channel=st.sampled_from(CHANNELS), every=EVERY)
    @precondition(lambda self: self.clients)
    def subscribe(self, which: int, channel: bytes, every: int) -> None:
        client = self.some(which)
        known = client.subscriptions.get(channel)
        if known is None:
            assert self.engine.subscribe(client.handle, channel) == _fanout.ADDED
        if known is not None and not every:
            known.received_at = None  # what was kept comes before its time
        assert self.engine.set_every(client.handle, channel, every)
        self.read()
        if known is None:
            client.subscriptions[channel] = Subscription(channel, every)
        elif known.every != every:
            known.every = every
            if known.received_at is not None:  # the window that is open counts from its start with the new time
                known.received_at = self.now - known.window
                known.newest_at = self.now

    @rule(which=st.integers(0, 2), channel=st.sampled_from(CHANNELS))
    @precondition(lambda self: self.clients)
    def unsubscribe(self, which: int, channel: bytes) -> None:
        client = self.some(which)
        assert self.engine.unsubscribe(client.handle, channel) == (channel in client.subscriptions)
        client.subscriptions.pop(channel, None)

    @rule(channels=st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=5))
    def publish(self, channels: list[bytes]) -> None:
        # Windows may be over of which the engine is not told yet: an owner's timer would tell it before.
        quiet = [
            (subscription, channels.index(channel))
            for client in self.clients
            for channel, subscription in client.subscriptions.items()
            if channel in channels and subscription.is_quiet(self.now)
        ]
        before = self.number
        batch = []
        for channel in channels:
            self.number += 1
            batch.append((channel, b"%d" % self.number))
            for client in self.clients:
                if channel in client.subscriptions:
                    client.subscriptions[channel].newest = self.number
                    client.subscriptions[channel].newest_at = self.now
        self.bench.publish(*batch)
        self.read()
        for subscription, first in quiet:
            assert before + first + 1 in subscription.received

    @rule(milliseconds=st.one_of(st.integers(1, 12), st.integers(1, 700), st.just(7000)))
    def wait(self, milliseconds: int) -> None:
        end = self.now + milliseconds
        while self.now < end:
            self.now = min(end, self.now + TICK)
            if self.wanted:
                self.advance()
                self.read()

    @rule(channel=st.sampled_from(CHANNELS), pauses=st.lists(st.integers(0, 60), min_size=5, max_size=20))
    def publish_steadily(self, channel: bytes, pauses: list[int]) -> None:
        for milliseconds in pauses:
            self.publish([channel])
            self.wait(milliseconds)

    @rule(milliseconds=st.integers(20, 30_000))
    def be_held_up(self, milliseconds: int) -> None:
        self.now += milliseconds
        if self.wanted:
            self.advance()
        self.read()
        for client in self.clients:
            for subscription in client.subscriptions.values():
                subscription.newest_at = subscription.held_up_at = (
                    self.now
                )  # a window that has just opened counts from here

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: self.clients)
    def send_newest(self, which: int) -> None:
        client = self.some(which)
        for subscription in client.subscriptions.values():
            if subscription.newest is not None and subscription.newest not in subscription.received[-1:]:
                subscription.received_at = None  # it comes before its time
        self.engine.send_newest(client.handle)
        self.read()
        for subscription in client.subscriptions.values():
            assert subscription.newest is None or subscription.received[-1] == subscription.newest

    @rule(which=st.integers(0, 2))
    @precondition(lambda self: len(self.clients) > 1)
    def leave(self, which: int) -> None:
        client = self.some(which)
        self.clients.remove(client)
        client.peer.sock.close()
        self.bench.poll()

    @invariant()
    def newest_arrives_in_time(self) -> None:
        if hasattr(self, "clients"):
            for client in self.clients:
                for subscription in client.subscriptions.values():
                    subscription.check(self.now)

    def teardown(self) -> None:
        if hasattr(self, "context"):
            for client in self.clients:
                for channel in client.subscriptions:
                    self.engine.unsubscribe(client.handle, channel)
            assert self.engine.stats()["conflating"] == 0
            self.context.__exit__(None, None, None)


TestConflation = Conflation.TestCase
TestConflation.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
