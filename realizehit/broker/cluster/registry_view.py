"""What a publisher to a cluster knows of the registry of shapes and of the rules of history.

Publications and the registry are on different machines, so nothing tells a publisher in which order a publication and
the registration of a shape were carried out. Instead it knows how old its view of the registry is at most. It
publishes only while the view is younger than `VIEW_AGE`, and a publication has its outcome only once a view has been
applied to it that is not older than its reply by more than that. A registrar waits longer before it says that a new
shape is in force. So each publication that a machine carries out after that is projected by the shape.

The view is read again and again while something is published. If nothing is, the next publication waits for one read.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final

from realizehit.broker.history.rules import Rules
from realizehit.broker.names import CLUSTER
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publish_errors import NamedBroker
from realizehit.broker.rules_reader import RulesReader
from realizehit.broker.shapes.registry import (
    MOST_SHAPES,
    VIEW_AGE,
    VIEW_READ_INTERVAL,
    is_shape,
    read_registrations,
)
from realizehit.common.backoff import Backoff
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.common.upkeep import Failures
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable

logger: Final = logging.getLogger(__name__)

IDLE_AFTER: Final = 3.0  # seconds without a publication after which the registry is not read any more
IDLE_INTERVAL: Final = 1.0  # seconds between two reads where the rules are followed also while nothing is published

_READ_RULES: Final = ("GET", CLUSTER.rules)

_RIGHTS: Final = (
    "to reach wildcard subscriptions a publisher to a cluster needs the rights to EVAL, TIME, ZRANGEBYSCORE and HGET "
    f"with the keys {CLUSTER.shapes} and {CLUSTER.registrations}: grant them, or publish without wildcards "
    "(--no-wildcards; in Python wildcards=False)"
)

Ask = Callable[..., Awaitable[Any]]


class RegistryView:
    """Keeps a view of the registry and of the rules that is young enough, while it is needed.

    Args:
        broker: named in the log.
        ask: sends a command to the machine that has the registry, once, and returns the reply.
        counts: counts members of the registry that are no shapes.
        project: whether messages are projected. Otherwise the shapes are not read.
        follow: whether the rules are followed also while nothing is published.
        on_view: called with the shapes that are new, after each read.
        on_rules: told the rules for the first time and after each change.
        on_refused: told why the registry may not be read.

    Attributes:
        shapes: those that are in force.
        registrations: the registration of each. The object stays the same.
        read_at: time of the loop as of which all this was so; ``-inf`` before the first read.
        refusal: why the last read was refused; None after a read that succeeded.

    Reentrancy: for one event loop's thread.
    """

    def __init__(
        self,
        broker: NamedBroker,
        ask: Ask,
        counts: ProjectionCounts,
        *,
        project: bool,
        follow: bool,
        on_view: Callable[[tuple[bytes, ...]], None],
        on_rules: Callable[[Rules], None],
        on_refused: Callable[[BrokerRefused], None],
    ) -> None:
        self.shapes: tuple[bytes, ...] = ()
        self.registrations: dict[bytes, bytes] = {}
        self.read_at = -math.inf
        self.refusal: BrokerRefused | None = None
        self._broker = broker
        self._ask = ask
        self._counts = counts
        self._project = project
        self._follow = follow
        self._most_age = VIEW_AGE if project else math.inf  # old rules do no harm, an old registry does
        self._on_view = on_view
        self._on_refused = on_refused
        self._reader = RulesReader(broker, on_rules)
        self._writes = 0  # how often this process has changed the rules
        self._needed_at = -math.inf
        self._needed = asyncio.Event()
        self._read = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seldom = Seldom(REMINDER)
        self._failures = Failures("reading the registry of shapes")

    @property
    def rules(self) -> Rules:
        """The rules of history as they were read last."""
        return self._reader.rules

    def is_young(self, now: float) -> bool:
        """Whether something may be published now; if so, the view is kept young."""
        self._needed_at = now
        if now - self.read_at < VIEW_READ_INTERVAL:
            return True
        self._needed.set()
        if self._task is None:
            self.start()
        return now - self.read_at < self._most_age

    def covers(self, time: float) -> bool:
        """Whether the view is young enough for a reply that came at ``time``."""
        return time - self.read_at < self._most_age

    async def young(self) -> None:
        """Wait until the view is young enough.

        Raises:
            BrokerRefused: the registry may not be read.
        """
        loop = asyncio.get_running_loop()
        while not self.is_young(loop.time()):
            self._read.clear()
            await self._read.wait()
            if self.refusal is not None:
                raise BrokerRefused(str(self.refusal))

    async def first(self, seconds: float) -> None:
        """Wait for the first view, or until the registry may not be read, at most so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while self.read_at == -math.inf and self.refusal is None:
                    self._read.clear()
                    await self._read.wait()
        except TimeoutError:
            pass

    def take_rules(self, text: bytes) -> None:
        """Take rules that were just written or read by somebody else."""
        self._writes += 1  # a read that is under way may have older ones
        self._reader.take(text)

    def start(self) -> None:
        """Begin to read."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="realizehit registry view")

    async def close(self) -> None:
        """Read no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(0.02, 0.3)
        while True:
            self._needed.clear()
            sent = loop.time()
            try:
                await self._read_once(sent)
            except BrokerUnavailable:
                await asyncio.sleep(backoff.next())
                continue
            except BrokerRefused as error:
                if (left_out := self._seldom.passes("refused")) is not None:
                    logger.warning("%s%s", error, more(left_out))
                self._refuse(error)
                await self._pause(IDLE_AFTER)
                continue
            except Exception as error:  # noqa: BLE001 - the next read may do better
                self._failures.note(error)
                await asyncio.sleep(0.3)
                continue
            backoff.reset()
            idle = loop.time() - self._needed_at > IDLE_AFTER
            if not idle:
                await asyncio.sleep(sent + VIEW_READ_INTERVAL - loop.time())
            else:
                await self._pause(IDLE_INTERVAL if self._follow else None)

    def _refuse(self, error: BrokerRefused) -> None:
        self.refusal = error
        self._read.set()
        try:
            self._on_refused(error)
        except Exception as failure:  # noqa: BLE001 - the next read may be allowed
            self._failures.note(failure)

    async def _pause(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._needed.wait()
        except TimeoutError:
            pass

    async def _read_once(self, sent: float) -> None:
        writes = self._writes
        shapes, rules = await asyncio.gather(
            self._answer(*read_registrations(CLUSTER)) if self._project else _nothing(), self._answer(*_READ_RULES)
        )
        if isinstance(shapes, BrokerError):
            raise BrokerRefused(f"{shapes}; {_RIGHTS}")
        new = self._take(shapes or [])
        if writes == self._writes:
            self._reader.take(rules)
        self.read_at = sent
        self.refusal = None
        self._read.set()
        self._on_view(new)

    async def _answer(self, *command: bytes | str) -> Any:
        """Return the reply, or the error by which the broker refused the command."""
        try:
            return await self._ask(*command)
        except BrokerRefused as error:
            return error

    def _take(self, found: Any) -> tuple[bytes, ...]:
        """Take the shapes and their registrations; return the shapes that are new."""
        if not isinstance(found, list) or len(found) % 2:
            raise BrokerUnavailable(f"broker {self._broker}: reading the registry answered {str(found)[:100]}")
        pairs = list(zip(found[::2], found[1::2], strict=True))
        before = self.registrations
        valid = {shape: number for shape, number in pairs if shape in before or is_shape(shape)}
        valid = dict(list(valid.items())[:MOST_SHAPES])
        if len(valid) < len(pairs):
            self._counts.malformed += len(pairs) - len(valid)
            if (left_out := self._seldom.passes("malformed")) is not None:
                ignored = len(pairs) - len(valid)
                logger.warning("broker %s: ignored %d members of the registry of shapes%s",
                               self._broker, ignored, more(left_out))  # fmt: skip
        new = tuple(shape for shape in valid if shape not in before)
        if valid != before:
            before.clear()
            before.update(valid)
            self.shapes = tuple(valid)
        return new


async def _nothing() -> list[Any]:
    return []
