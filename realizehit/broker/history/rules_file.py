"""The file of rules of history, TOML.

A rule is a table such as::

    [[history]]
    pattern = {kind = "chat", room = "*"}
    size = 100
    ttl = "5m"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from realizehit.broker.history.rules import MAX_RULES, MAX_SIZE, MAX_TTL, MIN_TTL, Rule, Rules
from realizehit.broker.rule_files import check_members, read_entries, read_file, read_filters, read_seconds, shown
from realizehit.errors import SettingsError

_MEMBERS: Final = ("pattern", "size", "ttl")


def read_rules(path: str) -> Rules:
    """Read a file of rules. An empty file has no rules.

    Raises:
        SettingsError: the file cannot be read or is wrong; the text names the file, the rule and the key.
    """
    return rules_of(read_file(path), path)


def rules_of(table: Mapping[str, Any], where: str) -> Rules:
    """Read the parsed content of a file of rules.

    Args:
        table: the parsed TOML.
        where: the file's name, for errors.

    Raises:
        SettingsError: the content is wrong; the text says what and where.
    """
    entries = read_entries(table, "history", where, MAX_RULES)
    return Rules(tuple(_rule(entry, f"{where}: rule {number}") for number, entry in enumerate(entries, 1)))


def _rule(given: object, place: str) -> Rule:
    entry = check_members(given, place, _MEMBERS, _MEMBERS)
    size = entry["size"]
    if type(size) is not int or not 1 <= size <= MAX_SIZE:
        raise SettingsError(f"{place}: size: {shown(size)} is not a number of messages from 1 to {MAX_SIZE}")
    filters = read_filters(entry["pattern"], f"{place}: pattern", "history")
    ttl = read_seconds(entry["ttl"], f"{place}: ttl", MIN_TTL, MAX_TTL, "1 second to 30 days")
    return Rule(filters, size, ttl)
