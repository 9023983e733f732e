"""What happened to the logs of a node, counted."""

from __future__ import annotations

from typing import Final

from realizehit.common.durations import Durations
from realizehit.node.recent_gaps import Reason

REASONS: Final[tuple[Reason, ...]] = ("no_rule", "unknown_position", "not_kept", "unreadable")


class LogCounts:
    """Plain integers, read by `/metrics` and the console.

    Attributes:
        reads: reads of logs at the broker.
        failed_reads: those of them that brought no answer, or an error.
        read_durations: how long reads took, with what followed from them.
        recovered_from_ring: subscriptions with ``since`` or ``last`` that needed no read, without those of which
            the engine took care, see `Logs.recovered_from_ring`.
        recovered_from_broker: subscriptions with ``since`` or ``last`` that waited for a read.
        not_recovered: subscriptions with ``since`` that got ``recovered: false`` or no answer, by reason.
        repaired: times that a log had a hole, or the connection to the broker was lost, and nothing is missing.
        unrepaired: times that something is missing.
        renewed: times that a log ended and began anew while the connection held.
        ended_replays: replays whose next message was not kept any more.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.failed_reads = 0
        self.read_durations = Durations()
        self.recovered_from_ring = 0
        self.recovered_from_broker = 0
        self.not_recovered = dict.fromkeys(REASONS, 0)
        self.repaired = 0
        self.unrepaired = 0
        self.renewed = 0
        self.ended_replays = 0
