"""Publishing to a cluster: each message goes to the primary that owns the slot of its channel.

The rules of this file. There is one connection to each primary. Messages to one channel keep their order, and those to
channels of different slots are carried out in parallel. What a machine did not carry out, because the slot is
elsewhere or on its way, because it was not sent, or because the cluster is down for a moment, is sent again until its
time is up. What was sent and has no answer is unclear and fails, unless it has an idempotency key: then it is sent
again, and the key keeps it from being published twice.

A projection is a publication of its own, since its channel has another slot, and a message with a key gives each of its
projections a key. So a repetition publishes what is missing.

While a slot is on its way, a script may find its keys at neither machine, or only some. The machine it leaves says
``ASK`` then. But nodes are subscribed at this machine until the move is complete, so a script that published at the
other one would reach nobody. Such a message waits for the end of the move.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from realizehit.broker.chunks import CHUNKS, chunk_end
from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.asking import ClusterQuestions
from realizehit.broker.cluster.deliveries import (
    CallbackReceiver,
    FutureReceiver,
)
from realizehit.broker.cluster.outbox import Outbox
from realizehit.broker.cluster.registry_view import RegistryView
from realizehit.broker.cluster.shard import Shard
from realizehit.broker.cluster.shards import Shards
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.topology import Topology
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.history.epochs import new_epoch
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import Rules
from realizehit.broker.history.rules_commands import ended_logs, write_rules
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.names import CLUSTER
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.broker.publish_errors import PublishErrors
from realizehit.common.durations import Durations
from realizehit.common.position import Position
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear
from realizehit.pattern import is_wildcard, shape_of

FIRST_READ: Final = 1.0  # seconds that `ClusterPublisher.start` waits for the registry at most


class ClusterPublisher:
    """Publishes to a cluster; it has what `RedisBus` uses of a `Pipeline`.

    Args:
        address: the cluster.
        watch: knows the owners of slots. Its owner starts and closes it.
        project: whether messages reach wildcard subscriptions too.
        timeout: seconds until a publication fails.
        idempotency_window: seconds for which the broker remembers idempotency keys.
        name: how the connections are called in the machines' ``CLIENT LIST``.
        follow: whether the rules of history are followed also while nothing is published; see `start`.
        on_up: called when a machine has answered: at each login, and after it had been silent.
        on_down: called when a machine could not be reached, was silent, or a connection was lost.
        on_rules: told the rules of history for the first time and after each change, and those known so far
            whenever the registry may not be read.

    Reentrancy: for one event loop's thread.

    Attributes:
        projected: counts projections.
    """

    def __init__(
        self,
        address: ClusterAddress,
        watch: TopologyWatch,
        *,
        project: bool = True,
        timeout: float = 5.0,
        idempotency_window: float = WINDOW,
        name: str = "realizehit-publisher",
        follow: bool = False,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
        on_rules: Callable[[Rules], None] = lambda rules: None,
    ) -> None:
        self.projected = ProjectionCounts()
        self._address = address
        self._watch = watch
        self._timeout = timeout
        self._follow = follow
        self._on_down = on_down
        self._on_rules = on_rules
        self._errors = PublishErrors(address, timeout)
        self._view = RegistryView(
            address,
            self._ask_registry,
            self.projected,
            project=project,
            follow=follow,
            on_view=self._take_view,
            on_rules=self._take_rules,
            on_refused=self._refuse_held,
        )
        self._shards = Shards(
            address,
            registrations=self._view.registrations,
            window=idempotency_window,
            timeout=timeout,
            name=name,
            on_up=on_up,
            on_down=self._note_down,
        )
        self._questions = ClusterQuestions(address, self._shards, watch, timeout)
        self._outbox = Outbox(
            self._shards,
            self._view,
            watch,
            self._errors,
            counts=self.projected,
            late=self._questions.late,
            project=project,
            timeout=timeout,
        )
        self._closed = False
        watch.add_listener(self._take_topology)
        if watch.current is not None:
            self._take_topology(watch.current)

    # ---- what is known

    @property
    def connects(self) -> int:
        """How often a connection was made."""
        return self._shards.connects

    @property
    def script_durations(self) -> Durations:
        """How long the machines took for publications that need a script."""
        return self._shards.durations

    @property
    def rules(self) -> Rules:
        """Which channels have a log, as far as it is known here."""
        return self._view.rules

    @property
    def registered(self) -> tuple[bytes, ...]:
        """The shapes that are in use, as far as it is known here."""
        return self._view.shapes

    # ---- life

    async def start(self) -> None:
        """Read the registry and the rules, and follow them if that was asked for. Publishing needs no start.

        The first read is waited for, though not long: then a node knows the rules before its first client subscribes.
        """
        self._view.start()
        await self._view.first(FIRST_READ)

    async def close(self) -> None:
        """Fail what is under way, and disconnect; calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        await self._view.close()
        self._outbox.close()
        await self._shards.close()

    # ---- publishing

    async def publish(self, publication: Publication) -> Published:
        """Publish one message. See `Pipeline.publish`."""
        receiver = FutureReceiver(1)
        self._outbox.begin(publication, receiver)
        (outcome,) = await receiver.future
        if isinstance(outcome, BrokerError):
            raise outcome
        return outcome

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message, and call back. See `Pipeline.publish_soon`."""
        self._outbox.begin(publication, CallbackReceiver(done))

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order, those of different slots in parallel.

        Returns:
            For each message what `publish` would have returned or raised, in the same order. Where a machine cannot be
            reached, what follows for it is not sent, and has that failure as its outcome.
        """
        outcomes: list[Outcome] = []
        pending: deque[tuple[FutureReceiver, Sequence[Publication]]] = deque()
        failed: dict[Shard | None, BrokerError] = {}
        end = 0
        try:
            while pending or end < len(publications):
                if end < len(publications) and len(pending) < CHUNKS:
                    start, (end, _) = end, chunk_end(publications, end)
                    block = publications[start:end]
                    receiver = FutureReceiver(len(block))
                    self._outbox.begin_all(block, receiver, failed)
                    pending.append((receiver, block))
                    continue
                receiver, block = pending.popleft()
                found = await receiver.future
                outcomes += found
                for publication, outcome in zip(block, found, strict=True):
                    if isinstance(outcome, BrokerUnavailable) and not isinstance(outcome, BrokerUnclear):
                        failed.setdefault(self._shards.owner_of(slot_of(publication.channel)), outcome)
        finally:
            for receiver, _ in pending:  # the caller was cancelled: what has not been sent shall not be
                receiver.future.cancel()
        return outcomes

    # ---- what changes

    def _take_view(self, new: tuple[bytes, ...]) -> None:
        self._outbox.take_view(new)

    def _refuse_held(self, error: BrokerRefused) -> None:
        self._outbox.refuse_held(error)
        self._on_rules(self._view.rules)  # a node serves without them, as with a single broker

    def _take_rules(self, rules: Rules) -> None:
        self._shards.take_rules(rules)
        self._on_rules(rules)

    def _note_down(self) -> None:
        if not self._closed:
            self._watch.refresh_soon()
            self._on_down()

    def _take_topology(self, topology: Topology) -> None:
        if not self._closed:
            self._shards.take(topology)
            self._outbox.take_topology()
            self._shards.leave_others()

    async def _ask_registry(self, *command: bytes | str) -> Any:
        return await self._questions.ask_once(CLUSTER.shapes, *command)

    async def ask_at(self, key: bytes | str, *command: bytes | str) -> Any:
        """Send a command to the machine that owns the slot of a key or a channel. See `ClusterQuestions.ask_at`."""
        return await self._questions.ask_at(key, *command)

    def machines(self) -> list[Callable[..., Awaitable[Any]]]:
        """Return for each primary what sends it a command and returns the reply.

        Raises:
            BrokerUnavailable: nobody knows the primaries.
        """
        if self._shards.topology is None:
            raise self._questions.late(None)
        return [self._shards.at(place).ask for place in self._shards.topology.primaries]

    async def ping(self) -> None:
        """Check that all primaries answer. See `ClusterQuestions.ping`.

        Where the rules are followed, they are known after this, unless they may not be read.

        Raises:
            BrokerUnavailable: also where they are followed and nobody could read them yet.
        """
        await self._questions.ping()
        if self._follow:
            await self._view.first(self._timeout)
            if self._view.read_at == -math.inf and self._view.refusal is None:
                raise self._questions.late(None)

    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        """Return for each channel how many nodes are subscribed to it. See `Bus.nodes`."""
        return await self._questions.nodes(channels)

    # ---- history

    async def read_log(self, channel: bytes, *, after: int | None, last: int | None, most: int) -> LogPart:
        """Read the log of a channel. See `Bus.read_log`.

        A wildcard whose shape is not registered has no log: it would lack messages.
        """
        if await self._lacks_log(channel):
            return LogPart(new_epoch().decode(), 1, 0, [], [])
        return await self._questions.at(
            channel,
            lambda shard, asking: shard.read_log_here(channel, after=after, last=last, most=most, asking=asking),
        )

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message. See `Bus.renew_log`."""
        if await self._lacks_log(channel):
            return LogPart(new_epoch().decode(), 1, 0, [], [])
        return await self._questions.at(
            channel, lambda shard, asking: shard.renew_log_here(channel, seen, asking=asking)
        )

    async def _lacks_log(self, channel: bytes) -> bool:
        """Whether a channel is that of a wildcard whose shape is not registered; reads the rules and the registry."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._view.young()
        except TimeoutError:
            raise self._questions.late(None) from None
        return is_wildcard(channel) and shape_of(channel) not in self._view.registrations

    async def write_rules(self, rules: Rules, *, only_if_missing: bool = False) -> Rules | None:
        """Have the cluster keep these rules of history. See `Bus.write_rules`."""
        command = write_rules(rules, CLUSTER, only_if_missing=only_if_missing)
        before = await self.ask_at(CLUSTER.rules, *command)
        keeps = only_if_missing and isinstance(before, bytes)
        self._view.take_rules(before if keeps else rules.to_json())
        if not isinstance(before, bytes):
            return None
        try:
            return Rules.from_json(before)
        except BrokerRefused:
            if only_if_missing:  # rules that nobody can read are of no use
                return await self.write_rules(rules)
            return None

    async def remove_logs(self, rules: Rules) -> int:
        """Remove the logs of channels that are under none of these rules. See `Bus.remove_logs`."""
        removed = 0
        for ask in self.machines():
            async for keys in ended_logs(ask, rules):
                removed += sum(await asyncio.gather(*(self.ask_at(key, "UNLINK", key) for key in keys)))
        return removed
