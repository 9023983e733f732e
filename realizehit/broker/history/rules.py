"""Rules of history: which patterns have a log, how many messages it keeps, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

_CACHED: Final = 10_000
"""Channels whose rule is remembered; past that all are forgotten."""


class Rule(NamedTuple):
    """Keeps history for all patterns that it contains, as a grant contains patterns.

    Attributes:
        filters: encoded keys, with the encoded values that a pattern may have; None for any value.
        size: messages kept for each pattern.
        ttl: seconds after the last message for which they are kept.
    """

    filters: Mapping[str, tuple[str, ...] | None]
    size: int
    ttl: float

    def contains(self, filters: Mapping[str, str]) -> bool:
        """Whether a pattern, encoded keys and values, is under this rule.

        A ``*`` in the pattern meets a filter that allows any value, and no other.
        """
        for key, values in self.filters.items():
            value = filters.get(key)
            if value is None or (values is not None and value not in values):
                return False
        return True


class Rules:
    """Rules in order; the first one that contains a pattern applies to it.

    Args:
        rules: in the order in which they are looked through.
        version: tells these rules from others; empty for no rules.
    """

    def __init__(self, rules: tuple[Rule, ...] = (), version: str = "") -> None:
        self.rules: Final = rules
        self.version: Final = version
        self._known: dict[bytes, Rule | None] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    def rule_of(self, channel: bytes) -> Rule | None:
        """Return the rule of a channel in canonical text, with or without a star; None if it has no history.

        Cost: a look into a dict for a channel that was asked for before.
        """
        try:
            return self._known[channel]
        except KeyError:
            pass
        filters = dict(text.split(":", 1) for text in channel.decode("ascii").split("|"))
        rule = next((rule for rule in self.rules if rule.contains(filters)), None)
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[channel] = rule
        return rule


NO_RULES: Final = Rules()
