"""Wildcard channels during a gap: an answered client gets each publication, or is told, whatever the registrar does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from realizehit import _fanout
from realizehit.broker.base import BROKER, BusState, Interest, Source
from realizehit.broker.cluster.lapses import Lapses
from realizehit.broker.cluster.wildcards import ClusterWildcards
from realizehit.broker.shapes.wildcards import Wildcards, source_of
from realizehit.node.hub import Hub
from realizehit.pattern import Channel, is_wildcard, shape_of
from tests.support.engines import Bench, Peer, bench
from tests.support.scripted_bus import ScriptedBus
from tests.support.wildcard_fakes import FakeLink, FakeRegistrar

WILD = Interest(b"a:*|b:1")
OTHER = Interest(b"a:*|b:2")
SHAPE = shape_of(WILD)
ID = _fanout.channel_id(WILD)


class Bus(ScriptedBus):
    """A bus with wildcards, between a link and a registrar of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.link, self.registrar = FakeLink(), FakeRegistrar()

    def attach(self, hub: Hub) -> None:
        self.listen(hub)
        self.wildcards = Wildcards(hub)
        self.wildcards.attach(self.link, self.registrar, self.link.deliver_to)  # type: ignore[arg-type]
        self.link.usual = hub.deliver

    def subscribe(self, channel: Interest) -> bool:
        return self.wildcards.subscribe(channel) if is_wildcard(channel) else super().subscribe(channel)

    def unsubscribe(self, channel: Interest) -> None:
        self.wildcards.unsubscribe(channel)

    def source_of(self, channel: Interest) -> Source:
        return source_of(shape_of(channel))

    def link_breaks(self) -> None:
        self.link.in_force.clear()
        self.wildcards.state_changed(BROKER, BusState.DOWN)

    def link_returns(self) -> None:
        self.wildcards.state_changed(BROKER, BusState.UP)

    def link_confirms(self, channel: Interest) -> None:
        self.link.in_force.add(channel)
        if channel in self.link.promised:
            self.link.promised.discard(channel)
            self.wildcards.subscribed(channel)

    def link_is_lost_and_back(self) -> None:
        self.link_breaks()
        self.link_returns()
        self.link_confirms(WILD)
        self.wildcards.restored(BROKER, 2.0)

    def registrar_answers(self) -> None:
        self.registrar.in_force.add(SHAPE)
        self.wildcards.shape_registered(SHAPE)


class Desk:
    """A hub with wildcards, and what its clients were told."""

    def __init__(self, b: Bench) -> None:
        self.bench, self.bus = b, Bus()
        self.hub = Hub(b.engine, self.bus, clock=lambda: 100.0, call_soon=b.loop.soon.append)
        self.bus.attach(self.hub)
        self.answered: list[int] = []

    def sub(self, channel: Interest = WILD) -> tuple[int, Peer]:
        conn, peer = self.bench.connect()
        self.hub.subscribe(conn, Channel(channel), lambda code, text, started: self.answered.append(conn))
        self.bench.loop.run()
        return conn, peer

    def publish(self, payload: bytes, channel: Interest = WILD) -> None:
        self.bus.link.deliver([[b"message", channel, b"@c=a:x|b:1?" + payload]])
        self.bench.loop.run()


@pytest.fixture
def desk() -> Iterator[Desk]:
    with bench() as b:
        desk = Desk(b)
        yield desk


@pytest.fixture(autouse=True)
def loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: SimpleNamespace(time=lambda: 100.0))


def events(peer: Peer) -> list[str]:
    """Return the payloads that a client got, and `gap` for each gap."""
    found = []
    for text in peer.texts():
        if text.startswith(b"{"):
            event: dict[str, Any] = orjson.loads(text)
            assert event["ids"] == [ID]
            found.append(event["evt"])
        else:
            found.append(text.rpartition(b"?")[2].decode())
    return found


def begin(desk: Desk) -> tuple[int, Peer]:
    """Subscribe a first client."""
    conn, peer = desk.sub()
    desk.bus.link_confirms(WILD)
    desk.bus.registrar_answers()
    assert desk.answered == [conn]
    return conn, peer


def test_a_message_after_the_gap_ends_it_though_the_registrar_is_not_back(desk: Desk) -> None:
    _, peer = begin(desk)
    desk.bus.link_is_lost_and_back()
    desk.bench.loop.run()
    assert events(peer) == []  # the registrar is usually back in a moment, and may have lost something too
    desk.publish(b"1")
    assert sorted(events(peer)) == ["1", "gap"]
    desk.publish(b"2")
    desk.bus.registrar_answers()
    desk.bench.loop.run()
    assert events(peer) == ["2"]  # one gap is told once


