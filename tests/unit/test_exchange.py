"""Questions and answers between a parent and a worker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realizehit.process.exchange import QUESTION, Exchange, NoAnswerError


class Sides:
    """Two sides of one line."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.cut = False
        self.asking = Exchange(lambda line: self._carry(line, self.answering), {})
        self.answering = Exchange(lambda line: self._carry(line, self.asking), {"double": double, "fails": fails})

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
    assert "answering a question between a parent and a worker failed" in caplog.text
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
