"""The bounded queue of a subscription."""

from __future__ import annotations

import asyncio

import pytest

from realizehit.client.mailbox import Ended, Mailbox, MailboxFull, Overflow


async def contents(mailbox: Mailbox) -> list[bytes]:
    return [await mailbox.get() for _ in range(len(mailbox))]


async def test_in_order() -> None:
    mailbox = Mailbox(3, Overflow.ERROR)
    assert [mailbox.put(item) for item in (b"1", b"2", b"3")] == [False, False, True]
    assert await contents(mailbox) == [b"1", b"2", b"3"]
    assert mailbox.dropped == 0


@pytest.mark.parametrize(
    ("overflow", "kept"), [(Overflow.DROP_OLDEST, [b"3", b"4"]), (Overflow.DROP_NEWEST, [b"1", b"2"])]
)
async def test_what_is_dropped_is_counted(overflow: Overflow, kept: list[bytes]) -> None:
    mailbox = Mailbox(2, overflow)
    assert [mailbox.put(item) for item in (b"1", b"2", b"3", b"4")] == [False, True, False, False]
    assert mailbox.dropped == 2
    assert await contents(mailbox) == kept


async def test_overflow_may_be_an_error() -> None:
    mailbox = Mailbox(1, Overflow.ERROR)
    mailbox.put(b"1")
    with pytest.raises(MailboxFull):
        mailbox.put(b"2")
    assert await contents(mailbox) == [b"1"]


async def test_get_waits() -> None:
    mailbox = Mailbox(2, Overflow.ERROR)
    readers = [asyncio.create_task(mailbox.get()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(reader.done() for reader in readers)
    mailbox.put(b"1")
    mailbox.put(b"2")
    assert await asyncio.gather(*readers) == [b"1", b"2"]


async def test_the_end_comes_after_what_waits_and_wakes_every_reader() -> None:
    mailbox = Mailbox(2, Overflow.ERROR)
    mailbox.put(b"1")
    error = ValueError("over")
    mailbox.end(error)
    mailbox.end()  # the first call counts
    assert not mailbox.put(b"2")
    assert await mailbox.get() == b"1"
    for _ in range(2):
        with pytest.raises(ValueError, match="over"):
            await mailbox.get()
    other = Mailbox(2, Overflow.ERROR)
    readers = [asyncio.create_task(other.get()) for _ in range(2)]
    await asyncio.sleep(0)
    other.end()
    assert all(isinstance(end, Ended) for end in await asyncio.gather(*readers, return_exceptions=True))


async def test_the_end_may_discard() -> None:
    mailbox = Mailbox(2, Overflow.ERROR)
    mailbox.put(b"1")
    mailbox.end(discard=True)
    with pytest.raises(Ended):
        await mailbox.get()


def test_a_queue_holds_at_least_one() -> None:
    with pytest.raises(ValueError, match="maxsize is 0"):
        Mailbox(0, Overflow.ERROR)
