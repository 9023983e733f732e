"""Named events and their callbacks."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from realizehit.client.events import Emitter


class Bell(Emitter):
    events: ClassVar[tuple[str, ...]] = ("ring", "stop")

    def ring(self, *values: object) -> None:
        self._emit("ring", *values)


def test_callbacks_are_called_in_their_order_until_taken_away() -> None:
    bell, seen = Bell(), []
    first, second = (lambda n: seen.append(("first", n))), (lambda n: seen.append(("second", n)))
    bell.on("ring", first)
    bell.on("ring", second)
    bell.ring(1)
    bell.off("ring", first)
    bell.ring(2)
    assert seen == [("first", 1), ("second", 1), ("second", 2)]
    with pytest.raises(ValueError, match="not in list"):
        bell.off("ring", first)


def test_an_unknown_event_is_named() -> None:
    with pytest.raises(ValueError, match="no event 'rinng'; there are ring, stop"):
        Bell().on("rinng", print)


async def test_a_coroutine_function_runs_as_a_task() -> None:
    bell = Bell()
    rung: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def callback(number: int) -> None:
        await asyncio.sleep(0)
        rung.set_result(number)

    bell.on("ring", callback)
    bell.ring(7)
    assert await asyncio.wait_for(rung, 10) == 7


async def test_a_failing_callback_is_reported_and_stops_nothing_else() -> None:
    bell, seen = Bell(), []
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fails() -> None:
        raise RuntimeError("at once")

    async def fails_later() -> None:
        raise RuntimeError("later")

    for callback in (fails, fails_later, lambda: seen.append(True)):
        bell.on("ring", callback)
    bell.ring()
    while len(reported) < 2:
        await asyncio.sleep(0)
    assert seen == [True]
    assert [str(context["exception"]) for context in reported] == ["at once", "later"]
