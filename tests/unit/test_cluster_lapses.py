"""Channels of a cluster that lapse together."""

from __future__ import annotations

from collections.abc import Collection

from realizehit.broker.base import BROKER, Interest, Source
from realizehit.broker.cluster.lapses import JOIN, Lapses
from tests.support.bus_recorder import Recorder

A, B, C = Interest(b"a"), Interest(b"b"), Interest(b"c")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Lapses, Recorder, Clock]:
    recorder, clock = Recorder(), Clock()
    return Lapses(recorder, clock), recorder, clock


def test_a_lapse_is_over_when_all_of_it_is_back() -> None:
    lapses, recorder, clock = make()
    lapses.lapse([A, B], 98.0, "machine")
    (source, channels) = recorder.lapses[0]
    assert channels == [A, B]
    assert lapses.source_of(A) == lapses.source_of(B) == source
    assert lapses.source_of(C) == BROKER
    clock.now = 101.0
    lapses.back(A)
    lapses.back(C)
    assert not recorder.regains
    assert lapses.is_in_one(A)
    lapses.back(B)
    assert recorder.regains == [(source, [A, B])]
    assert recorder.gaps == [3.0]
    assert lapses.source_of(A) == BROKER


def test_channels_join_a_young_lapse_of_the_same_cause_only() -> None:
    lapses, recorder, clock = make()
    lapses.lapse([A], 100.0, "machine")
    lapses.lapse([B], 99.0, "machine")
    lapses.lapse([C], 100.0, "another")
    assert lapses.source_of(A) == lapses.source_of(B) != lapses.source_of(C)
    lapses.back(C)
    assert [channels for _, channels in recorder.regains] == [[C]]
    clock.now += 2 * JOIN
    lapses.lapse([C], clock.now, "machine")
    assert lapses.source_of(C) != lapses.source_of(A)
    lapses.back(A)
    lapses.back(B)
    assert recorder.gaps[-1] == clock.now - 99.0


def test_a_channel_that_lapses_twice_is_told_once() -> None:
    lapses, recorder, clock = make()
    lapses.lapse([A, B], 100.0, "machine")
    lapses.back(A)
    clock.now += 2 * JOIN
    lapses.lapse([A], clock.now, "another")
    assert lapses.source_of(A) == lapses.source_of(B)
    lapses.back(B)
    assert not recorder.regains
    lapses.back(A)
    assert len(recorder.regains) == 1
    assert len(recorder.lapses) == 2


def test_channels_that_are_left_or_refused() -> None:
    lapses, recorder, _ = make()
    lapses.lapse([A, B, C], 100.0, "machine")
    lapses.forget(A)
    lapses.forget(B, refused=True)  # it is told with the others
    assert not recorder.regains
    lapses.back(C)
    assert [channels for _, channels in recorder.regains] == [[B, C]]
    lapses.lapse([A], 100.0, "machine")
    lapses.forget(A)
    assert recorder.regains[-1][1] == []


def test_the_beginning_tells_since_when() -> None:
    seen = []

    class Asking(Recorder):
        def lapsed(self, source: Source, channels: Collection[Interest]) -> None:
            seen.append(lapses.since)

    lapses = Lapses(Asking(), Clock())
    lapses.lapse([A], 97.0, "machine")
    assert seen == [97.0]
    assert lapses.since is None