def test_without_messages_one_gap_is_told_when_both_are_back(desk: Desk) -> None:
    _, peer = begin(desk)
    desk.bus.link_is_lost_and_back()
    desk.publish(b"exact", Interest(b"b:1"))  # of no shape
    assert events(peer) == []
    desk.bus.registrar.in_force.add(SHAPE)
    desk.bus.wildcards.shape_lapsed(SHAPE, 3.0)
    desk.bench.loop.run()
    assert events(peer) == ["gap"]
    assert desk.bus.link.first is None  # publications go to the hub directly again


def test_a_shape_that_lapsed_after_the_gap_was_told_is_another_gap(desk: Desk) -> None:
    _, peer = begin(desk)
    desk.bus.link_is_lost_and_back()
    desk.publish(b"1")
    _, late = desk.sub()
    assert len(desk.answered) == 2
    desk.bus.registrar.in_force.add(SHAPE)
    desk.bus.wildcards.shape_lapsed(SHAPE, 3.0)
    desk.bench.loop.run()
    assert sorted(events(peer)) == ["1", "gap", "gap"]
    assert events(late) == ["gap"]


def test_nobody_waits_before_a_client_that_was_answered_during_the_gap(desk: Desk) -> None:
    begin(desk)
    desk.sub(OTHER)
    desk.bus.link_confirms(OTHER)
    desk.bus.link_breaks()
    desk.bus.link_returns()
    desk.bus.registrar_answers()
    desk.bus.link_confirms(WILD)  # the other one is not back yet, so the gap is open
    first, peer = desk.sub()
    assert desk.answered[-1] == first
    desk.bus.registrar.in_force.clear()  # it lost its connection
    second, late = desk.sub()
    desk.publish(b"1")
    assert events(peer) == ["1"]
    assert (desk.answered[-1], events(late)) == (second, ["1"])


@pytest.mark.parametrize("registered", [True, False])
def test_a_client_that_waits_for_the_link_is_answered_as_soon_as_that_is_back(desk: Desk, registered: bool) -> None:
    _, peer = begin(desk)
    desk.bus.link_breaks()
    second, late = desk.sub()
    desk.bus.link_returns()
    if registered:
        desk.bus.registrar_answers()
    desk.bus.link_confirms(WILD)
    assert desk.answered[-1] == second
    desk.bus.wildcards.restored(BROKER, 2.0)
    desk.publish(b"1")
    assert sorted(events(peer)) == ["1", "gap"]
    assert events(late) == ["1"]


def test_a_channel_that_was_never_in_force_waits_for_the_registration(desk: Desk) -> None:
    begin(desk)
    desk.bus.link_is_lost_and_back()
    conn, _ = desk.sub(OTHER)
    desk.bus.link_confirms(OTHER)
    assert conn not in desk.answered
    desk.bus.registrar_answers()
    assert desk.answered[-1] == conn


@contextmanager
def cluster() -> Iterator[tuple[ClusterWildcards, Lapses, FakeLink, FakeRegistrar, list[tuple[str, Any]]]]:
    told: list[tuple[str, Any]] = []
    listener: Any = SimpleNamespace(
        subscribed=lambda channel: told.append(("subscribed", channel)),
        lapsed=lambda source, channels: told.append(("lapsed", channels)),
        regained=lambda source, channels, seconds, logged: told.append(("regained", list(channels))),
    )
    lapses = Lapses(listener, lambda: 100.0)
    link, registrar = FakeLink(), FakeRegistrar()
    wildcards = ClusterWildcards(listener, lapses)
    wildcards.attach(link, registrar)  # type: ignore[arg-type]
    wildcards.subscribe(WILD)
    link.in_force.add(WILD)
    wildcards.subscribed(WILD)
    registrar.in_force.add(SHAPE)
    wildcards.shape_registered(SHAPE)
    assert told == [("subscribed", WILD)]
    told.clear()
    yield wildcards, lapses, link, registrar, told


def test_a_lapse_in_a_cluster_is_over_though_the_registrar_is_not_back() -> None:
    with cluster() as (wildcards, lapses, link, registrar, told):
        link.in_force.clear()
        lapses.lapse([WILD], 98.0, "machine")
        registrar.in_force.clear()
        link.in_force.add(WILD)
        wildcards.subscribed(WILD)
        assert told == [("lapsed", [WILD]), ("regained", [WILD])]


def test_a_second_lapse_in_a_cluster_is_told_to_those_who_were_answered_during_the_first() -> None:
    with cluster() as (wildcards, lapses, _, registrar, told):
        lapses.lapse([WILD, Interest(b"c:1")], 98.0, "machine")
        wildcards.subscribed(WILD)  # it is back, and the other one is not
        registrar.in_force.clear()
        assert wildcards.subscribe(WILD)  # nobody waits, so nothing is withheld from those who do not
        registrar.in_force.add(SHAPE)
        wildcards.shape_lapsed(SHAPE, 1.0)
        assert [what for what, channels in told if WILD in channels] == ["lapsed", "lapsed"]
