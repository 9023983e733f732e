"""A bus whose broker the test plays: it confirms, refuses, forgets and disconnects when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realizehit.broker.base import BROKER, Bus, BusListener, BusState, Interest
from realizehit.broker.publication import Outcome, Publication, Published
from realizehit.errors import BrokerRefused, BrokerUnavailable


class ScriptedBus(Bus):
    """Keeps the contract of `Bus`: `subscribe` returns whether a channel is in force, and the listener learns the rest.

    Attributes:
        wanted: channels that the node asked for and has not left.
        in_force: those of them that the broker has confirmed.
        leaving: channels that were left a moment ago; the broker goes on sending them until it has read that.
        calls: what the node asked, in order.
    """

    def __init__(self) -> None:
        self.wanted: set[bytes] = set()
        self.in_force: set[bytes] = set()
        self.leaving: set[bytes] = set()
        self.calls: list[tuple[str, bytes]] = []
        self.listener: BusListener | None = None

    async def start(self, listener: BusListener | None) -> None:
        self.listener = listener
        self.state = BusState.UP

    def listen(self, listener: BusListener) -> None:
        self.listener = listener
        self.state = BusState.UP

    def subscribe(self, channel: Interest) -> bool:
        self.calls.append(("subscribe", channel))
        self.wanted.add(channel)
        return channel in self.in_force

    def unsubscribe(self, channel: Interest) -> None:
        self.calls.append(("unsubscribe", channel))
        self.wanted.discard(channel)
        if channel in self.in_force:
            self.in_force.discard(channel)
            self.leaving.add(channel)

    def confirm(self, channel: bytes) -> None:
        assert channel in self.wanted, "a broker confirms what it was asked"
        assert self.listener is not None
        self.leaving.discard(channel)  # answers come in order: the channel was left before it was wanted again
        self.in_force.add(channel)
        self.listener.subscribed(Interest(channel))

    def confirm_all(self) -> None:
        """Confirm all channels that are wanted and not in force, in one read."""
        assert self.listener is not None
        channels = [Interest(channel) for channel in sorted(self.wanted - self.in_force)]
        self.leaving.difference_update(channels)
        self.in_force.update(channels)
        self.listener.all_subscribed(channels)

    def refuse(self, channel: bytes) -> None:
        assert self.listener is not None
        self.leaving.discard(channel)
        self.wanted.discard(channel)
        self.in_force.discard(channel)
        self.listener.refused(Interest(channel), BrokerRefused("NOPERM"))

    def go_away(self) -> None:
        """Lose the broker: all channels stay wanted, and none is in force."""
        assert self.listener is not None
        self.in_force.clear()
        self.leaving.clear()
        self.state = BusState.DOWN
        self.listener.state_changed(BROKER, self.state)

    def restore(self, seconds: float) -> None:
        """Put all wanted channels in force again, like a link after the broker's return."""
        assert self.listener is not None
        self.state = BusState.UP
        self.listener.state_changed(BROKER, self.state)
        self.confirm_all()
        self.listener.restored(BROKER, seconds)

    async def close(self) -> None:
        self.state = BusState.CLOSED

    async def publish(self, publication: Publication) -> Published:
        raise BrokerUnavailable("this broker takes no publications")

    def publish_soon(self, publication: Publication, done: Callable[[Outcome], None]) -> None:
        done(BrokerUnavailable("this broker takes no publications"))

    async def publish_many(self, publications: Sequence[Publication]) -> list[Outcome]:
        raise BrokerUnavailable("this broker takes no publications")

    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        raise BrokerUnavailable("this broker is not asked")

    async def ping(self) -> None:
        return None
