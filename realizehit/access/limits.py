"""How much: rates and numbers of connections. A limit of 0 is none.

What is idle is not kept: a bucket that is full again is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STRIKES: Final = 100  # actions refused in a row after which a connection is closed


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


class ActionRates:
    """Bounds the actions per second of each connection: a token bucket for those that act, in one number each.

    The number is the time at which the connection's bucket is full again (the generic cell rate algorithm).

    Args:
        rate: actions per second.
        burst: actions at once.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        self._step = 1.0 / rate
        self._most = (burst - 0.5) / rate  # from here to full; the half is for sums of steps, which are not exact
        self._clock = clock
        self._full: dict[int, float] = {}
        self._strikes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._full)

    def allow(self, conn: int) -> bool:
        """Count an action; false where it is one too many."""
        now = self._clock()
        full = self._full.get(conn, now)
        if full < now:  # noqa: PLR1730 - a call of max() costs more
            full = now
        if full - now > self._most:
            self._strikes[conn] = self._strikes.get(conn, 0) + 1
            return False
        self._full[conn] = full + self._step
        if self._strikes:
            self._strikes.pop(conn, None)
        return True

    def hopeless(self, conn: int) -> bool:
        """Whether a connection goes on and on although it is refused."""
        return self._strikes.get(conn, 0) >= STRIKES

    def forget(self, conn: int) -> None:
        """Drop what is known of a connection that is gone."""
        self._full.pop(conn, None)
        self._strikes.pop(conn, None)

    def tick(self) -> None:
        """Forget the buckets that are full; to be called now and then."""
        now = self._clock()
        for conn in [conn for conn, full in self._full.items() if full <= now]:
            self.forget(conn)


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
