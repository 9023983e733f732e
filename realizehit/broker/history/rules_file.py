"""The file of rules of history, TOML.

A rule is a table such as::

    [[history]]
    pattern = {kind = "chat", room = "*"}
    size = 100
    ttl = "5m"
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from realizehit.broker.history.rules import MAX_RULES, MAX_SIZE, MAX_TTL, MIN_TTL, Rule, Rules
from realizehit.common.suggestions import did_you_mean
from realizehit.errors import PatternError, SettingsError
from realizehit.pattern import RESERVED_KEY, channel_of

ANY: Final = "*"

_MEMBERS: Final = ("pattern", "size", "ttl")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def read_rules(path: str) -> Rules:
    """Read a file of rules. An empty file has no rules.

    Raises:
        SettingsError: the file cannot be read or is wrong; the text names the file, the rule and the key.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not TOML: {error}") from None
    return rules_of(table, path)


def rules_of(table: Mapping[str, Any], where: str) -> Rules:
    """Read the parsed content of a file of rules.

    Args:
        table: the parsed TOML.
        where: the file's name, for errors.

    Raises:
        SettingsError: the content is wrong; the text says what and where.
    """
    unknown = set(table) - {"history"}
    if unknown:
        meant = did_you_mean(min(unknown), ["history"]) or "; a file of rules has [[history]] tables"
        raise SettingsError(f"{where}: unknown key {min(unknown)!r}{meant}")
    entries = table.get("history", [])
    if not isinstance(entries, list):
        raise SettingsError(f"{where}: write [[history]], with two brackets")
    if len(entries) > MAX_RULES:
        raise SettingsError(f"{where}: {len(entries)} rules are too many; use at most {MAX_RULES}")
    return Rules(tuple(_rule(entry, f"{where}: rule {number}") for number, entry in enumerate(entries, 1)))


def _rule(entry: object, place: str) -> Rule:
    if not isinstance(entry, dict):
        raise SettingsError(f"{place}: it is not a table")
    unknown = set(entry) - {*_MEMBERS}
    if unknown:
        meant = did_you_mean(min(unknown), _MEMBERS) or f"; use {', '.join(_MEMBERS)}"
        raise SettingsError(f"{place}: unknown key {min(unknown)!r}{meant}")
    for name in _MEMBERS:
        if name not in entry:
            raise SettingsError(f"{place}: {name} is missing")
    size = entry["size"]
    if type(size) is not int or not 1 <= size <= MAX_SIZE:
        raise SettingsError(f"{place}: size: {_shown(size)} is not a number of messages from 1 to {MAX_SIZE}")
    return Rule(_filters(entry["pattern"], f"{place}: pattern"), size, _seconds(entry["ttl"], f"{place}: ttl"))


def _filters(pattern: object, place: str) -> dict[str, tuple[str, ...] | None]:
    if not isinstance(pattern, dict):
        raise SettingsError(f'{place}: it is not a table; write {{kind = "chat"}}')
    filters: dict[str, tuple[str, ...] | None] = {}
    for key, value in pattern.items():
        choices = value if isinstance(value, list) else [value]
        if not choices:
            raise SettingsError(f"{place}: {key} has an empty list, so it matches no pattern")
        if key == RESERVED_KEY:
            raise SettingsError(f"{place}: patterns with the key {key}, to which only servers publish, have no history")
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


def _seconds(value: object, place: str) -> float:
    seconds = 0.0
    if type(value) in (int, float):
        seconds = float(value)  # type: ignore[arg-type]
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not MIN_TTL <= seconds <= MAX_TTL:  # also not for nan
        raise SettingsError(
            f'{place}: {_shown(value)} is not a time from 1 second to 30 days; write "90s", "5m" or "2h"'
        )
    return seconds


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
