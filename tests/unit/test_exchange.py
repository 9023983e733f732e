"""Questions and answers between two processes of one server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realizehit.common.exchange import QUESTION, Exchange, NoAnswerError


class Sides:
    """Two sides of one line."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.cut = False
        self.asking = Exchange(lambda line: self._carry(line, self.answering), {})
        self.events: list[str] = []
        handlers = {"double": double, "fails": fails, "waits": self._waits}
        self.answering = Exchange(lambda line: self._carry(line, self.asking), handlers)

    async def _waits(self, _: Any) -> Any:
        self.events.append("asked")
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise

    def _carry(self, line: bytes, to: Exchange) -> None:
        self.lines.append(line)
        if not self.cut:
            asyncio.get_running_loop().call_soon(to.receive, line)


async def double(data: Any) -> Any:
    return [data, data]


async def fails(_: Any) -> Any:
    raise ValueError("broken")


async def test_each_question_gets_its_own_answer() -> None:
    sides = Sides()
    assert await asyncio.gather(*(sides.asking.ask("double", n) for n in range(5))) == [[n, n] for n in range(5)]
    questions = [line for line in sides.lines if line.startswith(QUESTION)]
    assert len(questions) == 5
    assert len(sides.lines) == 10


@pytest.mark.parametrize("kind", ["fails", "unknown"])
async def test_what_cannot_be_answered_is_an_error_there_and_is_logged(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    sides = Sides()
    with pytest.raises(NoAnswerError, match="could not answer"):
        await sides.asking.ask(kind)
    assert "answering a question of another process of this server failed" in caplog.text
    assert await sides.asking.ask("double", 1) == [1, 1]


async def test_nobody_waits_for_ever() -> None:
    sides = Sides()
    sides.cut = True
    with pytest.raises(NoAnswerError, match=r"no answer about double within 0\.01 seconds"):
        await sides.asking.ask("double", 1, patience=0.01)
    waiting = asyncio.create_task(sides.asking.ask("double", 1, patience=60))
    await asyncio.sleep(0)
    sides.asking.close()
    with pytest.raises(NoAnswerError, match="gone"):
        await waiting


async def test_an_answer_that_comes_too_late_is_ignored() -> None:
    sides = Sides()
    sides.cut = True
    with pytest.raises(NoAnswerError):
        await sides.asking.ask("double", 1, patience=0.01)
    sides.asking.receive(b'{"number": 1, "answer": 2}')


async def test_a_handler_whose_answer_nobody_wants_any_more_is_cancelled() -> None:
    sides = Sides()
    asking = asyncio.create_task(sides.asking.ask("waits", patience=60))
    async with asyncio.timeout(5):
        while not sides.events:
            await asyncio.sleep(0)
        asking.cancel()
        while len(sides.events) < 2:
            await asyncio.sleep(0)
    assert sides.events == ["asked", "cancelled"]
    with pytest.raises(NoAnswerError):
        await sides.asking.ask("waits", patience=0.01)
    async with asyncio.timeout(5):
        while len(sides.events) < 4:
            await asyncio.sleep(0)
    assert sides.events[2:] == ["asked", "cancelled"]
