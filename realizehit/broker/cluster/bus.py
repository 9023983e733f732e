"""A cluster as the broker: joins its subscriber, its publisher, the registrar and the topology."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from realizehit.broker.base import BROKER, Batch, BusListener, BusState, Interest, Source
from realizehit.broker.cluster.address import ClusterAddress, Place, place_text
from realizehit.broker.cluster.lapses import Lapses
from realizehit.broker.cluster.publisher import ClusterPublisher
from realizehit.broker.cluster.relayed import RelayedSubscriber
from realizehit.broker.cluster.slot_address import SlotAddress
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.subscriber import ClusterSubscriber
from realizehit.broker.cluster.topology import Topology
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.cluster.wildcards import ClusterWildcards
from realizehit.broker.history.rules import Rules
from realizehit.broker.idempotency import WINDOW
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.names import CLUSTER
from realizehit.broker.presence.scripted import ScriptedPresence
from realizehit.broker.publishing_bus import PublishingBus
from realizehit.broker.shapes.registrar import Registrar
from realizehit.broker.shapes.registry import VIEW_SETTLE
from realizehit.broker.url import Address
from realizehit.errors import BrokerError, BrokerUnavailable
from realizehit.pattern import is_wildcard

_REGISTRY: Final = slot_of(CLUSTER.shapes.encode())


class ClusterBus(PublishingBus):
    """A Redis or Valkey Cluster as the broker.

    Args:
        url: ``redis+cluster://`` or ``rediss+cluster://`` of some machines of the cluster.
        publish_timeout: seconds until a publish fails.
        client_name: how the subscriber connections are called in the machines' ``CLIENT LIST``; the others have
            something behind it.
        link: times of the subscriber connections.
        subscribe_url: where to subscribe, when that is a relay.
        project: whether what is published here reaches wildcard subscriptions too.
        max_shapes: how many shapes of wildcard subscriptions the registry may hold. ``None`` for a bus that registers
            none: it subscribes to the channels of wildcards as to any other.
        idempotency_window: seconds for which idempotency keys are remembered.
        follow_rules: whether to know the rules of history while nothing is published.

    Raises:
        SettingsError: the URL cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        publish_timeout: float = 5.0,
        client_name: str = "realizehit",
        link: LinkSettings | None = None,
        subscribe_url: str | None = None,
        project: bool = True,
        max_shapes: int | None = None,
        idempotency_window: float = WINDOW,
        follow_rules: bool = True,
    ) -> None:
        self._address = ClusterAddress(url)
        super().__init__(self._address, follow_rules=follow_rules)
        self._publish_timeout = publish_timeout
        self._client_name = client_name
        self._link_settings = link
        self._relay = None if subscribe_url is None else Address(subscribe_url)
        self._project = project
        self._max_shapes = max_shapes
        self._idempotency_window = idempotency_window
        self._watch: TopologyWatch | None = None
        self._publishing: ClusterPublisher | None = None
        self._subscribing: ClusterSubscriber | RelayedSubscriber | None = None
        self._registrar: Registrar | None = None
        self._wildcards: ClusterWildcards | None = None
        self._lapses: Lapses | None = None
        self._node: _Node | None = None
        self._presence = ScriptedPresence(self._ask_at, CLUSTER)

    @property
    def presence(self) -> ScriptedPresence:
        """Who is subscribed to the channels that have presence."""
        return self._presence

    @property
    def messages_received(self) -> int:
        """Publications that arrived so far."""
        return self._subscribing.messages_received if self._subscribing else 0

    @property
    def bytes_received(self) -> int:
        """Bytes that the subscriber connections read so far."""
        return self._subscribing.bytes_received if self._subscribing else 0

    @property
    def shapes(self) -> int:
        """How many shapes are registered for this node."""
        return self._wildcards.registered if self._wildcards else 0

    @property
    def silence(self) -> float:
        """Seconds since the last sign of the shards. See `Bus.silence`."""
        if self._subscribing is None or self._lapses is None:
            return 0.0
        if self._lapses.since is not None:
            return asyncio.get_running_loop().time() - self._lapses.since
        return self._subscribing.silence

    # ---- life

    async def start(self, listener: BusListener | None) -> None:
        """Connect. See `Bus.start`."""
        loop = asyncio.get_running_loop()
        watch = self._watch = TopologyWatch(self._address, name=f"{self._client_name}-topology")
        self._pipeline = self._publishing = ClusterPublisher(
            self._address,
            watch,
            project=self._project,
            timeout=self._publish_timeout,
            idempotency_window=self._idempotency_window,
            name=f"{self._client_name}-publisher",
            follow=self._follow_rules and (listener is not None or self.on_rules is not None),
            on_up=self._note_published,
            on_down=self._note_down,
            on_rules=self._tell_rules,
        )
        try:
            if listener is not None:
                self._lapses = Lapses(listener, loop.time)
                self._node = _Node(self, listener)
                self._subscribing = self._make_subscriber(watch, listener, self._node, self._lapses)
            await watch.start()
            await self._publishing.start()
            if self._subscribing is not None:
                self._subscribing.start()
            else:
                with contextlib.suppress(BrokerUnavailable):  # merely away; the state was noted
                    await self._publishing.ping()
            if listener is not None or self.on_rules is not None:
                self._start_following(self._publishing)
        except BaseException:
            await self.close()
            raise

    def _make_subscriber(
        self, watch: TopologyWatch, listener: BusListener, node: _Node, lapses: Lapses
    ) -> ClusterSubscriber | RelayedSubscriber:
        user = _Shards(self, node, lapses)
        subscriber: ClusterSubscriber | RelayedSubscriber
        deliver, name, settings = listener.deliver, self._client_name, self._link_settings
        if self._relay is None:
            subscriber = ClusterSubscriber(
                self._address, watch, user, deliver=deliver, client_name=name, settings=settings
            )
        else:
            subscriber = RelayedSubscriber(self._relay, user, deliver=deliver, client_name=name, settings=settings)
        if self._max_shapes is not None:
            self._wildcards = user.wildcards = ClusterWildcards(node, lapses)
            self._registrar = Registrar(
                SlotAddress(self._address, watch, _REGISTRY),
                self._wildcards,
                most=self._max_shapes,
                name=f"{self._client_name}-registrar",
                names=CLUSTER,
                settle=VIEW_SETTLE,
            )
            self._wildcards.attach(subscriber, self._registrar)
            watch.add_listener(self._follow_registry)
        return subscriber

    def _follow_registry(self, topology: Topology) -> None:
        place = topology.owner_of(_REGISTRY)
        if self._registrar is not None and place is not None:
            self._registrar.move_to(place_text(place))

    async def close(self) -> None:
        """Leave the cluster. See `Bus.close`."""
        before, self.state = self.state, BusState.CLOSED
        await self._stop_following()
        for part in (self._publishing, self._subscribing, self._registrar, self._watch):
            if part is not None:
                await part.close()
        if self._node is not None and before is not BusState.CLOSED:
            self._node.state_changed(BROKER, BusState.CLOSED)

    # ---- state

    def shard_up(self, place: Place) -> None:
        """Learn that a primary is connected."""
        topology = self._watch.current if self._watch is not None else None
        if self._registrar is not None and topology is not None and topology.owner_of(_REGISTRY) == place:
            self._registrar.again()  # before channels are confirmed: the registry may be another one
        self._note_shards()

    def shard_down(self, place: Place) -> None:
        """Learn that a primary is not connected any more."""
        self._note_shards()

    def _note_shards(self) -> None:
        """Keep the state: the cluster is up while a primary is connected."""
        if self._subscribing is None or self.state is BusState.CLOSED:
            return
        before, self.state = self.state, BusState.UP if self._subscribing.is_up else BusState.DOWN
        self.reconnects = self._subscribing.reconnects
        if before is not BusState.UP and self.state is BusState.UP and self._node is not None:
            self._node.state_changed(BROKER, BusState.UP)

    def _note_published(self) -> None:
        if self._subscribing is None and self.state is not BusState.CLOSED:
            self.state = BusState.UP

    def _note_down(self) -> None:
        self._pipeline_down.set()
        if self._subscribing is None and self.state is not BusState.CLOSED:
            self.state = BusState.DOWN

    def _tell_subscribed(self, channel: Interest) -> None:
        if self._node is not None and self.subscribe(channel):  # else it was lost again, and is reported later
            self._node.subscribed(channel)

    # ---- subscribing

    def subscribe(self, channel: Interest) -> bool:
        """Ask for a channel. See `Bus.subscribe`."""
        subscriber = self._subscriber()
        if self._wildcards is not None and is_wildcard(channel):
            in_force = self._wildcards.subscribe(channel)
        else:
            in_force = subscriber.subscribe(channel)
        return in_force and not self.hold(channel)

    def unsubscribe(self, channel: Interest) -> None:
        """Leave a channel. See `Bus.unsubscribe`."""
        subscriber = self._subscriber()
        self._held.pop(channel, None)
        if self._wildcards is not None and is_wildcard(channel):
            self._wildcards.unsubscribe(channel)
        else:
            subscriber.unsubscribe(channel)
        if self._lapses is not None:
            self._lapses.forget(channel)

    def source_of(self, channel: Interest) -> Source:
        """Return the lapse that a channel is in; `BROKER` for one that is in force."""
        return BROKER if self._lapses is None else self._lapses.source_of(channel)

    def _subscriber(self) -> ClusterSubscriber | RelayedSubscriber:
        if self._subscribing is None:
            raise RuntimeError("this bus was started without a listener, so it cannot subscribe")
        return self._subscribing

    # ---- publishing

    def _publisher(self) -> ClusterPublisher:
        if self._publishing is None:
            raise BrokerUnavailable(f"broker {self._address}: the bus was not started")
        return self._publishing

    async def _ask_at(self, key: bytes, *command: bytes | str) -> Any:
        return await self._publisher().ask_at(key, *command)

    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        """Ask each owner with PUBSUB SHARDNUMSUB. See `Bus.nodes`."""
        return await self._publisher().nodes(channels)

    async def remove_logs(self, rules: Rules) -> int:
        """Remove the logs of channels that are under none of these rules. See `Bus.remove_logs`."""
        return await self._publisher().remove_logs(rules)

    async def write_rules(self, rules: Rules, *, only_if_missing: bool = False) -> Rules | None:
        """Have the cluster keep these rules of history. See `Bus.write_rules`."""
        return await self._publisher().write_rules(rules, only_if_missing=only_if_missing)


