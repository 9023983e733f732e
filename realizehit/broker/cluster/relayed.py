"""The subscriber side of a worker behind a relay, where the relay is subscribed to a cluster.

The relay tells which channels it has lost, and when it has them again; see `realizehit.broker.resp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

from realizehit.broker.base import Batch, BusListener, BusState, Interest, Source
from realizehit.broker.cluster.address import Place
from realizehit.broker.cluster.subscriber import SubscriberUser
from realizehit.broker.connection import Owner, SubscriberConnection
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.resp import BACK, LOST
from realizehit.broker.subscriber import Link
from realizehit.broker.url import Address
from realizehit.errors import BrokerError

_RELAY: Place = ("relay", 0)


class RelayedOwner(Owner, Protocol):
    """What a connection to a relay reports to."""

    def relay_lost(self, channels: list[Interest], since: float) -> None:
        """Learn that the relay has lost some channels, as certain as the loop's time ``since``."""

    def relay_has(self, channels: list[Interest]) -> None:
        """Learn that the relay has some channels again."""


class RelayedConnection(SubscriberConnection):
    """See `SubscriberConnection`."""

    def _take_unasked(self, words: list[Any]) -> None:
        owner = cast("RelayedOwner", self._owner)
        match words:
            case [word, bytes(seconds), *channels] if word == LOST and channels and _are_names(channels):
                try:
                    since = min(self._certain, self._last_read - float(seconds))
                except ValueError:
                    super()._take_unasked(words)
                else:
                    owner.relay_lost([Interest(channel) for channel in channels], since)
            case [word, *channels] if word == BACK and channels and _are_names(channels):
                owner.relay_has([Interest(channel) for channel in channels])
            case _:
                super()._take_unasked(words)


def _are_names(words: list[Any]) -> bool:
    return all(type(word) is bytes for word in words)


class _Link(Link):
    connection_type = RelayedConnection

    def __init__(self, address: Address, subscriber: RelayedSubscriber, **options: Any) -> None:
        super().__init__(address, subscriber, source=Source("relay"), **options)
        self._subscriber = subscriber

    def relay_lost(self, channels: Iterable[Interest], since: float) -> None:
        self._subscriber.channels_lost(self._channels.keep_some_for_relay(channels), since)

    def relay_has(self, channels: Iterable[Interest]) -> None:
        kept = [channel for channel in channels if self._channels.is_kept(channel)]
        self._channels.confirm(kept, subscribed=True)
        self.answered()

    def disconnected(self) -> None:
        """Report which channels are lost."""
        channels = self._channels.in_force()
        super().disconnected()
        for channel in channels:
            self._channels.want(channel)  # to be told of each when it is back
        self._subscriber.channels_lost(channels, self._certain)


class RelayedSubscriber(BusListener):
    """Has the methods of a `ClusterSubscriber`; it subscribes at a relay.

    Args:
        address: the relay.
        user: told of everything but publications.
        deliver: takes the publications.
        client_name: how the connection is called.
        settings: its times.
    """

    def __init__(
        self,
        address: Address,
        user: SubscriberUser,
        *,
        deliver: Callable[[Batch], None],
        client_name: str,
        settings: LinkSettings | None = None,
    ) -> None:
        self._user = user
        self._deliver = deliver
        self._link = _Link(address, self, client_name=client_name, settings=settings, deliver=deliver)

    def start(self) -> None:
        """Connect in the background."""
        self._link.start_soon()

    async def close(self) -> None:
        """Disconnect; calling it again does nothing."""
        await self._link.close()

    @property
    def messages_received(self) -> int:
        """Publications received so far."""
        return self._link.messages_received

    @property
    def bytes_received(self) -> int:
        """Bytes received so far."""
        return self._link.bytes_received

    @property
    def reconnects(self) -> int:
        """How often the connection was made again after it was lost."""
        return self._link.reconnects

    @property
    def silence(self) -> float:
        """Seconds since the last certain sign of the relay."""
        return self._link.silence if self.is_up else 0.0

    @property
    def is_up(self) -> bool:
        """Whether the relay is connected."""
        return self._link.state is BusState.UP

    def subscribe(self, channel: Interest) -> bool:
        """Want a channel. See `ClusterSubscriber.subscribe`."""
        return self._link.subscribe(channel)

    def unsubscribe(self, channel: Interest) -> None:
        """Want a channel no longer."""
        self._link.unsubscribe(channel)

    # ---- what the link reports

    def deliver(self, batch: Batch) -> None:
        """Pass on publications."""
        self._deliver(batch)

    def subscribed(self, channel: Interest) -> None:
        """Pass it on."""
        self._user.subscribed(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        """Pass it on."""
        self._user.refused(channel, error)

    def state_changed(self, source: Source, state: BusState) -> None:
        """Pass it on."""
        if state is BusState.UP:
            self._user.shard_up(_RELAY)
        elif state is BusState.DOWN:
            self._user.shard_down(_RELAY)

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        """Do nothing: each channel is reported by itself."""

    def channels_lost(self, channels: list[Interest], since: float) -> None:
        """Pass on which channels are not in force any more."""
        if channels and self._link.state is not BusState.CLOSED:
            self._user.lapsed(_RELAY, channels, since)
