"""The broker's side of a node: what a bus does, and what it tells the node.

A bus carries publications between processes. It never imports the hub: its creator gives it a `BusListener`.
Everything here happens on the event loop's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import Any, Final, NewType, Protocol, TypeAlias

from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import NO_RULES, Rules
from realizehit.broker.presence.store import PresenceStore
from realizehit.broker.projections import ProjectionCounts
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.common.durations import Durations
from realizehit.common.position import Position
from realizehit.errors import BrokerError, BrokerRefused

Interest = NewType("Interest", bytes)
"""A channel as the broker knows it: what a node asks the broker to send. See `realizehit.node.names`."""

Source = NewType("Source", str)
"""Where publications come from that can be lost by themselves, such as one connection to the broker. A gap has one."""

BROKER: Final = Source("broker")
"""The connection to the broker, if it is the only source."""

Batch: TypeAlias = Sequence[Any]
"""The publications of one read of the broker's socket, in order. Only the engine looks inside.

An item is what the broker's client library made of a message, passed on as it is. A value of our own for each message
would more than double the cost: 0.4 us for a named tuple, measured, where receiving and dispatching take 0.3 us.
"""


class BusState(Enum):
    """What the node knows of its broker."""

    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    CLOSED = "closed"


class BusListener(Protocol):
    """What a bus reports to the node that built it. None of these may raise."""

    def deliver(self, batch: Batch) -> None:
        """Take the publications of one read of the broker's socket, in order."""

    def subscribed(self, channel: Interest) -> None:
        """Learn that ``channel`` is now in force at the broker: nothing published from here on is missed."""

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        """Learn the same of several channels at once."""
        for channel in channels:
            self.subscribed(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        """Learn that the broker refused ``channel``; the bus has forgotten it."""

    def state_changed(self, source: Source, state: BusState) -> None:
        """Learn that a source came or went."""

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        """Learn that a source was lost, is back, and that each of its channels that was in force is so again.

        Args:
            source: it is `Bus.source_of` for these channels.
            seconds: from the last certain sign of the source before it was lost to now; what was published in them
                may be missing, and nothing else.
            logged: whether logs have what was published in them, for channels with history.
        """

    def lapsed(self, source: Source, channels: Collection[Interest]) -> None:
        """Learn that some channels are not in force any more, such as those of one shard of a cluster.

        `regained` follows for all of them together. It may be called again before that, with further channels, or with
        some that have been in force again meanwhile.

        Args:
            source: it is `Bus.source_of` for these channels until then.
            channels: those that were in force.
        """
        self.state_changed(source, BusState.DOWN)

    def regained(self, source: Source, channels: Collection[Interest], seconds: float, *, logged: bool = True) -> None:
        """Learn that all channels that have `lapsed` with a source are in force again.

        Args:
            source: what they have lapsed with.
            channels: those of them that are still wanted and not refused.
            seconds: as for `restored`.
            logged: as for `restored`.
        """
        self.restored(source, seconds, logged=logged)


_NONE: Final = ProjectionCounts()
_NO_DURATIONS: Final = Durations()


class Bus(ABC):
    """One broker, seen from one process.

    Subscribing and unsubscribing never block and never fail at once: the outcome comes to the listener.
    """

    state: BusState = BusState.CONNECTING
    on_rules: Callable[[Rules], None] | None = None
    """Told which patterns have history: once before the first channel is in force, and after each change. Set it before
    `start`."""
    reconnects: int = 0  # how often the subscriber connection was made again after it was lost

    @property
    def messages_received(self) -> int:
        """Publications that arrived from the broker so far."""
        return 0

    @property
    def bytes_received(self) -> int:
        """Bytes read from the broker's socket by the subscriber connection so far; 0 without a socket."""
        return 0

    @property
    def shapes(self) -> int:
        """How many shapes of wildcard subscriptions are registered for this node."""
        return 0

    @property
    def followed_shapes(self) -> tuple[bytes, ...]:
        """Shapes of wildcard subscriptions that are in use, as far as this bus publishes to these."""
        return ()

    @property
    def projected(self) -> ProjectionCounts:
        """Counts the projections that were published through this bus."""
        return _NONE

    @property
    def script_durations(self) -> Durations:
        """How long the broker took for publications that need a script: those with history or an idempotency key."""
        return _NO_DURATIONS

    @property
    def rules(self) -> Rules:
        """Which patterns have history, as far as it is known here."""
        return NO_RULES

    @property
    def presence(self) -> PresenceStore:
        """Who is subscribed to the channels that have presence."""
        raise TypeError("this bus keeps no presence")

    @property
    def is_bridge(self) -> bool:
        """Whether this process publishes the projections for all publishers now."""
        return False

    @property
    def silence(self) -> float:
        """Seconds since the time up to which everything that was published has certainly arrived here."""
        return 0.0

    @abstractmethod
    async def start(self, listener: BusListener | None) -> None:
        """Connect and stay connected.

        Args:
            listener: told of everything that arrives; ``None`` for a process that only publishes.

        Raises:
            BrokerError: the address or the credentials can never work. An unreachable broker is not an error:
                the bus keeps trying.
        """

    @abstractmethod
    async def close(self) -> None:
        """Leave the broker. Publishing fails from here on; calling it again does nothing."""

    def source_of(self, channel: Interest) -> Source:
        """Return the source of a channel's publications."""
        return BROKER

    @abstractmethod
    def subscribe(self, channel: Interest) -> bool:
        """Ask for a channel; asking again is harmless.

        Returns:
            True when the channel is in force already. Otherwise False, and the listener will be told by
            ``subscribed`` or ``refused``; while the broker is away that may take as long as it is.
        """

    def subscribe_all(self, channels: Sequence[Interest]) -> list[Interest]:
        """Ask for several channels; return those that are in force already, as `subscribe` says."""
        return [channel for channel in channels if self.subscribe(channel)]

    @abstractmethod
    def unsubscribe(self, channel: Interest) -> None:
        """Leave a channel; a `subscribe` before the command went out cancels it. Unknown channels are ignored."""

    @abstractmethod
    async def publish(self, publication: Publication) -> Published:
        """Publish one message.

        Messages that concurrent callers publish through one bus reach the broker in the order of the calls. If it
        is unclear whether the broker took a message, that is an error; the message is not sent again. A publication
        with an idempotency key is published once within the window, and the caller may publish it again.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or did not answer in time.
            BrokerRefused: it answered with an error.
        """

    @abstractmethod
    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        """Publish one message as `publish` does and in order with its callers, where no task awaits the outcome.

        Args:
            publication: the message.
            done: called once, now or later, with what `publish` would return or raise. It does not raise, and may
                publish.
        """

    @abstractmethod
    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        """Publish messages in order, in one pipeline.

        Returns:
            For each message what `publish` would have returned or raised, in the same order.
        """

    @abstractmethod
    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        """Return for each channel how many nodes are subscribed to it at the broker.

        Raises:
            BrokerUnavailable: the broker cannot be reached.
            BrokerRefused: it does not tell.
        """

    @abstractmethod
    async def ping(self) -> None:
        """Check that the broker answers.

        Raises:
            BrokerUnavailable: it does not.
        """

    async def read_log(
        self, channel: bytes, *, after: int | None = None, last: int | None = None, most: int = 256
    ) -> LogPart:
        """Read the log of a channel, which begins with this read if there is none.

        Args:
            channel: with or without a star; it is under one of the `rules`.
            after: read the messages after this offset, the oldest first.
            last: read the last so many messages. With neither of the two, no message is read.
            most: messages that are read at most.

        Raises:
            BrokerUnavailable: the broker cannot be reached.
            BrokerRefused: it does not allow this, or the channel is under no rule.
        """
        raise BrokerRefused(f"the broker of this process keeps no history of {channel.decode()}")

    async def renew_log(self, channel: bytes, seen: Position) -> LogPart:
        """Begin a new epoch of a log that lacks a message that was seen, and return the log without messages.

        Nothing changes if the log has another epoch than ``seen`` or holds ``seen``. Otherwise its messages stay, and
        the old epoch is valid up to the last of them.

        Raises:
            BrokerUnavailable, BrokerRefused: as `read_log`.
        """
        raise BrokerRefused(f"the broker of this process keeps no history of {channel.decode()}")

    async def write_rules(self, rules: Rules, *, only_if_missing: bool = False) -> Rules | None:
        """Have the broker keep these rules of history, and tell all its clients if they differ from those before.

        Args:
            rules: to be kept.
            only_if_missing: leave rules that the broker has.

        Returns:
            The rules that the broker had; None if it had none. Rules that cannot be read count as none.

        Raises:
            BrokerUnavailable: the broker cannot be reached.
            BrokerRefused: it does not allow this.
        """
        raise BrokerRefused("the broker of this process keeps no rules of history")

    async def remove_logs(self, rules: Rules) -> int:
        """Remove the logs of channels that are under none of these rules.

        Otherwise such a log would go on if its rule came back, and what was published meanwhile would be missing in it.

        Returns:
            How many were removed.

        Raises:
            BrokerUnavailable, BrokerRefused: as `write_rules`.
        """
        raise BrokerRefused("the broker of this process keeps no history")
