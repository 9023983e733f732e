"""What the console shows of history: the rules, what this node keeps, and what was recovered or lost."""

from __future__ import annotations

from typing import Any, Final

from realizehit import _fanout
from realizehit.broker.base import Bus
from realizehit.node.hub import Hub

RULES: Final = 20
"""Rules in a message."""


class HistoryFigures:
    """Reads the figures of history of one process.

    Args:
        engine, bus, hub: the node's.
    """

    def __init__(self, engine: _fanout.Engine, bus: Bus, hub: Hub) -> None:
        self._engine = engine
        self._bus = bus
        self._hub = hub

    def counters(self, stats: dict[str, int]) -> dict[str, int]:
        """Return what was counted since the start.

        Args:
            stats: the engine's.
        """
        counts = self._hub.logs.counts
        return {
            "recovered": self._hub.logs.recovered_from_ring + counts.recovered_from_broker,
            "not_recovered": sum(counts.not_recovered.values()),
            "replayed": stats["replayed"],
            "gaps": self._hub.gaps.told,
        }

    def take(self, stats: dict[str, int]) -> dict[str, Any]:
        """Return what there is now.

        Args:
            stats: the engine's.
        """
        rules, logs = self._bus.rules.rules, self._hub.logs
        return {
            "rules": [rule.to_dict() for rule in rules[:RULES]],
            "more_rules": max(0, len(rules) - RULES),
            "logs": len(logs),
            "logs_to_read": logs.to_read,
            "messages": stats["ring_messages"],
            "bytes": stats["ring_bytes"],
            "replays": stats["replays"],
            "reads": logs.counts.reads,
            "repaired": logs.counts.repaired,
            "recovered_from": {
                "memory": logs.recovered_from_ring,
                "broker": logs.counts.recovered_from_broker,
            },
            "not_recovered_for": dict(logs.counts.not_recovered),
            "last_gaps": self._hub.gaps.recent.take(),
        }

    def position(self, channel: bytes) -> str | None:
        """Return the position of a channel's log; None if there is none here."""
        state = self._engine.log_state(channel)
        return None if state is None else f"{state[0]}.{state[1]}"
