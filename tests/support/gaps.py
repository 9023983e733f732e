"""Bounds for the reported length of a gap."""

from __future__ import annotations

TOO_LONG = 1.0  # seconds by which a reported gap may be too long, as documented
LATENESS = 0.5  # further seconds for a busy machine, on which the last answer of the broker may come late


def check_gap(seconds: float, gone: float, back: float, told: float) -> None:
    """Compare the reported length of a gap with the real one, by `time.monotonic`: never too short, little too long.

    Args:
        seconds: what was told.
        gone: when the broker went, or a moment before.
        back: when it was back, or a moment before.
        told: when the gap was told, or a moment later.
    """
    assert back - gone <= seconds <= told - gone + TOO_LONG + LATENESS
