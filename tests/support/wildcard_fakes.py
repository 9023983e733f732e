"""The two sides of a node's wildcard channels, a link and a registrar, which the test plays."""

from __future__ import annotations

from collections.abc import Callable

from realizehit.broker.base import Batch, Interest


class FakeLink:
    """Keeps the contract of a link."""

    def __init__(self) -> None:
        self.up = True
        self.wanted: set[Interest] = set()
        self.in_force: set[Interest] = set()
        self.promised: set[Interest] = set()
        self.usual: Callable[[Batch], None] = lambda batch: None
        self.first: Callable[[Batch], None] | None = None

    def deliver_to(self, deliver: Callable[[Batch], None] | None) -> None:
        self.first = deliver

    def deliver(self, batch: Batch) -> None:
        (self.first or self.usual)(batch)

    def subscribe(self, channel: Interest) -> bool:
        self.wanted.add(channel)
        if channel not in self.in_force:
            self.promised.add(channel)
        return channel in self.in_force

    def unsubscribe(self, channel: Interest) -> None:
        for channels in (self.wanted, self.in_force, self.promised):
            channels.discard(channel)


class FakeRegistrar:
    """Keeps the contract of a registrar."""

    def __init__(self) -> None:
        self.wanted: set[bytes] = set()
        self.in_force: set[bytes] = set()

    def register(self, shape: bytes) -> bool:
        self.wanted.add(shape)
        return shape in self.in_force

    def leave(self, shape: bytes) -> None:
        self.wanted.discard(shape)
        self.in_force.discard(shape)

    def is_registered(self, shape: bytes) -> bool:
        return shape in self.in_force

    def again(self) -> None:
        self.in_force.clear()
