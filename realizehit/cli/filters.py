"""Filters on the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from realizehit.errors import PatternError
from realizehit.pattern import Pattern


def pattern_from(filters: Sequence[str]) -> Pattern:
    """Make the pattern of ``key=value`` arguments.

    Each argument may hold several with commas between them, as `Pattern.parse` reads them; a comma inside a value is
    written ``%2C``.

    Raises:
        click.UsageError: there is none, or one breaks a rule of patterns.
    """
    if not filters:
        raise click.UsageError("a pattern needs a filter: write key=value, such as kind=news")
    try:
        return Pattern.parse(",".join(_as_utf8(text) for text in filters))
    except PatternError as error:
        raise click.UsageError(f"{error}  ({error.code})") from None


def _as_utf8(argument: str) -> str:
    """Return an argument as the text that was typed, also where Python takes the terminal for one without UTF-8."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument
