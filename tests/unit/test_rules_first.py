"""Channels that came in force before the rules of history were known: the node learns of them when it knows these."""

from __future__ import annotations

from realizehit.broker.base import Interest
from realizehit.broker.cluster.bus import ClusterBus, _Node
from realizehit.broker.history.rules import Rules
from realizehit.broker.redis import RedisBus, _Reports
from tests.support.bus_recorder import Recorder
from tests.support.wildcard_fakes import FakeLink

CHANNEL = Interest(b"kind:news")


def single() -> tuple[RedisBus, FakeLink, Recorder]:
    bus, link, recorder = RedisBus("redis://127.0.0.1:1"), FakeLink(), Recorder()
    bus._link = link  # type: ignore[assignment]
    bus._reports = _Reports(bus, recorder)
    return bus, link, recorder


def cluster() -> tuple[ClusterBus, FakeLink, Recorder]:
    bus, link, recorder = ClusterBus("redis+cluster://127.0.0.1:1"), FakeLink(), Recorder()
    bus._subscribing = link  # type: ignore[assignment]
    bus._node = _Node(bus, recorder)
    return bus, link, recorder


def test_the_node_is_told_when_it_knows_the_rules() -> None:
    for bus, link, recorder in (single(), cluster()):
        link.in_force.add(CHANNEL)
        assert not bus.subscribe(CHANNEL)
        bus._tell_rules(Rules())
        assert recorder.confirmed == [CHANNEL]


def test_a_channel_that_was_lost_meanwhile_is_reported_when_it_is_back() -> None:
    for bus, link, recorder in (single(), cluster()):
        link.in_force.add(CHANNEL)
        assert not bus.subscribe(CHANNEL)
        link.in_force.clear()  # the connection broke: who is answered now would miss what comes before it is back
        bus._tell_rules(Rules())
        assert recorder.confirmed == []
        assert link.promised == {CHANNEL}
