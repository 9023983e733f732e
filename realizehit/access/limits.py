"""Limits: rates, and connections per address. The engine counts what a connection sends."""

from __future__ import annotations

from typing import Final, Protocol

STRIKES: Final = 100  # refused actions, minus those allowed since, after which a connection is closed


class Bucket:
    """A token bucket that may be overdrawn: while one whole token is left, any number may be taken.

    Args:
        rate: tokens that are added per second.
        burst: tokens that it holds at most, 1 or more.
        now: seconds of a monotonic clock.
    """

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._then = now

    def wait(self, now: float, wanted: float = 1.0) -> float:
        """Return the seconds until so many tokens are there, 0 if they are there now."""
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        return 0.0 if self._left >= wanted else (wanted - self._left) / self._rate

    def take(self, amount: float = 1.0) -> None:
        """Take tokens."""
        self._left -= amount


class OtherCounts(Protocol):
    """Connections of each address in other processes of this server."""

    def others(self, address: str) -> int:
        """Return how many connections the others have from an address."""

    def tell(self, address: str, own: int) -> None:
        """Have the others know how many connections this process has from an address."""


class AddressLimit:
    """Bounds the connections of each address; addresses without connections use no memory.

    Args:
        most: connections that an address may have.
        shared: what other processes count; ``None`` where this one is the only one. Connections that arrive at several
            processes at the same moment may exceed the bound by a few.
    """

    def __init__(self, most: int, shared: OtherCounts | None = None) -> None:
        self._most = most
        self._shared = shared
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def is_full(self, address: str, *, besides: bool = False) -> bool:
        """Whether an address has as many connections as it may; `besides` leaves one counted connection out."""
        left = self._most - self._counts.get(address, 0) + besides
        return left <= 0 or (self._shared is not None and self._shared.others(address) >= left)

    def enter(self, address: str) -> bool:
        """Count a connection; return false and do not count it where the address is full."""
        if self.is_full(address):
            return False
        self.add(address)
        return True

    def add(self, address: str) -> None:
        """Count a connection, even where the address is full."""
        count = self._counts[address] = self._counts.get(address, 0) + 1
        if self._shared is not None:
            self._shared.tell(address, count)

    def leave(self, address: str) -> None:
        """Stop counting a connection."""
        count = self._counts.pop(address) - 1
        if count:
            self._counts[address] = count
        if self._shared is not None:
            self._shared.tell(address, count)
