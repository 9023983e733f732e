"""The subscriber connection to one primary of a cluster, and the channels that are wanted there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Protocol

from realizehit.broker.base import Batch, BusListener, Interest, Source
from realizehit.broker.channel_states import ChannelStates
from realizehit.broker.cluster.address import Place, place_text
from realizehit.broker.cluster.shard_connection import ShardConnection
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.connection import SHARDED, Command, SubscriberConnection
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.resp import code_of
from realizehit.broker.subscriber import Link
from realizehit.broker.url import Address

RETRY: Final = 0.1  # seconds until a channel is tried again at the same machine, where no other owner is known

_ELSEWHERE: Final = frozenset({"MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN"})


class ShardUser(BusListener, Protocol):
    """What a link to a shard reports to. Each channel is reported as ``subscribed`` whenever it comes in force."""

    def lost(self, link: ShardLink, channels: list[Interest], since: float) -> None:
        """Learn that these channels were in force and are not any more, as certain as the loop's time ``since``."""

    def misplaced(self, link: ShardLink) -> None:
        """Learn that the machine says that it does not own a slot."""


class ShardLink(Link):
    """A `Link` to one primary.

    Args:
        place: the primary.
        address: its address.
        user: told of everything.
        deliver: takes the publications.
        confirmed: returns the loop's time up to which the primary was certainly the owner of its slots.
        client_name: how the connection is called in the machine's ``CLIENT LIST``.
        settings: its times.

    Attributes:
        place: the primary.
    """

    connection_type = ShardConnection

    def __init__(
        self,
        place: Place,
        address: Address,
        user: ShardUser,
        *,
        deliver: Callable[[Batch], None],
        confirmed: Callable[[], float],
        client_name: str,
        settings: LinkSettings | None,
    ) -> None:
        super().__init__(
            address,
            user,
            client_name=client_name,
            settings=settings,
            source=Source(f"shard {place_text(place)}"),
            deliver=deliver,
        )
        self.place = place
        self._user = user
        self._confirmed = confirmed
        self._channels = ChannelStates(self, order=slot_of)
        self._evicted: list[Interest] = []
        self._postponed: dict[Interest, None] = {}
        self._strangers: set[Interest] = set()  # channels that another machine has now

    def __len__(self) -> int:
        return len(self._channels)

    def _certain_of(self, connection: SubscriberConnection) -> float:
        return min(connection.certain, max(self._confirmed(), self._up_since))

    @property
    def certain(self) -> float:
        """The loop's time up to which all that was published here has certainly arrived."""
        return self._loop.time() - self.silence

    # ---- what the cluster's subscriber wants

    def subscribe(self, channel: Interest) -> bool:
        """Want a channel. See `Link.subscribe`."""
        self._strangers.discard(channel)
        return super().subscribe(channel)

    def give_away(self, channel: Interest) -> bool:
        """Want a channel no longer, since another machine has it; return whether it was in force.

        Nothing of it is delivered from now on.
        """
        was_in_force = self._channels.is_in_force(channel)
        self.unsubscribe(channel)
        if channel in self._channels:  # until the machine has answered to that
            self._strangers.add(channel)
        return was_in_force

    # ---- commands

    def _send_due(self, connection: Any) -> None:
        due = self._channels.take_due(connection.channels_in_flight)
        for subscribe, channels in due.batches_by(slot_of):
            connection.send(SHARDED.subscribe if subscribe else SHARDED.unsubscribe, channels)
        connection.flush()

    # ---- what the connection reports

    def deliver(self, batch: Batch) -> None:
        """Pass on the publications of one read."""
        if self._strangers:
            batch = [message for message in batch if message[1] not in self._strangers]
        self._deliver(batch)

    def confirmed(self, kind: bytes, channels: Sequence[Interest]) -> None:
        """Take the replies to a command for channels."""
        if kind == SHARDED.unsubscribe:
            self._strangers.difference_update(channels)
        super().confirmed(kind, channels)

    def evicted(self, channel: Interest) -> None:
        """Take that the machine ended a subscription, since the slot has moved."""
        self._strangers.discard(channel)
        if self._channels.evict(channel):
            self._evicted.append(channel)

    def failed(self, command: Command, text: str) -> None:
        """Take an error. A machine that does not own the slot is asked again, until the channel has another one."""
        if code_of(text) not in _ELSEWHERE:
            super().failed(command, text)
            return
        channels = command.channels[command.answered :]
        self._strangers.difference_update(channels)
        if command.kind == SHARDED.unsubscribe:
            self._channels.stay(channels)  # the machine ended these subscriptions when the slot moved
            return
        self._channels.postpone(channels)
        self._try_again(channels)
        self._user.misplaced(self)

    def answered(self) -> None:
        """Report what was ended in this read, and send what waited."""
        if self._evicted:
            channels, self._evicted = self._evicted, []
            self._try_again(channels)
            self._user.lost(self, channels, self.certain)
            self._user.misplaced(self)
        super().answered()

    def disconnected(self) -> None:
        """Report which channels are lost."""
        channels = [*self._evicted, *self._channels.in_force()]
        self._evicted.clear()
        self._strangers.clear()
        super().disconnected()
        for channel in channels:
            self._channels.want(channel)  # to be told of each when it is back
        if channels:
            self._user.lost(self, channels, self._certain)

    def _try_again(self, channels: Iterable[Interest]) -> None:
        if not self._postponed:
            self._loop.call_later(RETRY, self._retry)
        self._postponed.update(dict.fromkeys(channels))

    def _retry(self) -> None:
        postponed, self._postponed = self._postponed, {}
        self._channels.try_again(postponed)
