"""The connections of each address at all workers of a server."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from realizehit.access import shared_addresses
from realizehit.access.limits import AddressLimit
from realizehit.access.shared_limits import SharedLimits


class Workers:
    """The limits of some workers, and what their parent has."""

    def __init__(self, path: Path, count: int, most: int, stack: contextlib.ExitStack) -> None:
        self.parent = stack.enter_context(SharedLimits(path, count))
        self.shared = [stack.enter_context(SharedLimits(path, count, number)) for number in range(count)]
        self.limits = [AddressLimit(most, shared.addresses) for shared in self.shared]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    with contextlib.ExitStack() as stack:
        yield Workers(tmp_path / "limits", 3, 3, stack)


def test_connections_of_all_workers_count(workers: Workers) -> None:
    first, second, third = workers.limits
    assert first.enter("a")
    assert second.enter("a")
    assert second.enter("a")
    assert [limit.enter("a") for limit in workers.limits] == [False] * 3
    assert [limit.is_full("a", besides=True) for limit in workers.limits] == [False] * 3
    assert third.enter("b")
    second.leave("a")
    assert third.enter("a")
    assert first.is_full("a")
    first.add("a")  # a session over one connection may exceed it
    assert second.is_full("a", besides=True)


def test_the_connections_of_a_worker_that_is_gone_count_no_more(workers: Workers) -> None:
    first, second, third = workers.limits
    for address in ("a", "b"):
        for _ in range(2):
            assert first.enter(address)
        assert second.enter(address)
        assert third.is_full(address)
    workers.parent.forget(0)
    for address in ("a", "b"):
        assert third.enter(address)
        assert third.enter(address)
        assert not third.enter(address)
        assert second.is_full(address)


def test_rows_without_connections_are_used_again(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_addresses, "_first_row", lambda mark: 16)
    first, second, _ = workers.limits
    for turn in range(10):
        addresses = [f"{turn} {n}" for n in range(shared_addresses.WINDOW)]
        for address in addresses:
            assert first.enter(address)
            assert first.enter(address)
            assert second.enter(address)
            assert second.is_full(address)
        # Without room each worker counts by itself.
        assert [limit.enter("more") for limit in (first, first, first, first)] == [True, True, True, False]
        assert not second.is_full("more")
        second.leave(addresses[0])
        first.leave(addresses[0])
        first.leave(addresses[0])
        # There is room again, which the next connection takes.
        first.leave("more")
        first.add("more")
        assert second.is_full("more")
        for address in addresses[1:]:
            first.leave(address)
            first.leave(address)
            second.leave(address)
        for _ in range(3):
            first.leave("more")
    assert [len(limit) for limit in workers.limits] == [0, 0, 0]
    assert [shared.addresses._rows for shared in workers.shared] == [{}] * 3


def test_a_worker_that_holds_a_lock_holds_up_nobody(workers: Workers) -> None:
    first, second, _ = workers.limits

    @contextlib.contextmanager
    def locked(offset: int, size: int) -> Iterator[bool]:
        yield False

    workers.shared[0].addresses._locked = locked
    assert [first.enter("a") for _ in range(4)] == [True, True, True, False]
    assert second.enter("a")  # it knows nothing of the others
    assert first.is_full("a")


def come_and_go(path: Path, number: int, seed: int, left: object) -> None:
    draw = random.Random(seed)
    mine: list[str] = []
    with SharedLimits(path, 4, number) as shared:
        limit = AddressLimit(50, shared.addresses)
        for _ in range(20_000):
            if mine and draw.random() < 0.5:
                limit.leave(mine.pop(draw.randrange(len(mine))))
            elif limit.enter(address := f"10.0.0.{draw.randrange(40)}"):
                mine.append(address)
        left.put((number, Counter(mine)))  # type: ignore[attr-defined]


def test_processes_at_the_same_time_keep_the_counts_right(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    context = multiprocessing.get_context("spawn")
    with SharedLimits(path, 4) as parent:
        left = context.Queue()
        processes = [context.Process(target=come_and_go, args=(path, number, number, left)) for number in range(4)]
        for process in processes:
            process.start()
        counts = dict(left.get(timeout=60) for _ in processes)
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        for address in {address for each in counts.values() for address in each}:
            # The parent has the column of the first worker, and looks at those of the others.
            others = sum(counts[number][address] for number in (1, 2, 3))
            # A worker that did not get the lock counted by itself for a while.
            assert 0 <= parent.addresses.others(address) <= others
        shown = sum(parent.addresses.others(f"10.0.0.{n}") for n in range(40))
        assert shown >= 0.9 * sum(counts[number].total() for number in (1, 2, 3))


def test_addresses_that_are_gone_are_remembered_within_a_bound(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_addresses, "KNOWN", 10)
    first, second, _ = workers.limits
    for n in range(100):
        assert first.enter(f"{n}")
        assert not second.is_full(f"{n}")
        first.leave(f"{n}")
        assert all(len(shared.addresses._known) <= 10 for shared in workers.shared)
