"""The bounded queue of a subscription."""

from __future__ import annotations

import asyncio

import pytest

from realizehit.client.payload_queue import Ended, Overflow, PayloadQueue, QueueFull


async def contents(queue: PayloadQueue[bytes]) -> list[bytes]:
    return [await queue.get() for _ in range(len(queue))]


async def test_in_order() -> None:
    queue = PayloadQueue[bytes](3, Overflow.ERROR)
    assert [queue.put(item) for item in (b"1", b"2", b"3")] == [False, False, True]
    assert await contents(queue) == [b"1", b"2", b"3"]
    assert queue.dropped == 0


@pytest.mark.parametrize(
    ("overflow", "kept"), [(Overflow.DROP_OLDEST, [b"3", b"4"]), (Overflow.DROP_NEWEST, [b"1", b"2"])]
)
async def test_dropped_payloads_are_counted(overflow: Overflow, kept: list[bytes]) -> None:
    queue = PayloadQueue[bytes](2, overflow)
    assert [queue.put(item) for item in (b"1", b"2", b"3", b"4")] == [False, True, False, False]
    assert queue.dropped == 2
    assert await contents(queue) == kept


async def test_overflow_may_be_an_error() -> None:
    queue = PayloadQueue[bytes](1, Overflow.ERROR)
    queue.put(b"1")
    with pytest.raises(QueueFull):
        queue.put(b"2")
    assert await contents(queue) == [b"1"]


async def test_get_waits() -> None:
    queue = PayloadQueue[bytes](2, Overflow.ERROR)
    readers = [asyncio.create_task(queue.get()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    queue.put(b"1")
    queue.put(b"2")
    assert await asyncio.gather(*readers) == [b"1", b"2"]


async def test_the_end_comes_after_what_waits_and_wakes_every_reader() -> None:
    queue = PayloadQueue[bytes](2, Overflow.ERROR)
    queue.put(b"1")
    error = ValueError("over")
    queue.end(error)
    queue.end()  # the first call counts
    assert not queue.put(b"2")
    assert await queue.get() == b"1"
    for _ in range(2):
        with pytest.raises(ValueError, match="over"):
            await queue.get()
    other = PayloadQueue[bytes](2, Overflow.ERROR)
    readers = [asyncio.create_task(other.get()) for _ in range(2)]
    await asyncio.sleep(0)
    other.end()
    assert all(isinstance(end, Ended) for end in await asyncio.gather(*readers, return_exceptions=True))


async def test_the_end_may_discard() -> None:
    queue = PayloadQueue[bytes](2, Overflow.ERROR)
    queue.put(b"1")
    queue.end(discard=True)
    with pytest.raises(Ended):
        await queue.get()


def test_a_queue_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="maxsize is 0"):
        PayloadQueue(0, Overflow.ERROR)
