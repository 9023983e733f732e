"""The subscriber side of a cluster: a connection to each primary that owns wanted channels.

Each channel is wanted at the primary that owns its slot. When the owner changes, the channel is given away by one
connection and wanted at another one. What still comes from the first is dropped, so nothing is delivered twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from realizehit.broker.base import Batch, BusListener, BusState, Interest, Source
from realizehit.broker.cluster.address import ClusterAddress, Place
from realizehit.broker.cluster.shard_link import ShardLink
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.topology import Topology, moved_slots
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.link_settings import LinkSettings
from realizehit.common.tasks import Tasks
from realizehit.errors import BrokerError

IDLE_REFRESH: Final = 0.25  # seconds between two questions about the topology while a shard is away


class SubscriberUser(Protocol):
    """What the subscriber reports to. None of these may raise."""

    def subscribed(self, channel: Interest) -> None:
        """Learn that a channel is in force, for the first time or again."""

    def refused(self, channel: Interest, error: BrokerError) -> None:
        """Learn that the cluster refused a channel; it is forgotten."""

    def lapsed(self, place: Place, channels: list[Interest], since: float) -> None:
        """Learn that channels were in force at a primary and are not any more, as certain as the time ``since``."""

    def shard_up(self, place: Place) -> None:
        """Learn that a primary is connected."""

    def shard_down(self, place: Place) -> None:
        """Learn that a primary is not connected any more."""


class ClusterSubscriber:
    """Has exactly the channels that are wanted in force, each at the primary that owns it.

    Args:
        address: the cluster.
        watch: knows the owners; started and closed by others.
        user: told of everything but publications.
        deliver: takes the publications.
        client_name: how the connections are called in the machines' ``CLIENT LIST``.
        settings: their times.

    Attributes:
        reconnects: how often a connection was made again after it was lost.
    """

    def __init__(
        self,
        address: ClusterAddress,
        watch: TopologyWatch,
        user: SubscriberUser,
        *,
        deliver: Callable[[Batch], None],
        client_name: str,
        settings: LinkSettings | None = None,
    ) -> None:
        self._address = address
        self._watch = watch
        self._user = user
        self._deliver = deliver
        self._client_name = client_name
        self._settings = settings
        self._topology: Topology | None = None
        self._links: dict[Place, ShardLink] = {}
        self._slots: dict[int, dict[Interest, None]] = {}  # the wanted channels
        self._closing = Tasks()
        self._is_closed = False
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._earlier = [0, 0, 0]  # messages, bytes and reconnects of links that are closed

    # ---- life

    def start(self) -> None:
        """Connect to the primaries that are known, and to others when they are."""
        self._loop = asyncio.get_running_loop()
        self._watch.add_listener(self._take)
        if self._watch.current is not None:
            self._take(self._watch.current)

    async def close(self) -> None:
        """Disconnect; calling it again does nothing."""
        self._is_closed = True
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        links, self._links = list(self._links.values()), {}
        for link in links:
            self._count(link)
        await asyncio.gather(*(link.close() for link in links))
        await self._closing.wait()

    def _count(self, link: ShardLink) -> None:
        for number, value in enumerate((link.messages_received, link.bytes_received, link.reconnects)):
            self._earlier[number] += value

    @property
    def messages_received(self) -> int:
        """Publications received so far."""
        return self._earlier[0] + sum(link.messages_received for link in self._links.values())

    @property
    def bytes_received(self) -> int:
        """Bytes received so far."""
        return self._earlier[1] + sum(link.bytes_received for link in self._links.values())

    @property
    def reconnects(self) -> int:
        """How often a connection was made again after it was lost."""
        return self._earlier[2] + sum(link.reconnects for link in self._links.values())

    @property
    def silence(self) -> float:
        """Seconds since the last certain sign of a connected shard: of the one that has been silent longest."""
        return max((link.silence for link in self._links.values() if link.state is BusState.UP), default=0.0)

    @property
    def is_up(self) -> bool:
        """Whether a primary is connected."""
        return any(link.state is BusState.UP for link in self._links.values())

    # ---- what the node wants

    def subscribe(self, channel: Interest) -> bool:
        """Want a channel; true when it is in force already, else `SubscriberUser.subscribed` follows."""
        slot = slot_of(channel)
        self._slots.setdefault(slot, {})[channel] = None
        link = self._owner(slot)
        return link is not None and link.subscribe(channel)

    def unsubscribe(self, channel: Interest) -> None:
        """Want a channel no longer; unknown ones are ignored."""
        slot = slot_of(channel)
        if self._forget(slot, channel) and (link := self._owner(slot)) is not None:
            link.unsubscribe(channel)

    def _forget(self, slot: int, channel: Interest) -> bool:
        channels = self._slots.get(slot, {})
        known = channel in channels
        channels.pop(channel, None)
        if not channels:
            self._slots.pop(slot, None)
        return known

    # ---- the topology

    def _owner(self, slot: int) -> ShardLink | None:
        """Return the link to the owner of a slot."""
        place = None if self._topology is None else self._topology.owner_of(slot)
        return None if place is None else self._link(place)

    def _link(self, place: Place) -> ShardLink:
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = ShardLink(
                place,
                self._address.node(*place),
                _Reports(self, place),
                deliver=self._deliver,
                confirmed=lambda: self._watch.confirmed,
                client_name=self._client_name,
                settings=self._settings,
            )
            link.start_soon()
        return link

    def _take(self, topology: Topology) -> None:
        """Have each channel of a slot that has moved wanted at its new owner."""
        if self._is_closed:
            return
        before, self._topology = self._topology, topology
        moved = moved_slots(before, topology)
        lapsed: dict[Place, list[Interest]] = {}
        adopted: list[tuple[Place, Interest]] = []
        for slot in sorted(moved.keys() & self._slots.keys()):
            old = None if before is None else self._links.get(before.owner_of(slot) or ("", 0))
            for channel in self._slots[slot]:
                if old is not None and old.give_away(channel):
                    lapsed.setdefault(old.place, []).append(channel)
                if (place := moved[slot]) is not None:
                    adopted.append((place, channel))
        for place in topology.primaries:
            self._link(place)
        for place, channels in lapsed.items():
            self._user.lapsed(place, channels, self._links[place].certain)
        for place, channel in adopted:
            if self._link(place).subscribe(channel):
                self._user.subscribed(channel)
        for place in self._links.keys() - set(topology.primaries):
            link = self._links.pop(place)
            self._count(link)
            self._closing.run(link.close())

    # ---- what the links report

    def is_current(self, place: Place, channel: Interest) -> bool:
        """Whether a channel is wanted at a primary."""
        slot = slot_of(channel)
        return (
            self._topology is not None
            and self._topology.owner_of(slot) == place
            and channel in self._slots.get(slot, ())
        )

    def channel_in_force(self, place: Place, channel: Interest) -> None:
        """Pass it on."""
        if self.is_current(place, channel):
            self._user.subscribed(channel)

    def channel_refused(self, place: Place, channel: Interest, error: BrokerError) -> None:
        """Pass it on."""
        if self.is_current(place, channel):
            self._forget(slot_of(channel), channel)
            self._user.refused(channel, error)

    def channels_lost(self, place: Place, channels: list[Interest], since: float) -> None:
        """Pass it on."""
        current = [channel for channel in channels if self.is_current(place, channel)]
        if current and not self._is_closed:
            self._user.lapsed(place, current, since)

    def shard_state(self, place: Place, state: BusState) -> None:
        """Pass it on; while a shard is away, a replica may take over at any time."""
        if self._is_closed or place not in self._links:
            return
        if state is BusState.UP:
            self._user.shard_up(place)
        elif state is BusState.DOWN:
            self._user.shard_down(place)
            self._refresh()

    def misplaced(self, place: Place) -> None:
        """Have the topology asked for: the primary says that it does not own a slot, so it knows the owner."""
        self._watch.refresh_soon(place)

    def _refresh(self) -> None:
        """Ask for the topology, now and while a shard is away."""
        if self._refresh_timer is None and not self._is_closed:
            self._watch.refresh_soon()
            self._refresh_timer = self._loop.call_later(IDLE_REFRESH, self._refresh_again)

    def _refresh_again(self) -> None:
        self._refresh_timer = None
        if any(link.state is BusState.DOWN for link in self._links.values()):
            self._refresh()


class _Reports(BusListener):
    """The listener of one link."""

    def __init__(self, subscriber: ClusterSubscriber, place: Place) -> None:
        self._subscriber = subscriber
        self._place = place

    def deliver(self, batch: Batch) -> None:
        """Never called: the link has a function for that."""

    def subscribed(self, channel: Interest) -> None:
        self._subscriber.channel_in_force(self._place, channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        self._subscriber.channel_refused(self._place, channel, error)

    def state_changed(self, source: Source, state: BusState) -> None:
        self._subscriber.shard_state(self._place, state)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        """Do nothing: each channel is reported by itself."""

    def lost(self, link: ShardLink, channels: list[Interest], since: float) -> None:
        """Pass on which channels are not in force any more."""
        self._subscriber.channels_lost(self._place, channels, since)

    def misplaced(self, link: ShardLink) -> None:
        """Pass it on."""
        self._subscriber.misplaced(self._place)
