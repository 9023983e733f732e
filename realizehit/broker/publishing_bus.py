"""The part of a bus that publishes, follows the rules of history, and tells the node what it knows of the broker."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Protocol

from realizehit.broker.base import Bus, Interest
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import NO_RULES, Rules
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.common.backoff import Backoff
from realizehit.common.durations import Durations
from realizehit.common.position import Position
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.common.upkeep import keep_up
from realizehit.errors import BrokerRefused, BrokerUnavailable

logger: Final = logging.getLogger(__name__)

_REFUSED_PAUSE: Final = 30.0  # seconds until a broker is asked for the rules again that has refused the connection


class BusPublisher(Protocol):
    """What publishes for a bus, such as a `FollowingPipeline`, whose methods these are."""

    @property
    def rules(self) -> Rules:
        """Which channels have a log."""

    @property
    def registered(self) -> tuple[bytes, ...]:
        """Shapes that are in use."""

    @property
    def projected(self) -> ProjectionCounts:
        """Counts projections."""

    @property
    def script_durations(self) -> Durations:
        """How long scripts took."""

    def publish(self, publication: Publication) -> Coroutine[Any, Any, Published]:
        """Publish one message."""

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message, and call back."""

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order."""

    async def read_log(self, channel: bytes, *, after: int | None, last: int | None, most: int) -> LogPart:
        """Read the log of a channel."""

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log."""

    async def ping(self) -> None:
        """Check that the broker answers."""

    async def close(self) -> None:
        """Disconnect."""


class PublishingBus(Bus):
    """A bus that publishes by a `BusPublisher`.

    Args:
        broker: names the broker in texts, without secrets.
        follow_rules: whether to know the rules of history while nothing is published.
    """

    def __init__(self, broker: object, *, follow_rules: bool = True) -> None:
        self._broker = broker
        self._follow_rules = follow_rules
        self._pipeline: BusPublisher | None = None
        self._follow_task: asyncio.Task[None] | None = None
        self._pipeline_down = asyncio.Event()
        self._told_version: str | None = None  # of the rules that the node was told
        self._seldom = Seldom(REMINDER)
        self._held: dict[Interest, None] = {}  # channels in force before the rules were known

    @property
    def rules(self) -> Rules:
        """Which patterns have history, as they were read last. See `Bus.rules`."""
        return self._pipeline.rules if self._pipeline else NO_RULES

    @property
    def followed_shapes(self) -> tuple[bytes, ...]:
        """Shapes that are in use; none while there is no publishing connection. See `Bus.followed_shapes`."""
        return self._pipeline.registered if self._pipeline else ()

    @property
    def projected(self) -> ProjectionCounts:
        """Counts projections. See `Bus.projected`."""
        return self._pipeline.projected if self._pipeline else super().projected

    @property
    def script_durations(self) -> Durations:
        """How long scripts took. See `Bus.script_durations`."""
        return self._pipeline.script_durations if self._pipeline else super().script_durations

    def _start_following(self, pipeline: BusPublisher) -> None:
        if not self._follow_rules:
            return
        following = keep_up(f"following the rules of {self._broker}", partial(self._follow, pipeline))
        self._follow_task = asyncio.create_task(following, name="realizehit rules")

    async def _follow(self, pipeline: BusPublisher) -> None:
        """Keep the connection of the publisher, which follows the rules of history, also where nothing is published."""
        backoff = Backoff(0.1, 5.0)
        while True:
            self._pipeline_down.clear()
            try:
                await pipeline.ping()
            except BrokerRefused as error:
                if (left_out := self._seldom.passes("rules")) is not None:
                    logger.warning("the rules of history are not followed: %s%s", error, more(left_out))
                self._tell_rules(pipeline.rules)
                await asyncio.sleep(_REFUSED_PAUSE)
            except BrokerUnavailable:
                if self._held:  # the broker is there for subscribing, and the rules may come later
                    self._tell_rules(pipeline.rules)
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                await self._pipeline_down.wait()

    def _tell_rules(self, rules: Rules) -> None:
        """Tell the node the rules, and after the first time which channels came in force before."""
        if rules.version != self._told_version:
            self._told_version = rules.version
            if self.on_rules is not None:
                self.on_rules(rules)
        held, self._held = self._held, {}
        for channel in held:
            self._tell_subscribed(channel)

    @abstractmethod
    def _tell_subscribed(self, channel: Interest) -> None:
        """Tell the node that a channel is in force that was held."""

    async def _stop_following(self) -> None:
        task, self._follow_task = self._follow_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def hold(self, channel: Interest) -> bool:
        """Whether the node is told later that a channel is in force, since it does not know the rules yet."""
        if self._told_version is None and self._follow_rules:
            self._held[channel] = None
            return True
        return False

    # ---- publishing

    def publish(self, publication: Publication) -> Coroutine[Any, Any, Published]:
        """Publish one message. See `Bus.publish`."""
        return self._publisher().publish(publication)

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message, and call back. See `Bus.publish_soon`."""
        try:
            pipeline = self._publisher()
        except BrokerUnavailable as error:
            done(error)
        else:
            pipeline.publish_soon(publication, done)

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order. See `Bus.publish_many`, and `Pipeline.publish_many` for its times."""
        return await self._publisher().publish_many(publications)

    async def read_log(
        self, channel: bytes, *, after: int | None = None, last: int | None = None, most: int = 256
    ) -> LogPart:
        """Read the log of a channel; reads of one turn of the loop go out together. See `Bus.read_log`."""
        return await self._publisher().read_log(channel, after=after, last=last, most=most)

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message. See `Bus.renew_log`."""
        return await self._publisher().renew_log(channel, seen)

    async def ping(self) -> None:
        """Check that the broker answers. See `Bus.ping`."""
        await self._publisher().ping()

    def _publisher(self) -> BusPublisher:
        if self._pipeline is None:
            raise BrokerUnavailable(f"broker {self._broker}: the bus was not started")
        return self._pipeline
