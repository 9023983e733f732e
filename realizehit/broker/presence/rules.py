"""Rules of presence: for which patterns a deployment knows who is subscribed.

The rules stand in a file of TOML that each server reads::

    [[presence]]
    pattern = {kind = "chat", room = "*"}
    leave-after = "5s"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from realizehit.broker.rule_files import check_members, read_entries, read_file, read_filters, read_seconds
from realizehit.broker.rule_patterns import Filters, contains, filters_in
from realizehit.pattern import is_reserved, is_wildcard, presence_channel

MAX_RULES: Final = 1000
LEAVE_AFTER: Final = 5.0  # seconds, where a rule says nothing else
MAX_LEAVE_AFTER: Final = 600.0  # seconds

_CACHED: Final = 10_000
"""Channels whose rule is remembered; past that all are forgotten."""


class Rule(NamedTuple):
    """Has presence for all patterns that it contains.

    Attributes:
        filters: encoded keys, with the encoded values that a pattern may have; None for any value.
        leave_after: seconds after its last subscription ended until a member has left; one that is back by then never
            left.
    """

    filters: Filters
    leave_after: float = LEAVE_AFTER


class Rules:
    """Rules in order; the first one that contains a pattern applies to it.

    Args:
        rules: in the order in which they are looked through.
    """

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self.rules: Final = rules
        self._known: dict[bytes, Rule | None] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    def rule_of(self, channel: bytes) -> Rule | None:
        """Return the rule of a channel in canonical text; None if there is no presence of it.

        There is none of wildcards, of channels with the reserved key, and of those that have no room for the filter of
        the derived channel.

        Cost: a look into a dict for a channel that was asked for before.
        """
        if not self.rules:  # and nothing is remembered of a channel
            return None
        try:
            return self._known[channel]
        except KeyError:
            pass
        rule = None
        if not is_reserved(channel) and not is_wildcard(channel) and presence_channel(channel) is not None:
            filters = filters_in(channel)
            rule = next((rule for rule in self.rules if contains(rule.filters, filters)), None)
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[channel] = rule
        return rule


NO_RULES: Final = Rules()


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
    entries = read_entries(table, "presence", where, MAX_RULES)
    return Rules(tuple(_rule(entry, f"{where}: rule {number}") for number, entry in enumerate(entries, 1)))


def _rule(given: object, place: str) -> Rule:
    entry = check_members(given, place, ("pattern", "leave-after"), ("pattern",))
    filters = read_filters(entry["pattern"], f"{place}: pattern", "presence")
    given_time = entry.get("leave-after", LEAVE_AFTER)
    return Rule(filters, read_seconds(given_time, f"{place}: leave-after", 0.0, MAX_LEAVE_AFTER, "0 to 10 minutes"))
