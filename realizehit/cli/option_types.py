"""Types of option values that several commands use."""

from __future__ import annotations

import math
from typing import Final

import click

MOST_SECONDS: Final = 1e9  # about 30 years; more would overflow timers


class Seconds(click.ParamType[float]):
    """A time in seconds, over 0; click's own type takes ``nan``, ``inf`` and negative numbers too."""

    name = "seconds"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MOST_SECONDS:
            self.fail(f"{value!r} is not a number of seconds over 0", param, ctx)
        return seconds
