"""How much: rates and numbers of connections. A limit of 0 is none.

An address without connections is not kept. What a connection sends is counted by the engine.
"""

from __future__ import annotations

from typing import Final

STRIKES: Final = 100  # actions refused, less those allowed since, after which a connection is closed


class Bucket:
    """A token bucket that may be overdrawn: where one whole token is left, any number may be taken.

    Args:
        rate: what comes back per second.
        burst: what it holds at most, 1 or more.
        now: the time of a clock that never goes back.
    """

    __slots__ = ("_burst", "_left", "_rate", "_then")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._then = now

    def wait(self, now: float, wanted: float = 1.0) -> float:
        """Return the seconds until as much is left as is wanted, 0 where it is."""
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        return 0.0 if self._left >= wanted else (wanted - self._left) / self._rate

    def take(self, amount: float = 1.0) -> None:
        """Pay."""
        self._left -= amount


class AddressLimit:
    """Bounds the connections of each address.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def is_full(self, address: str, *, besides: bool = False) -> bool:
        """Whether an address has as many as it may; besides the connection that asks, where that is counted."""
        return self._counts.get(address, 0) - besides >= self._most

    def enter(self, address: str) -> bool:
        """Count a connection; false, and not counted, where it is one too many."""
        if self.is_full(address):
            return False
        self.add(address)
        return True

    def add(self, address: str) -> None:
        """Count a connection that was let in."""
        self._counts[address] = self._counts.get(address, 0) + 1

    def leave(self, address: str) -> None:
        """Take a connection out that was counted."""
        count = self._counts.pop(address) - 1
        if count:
            self._counts[address] = count
