"""A node's wildcard channels: each is in force once the broker sends it and its shape is registered.

It stands between the link and the node. Channels without a star pass through. The rules for the others:

- The first channel of a shape has the shape registered, the last one that leaves lets it lapse.
- The node learns that a channel is in force when both the link and the registrar say so, in whatever order.
- A channel that was in force before is in force again as soon as the link has it. The broker keeps a registration while
  the registrar reconnects. If the broker has lost it, the registrar reports that the shape lapsed, and clients are told
  a gap. So a new subscriber never makes the hub withhold messages from clients that were answered before.
- After each new connection of the link all shapes are registered again: the broker may be another one, or the same one
  with an empty registry.
- Each shape is a source of its own. Its gap is open from when the link or the registration is lost until both are back,
  so that a subscription hears of one gap and not of two. The registrar may need seconds longer than the link. If a
  message of the shape comes before the registrar is back, the gap ends with this message. Otherwise a client could get
  the message, leave, and never be told what it missed.
- What is published while a shape is not registered, or its bridge is away, is also missing in the logs of its
  wildcards.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from realizehit.broker.base import Batch, BusListener, BusState, Interest, Source
from realizehit.broker.shapes.registrar import Registrar
from realizehit.common.seldom import LOG_INTERVAL, Seldom, more
from realizehit.errors import BrokerError, RegistryFull
from realizehit.pattern import is_wildcard, shape_of

logger: Final = logging.getLogger(__name__)


def source_of(shape: bytes) -> Source:
    """Return the source that a shape is."""
    return Source(f"shape {shape.decode('ascii')}")


class Subscriber(Protocol):
    """The link, as far as it is needed here."""

    def subscribe(self, channel: Interest) -> bool:
        """Want a channel; true when it is in force already, else `BusListener.subscribed` follows."""

    def unsubscribe(self, channel: Interest) -> None:
        """Want a channel no longer."""


class Shape:
    """The channels of one shape.

    Attributes:
        channels: those that the node wants.
        promised: those of them that the node expects a report for.
        answered: those of them that were in force, and need only the link to be so again.
        was_in_force: whether any of them ever was.
        gap_since: the loop's time from which on publications may be missing, while a gap is open.
        logged: whether logs have what is published during the gap that is open.
    """

    __slots__ = ("answered", "channels", "gap_since", "logged", "promised", "was_in_force")

    def __init__(self) -> None:
        self.channels: set[Interest] = set()
        self.promised: dict[Interest, None] = {}  # a dict for its order
        self.answered: set[Interest] = set()
        self.was_in_force = False
        self.gap_since: float | None = None
        self.logged = True


class Wildcards(BusListener):
    """The listener of a link that has wildcard channels.

    Args:
        listener: the node's.

    Reentrancy: for the event loop's thread.
    """

    def __init__(self, listener: BusListener) -> None:
        self._listener = listener
        self._shapes: dict[bytes, Shape] = {}
        self._link_whole = True  # all that was in force at the link is so
        self._looks = False  # at what is delivered: a gap is open for the registrar alone
        self._seldom = Seldom(LOG_INTERVAL)

    def attach(
        self,
        link: Subscriber,
        registrar: Registrar,
        deliver_to: Callable[[Callable[[Batch], None] | None], None] = lambda deliver: None,
    ) -> None:
        """Learn of the link and the registrar whose listener this is; to be called before either starts.

        Args:
            link: has the channels.
            registrar: has the shapes.
            deliver_to: sets the function to which the link gives publications; None sets the first one again.
        """
        self._link = link
        self._registrar = registrar
        self._deliver_to = deliver_to

    @property
    def registered(self) -> int:
        """How many shapes are registered for this node."""
        return sum(1 for shape in self._shapes if self._registrar.is_registered(shape))

    # ---- what the node wants

    def subscribe(self, channel: Interest) -> bool:
        """Want a wildcard channel; true when it is in force already, else the listener hears of the outcome."""
        name = shape_of(channel)
        shape = self._shapes.get(name)
        if shape is None:
            shape = self._shapes[name] = Shape()
        shape.channels.add(channel)
        registered = self._registrar.register(name)
        if self._link.subscribe(channel) and (registered or channel in shape.answered):
            shape.answered.add(channel)
            shape.was_in_force = True
            return True
        shape.promised[channel] = None
        return False

    def unsubscribe(self, channel: Interest) -> None:
        """Want a wildcard channel no longer; unknown ones are ignored."""
        self._link.unsubscribe(channel)
        self._forget(channel)
        self._let_lapse(shape_of(channel))

    def _forget(self, channel: Interest) -> None:
        shape = self._shapes.get(shape_of(channel))
        if shape is not None:
            shape.channels.discard(channel)
            shape.promised.pop(channel, None)
            shape.answered.discard(channel)

    def _let_lapse(self, name: bytes) -> None:
        """Register a shape no more where it has no channels left."""
        shape = self._shapes.get(name)
        if shape is not None and not shape.channels:
            del self._shapes[name]
            self._registrar.leave(name)
            self._drop_gap(name, shape)

    # ---- what the link reports

    def deliver(self, batch: Batch) -> None:
        self._listener.deliver(batch)

    def _deliver_after_gap(self, batch: Batch) -> None:
        """Tell the gap of a shape whose registrar is not back when the first message after it comes."""
        for channel in {message[1] for message in batch}:
            if not is_wildcard(channel):
                continue
            name = shape_of(channel)
            shape = self._shapes.get(name)
            if shape is not None and self._link_whole:
                self._restore(name, shape)
        self._listener.deliver(batch)

    def subscribed(self, channel: Interest) -> None:
        if not is_wildcard(channel):
            self._listener.subscribed(channel)
            return
        name = shape_of(channel)
        shape = self._shapes.get(name)
        if shape is None or channel not in shape.promised:
            return
        if channel in shape.answered or self._registrar.is_registered(name):
            self._tell(shape, channel)

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        if any(map(is_wildcard, channels)):
            super().all_subscribed(channels)
        else:
            self._listener.all_subscribed(channels)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        if not is_wildcard(channel):
            self._listener.refused(channel, error)
            return
        self._forget(channel)
        self._listener.refused(channel, error)  # a client that is answered may subscribe again at once
        self._let_lapse(shape_of(channel))

    def state_changed(self, source: Source, state: BusState) -> None:
        if state is BusState.UP:
            self._registrar.again()  # before new channels of the link are confirmed
        self._listener.state_changed(source, state)
        if state is BusState.DOWN:
            self._link_whole = False
            for name, shape in self._shapes.items():
                self._open_gap(name, shape, asyncio.get_running_loop().time())

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        self._link_whole = True
        self._listener.restored(source, seconds, logged=logged)
        since = asyncio.get_running_loop().time() - seconds
        for name, shape in list(self._shapes.items()):
            if shape.gap_since is not None:
                shape.gap_since = min(shape.gap_since, since)
                self._end_gap(name, shape)

    # ---- what the registrar reports

    def shape_registered(self, name: bytes) -> None:
        """Learn that a shape is in force."""
        shape = self._shapes.get(name)
        if shape is None:
            return
        shape.was_in_force = True
        for channel in list(shape.promised):
            if self._link.subscribe(channel):
                self._tell(shape, channel)
        self._end_gap(name, shape)

    def shape_lapsed(self, name: bytes, seconds: float) -> None:
        """Learn that a shape is in force again, and was not for some time within these seconds up to now."""
        shape = self._shapes.get(name)
        if shape is not None:
            shape.logged = False
            self._open_gap(name, shape, asyncio.get_running_loop().time() - seconds)
            self.shape_registered(name)

    def bridge_had_gap(self, seconds: float) -> None:
        """Learn that the bridge was not there for some time within these seconds up to now."""
        since = asyncio.get_running_loop().time() - seconds
        for name, shape in list(self._shapes.items()):
            shape.logged = False
            self._open_gap(name, shape, since)
            self._end_gap(name, shape)

    def shape_refused(self, name: bytes, error: BrokerError) -> None:
        """Learn that a shape is not in force and will not be: that ends its subscriptions."""
        shape = self._shapes.get(name)
        if shape is None:
            return
        # That the registry is full is for the node to log, with the client that asked.
        if not isinstance(error, RegistryFull) and (left_out := self._seldom.passes("refused")) is not None:
            text = "wildcard subscriptions of the shape %s are refused: %s%s"
            logger.warning(text, name.decode("ascii"), error, more(left_out))
        if shape.was_in_force:
            # The subscriptions that were answered are told that they ended, as after a gap.
            self._open_gap(name, shape, asyncio.get_running_loop().time())
        del self._shapes[name]
        for channel in shape.channels:
            self._link.unsubscribe(channel)
            self._listener.refused(channel, error)
        self._drop_gap(name, shape)

    # ---- one shape

    def _tell(self, shape: Shape, channel: Interest) -> None:
        del shape.promised[channel]
        shape.answered.add(channel)
        shape.was_in_force = True
        self._listener.subscribed(channel)

    def _drop_gap(self, name: bytes, shape: Shape) -> None:
        """End the gap of a shape that has no subscription any more."""
        if shape.gap_since is not None:
            self._listener.restored(source_of(name), asyncio.get_running_loop().time() - shape.gap_since)
            self._look()

    def _open_gap(self, name: bytes, shape: Shape, since: float) -> None:
        shape.gap_since = since if shape.gap_since is None else min(shape.gap_since, since)
        self._listener.state_changed(source_of(name), BusState.DOWN)

    def _end_gap(self, name: bytes, shape: Shape) -> None:
        if shape.gap_since is None or not self._link_whole:
            return
        if self._registrar.is_registered(name):
            self._restore(name, shape)
        else:
            self._look()

    def _restore(self, name: bytes, shape: Shape) -> None:
        if shape.gap_since is not None:
            seconds = asyncio.get_running_loop().time() - shape.gap_since
            logged, shape.gap_since, shape.logged = shape.logged, None, True
            self._listener.restored(source_of(name), seconds, logged=logged)
            self._look()

    def _look(self) -> None:
        """Take the link's publications only while a gap is open for the registrar alone: each read then costs more."""
        looks = self._link_whole and any(shape.gap_since is not None for shape in self._shapes.values())
        if looks is not self._looks:
            self._looks = looks
            self._deliver_to(self._deliver_after_gap if looks else None)
