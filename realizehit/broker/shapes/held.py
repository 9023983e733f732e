"""Projections that a bridge holds for a moment at its beginning, so that none comes twice.

A publisher that was writing when the bridge began has published some projections itself. Each comes by after its
message, so a projection of the bridge waits, and is dropped where the publisher's own one comes by in time.
"""

from __future__ import annotations

from collections import Counter, deque

from realizehit.broker.publication import Publication

_Key = tuple[bytes, bytes]  # channel and payload


class HeldProjections:
    """Projections in the order in which they are due."""

    def __init__(self) -> None:
        self._held: deque[tuple[float, Publication]] = deque()
        self._waiting: Counter[_Key] = Counter()  # those that are held
        self._foreign: Counter[_Key] = Counter()  # those of them that the publisher published too
        self._own: Counter[_Key] = Counter()  # those that were due and have not come by yet

    def __len__(self) -> int:
        return len(self._held)

    @property
    def next_due(self) -> float:
        """When the first one is due; there must be one."""
        return self._held[0][0]

    @property
    def last_due(self) -> float:
        """When the last one is due; there must be one."""
        return self._held[-1][0]

    def hold(self, projection: Publication, due: float) -> None:
        """Hold a projection until it is due, no earlier than those before it."""
        self._held.append((due, projection))
        self._waiting[projection.channel, projection.payload] += 1

    def came_by(self, channel: bytes, payload: bytes) -> None:
        """Take a projection that the bridge itself or a publisher published."""
        key = channel, payload
        if self._own[key] > 0:
            self._own[key] -= 1
        elif self._waiting[key] > self._foreign[key]:
            self._foreign[key] += 1

    def take_due(self, now: float) -> list[Publication]:
        """Return what is due and was published by nobody, to be published now."""
        due: list[Publication] = []
        while self._held and self._held[0][0] <= now:
            projection = self._held.popleft()[1]
            key = projection.channel, projection.payload
            self._waiting[key] -= 1
            if self._foreign[key] > 0:
                self._foreign[key] -= 1
            else:
                self._own[key] += 1
                due.append(projection)
        return due

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
        for counts in (self._waiting, self._foreign, self._own):
            counts.clear()
