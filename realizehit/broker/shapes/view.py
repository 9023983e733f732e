"""The registry of shapes as one read after another shows it, for publishers that cannot be told of new shapes.

A synchronous publisher has no connection that could be told. It ends each pipeline with `READ`, and publishes the
projections by shapes that it did not know before anything else. So each message that the broker carried out after a
shape was registered is projected by it: the read came after the message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from realizehit.broker.resp import pack
from realizehit.broker.shapes.registry import BRIDGE, BRIDGE_LEASE, KEY, LEASE, MOST_SHAPES, is_shape
from realizehit.common.seldom import REMINDER, Seldom, more

logger: Final = logging.getLogger(__name__)

READ: Final = pack(("ZRANGE", KEY, "0", "-1", "WITHSCORES"))
"""A cheap command: a script would cost the broker several times as much. Its reply also holds shapes that lapsed."""

RIGHTS: Final = (
    f"to reach wildcard subscriptions a publisher needs the right to ZRANGE with the key {KEY}: grant it, or publish "
    "without wildcards (wildcards=False)"
)


class RegistryView:
    """What a publisher knows of the registry.

    A score changes with each renewal. A shape whose score has not changed for a whole lease has lapsed. So the clock
    here does not have to agree with the broker's.

    Args:
        clock: seconds of a clock that never goes back.

    Attributes:
        shapes: those in use; ``None`` before the first read.

    Reentrancy: any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.shapes: tuple[bytes, ...] | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[bytes, tuple[Any, float]] = {}  # by shape: its score, and since when it has that
        self._seldom = Seldom(REMINDER, clock)

    def take(self, reply: list[Any]) -> tuple[bytes, ...]:
        """Take the reply to `READ`; return the shapes that are in use, the same tuple where none has changed."""
        if not reply and self.shapes == ():
            return self.shapes
        now = self._clock()
        with self._lock:
            seen: dict[bytes, tuple[Any, float]] = {}
            ignored = 0
            for shape, score in zip(reply[::2], reply[1::2], strict=False):
                last = self._seen.get(shape)
                if (last is None and shape != BRIDGE and not is_shape(shape)) or len(seen) >= MOST_SHAPES:
                    ignored += 1
                else:
                    seen[shape] = last if last is not None and last[0] == score else (score, now)
            self._seen = seen
            shapes = tuple(shape for shape, (_, since) in seen.items() if shape != BRIDGE and now - since < LEASE)
            if BRIDGE in seen and now - seen[BRIDGE][1] < BRIDGE_LEASE:
                shapes = ()  # a bridge runs, and projects by all of them
            if shapes == self.shapes:
                shapes = self.shapes
            self.shapes = shapes
            if ignored and (left_out := self._seldom.passes("ignored")) is not None:
                logger.warning("ignored %d members of the registry of shapes%s", ignored, more(left_out))
        return shapes
