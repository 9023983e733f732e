"""What the workers of a server count together."""

from __future__ import annotations

import fcntl
import multiprocessing
from pathlib import Path

import pytest

from realizehit.access import shared_limits
from realizehit.access.limits import Bucket
from realizehit.access.shared_limits import SharedLimits


def test_clients_of_all_workers_count(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    with SharedLimits(path, 3) as parent, SharedLimits(path, 3, 0) as first, SharedLimits(path, 3, 2) as third:
        assert first.connected(10) == 10
        assert third.connected(5) == 15
        assert first.connected(11) == 16
        third.tell(0)
        assert first.connected(11) == 11
        third.tell(7)
        parent.forget(2)  # it is gone
        assert first.connected(11) == 11


def test_a_rate_is_one_for_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    with SharedLimits(path, 2, 0) as first, SharedLimits(path, 2, 1) as second:
        buckets = [limits.bucket("key", 10.0, 10.0, 100.0) for limits in (first, second)]
        alone = Bucket(10.0, 10.0, 100.0)
        now = 100.0
        for turn in range(200):
            now += 0.03
            shared = buckets[turn % 2]
            assert shared.wait(now) == pytest.approx(alone.wait(now))
            if not alone.wait(now):
                shared.take()
                alone.take()
        other = second.bucket("other", 10.0, 10.0, now)
        assert other.wait(now) == 0.0
        changed = second.bucket("key", 20.0, 20.0, now)  # another rate begins with a full bucket
        assert changed.wait(now, 20.0) == 0.0


def test_without_room_a_worker_counts_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "BUCKETS", 2)
    with SharedLimits(tmp_path / "limits", 1, 0) as limits:
        buckets = [limits.bucket(f"key {n}", 1.0, 1.0, 0.0) for n in range(3)]
        assert [type(bucket) is Bucket for bucket in buckets] == [False, False, True]
        for bucket in buckets:
            assert bucket.wait(0.0) == 0.0
            bucket.take()
            assert bucket.wait(0.0) == 1.0


def take_many(path: Path, number: int, amount: int) -> None:
    with SharedLimits(path, 4, number) as limits:
        bucket = limits.bucket("key", 1.0, 1e6, 0.0)
        bucket.wait(0.0)
        for _ in range(amount):
            bucket.take()


def test_processes_that_take_at_the_same_time_lose_little(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=take_many, args=(path, number, 5_000)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with SharedLimits(path, 4) as limits:
        left = limits.change(limits._counts.size + place_of(limits), 1.0, 1e6, 0.0, 0.0)
    assert 1e6 - 20_000 <= left < 1e6 - 15_000


def place_of(limits: SharedLimits) -> int:
    """Return the offset of the only bucket behind the counts."""
    table = limits._map[limits._counts.size :]
    size = shared_limits._BUCKET.size
    return next(n for n in range(0, len(table), size) if table[n : n + 16] != bytes(16))


def hold(path: Path, held: object, end: object) -> None:
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        held.set()  # type: ignore[attr-defined]
        end.wait(60)  # type: ignore[attr-defined]


def test_a_worker_that_is_stopped_with_a_lock_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    context = multiprocessing.get_context("spawn")
    with SharedLimits(path, 1, 0) as limits:
        held, end = context.Event(), context.Event()
        holder = context.Process(target=hold, args=(path, held, end))
        holder.start()
        try:
            assert held.wait(60)
            bucket = limits.bucket("key", 1.0, 2.0, 0.0)
            assert bucket.wait(0.0) == 0.0
            bucket.take(2.0)
            assert bucket.wait(0.0) == 1.0
        finally:
            end.set()
            holder.join(60)
