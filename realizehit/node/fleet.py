"""Questions that one process of a deployment asks all others, over their broker, and the answers that it collects.

A question is published to a channel that all processes are subscribed to, and each answers on the channel of the one
that asked. The broker tells how many processes it sent the question to, so the one that asks knows when it has all
answers. It waits only for its patience where one of them does not answer.

Each process also announces itself now and then, so that all know of each other. One that did so and does not answer any
more is listed as gone, unless it has said that it leaves.

The channels are subscribed to over a connection of their own, so that nothing of this is among the messages of clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from realizehit.broker.base import Batch, Bus, BusListener, BusState, Interest, Source
from realizehit.broker.publication import Publication
from realizehit.common.upkeep import Failures, keep_up
from realizehit.errors import BrokerError, BrokerUnavailable
from realizehit.node.names import interest_of
from realizehit.pattern import RESERVED_KEY, Channel, channel_of

logger: Final = logging.getLogger(__name__)

QUESTIONS: Final = channel_of({RESERVED_KEY: "fleet"})
PATIENCE: Final = 1.0  # seconds that answers are waited for
REMEMBERED: Final = 600.0  # seconds that a process is listed which does not answer any more
ANNOUNCE: Final = 10.0  # seconds between two announcements, where there are few processes
ANNOUNCEMENTS: Final = 10  # of all processes in a second, at most; where there are many, each waits for longer
LEAVE_TIMEOUT: Final = 0.5  # seconds to say that this process leaves

_HERE, _LEAVING = "here", "leaving"  # announcements; they are sent as questions that nobody answers

Handler = Callable[[Any], Awaitable[Any]]


class Fleet(BusListener):
    """The processes of a deployment, as one of them sees them.

    Args:
        bus: of this process, for publishing.
        own: another bus of the same broker, for subscribing.
        node: the name of this process.
        handlers: answer questions, by kind; a process that does not know a kind does not answer.
        about: what the others are to know of this process after its death, which JSON can hold.

    Reentrancy: for the event loop's thread.
    """

    def __init__(
        self,
        bus: Bus,
        own: Bus,
        node: str,
        handlers: Mapping[str, Handler],
        about: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._bus = bus
        self._own = own
        self._node = node
        self._answers = answers_of(node)
        self._handlers = handlers
        self._asked: dict[str, _Question] = {}
        self._about = about
        self._seen: dict[str, _Seen] = {}
        self._present: Collection[str] = ()  # those that answered the last question
        self._failures = Failures("answering a question of another process of the deployment")
        self._answering: set[asyncio.Task[None]] = set()
        self._announcing: asyncio.Task[None] | None = None
        self._is_refused = False

    async def start(self) -> None:
        """Answer from now on."""
        await self._own.start(self)
        for channel in (QUESTIONS, self._answers):
            self._own.subscribe(interest_of(channel))
        announcing = keep_up("announcing this process to its deployment", self._announce_now_and_then)
        self._announcing = asyncio.create_task(announcing, name="realizehit announcements")

    async def close(self, *, leaving: bool = True) -> None:
        """Answer no more; calling it again does nothing.

        Args:
            leaving: whether to tell the others that this process ends as it should; else they list it as gone.
        """
        task, self._announcing = self._announcing, None
        if task is None:
            return
        task.cancel()
        for answering in self._answering:
            answering.cancel()
        if leaving:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await self._announce(_LEAVING)
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
        self._present = question.answers.keys()
        return question.answers

    def gone(self) -> dict[str, tuple[float, Mapping[str, Any]]]:
        """Return the processes that did not answer the last question: the seconds since their last sign of life.

        Returns:
            By the name of a process these seconds, and what it announced of itself, if it had the time to.
        """
        now = time.monotonic()
        return {node: (now - seen.when, seen.about) for node, seen in self._seen.items() if node not in self._present}

    def _see(self, node: str, about: Mapping[str, Any] | None = None) -> None:
        """Learn that a process is alive, and what it says of itself."""
        now = time.monotonic()
        before = self._seen.pop(node, None)
        if about is None:
            about = {} if before is None else before.about
        self._seen[node] = _Seen(now, about)
        # The oldest come first.
        for other, seen in list(self._seen.items()):
            if now - seen.when < REMEMBERED:
                break
            del self._seen[other]

    async def _announce_now_and_then(self) -> None:
        # A process that ends at once, as one with wrong settings does, is not missed: the first pause comes first.
        while True:
            pause = max(ANNOUNCE, len(self._seen) / ANNOUNCEMENTS)
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311 - no secret
            await self._announce(_HERE)

    async def _announce(self, kind: str) -> None:
        text = orjson.dumps({"id": "", "from": self._node, "ask": kind, "data": dict(self._about)})
        try:
            await self._bus.publish(Publication(QUESTIONS, text))
        except BrokerUnavailable:
            pass  # which the node's own connection logs
        except BrokerError as error:
            self._log_refused(error)

    def _log_refused(self, error: BrokerError) -> None:
        if not self._is_refused:
            self._is_refused = True
            logger.warning("this process is not seen by other servers of the deployment: %s", error)

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
        self._log_refused(error)

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
            self._see(str(message["node"]))
            question = self._asked.get(message["id"])
            if question is not None:
                question.answers[message["node"]] = message["answer"]
                question.look()
            return
        node, kind = str(message["from"]), message["ask"]
        if kind == _HERE:
            self._see(node, dict(message["data"]))
            return
        if kind == _LEAVING:
            self._seen.pop(node, None)
            return
        handler = self._handlers.get(kind)
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


class _Seen(NamedTuple):
    """A process that was seen.

    Attributes:
        when: seconds of a monotonic clock, of its last sign of life.
        about: what it announced of itself.
    """

    when: float
    about: Mapping[str, Any]


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
