"""Delays between attempts."""

from __future__ import annotations

from realizehit.common.backoff import Backoff


def test_back_off_is_drawn_from_a_doubling_range_up_to_the_cap() -> None:
    highest = Backoff(0.5, 8, draw=lambda: 1.0)
    assert [highest.next() for _ in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]
    highest.reset()
    assert highest.next() == 0.5
    lowest = Backoff(0.5, 8, draw=lambda: 0.0)
    assert [lowest.next() for _ in range(3)] == [0, 0, 0]
    endless = Backoff(0.5, 8, draw=lambda: 1.0)
    assert [endless.next() for _ in range(5000)][-1] == 8


def test_back_off_uses_the_whole_range() -> None:
    backoff = Backoff(1, 1)
    drawn = [backoff.next() for _ in range(500)]
    assert min(drawn) < 0.1
    assert max(drawn) > 0.9


def test_back_off_without_jitter_is_the_bound() -> None:
    backoff = Backoff(0.25, 1, jitter=False)
    assert [backoff.next() for _ in range(4)] == [0.25, 0.5, 1, 1]
    backoff.reset()
    assert backoff.next() == 0.25
