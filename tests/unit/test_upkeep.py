"""Lasting work goes on after an error, and the log stays short."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from realizehit.common import upkeep
from realizehit.common.upkeep import Failures, Ticker, keep_up


def boom() -> None:
    raise RuntimeError("boom")


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == upkeep.__name__]


def test_the_first_error_is_logged_and_the_next_ones_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    failures = Failures("the work", interval=60, clock=lambda: now[0])
    for _ in range(5):
        failures.note(RuntimeError("boom"))
        now[0] += 1
    assert lines(caplog) == ["the work failed and goes on"]
    assert "RuntimeError: boom" in caplog.text
    now[0] += 60
    failures.note(RuntimeError("boom"))
    assert lines(caplog)[1:] == ["the work failed and goes on (4 more errors since the last line)"]
    now[0] += 60
    failures.note(RuntimeError("boom"))
    assert lines(caplog)[2:] == ["the work failed and goes on"]
    assert failures.count == 7


async def ticks(ticker: Callable[[Callable[[], None]], Ticker], count: int) -> None:
    """Wait for so many ticks."""
    enough = asyncio.Event()
    left = [count]

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            enough.set()

    one = ticker(tick)
    one.start()
    await asyncio.wait_for(enough.wait(), 10)
    one.stop()
    one.stop()
    assert left[0] == 0
    await asyncio.sleep(0.02)  # several intervals, in which nothing may happen
    assert left[0] == 0


async def test_a_tick_that_raises_stops_neither_itself_nor_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await ticks(lambda tick: Ticker("the timer", boom, tick, boom, interval=lambda: 0.001), 20)
    assert lines(caplog) == ["the timer failed and goes on"] * 2  # one line for each function


async def test_an_interval_that_cannot_be_known_stays_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    intervals = iter([0.002, 0.001])
    await ticks(lambda tick: Ticker("the timer", tick, interval=lambda: next(intervals)), 6)
    assert lines(caplog) == ["the timer failed and goes on"]


async def test_a_ticker_can_be_stopped_by_its_own_function() -> None:
    count = 0

    def stop() -> None:
        nonlocal count
        count += 1
        ticker.stop()

    ticker = Ticker("the timer", stop, interval=lambda: 0.001)
    ticker.start()
    await asyncio.sleep(0.02)
    assert count == 1


async def test_lasting_work_is_started_again_until_it_returns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "RESTART_FIRST", 0.001)
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 4:
            boom()

    await asyncio.wait_for(keep_up("the work", work), 10)
    assert starts == 4
    assert lines(caplog) == ["the work failed and goes on"]
    assert caplog.records[-1].levelno == logging.ERROR


async def test_cancelled_work_ends() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_up("the work", work))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
