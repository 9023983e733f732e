"""Keeps the topology of a cluster up to date by asking its machines."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from realizehit.broker.cluster.address import ClusterAddress, Place, place_text
from realizehit.broker.cluster.questions import Questions, is_error
from realizehit.broker.cluster.topology import QUESTION, Answer, Owners, Topology, read_answer
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable

logger: Final = logging.getLogger(__name__)

INTERVAL: Final = 1.0  # seconds between two rounds of questions while everything is fine
SHORTEST: Final = 0.05  # seconds between two rounds that somebody asked for
TIMEOUT: Final = 1.0  # seconds for a machine to answer
AT_ONCE: Final = 3  # machines that are asked in one round
MOST_OPEN: Final = 8  # connections that are kept between the rounds

GOSSIP_DELAY: Final = 1.0
"""Seconds within which a machine that sees most of the primaries has learned of a new owner of a slot."""


class TopologyWatch:
    """Asks the machines of a cluster who owns the slots: some of them each second, and when somebody asks for it.

    Args:
        address: the cluster.
        name: how its connections are called in the machines' ``CLIENT LIST``.
        interval: seconds between two rounds of questions while everything is fine.

    Attributes:
        current: the topology; None before the first answer.
        confirmed: time of the loop up to which `current` was certainly true; ``-inf`` before the first answer.
        trouble: why the last round had no answer; None if it had one.

    Reentrancy: for one event loop's thread.
    """

    def __init__(
        self, address: ClusterAddress, *, name: str = "realizehit-topology", interval: float = INTERVAL
    ) -> None:
        self.confirmed = -math.inf
        self.trouble: BrokerError | None = None
        self._address = address
        self._name = name
        self._interval = interval
        self._owners = Owners()
        self._machines: frozenset[Place] = frozenset()
        self._turn: deque[Place] = deque()
        self._hint: Place | None = None
        self._asking: dict[Place, asyncio.Task[bool]] = {}
        self._questions: dict[Place, Questions] = {}
        self._listeners: list[Callable[[Topology], None]] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._seldom = Seldom(LOG_INTERVAL)
        self._failures = Failures("following the topology of a cluster")

    @property
    def current(self) -> Topology | None:
        """The topology; None before the first answer."""
        return self._owners.current

    def add_listener(self, listener: Callable[[Topology], None]) -> None:
        """Have a function called with each new topology. It must not raise."""
        self._listeners.append(listener)

    async def start(self) -> None:
        """Ask for the first time, then again and again in the background. Calling it again does nothing.

        Raises:
            BrokerRefused: the machines are none of a cluster, or refuse the login.
        """
        if self._task is not None or self._closed:
            return
        # A machine that can be reached tells more than one that cannot, so all seeds have their turn.
        for _ in range(max(1, math.ceil(len(self._address.seeds) / AT_ONCE))):
            if await self._ask_some():
                break
        if self.current is None and isinstance(self.trouble, BrokerRefused):
            await self._end()
            raise self.trouble
        if not self._closed:  # it may have been, meanwhile
            self._task = asyncio.create_task(self._run(), name="realizehit topology")

    async def close(self) -> None:
        """Stop asking, also while `start` is under way; calling it again does nothing."""
        self._closed = True
        await self._end()

    async def _end(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        asking = list(self._asking.values())
        for question in asking:
            question.cancel()
        if asking:
            await asyncio.wait(asking)
        for questions in self._questions.values():
            questions.close()
        self._questions.clear()

    def refresh_soon(self, place: Place | None = None) -> None:
        """Have the machines asked soon: at once, or `SHORTEST` after the last round.

        Args:
            place: a machine that is to be among them, such as the one that ``MOVED`` names.
        """
        self._hint = place or self._hint
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._interval if self.current else min(0.25, self._interval)):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            began = asyncio.get_running_loop().time()
            try:
                await self._ask_some()
            except Exception as error:  # noqa: BLE001 - the next round may do better
                self._failures.note(error)
            await asyncio.sleep(began + SHORTEST - asyncio.get_running_loop().time())

    # ---- one round

    async def _ask_some(self) -> bool:
        """Ask some machines; return whether one of them answered."""
        before, self.trouble = self.trouble, None
        waiting = set()
        for place in self._next():
            if place not in self._asking:
                task = asyncio.create_task(self._ask(place), name="realizehit topology question")
                self._asking[place] = task
                task.add_done_callback(partial(self._asked, place))
                waiting.add(task)
        answered = False
        while waiting and not answered:  # a machine that is stopped must not delay what the others say
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answered = any(not task.cancelled() and task.exception() is None and task.result() for task in done)
        if answered:
            self.trouble = None
            if before is not None:
                logger.info("cluster %s answers again", self._address)
            return True
        if self.trouble is not None and (left_out := self._seldom.passes("away")) is not None:
            logger.warning("cluster %s does not answer: %s%s", self._address, self.trouble, more(left_out))
        return False

    def _asked(self, place: Place, task: asyncio.Task[bool]) -> None:
        del self._asking[place]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.note(error)

    def _next(self) -> list[Place]:
        """Return the machines that are asked in this round: the one that was named, and the next ones in turn."""
        if len(self._turn) < AT_ONCE:
            known = self._machines | set(self._address.seeds)
            self._turn.extend(random.sample(sorted(known), len(known)))
        places = [self._turn.popleft() for _ in range(min(AT_ONCE, len(self._turn)))]
        hint, self._hint = self._hint, None
        if hint is not None and hint not in places:
            places.append(hint)
        return list(dict.fromkeys(places))

    async def _ask(self, place: Place) -> bool:
        questions = self._questions.pop(place, None) or Questions(self._address.node(*place), self._name, TIMEOUT)
        asked = asyncio.get_running_loop().time()
        try:
            answer = _answer(await questions.ask(QUESTION), place, self._address)
        except BrokerError as error:
            if self.trouble is None or isinstance(error, BrokerRefused):
                self.trouble = error
            questions.close()
            return False
        self._keep(place, questions)
        if answer.claims:
            self._machines = answer.machines
        before = self.current
        changed = self._owners.take(answer)
        topology = self.current
        if topology is None:
            self.trouble = self.trouble or BrokerUnavailable(f"{place_text(place)} knows no primary with slots")
            return False
        if answer.is_certain:
            self.confirmed = max(self.confirmed, asked - GOSSIP_DELAY)
        if changed:
            logger.log(
                logging.INFO if before is None or before.primaries != topology.primaries else logging.DEBUG,
                "cluster %s has the primaries %s",
                self._address, ", ".join(map(place_text, topology.primaries)),
            )  # fmt: skip
            for listener in self._listeners:
                listener(topology)
        return True

    def _keep(self, place: Place, questions: Questions) -> None:
        self._questions[place] = questions
        while len(self._questions) > MOST_OPEN:
            oldest = next(iter(self._questions))
            self._questions.pop(oldest).close()


def _answer(replies: list[object], place: Place, address: ClusterAddress) -> Answer:
    """Read an answer.

    Raises:
        BrokerRefused: it can never work: the machine belongs to no cluster, or the user may not ask.
        BrokerUnavailable: it makes no sense.
    """
    for reply in replies:
        if is_error(reply):
            text = address.scrub(str(reply))
            if "cluster support disabled" in text:
                raise BrokerRefused(f"{place_text(place)} is no cluster; use redis:// instead of redis+cluster://")
            if text.startswith(("NOPERM", "NOAUTH", "WRONGPASS")):
                raise BrokerRefused(
                    f"{place_text(place)}: {text}; to know who owns the slots, the broker's user needs the right to "
                    "CLUSTER SLOTS, CLUSTER NODES and CLUSTER INFO"
                )
            raise BrokerUnavailable(f"{place_text(place)}: {text}")
    try:
        return read_answer(replies, place)
    except (ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        raise BrokerUnavailable(f"{place_text(place)}: its answer makes no sense: {error!r}") from None
