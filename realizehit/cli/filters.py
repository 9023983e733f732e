"""Filters on the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import click

from realizehit.errors import PatternError
from realizehit.pattern import Pattern


def pattern_from(filters: Sequence[str]) -> Pattern:
    """Make the pattern of ``key=value`` arguments.

    Each argument may hold several with commas between them, as `Pattern.parse` reads them; a comma inside a value is
    written ``%2C``.

    Raises:
        click.UsageError: a filter is missing, or breaks a rule of patterns.
    """
    if not filters:
        raise click.UsageError("a pattern needs a filter: write key=value, such as kind=news")
    try:
        return Pattern.parse(",".join(_as_utf8(text) for text in filters))
    except PatternError as error:
        raise click.UsageError(f"{error}  ({error.code})") from None


def _as_utf8(argument: str) -> str:
    """Return an argument as the text that was typed, also if Python assumes a terminal without UTF-8."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError:
        return argument


def as_argument(filters: Mapping[str, object]) -> str:
    """Return filters as one argument that `pattern_from` reads: ``kind=news,channel=CNN``.

    What would be read differently, and what is not visible on a terminal, is percent-encoded.
    """
    return ",".join(f"{_escaped(key)}={_escaped(str(value))}" for key, value in filters.items())


def _escaped(text: str) -> str:
    return "".join(
        character if character.isprintable() and character not in "%,= " else quote(character, safe="")
        for character in text
    )
