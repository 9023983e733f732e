"""The last gaps that clients were told of, and why, for the console."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Literal

from realizehit.node.names import RegistryKey

KEPT: Final = 10
"""Gaps that are remembered."""

Reason = Literal["connection", "no_rule", "unknown_position", "not_kept", "unreadable", "begun_anew", "not_logged"]
"""Why messages are missing:

- ``connection``: the connection to the broker was lost, and these channels have no history.
- ``no_rule``: the pattern has no history, or has none any more.
- ``unknown_position``: the position is of another epoch, or the broker has lost what came after it.
- ``not_kept``: the messages are older than what is kept.
- ``unreadable``: the broker did not tell.
- ``begun_anew``: the log expired and began again while clients were still being sent its older messages.
- ``not_logged``: the shape of a wildcard was not registered for a time, so that its log lacks messages.
"""


class RecentGaps:
    """Remembers the last gaps; gaps in a row for the same reason and channel are one.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._gaps: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def note(self, reason: Reason, key: RegistryKey | None = None, seconds: float | None = None) -> None:
        """Remember a gap.

        Args:
            reason: why messages are missing.
            key: of the channel; None for all channels of a source without history.
            seconds: how long the gap was; None for a client that asked for messages that are not to be had.
        """
        channel = None if key is None else key.decode()
        last = self._gaps[-1] if self._gaps else None
        if last is not None and last["reason"] == reason and last["channel"] == channel:
            last["time"], last["count"] = self._clock(), last["count"] + 1
            if seconds is not None:
                last["seconds"] = max(seconds, last["seconds"] or 0.0)
            return
        self._gaps.append({"time": self._clock(), "reason": reason, "channel": channel, "seconds": seconds, "count": 1})

    def take(self) -> list[dict[str, Any]]:
        """Return the gaps, the newest first: time, reason, channel, seconds, and how often it happened in a row."""
        return [dict(gap) for gap in reversed(self._gaps)]