class _Node(BusListener):
    """The node, which is told that a channel is in force only once it knows the rules of history."""

    def __init__(self, bus: ClusterBus, listener: BusListener) -> None:
        self._bus = bus
        self._listener = listener

    def deliver(self, batch: Batch) -> None:
        self._listener.deliver(batch)

    def subscribed(self, channel: Interest) -> None:
        if not self._bus.hold(channel):
            self._listener.subscribed(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        self._listener.refused(channel, error)

    def state_changed(self, source: Source, state: BusState) -> None:
        self._listener.state_changed(source, state)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        self._listener.restored(source, seconds, logged=logged)


class _Shards:
    """What the subscriber reports to: the wildcards where there are some, and the node."""

    def __init__(self, bus: ClusterBus, node: _Node, lapses: Lapses) -> None:
        self.wildcards: ClusterWildcards | None = None
        self._bus = bus
        self._node = node
        self._lapses = lapses

    def subscribed(self, channel: Interest) -> None:
        if self.wildcards is not None:
            self.wildcards.subscribed(channel)
        else:
            self._node.subscribed(channel)
            self._lapses.back(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        if self.wildcards is not None:
            self.wildcards.refused(channel, error)
        else:
            self._node.refused(channel, error)
            self._lapses.forget(channel, refused=True)

    def lapsed(self, place: Place, channels: list[Interest], since: float) -> None:
        self._lapses.lapse(channels, since, place)

    def shard_up(self, place: Place) -> None:
        self._bus.shard_up(place)

    def shard_down(self, place: Place) -> None:
        self._bus.shard_down(place)
