"""Wildcard channels between a link and a registrar that the test plays, under any order of what these report."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from realizehit.broker.base import BROKER, Batch, BusState, Interest, Source
from realizehit.broker.shapes.wildcards import Wildcards, source_of
from realizehit.errors import BrokerError, RegistryFull
from realizehit.pattern import shape_of
from tests.support.wildcard_fakes import FakeLink, FakeRegistrar

CHANNELS = [Interest(b"a:*|b:1"), Interest(b"a:*|b:2"), Interest(b"*:*|c:1")]
SHAPES = sorted({shape_of(channel) for channel in CHANNELS})


class WildcardMachine(RuleBasedStateMachine):
    """A channel is reported when both have it, not before, and once; gaps are closed when both are back.

    Once it was in force, it needs only the link. No message is delivered during a gap that is open for the registrar
    alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.link, self.registrar = FakeLink(), FakeRegistrar()
        self.wildcards = Wildcards(self)  # type: ignore[arg-type]  # no channel lapses alone here
        self.wildcards.attach(self.link, self.registrar, self.link.deliver_to)  # type: ignore[arg-type]
        self.link.usual = self.deliver
        self.lapsed_at_link: set[Interest] = set()
        self.waiting: set[Interest] = set()  # promised, and not reported
        self.granted: set[Interest] = set()
        self.delivered = 0
        self.gaps: set[Source] = set()
        self.had_gap: set[bytes] = set()  # shapes that lost something since they were last restored

    def teardown(self) -> None:
        self.loop.close()

    def call(self, function: object, *arguments: object) -> object:
        async def run() -> object:
            return function(*arguments)  # type: ignore[operator]

        return self.loop.run_until_complete(run())

    # ---- the listener

    def deliver(self, batch: Batch) -> None:
        for _, channel, _ in batch:
            assert BROKER in self.gaps or source_of(shape_of(channel)) not in self.gaps
            self.delivered += 1

    def subscribed(self, channel: Interest) -> None:
        assert channel in self.waiting, "reported without a promise"
        assert self.is_in_force(channel)
        self.waiting.discard(channel)
        self.granted.add(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        assert channel in self.waiting | self.granted
        if channel in self.granted:
            assert source_of(shape_of(channel)) in self.gaps, "no gap at whose end its clients can be told"
        self.waiting.discard(channel)
        self.granted.discard(channel)

    def state_changed(self, source: Source, state: BusState) -> None:
        if state is BusState.DOWN:
            self.gaps.add(source)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        assert seconds >= 0
        assert source in self.gaps
        self.gaps.discard(source)

    def is_in_force(self, channel: Interest) -> bool:
        registered = channel in self.granted or shape_of(channel) in self.registrar.in_force
        return channel in self.link.in_force and registered

    # ---- what happens

    @rule(channel=st.sampled_from(CHANNELS))
    def subscribe(self, channel: Interest) -> None:
        # Who joins a channel that is delivered here gets the messages, and therefore the answer, at once.
        if self.call(self.wildcards.subscribe, channel):
            assert self.is_in_force(channel)
            self.waiting.discard(channel)
            self.granted.add(channel)
        else:
            assert not self.is_in_force(channel)
            self.waiting.add(channel)

    @rule(channel=st.sampled_from(CHANNELS))
    def unsubscribe(self, channel: Interest) -> None:
        self.waiting.discard(channel)
        self.granted.discard(channel)
        self.lapsed_at_link.discard(channel)
        self.call(self.wildcards.unsubscribe, channel)
        assert channel not in self.link.wanted
        self.link_restores()

    @rule(channel=st.sampled_from(CHANNELS))
    def message(self, channel: Interest) -> None:
        if channel in self.link.in_force:
            delivered = self.delivered
            self.call(self.link.deliver, [[b"message", channel, b"1"]])
            assert self.delivered == delivered + 1

    @precondition(lambda self: self.link.up)
    @rule(channel=st.sampled_from(CHANNELS))
    def link_confirms(self, channel: Interest) -> None:
        if channel in self.link.wanted - self.link.in_force:
            self.link.in_force.add(channel)
            self.lapsed_at_link.discard(channel)
            if channel in self.link.promised:
                self.link.promised.discard(channel)
                self.call(self.wildcards.subscribed, channel)
            self.link_restores()

    @rule()
    def link_breaks(self) -> None:
        self.link.up = False
        self.lapsed_at_link |= self.link.in_force
        self.link.in_force.clear()
        self.call(self.wildcards.state_changed, BROKER, BusState.DOWN)

    @precondition(lambda self: not self.link.up)
    @rule()
    def link_returns(self) -> None:
        self.link.up = True
        self.call(self.wildcards.state_changed, BROKER, BusState.UP)
        assert not self.registrar.in_force, "all are registered again first"
        self.link_restores()

    def link_restores(self) -> None:
        if self.link.up and BROKER in self.gaps and not self.lapsed_at_link:
            self.call(self.wildcards.restored, BROKER, 0.5)

    @rule(shape=st.sampled_from(SHAPES), lapsed=st.booleans())
    def registrar_registers(self, shape: bytes, lapsed: bool) -> None:
        if shape in self.registrar.wanted:
            new = shape not in self.registrar.in_force
            self.registrar.in_force.add(shape)
            if lapsed:
                self.call(self.wildcards.shape_lapsed, shape, 3.0)
            elif new:
                self.call(self.wildcards.shape_registered, shape)

    @rule(shape=st.sampled_from(SHAPES))
    def registrar_refuses(self, shape: bytes) -> None:
        if shape in self.registrar.wanted:
            self.registrar.leave(shape)
            self.lapsed_at_link -= {channel for channel in CHANNELS if shape_of(channel) == shape}
            self.call(self.wildcards.shape_refused, shape, RegistryFull("full"))
            self.link_restores()

    @rule()
    def registrar_breaks(self) -> None:
        self.registrar.in_force.clear()

    @rule(channel=st.sampled_from(CHANNELS))
    def link_refuses(self, channel: Interest) -> None:
        if self.link.up and channel in self.link.wanted - self.link.in_force:
            self.link.unsubscribe(channel)
            self.lapsed_at_link.discard(channel)
            self.call(self.wildcards.refused, channel, BrokerError("NOPERM"))
            self.link_restores()

    # ---- what always holds

    @invariant()
    def what_is_whole_is_reported(self) -> None:
        assert not {channel for channel in self.waiting if self.is_in_force(channel)}

    @invariant()
    def only_what_is_wanted_is_asked_for(self) -> None:
        assert self.link.wanted == self.waiting | self.granted
        assert self.registrar.wanted == {shape_of(channel) for channel in self.waiting | self.granted}

    @invariant()
    def a_gap_stays_open_only_while_something_is_missing(self) -> None:
        for source in self.gaps - {BROKER}:
            shape = source.removeprefix("shape ").encode()
            assert shape in self.registrar.wanted
            assert BROKER in self.gaps or shape not in self.registrar.in_force


WildcardMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestWildcards = WildcardMachine.TestCase
