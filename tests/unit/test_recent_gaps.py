"""The last gaps, as the console shows them."""

from __future__ import annotations

from itertools import count

from realizehit.node.names import RegistryKey
from realizehit.node.recent_gaps import KEPT, RecentGaps

ONE, OTHER = RegistryKey(b"kind:one"), RegistryKey(b"kind:other")


def test_gaps_in_a_row_for_the_same_reason_are_one() -> None:
    gaps = RecentGaps(clock=map(float, count()).__next__)
    gaps.note("connection", seconds=1.5)
    gaps.note("not_kept", ONE)
    gaps.note("not_kept", ONE, 3.0)
    gaps.note("not_kept", ONE, 2.0)
    gaps.note("not_kept", OTHER)
    gaps.note("unreadable", OTHER, 4.0)
    assert gaps.take() == [
        {"time": 5.0, "reason": "unreadable", "channel": "kind:other", "seconds": 4.0, "count": 1},
        {"time": 4.0, "reason": "not_kept", "channel": "kind:other", "seconds": None, "count": 1},
        {"time": 3.0, "reason": "not_kept", "channel": "kind:one", "seconds": 3.0, "count": 3},
        {"time": 0.0, "reason": "connection", "channel": None, "seconds": 1.5, "count": 1},
    ]


def test_only_the_last_gaps_are_remembered() -> None:
    gaps = RecentGaps(clock=lambda: 0.0)
    for number in range(KEPT + 5):
        gaps.note("not_kept", RegistryKey(b"n:%d" % number))
    channels = [gap["channel"] for gap in gaps.take()]
    assert channels == [f"n:{number}" for number in range(KEPT + 4, 4, -1)]
