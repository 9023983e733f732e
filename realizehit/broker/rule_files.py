"""How a file of TOML writes rules, such as those of history: their tables, patterns and times."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from realizehit.broker.rule_patterns import Filters
from realizehit.common.suggestions import did_you_mean
from realizehit.errors import PatternError, SettingsError
from realizehit.pattern import RESERVED_KEY, channel_of

ANY: Final = "*"

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def read_file(path: str) -> dict[str, Any]:
    """Read a file of rules, unchecked.

    Raises:
        SettingsError: the file cannot be read or is not TOML; the text names it.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None


def read_entries(table: Mapping[str, Any], name: str, where: str, most: int) -> list[Any]:
    """Return the tables ``[[name]]`` of a file of rules, unchecked.

    Args:
        table: the parsed TOML.
        name: of the tables.
        where: the file's name, for errors.
        most: rules that there may be.

    Raises:
        SettingsError: the file has anything else, or too many rules; the text says what and where.
    """
    unknown = set(table) - {name}
    if unknown:
        meant = did_you_mean(min(unknown), [name]) or f"; a file of rules has [[{name}]] tables"
        raise SettingsError(f"{where}: unknown key {min(unknown)!r}{meant}")
    entries = table.get(name, [])
    if not isinstance(entries, list):
        raise SettingsError(f"{where}: write [[{name}]], with two brackets")
    if len(entries) > most:
        raise SettingsError(f"{where}: {len(entries)} rules are too many; use at most {most}")
    return entries


def check_members(entry: object, place: str, members: Sequence[str], required: Sequence[str]) -> dict[str, Any]:
    """Return a rule that is a table with these members and no others.

    Args:
        entry: what the file has in its place.
        place: the file and the rule, for errors.
        members: those that it may have.
        required: those that it must have.

    Raises:
        SettingsError: it is something else; the text says what and where.
    """
    if not isinstance(entry, dict):
        raise SettingsError(f"{place}: it is not a table")
    unknown = set(entry) - {*members}
    if unknown:
        meant = did_you_mean(min(unknown), members) or f"; use {', '.join(members)}"
        raise SettingsError(f"{place}: unknown key {min(unknown)!r}{meant}")
    for name in required:
        if name not in entry:
            raise SettingsError(f"{place}: {name} is missing")
    return entry


def read_filters(pattern: object, place: str, what: str) -> Filters:
    """Read the pattern of a rule.

    Args:
        pattern: a table of filters; a value is a text, number or boolean, ``*`` for any value, or a list of these.
        place: the file and the rule, for errors.
        what: what the rule gives to patterns, for errors.

    Raises:
        SettingsError: the pattern is wrong; the text says what and where.
    """
    if not isinstance(pattern, dict):
        raise SettingsError(f'{place}: it is not a table; write {{kind = "chat"}}')
    filters: dict[str, tuple[str, ...] | None] = {}
    for key, value in pattern.items():
        choices = value if isinstance(value, list) else [value]
        if not choices:
            raise SettingsError(f"{place}: {key} has an empty list, so it matches no pattern")
        if key == RESERVED_KEY:
            raise SettingsError(f"{place}: patterns with the key {key}, to which only servers publish, have no {what}")
        try:
            encoded = _encoded(key, "x")[0]
            values = [_encoded(key, choice)[1] for choice in choices if choice != ANY]
        except PatternError as error:
            raise SettingsError(f"{place}: {error}") from None
        filters[encoded] = None if ANY in choices else tuple(dict.fromkeys(values))
    return dict(sorted(filters.items()))


def _encoded(key: str, value: object) -> tuple[str, str]:
    """Return one filter as it stands in a channel.

    Raises:
        PatternError: it breaks a rule of patterns.
    """
    name, _, text = channel_of({key: value}).decode("ascii").partition(":")
    return name, text


def read_seconds(value: object, place: str, least: float, most: float, bounds: str) -> float:
    """Read a time: a number of seconds, or a text such as ``5m``.

    Args:
        value: what the file has.
        place: the file, the rule and the key, for errors.
        least: seconds.
        most: seconds.
        bounds: these two for people: ``1 second to 30 days``.

    Raises:
        SettingsError: it is no time, or out of its bounds.
    """
    seconds = -1.0
    if type(value) in (int, float):
        seconds = float(value)  # type: ignore[arg-type]
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not least <= seconds <= most:  # also not for nan
        raise SettingsError(f'{place}: {shown(value)} is not a time from {bounds}; write "90s", "5m" or "2h"')
    return seconds


def shown(value: object) -> str:
    """Return a value for an error, cut to a bounded length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
