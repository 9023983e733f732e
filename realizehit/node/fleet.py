"""Questions that one process of a deployment asks all others, over their broker, and the answers that it collects.

A question is published to a channel that all processes are subscribed to, and each answers on the channel of the one
that asked. The broker tells how many processes it sent the question to, so the one that asks knows when it has all
answers. It waits only for its patience where one of them does not answer. A process that answered earlier and does not
any more is listed as gone.

The channels are subscribed to over a connection of their own, so that nothing of this is among the messages of clients.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import orjson

from realizehit.broker.base import Batch, Bus, BusListener, BusState, Interest, Source
from realizehit.broker.publication import Publication
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError
from realizehit.node.names import interest_of
from realizehit.pattern import RESERVED_KEY, Channel, channel_of

logger: Final = logging.getLogger(__name__)

QUESTIONS: Final = channel_of({RESERVED_KEY: "fleet"})
PATIENCE: Final = 1.0  # seconds that answers are waited for
REMEMBERED: Final = 600.0  # seconds that a process is listed which does not answer any more

Handler = Callable[[Any], Awaitable[Any]]


class Fleet(BusListener):
    """The processes of a deployment, as one of them sees them.

    Args:
        bus: of this process, for publishing.
        own: another bus of the same broker, for subscribing.
        node: the name of this process.
        handlers: answer questions, by kind; a process that does not know a kind does not answer.

    Reentrancy: for the event loop's thread.
    """

    def __init__(self, bus: Bus, own: Bus, node: str, handlers: Mapping[str, Handler]) -> None:
        self._bus = bus
        self._own = own
        self._node = node
        self._answers = answers_of(node)
        self._handlers = handlers
        self._asked: dict[str, _Question] = {}
        self._seen: dict[str, float] = {}  # when each process last answered
        self._present: Collection[str] = ()  # those that answered the last question
        self._failures = Failures("answering a question of another process of the deployment")
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Answer from now on."""
        await self._own.start(self)
        for channel in (QUESTIONS, self._answers):
            self._own.subscribe(interest_of(channel))

    async def close(self) -> None:
        """Answer no more."""
        for task in self._answering:
            task.cancel()
        await self._own.close()

    async def ask(self, kind: str, data: Any = None, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Ask all processes, this one included.

        Args:
            kind: of the question.
            data: what JSON can hold.
            patience: seconds to wait for the answers.

        Returns:
            The answers by the name of the process, in the order in which they came.

        Raises:
            BrokerUnavailable, BrokerRefused: the question could not be published.
        """
        number = secrets.token_hex(8)
        question = self._asked[number] = _Question()
        try:
            text = orjson.dumps({"id": number, "from": self._node, "ask": kind, "data": data})
            published = await self._bus.publish(Publication(QUESTIONS, text))
            question.receivers = published.nodes
            question.look()
            try:
                async with asyncio.timeout(patience):
                    await question.complete.wait()
            except TimeoutError:
                pass
        finally:
            del self._asked[number]
        now = time.monotonic()
        self._present = question.answers.keys()
        self._seen.update(dict.fromkeys(self._present, now))
        self._seen = {node: seen for node, seen in self._seen.items() if now - seen < REMEMBERED}
        return question.answers

    def gone(self) -> dict[str, float]:
        """Return the processes that did not answer the last question, and for how many seconds they have not."""
        now = time.monotonic()
        return {node: now - seen for node, seen in self._seen.items() if node not in self._present}

    # What the bus reports

    def deliver(self, batch: Batch) -> None:
        for _, channel, payload in batch:
            try:
                self._receive(channel, payload)
            except Exception as error:  # noqa: BLE001 - whatever others publish on these channels
                self._failures.note(error)

    def subscribed(self, channel: Interest) -> None:
        pass

    def refused(self, channel: Interest, error: BrokerError) -> None:
        logger.warning("this process is not seen by other servers of the deployment: %s", error)

    def state_changed(self, source: Source, state: BusState) -> None:
        pass

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        pass

    def lapsed(self, source: Source, channels: Collection[Interest]) -> None:
        pass

    def regained(self, source: Source, channels: Collection[Interest], seconds: float, *, logged: bool = True) -> None:
        pass

    def _receive(self, channel: bytes, payload: bytes) -> None:
        message = orjson.loads(payload)
        if channel == self._answers:
            question = self._asked.get(message["id"])
            if question is not None:
                question.answers[message["node"]] = message["answer"]
                question.look()
            return
        handler = self._handlers.get(message["ask"])
        if handler is not None:
            task = asyncio.get_running_loop().create_task(self._answer(handler, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, handler: Handler, message: dict[str, Any]) -> None:
        try:
            answer = await handler(message["data"])
            text = orjson.dumps({"id": message["id"], "node": self._node, "answer": answer})
            await self._bus.publish(Publication(answers_of(message["from"]), text))
        except Exception as error:  # noqa: BLE001 - nobody awaits this task; the one that asked misses an answer
            self._failures.note(error)


def answers_of(node: str) -> Channel:
    """Return the channel of the answers to the questions of a process."""
    return channel_of({RESERVED_KEY: "answers", "node": node})


class _Question:
    """A question that is being answered.

    Attributes:
        receivers: how many processes the broker sent it to, once that is known.
        answers: by the process.
        complete: set when all of them have answered.
    """

    def __init__(self) -> None:
        self.receivers: int | None = None
        self.answers: dict[str, Any] = {}
        self.complete = asyncio.Event()

    def look(self) -> None:
        """See whether all have answered."""
        if self.receivers is not None and len(self.answers) >= self.receivers:
            self.complete.set()
