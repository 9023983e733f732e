"""A node's wildcard channels in a cluster: each is in force once its shard sends it and its shape is registered.

Other than with a single broker, the channels of one shape are in several shards, and the registry is in one of them.
So a channel lapses alone, until its shard sends it again. Or it lapses with all channels of its shape when the registry
has lost the shape; that is noticed when the shape is registered again.
"""

from __future__ import annotations

from collections.abc import Sequence

from realizehit.broker.base import BusListener, Interest
from realizehit.broker.cluster.lapses import Lapses
from realizehit.broker.shapes.wildcards import Shape, Wildcards
from realizehit.errors import BrokerError


class ClusterWildcards(Wildcards):
    """See `Wildcards`.

    Args:
        listener: the node's.
        lapses: keeps which channels are not in force any more.
    """

    def __init__(self, listener: BusListener, lapses: Lapses) -> None:
        super().__init__(listener)
        self._lapses = lapses

    def subscribed(self, channel: Interest) -> None:
        """Learn that a shard sends a channel, for the first time or again."""
        super().subscribed(channel)
        self._lapses.back(channel)  # that its shape lapsed would be another lapse

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        """Learn that a shard sends channels."""
        for channel in channels:
            self.subscribed(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        """Learn that a shard refused a channel."""
        super().refused(channel, error)
        self._lapses.forget(channel, refused=True)

    def shape_refused(self, name: bytes, error: BrokerError) -> None:
        """Learn that a shape is not in force and will not be. See `Wildcards.shape_refused`."""
        channels = list(self._shapes[name].channels) if name in self._shapes else []
        super().shape_refused(name, error)
        for channel in channels:
            self._lapses.forget(channel, refused=True)

    def _drop_gap(self, name: bytes, shape: Shape) -> None:
        """Do nothing: each channel is forgotten by itself."""

    def _open_gap(self, name: bytes, shape: Shape, since: float) -> None:
        if shape.answered:
            self._lapses.lapse(list(shape.answered), since, name, logged=shape.logged)

    def _end_gap(self, name: bytes, shape: Shape) -> None:
        shape.logged = True
        if self._registrar.is_registered(name):
            for channel in list(shape.channels):
                if self._lapses.is_in_one(channel) and self._link.subscribe(channel):
                    self._lapses.back(channel)
