"""Rates, counts and deadlines, on a clock of the test's own."""

from __future__ import annotations

import random

import pytest

from realizehit.access.expiry import Deadlines
from realizehit.access.limits import AddressLimit, Bucket


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_may_be_overdrawn_and_refills() -> None:
    bucket = Bucket(10, 10, 0.0)
    assert bucket.wait(0.0) == 0
    bucket.take(30)
    assert bucket.wait(0.0) == 2.1
    assert bucket.wait(1.0) == pytest.approx(1.1)
    assert bucket.wait(2.2) == 0
    assert bucket.wait(1000.0) == 0
    bucket.take(10)
    assert bucket.wait(1000.0) > 0


def test_addresses() -> None:
    limit = AddressLimit(2)
    assert [limit.enter("a") for _ in range(3)] == [True, True, False]
    assert limit.is_full("a")
    assert limit.enter("b")
    limit.leave("a")
    assert limit.enter("a")
    for address in "aab":
        limit.leave(address)
    assert len(limit) == 0


def test_deadlines_warn_once_and_end_once() -> None:
    deadlines = Deadlines(30)
    deadlines.set(1, 100, 0)
    deadlines.set(2, 90, 65)  # within the warning: told at once
    assert deadlines.due(64) == ([], [])
    assert deadlines.due(65) == ([(2, 25)], [])
    assert deadlines.due(70) == ([(1, 30)], [])
    assert deadlines.due(89.9) == ([], [])
    assert deadlines.due(95) == ([], [2])
    assert deadlines.due(1000) == ([], [1])
    assert deadlines.due(2000) == ([], [])
    assert len(deadlines) == 0


def test_renewal_moves_the_deadline_and_clear_removes_it() -> None:
    deadlines = Deadlines(30)
    deadlines.set(1, 100, 0)
    deadlines.set(2, 100, 0)
    assert sorted(deadlines.due(75)[0]) == [(1, 25), (2, 25)]
    deadlines.set(1, 200, 80)
    deadlines.clear(2)
    assert deadlines.due(150) == ([], [])
    assert deadlines.due(180) == ([(1, 20)], [])
    assert deadlines.due(200) == ([], [1])


def test_frequent_renewal_does_not_grow_the_heap() -> None:
    deadlines = Deadlines(30)
    for n in range(10_000):
        deadlines.set(n % 10, 1e6 + n, 0)
    assert len(deadlines._heap) < 200
    assert len(deadlines.due(2e6)[1]) == 10


def test_deadlines_against_a_model() -> None:
    chance = random.Random(5)
    deadlines = Deadlines(10)
    model: dict[int, float] = {}
    now = 0.0
    for _ in range(3000):
        conn, now = chance.randrange(20), now + chance.random()
        if chance.random() < 0.2:
            deadlines.clear(conn)
            model.pop(conn, None)
        else:
            model[conn] = now + 1 + 30 * chance.random()
            deadlines.set(conn, model[conn], now)
        ended = {conn for conn, end in model.items() if end <= now}
        assert set(deadlines.due(now)[1]) == ended
        for conn in ended:
            del model[conn]
