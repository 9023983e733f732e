"""A node's wildcard channels in a cluster: each is in force once its shard sends it and its shape is registered.

Other than with a single broker, the channels of one shape are in several shards, and the registry is in one of them.
So a channel lapses alone, or with all channels of its shape when the registry has lost the shape. Either way it is in
one lapse, which is over for it when both are back.
"""

from __future__ import annotations

from collections.abc import Sequence

from realizehit.broker.base import BusListener, Interest
from realizehit.broker.cluster.lapses import Lapses
from realizehit.broker.shapes.wildcards import Shape, Wildcards
from realizehit.errors import BrokerError
from realizehit.pattern import is_wildcard, shape_of


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
        if not is_wildcard(channel) or self._registrar.is_registered(shape_of(channel)):
            self._lapses.back(channel)

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

    def _has_gap(self, shape: Shape, channel: Interest) -> bool:
        return self._lapses.is_in_one(channel)

    def _drop_gap(self, name: bytes, shape: Shape) -> None:
        """Do nothing: each channel is forgotten by itself."""

    def _open_gap(self, name: bytes, shape: Shape, since: float) -> None:
        told = [channel for channel in shape.channels if channel not in shape.promised]
        if told:
            self._lapses.lapse(told, since, name, logged=shape.logged)

    def _end_gap(self, name: bytes, shape: Shape) -> None:
        shape.logged = True
        if self._registrar.is_registered(name):
            for channel in list(shape.channels):
                if self._lapses.is_in_one(channel) and self._link.subscribe(channel):
                    self._lapses.back(channel)
