"""Where a channel with history goes on after a gap, and what has to be done before."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from realizehit.common.position import Position


class GoesOn(NamedTuple):
    """Where a channel with history goes on after a gap.

    Attributes:
        at: the position.
        skip: called with the handle of each connection right before it is told; returns whether it has positions.
        done: called when all are told. Nothing after the position may be sent before: a client that had it and was not
            told would resume after it, and never learn of the gap.
    """

    at: Position
    skip: Callable[[int], bool]
    done: Callable[[], None]
