"""Redis and Valkey: publishing through a `Pipeline`, subscribing through a `Link`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from realizehit.broker.base import BROKER, Batch, BusListener, BusState, Interest, Source
from realizehit.broker.history.rules import Rules
from realizehit.broker.history.rules_commands import remove_logs, write_rules
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.names import SINGLE
from realizehit.broker.presence.scripted import ScriptedPresence
from realizehit.broker.publishing_bus import PublishingBus
from realizehit.broker.sentinel import SCHEMES, WATCH_INTERVAL, SentinelAddress
from realizehit.broker.shapes.bridge import Bridge
from realizehit.broker.shapes.following import FollowingPipeline
from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.wildcards import Wildcards, source_of
from realizehit.broker.subscriber import Link
from realizehit.broker.url import Address
from realizehit.common.upkeep import keep_up
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable
from realizehit.pattern import is_wildcard, shape_of


class _Reports(BusListener):
    """The listener of a bus's link: keeps the bus's own state, and passes everything on."""

    def __init__(self, bus: RedisBus, listener: BusListener) -> None:
        self._bus = bus
        self._listener = listener

    def deliver(self, batch: Batch) -> None:
        self._listener.deliver(batch)

    def subscribed(self, channel: Interest) -> None:
        if not self._bus.hold(channel):
            self._listener.subscribed(channel)

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        self._listener.all_subscribed([channel for channel in channels if not self._bus.hold(channel)])

    def refused(self, channel: Interest, error: BrokerError) -> None:
        self._listener.refused(channel, error)

    def state_changed(self, source: Source, state: BusState) -> None:
        if source == BROKER:  # that a shape lapsed says nothing about the broker
            self._bus.take_state(state)
        self._listener.state_changed(source, state)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        self._listener.restored(source, seconds, logged=logged)


class RedisBus(PublishingBus):
    """A Redis 6.2+ or Valkey server as the broker.

    Everything that this process publishes goes over one connection, in the order of the calls; the busier the process,
    the more messages share a write.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``; ``redis+sentinel://`` or ``rediss+sentinel://`` for one that
            sentinels look after.
        publish_timeout: seconds until a publish fails.
        client_name: how the subscriber connection is called in the broker's ``CLIENT LIST``; the publishing one is
            called the same with ``-publisher`` behind it.
        link: times of the subscriber connection.
        subscribe_url: where to subscribe, when that is another place than the broker itself, such as a relay.
        project: whether what is published here reaches wildcard subscriptions too, see `FollowingPipeline`.
        max_shapes: how many shapes of wildcard subscriptions the broker's registry may hold. ``None`` for a bus that
            registers none: it subscribes to the channels of wildcards as to any other.
        bridge: whether this process becomes the bridge of its deployment if no other one is, see `Bridge`.
        idempotency_window: seconds for which the broker remembers idempotency keys.
        follow_rules: whether to know the rules of history while nothing is published.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        subscribe_url: str | None = None,
        publish_timeout: float = 5.0,
        client_name: str = "realizehit",
        link: LinkSettings | None = None,
        project: bool = True,
        max_shapes: int | None = None,
        bridge: bool = False,
        idempotency_window: float = WINDOW,
        follow_rules: bool = True,
    ) -> None:
        self._project = project
        self._address = SentinelAddress(url) if url.partition("://")[0] in SCHEMES else Address(url)
        super().__init__(self._address, follow_rules=follow_rules)
        self._subscribe_address = self._address if subscribe_url is None else Address(subscribe_url)
        self._publish_timeout = publish_timeout
        self._client_name = client_name
        self._link_settings = link
        self._max_shapes = max_shapes
        self._idempotency_window = idempotency_window
        self._link: Link | None = None
        self._registrar: Registrar | None = None
        self._wildcards: Wildcards | None = None
        self._bridge = Bridge(self._address, name=f"{client_name}-bridge") if bridge else None
        self._watch_task: asyncio.Task[None] | None = None
        self._presence = ScriptedPresence(self._ask_at, SINGLE)

    @property
    def presence(self) -> ScriptedPresence:
        """Who is subscribed to the channels that have presence."""
        return self._presence

    @property
    def messages_received(self) -> int:
        """Publications that arrived so far."""
        return self._link.messages_received if self._link else 0

    @property
    def bytes_received(self) -> int:
        """Bytes that the subscriber connection read so far."""
        return self._link.bytes_received if self._link else 0

    @property
    def shapes(self) -> int:
        """How many shapes are registered for this node."""
        return self._wildcards.registered if self._wildcards else 0

    @property
    def is_bridge(self) -> bool:
        """Whether this process is the bridge of its deployment now."""
        return self._bridge is not None and self._bridge.runs

    @property
    def silence(self) -> float:
        """Seconds since the last sign of the broker. See `Bus.silence`."""
        return self._link.silence if self._link else 0.0

    # ---- life

    async def start(self, listener: BusListener | None) -> None:
        """Connect. See `Bus.start`."""
        self._pipeline = self._following = FollowingPipeline(
            self._address,
            project=self._project,
            timeout=self._publish_timeout,
            idempotency_window=self._idempotency_window,
            name=f"{self._client_name}-publisher",
            on_up=lambda: self._note(BusState.UP),
            on_down=self._note_down,
            on_rules=self._tell_rules,
        )
        try:
            if listener is not None:
                self._reports = _Reports(self, listener)
                self._start_following(self._pipeline)
                self._link = self._make_link(listener, self._reports)
                await self._link.start()
            else:
                with contextlib.suppress(BrokerUnavailable):  # merely away; the state was noted
                    await self._pipeline.ping()
                if self.on_rules is not None:
                    self._start_following(self._pipeline)
        except BaseException:
            await self.close()
            raise
        if self._bridge is not None:
            self._bridge.start()
        if isinstance(self._address, SentinelAddress):
            # Without this watch the connections would stay at a demoted master.
            watch = partial(self._watch, self._address, self._following)
            watching = keep_up(f"watching the sentinels of {self._address}", watch)
            self._watch_task = asyncio.create_task(watching, name="realizehit sentinels")

    def _tell_subscribed(self, channel: Interest) -> None:
        if self.subscribe(channel):  # else it was lost again since it was held, and is reported later
            self._reports.subscribed(channel)

    def _make_link(self, listener: BusListener, reports: BusListener) -> Link:
        if self._max_shapes is not None:
            reports = self._wildcards = Wildcards(reports)
        link = Link(
            self._subscribe_address,
            reports,
            client_name=self._client_name,
            settings=self._link_settings,
            deliver=listener.deliver,
        )
        if self._max_shapes is not None and self._wildcards is not None:
            # Registered at the broker itself, also where a relay subscribes: it is one command in ten seconds.
            self._registrar = Registrar(
                self._address, self._wildcards, most=self._max_shapes, name=f"{self._client_name}-registrar"
            )
            self._wildcards.attach(link, self._registrar, link.deliver_to)
        return link

    async def _watch(self, address: SentinelAddress, pipeline: FollowingPipeline) -> None:
        """Leave a broker that is not the master any more.

        A demoted master may be alive and answer. It sends subscribers nothing, and publications there reach no node.
        The subscriber connection cannot notice that, so the sentinels are asked.
        """
        while True:
            place = await address.current()
            if place:
                pipeline.leave(place)
                if self._link is not None and self._subscribe_address is address:
                    self._link.leave(place)
                for part in (self._registrar, self._bridge):
                    if part is not None:
                        part.move_to(place)
            await asyncio.sleep(WATCH_INTERVAL)

    async def close(self) -> None:
        """Leave the broker. See `Bus.close`."""
        self.state = BusState.CLOSED
        await self._stop_following()
        task, self._watch_task = self._watch_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        if self._pipeline is not None:
            await self._pipeline.close()
        if self._link is not None:
            await self._link.close()
        if self._registrar is not None:
            await self._registrar.close()
        if self._bridge is not None:
            await self._bridge.close()
        if isinstance(self._address, SentinelAddress):
            await self._address.close()

    def take_state(self, state: BusState) -> None:
        """Take what the link, or without one the publishing connection, showed of the broker."""
        if self.state is not BusState.CLOSED:
            self.state = state
        if self._link is not None:
            self.reconnects = self._link.reconnects
        elif self._pipeline is not None:
            self.reconnects = max(0, self._following.connects - 1)

    def _note_down(self) -> None:
        self._pipeline_down.set()
        self._note(BusState.DOWN)

    def _note(self, state: BusState) -> None:
        if self._link is None:
            self.take_state(state)

    # ---- subscribing

    def subscribe(self, channel: Interest) -> bool:
        """Ask for a channel. See `Bus.subscribe`."""
        link = self._subscriber()
        if self._wildcards is not None and is_wildcard(channel):
            in_force = self._wildcards.subscribe(channel)
        else:
            in_force = link.subscribe(channel)
        return in_force and not self.hold(channel)

    def subscribe_all(self, channels: Sequence[Interest]) -> list[Interest]:
        """Ask for several channels. See `Bus.subscribe_all`."""
        if any(map(is_wildcard, channels)):
            return super().subscribe_all(channels)
        return [channel for channel in self._subscriber().subscribe_all(channels) if not self.hold(channel)]

    def unsubscribe(self, channel: Interest) -> None:
        """Leave a channel. See `Bus.unsubscribe`."""
        link = self._subscriber()
        self._held.pop(channel, None)
        if self._wildcards is not None and is_wildcard(channel):
            self._wildcards.unsubscribe(channel)
        else:
            link.unsubscribe(channel)

    def source_of(self, channel: Interest) -> Source:
        """Return the source of a channel's publications: the shape of a wildcard, or the broker."""
        if self._wildcards is not None and is_wildcard(channel):
            return source_of(shape_of(channel))
        return BROKER

    def _subscriber(self) -> Link:
        if self._link is None:
            raise RuntimeError("this bus was started without a listener, so it cannot subscribe")
        return self._link

    # ---- publishing

    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        """Ask with PUBSUB NUMSUB. See `Bus.nodes`."""
        reply = await self._asker().ask("PUBSUB", "NUMSUB", *channels)
        counts = reply[1::2] if isinstance(reply, list) else []
        if len(counts) != len(channels) or not all(type(count) is int for count in counts):
            raise BrokerRefused(f"broker {self._broker}: PUBSUB NUMSUB answered {str(reply)[:100]}")
        return counts

    async def remove_logs(self, rules: Rules) -> int:
        """Remove the logs of channels that are under none of these rules. See `Bus.remove_logs`."""
        return await remove_logs(self._asker().ask, rules)

    async def write_rules(self, rules: Rules, *, only_if_missing: bool = False) -> Rules | None:
        """Have the broker keep these rules of history. See `Bus.write_rules`."""
        before = await self._asker().ask(*write_rules(rules, only_if_missing=only_if_missing))
        if not isinstance(before, bytes):
            return None
        try:
            return Rules.from_json(before)
        except BrokerRefused:
            if only_if_missing:  # rules that nobody can read are of no use
                return await self.write_rules(rules)
            return None

    async def _ask_at(self, _key: bytes, *command: bytes | str) -> Any:
        return await self._asker().ask(*command)

    def _asker(self) -> FollowingPipeline:
        self._publisher()  # raises where the bus was not started
        return self._following
