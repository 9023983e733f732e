"""Positions in the log of a pattern: ``<epoch>.<offset>``, such as ``k3f09a2c.17``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MAX_OFFSET: Final = (1 << 53) - 1
"""The largest offset: the largest integer that every language's JSON library reads exactly."""

_FORM: Final = re.compile(r"([a-z0-9]{8})\.(0|[1-9][0-9]{0,15})")


class Position(NamedTuple):
    """A place in the log of a pattern.

    Attributes:
        epoch: 8 characters, new whenever the log begins anew.
        offset: number of the last message before the place; the first message of a log has offset 1.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.offset}"

    @classmethod
    def parse(cls, text: object) -> Position | None:
        """Read ``<epoch>.<offset>``; return None for anything else."""
        match = _FORM.fullmatch(text) if isinstance(text, str) else None
        if match is None or int(match[2]) > MAX_OFFSET:
            return None
        return cls(match[1], int(match[2]))
