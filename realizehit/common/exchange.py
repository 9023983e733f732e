"""Questions and answers between two processes of one server, a JSON object in a line each.

Either side may ask. A question has a kind and data, and the other side's handler of that kind gives the answer. Where
there is no such handler, or it fails, the side that asked gets an error. Where the side that asked does not want the
answer any more, the handler is cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from realizehit.common.upkeep import Failures
from realizehit.errors import RealizehitError

ANSWER_TIMEOUT: Final = 2.0  # seconds for the other side to answer
QUESTION: Final = b'{"ask": '  # how the line of a question begins

Handler = Callable[[Any], Awaitable[Any]]


class NoAnswerError(RealizehitError):
    """The other side did not answer a question in time, is gone, or could not answer it."""


class Exchange:
    """One side.

    Args:
        send: sends one line, without its end, to the other side.
        handlers: answer the questions of the other side, by kind.

    Reentrancy: for the event loop's thread.
    """

    def __init__(self, send: Callable[[bytes], None], handlers: Mapping[str, Handler]) -> None:
        self._send = send
        self._handlers = handlers
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}  # by the number that the other side gave
        self._failures = Failures("answering a question of another process of this server")

    async def ask(self, kind: str, data: Any = None, *, patience: float = ANSWER_TIMEOUT) -> Any:
        """Ask the other side, and return its answer.

        Args:
            kind: of the question.
            data: what JSON can hold.
            patience: seconds to wait for the answer.

        Raises:
            NoAnswerError: there is none.
        """
        self._asked += 1
        number = self._asked
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._send(json.dumps({"ask": kind, "number": number, "data": data}).encode())
            async with asyncio.timeout(patience):
                return await answer
        except TimeoutError:
            self._send(b'{"cancel": %d}' % number)
            raise NoAnswerError(f"no answer about {kind} within {patience:g} seconds") from None
        except asyncio.CancelledError:
            self._send(b'{"cancel": %d}' % number)
            raise
        finally:
            del self._waiting[number]

    def receive(self, line: bytes) -> None:
        """Take a line of the other side that is not empty."""
        message = json.loads(line)
        if "cancel" in message:
            task = self._answering.get(message["cancel"])
            if task is not None:
                task.cancel()
            return
        number = message["number"]
        if "ask" in message:
            task = asyncio.get_running_loop().create_task(self._answer(message["ask"], number, message["data"]))
            self._answering[number] = task
            task.add_done_callback(lambda _: self._answering.pop(number))
            return
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            if "answer" in message:
                waiting.set_result(message["answer"])
            else:
                waiting.set_exception(NoAnswerError("the other side could not answer"))

    def close(self) -> None:
        """Let all questions fail: the other side is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(NoAnswerError("the other side is gone"))
        for task in self._answering.values():
            task.cancel()

    async def _answer(self, kind: str, number: int, data: Any) -> None:
        message: dict[str, Any] = {"number": number}
        try:
            message["answer"] = await self._handlers[kind](data)
        except Exception as error:  # noqa: BLE001 - the side that asked is told, and the error is logged
            self._failures.note(error)
        self._send(json.dumps(message).encode())
