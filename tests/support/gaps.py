"""How long a gap may be told to have been."""

from __future__ import annotations

TOO_LONG = 1.0  # seconds by which a gap may be told longer than it was, as the documents say
LATENESS = 0.5  # seconds more for a machine on which other tests run: the broker's last answer was late by as much


def check_gap(seconds: float, gone: float, back: float, told: float) -> None:
    """Hold the length of a gap against what happened, by `time.monotonic`: never too short, little too long.

    Args:
        seconds: what was told.
        gone: when the broker went, or a moment before.
        back: when it was back, or a moment before.
        told: when the gap was told, or a moment later.
    """
    assert back - gone <= seconds <= told - gone + TOO_LONG + LATENESS
