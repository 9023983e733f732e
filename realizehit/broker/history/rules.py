"""Rules of history: which patterns have a log, how many messages it keeps, and for how long.

At the broker the rules are one text, JSON, under `KEY`::

    {"version": "5c0f…", "rules": [{"pattern": {"kind": ["chat"], "room": null}, "size": 100, "ttl": 300}]}

Keys and values of a pattern are percent-encoded as in channels, and null allows any value.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from realizehit.broker.names import SINGLE
from realizehit.broker.rule_patterns import contains, described, filters_in
from realizehit.errors import BrokerRefused
from realizehit.pattern import is_reserved

KEY: Final = SINGLE.rules
"""Name of the key at the broker. A change is announced by publishing `CHANGED` to the registry's control channel."""

CHANGED: Final = "history"

MAX_RULES: Final = 1000
MAX_SIZE: Final = 10_000  # messages kept for a pattern
MIN_TTL: Final = 1.0  # seconds
MAX_TTL: Final = 30 * 86_400.0  # seconds

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
        return contains(self.filters, filters)

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as the broker has it, for JSON."""
        pattern = {key: None if values is None else list(values) for key, values in sorted(self.filters.items())}
        return {"pattern": pattern, "size": self.size, "ttl": self.ttl}

    def describe(self) -> str:
        """Return the rule in one line, for people: ``kind=chat,room=*: 100 messages, 300 s``."""
        return f"{described(self.filters)}: {self.size} messages, {self.ttl:g} s"


class Rules:
    """Rules in order; the first one that contains a pattern applies to it.

    Args:
        rules: in the order in which they are looked through.
        version: tells these rules from others; empty for no rules. By default made from the rules.
    """

    def __init__(self, rules: tuple[Rule, ...] = (), version: str | None = None) -> None:
        self.rules: Final = rules
        self.version: Final = _version_of(rules) if version is None else version
        self._known: dict[bytes, Rule | None] = {}

    def __bool__(self) -> bool:
        return bool(self.rules)

    @classmethod
    def from_json(cls, text: bytes | str | None) -> Rules:
        """Read what the broker holds; None or an empty text means no rules.

        Raises:
            BrokerRefused: the text is not that of rules; the error says where.
        """
        if not text:
            return NO_RULES
        try:
            document = _DECODER.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BrokerRefused(f"the key {KEY} at the broker does not hold rules of history: {error}") from None
        rules = tuple(Rule(_tuples(rule.pattern), rule.size, float(rule.ttl)) for rule in document.rules)
        return cls(rules, document.version)

    def to_json(self) -> bytes:
        """Return the text that the broker holds. Equal rules have the same text."""
        return msgspec.json.encode({"version": self.version, "rules": _plain(self.rules)})

    def rule_of(self, channel: bytes) -> Rule | None:
        """Return the rule of a channel in canonical text, with or without a star; None if it has no history.

        A channel with the reserved key, to which only servers publish, never has history.

        Cost: a look into a dict for a channel that was asked for before.
        """
        if not self.rules:  # and nothing is remembered of a channel
            return None
        try:
            return self._known[channel]
        except KeyError:
            pass
        rule = None
        if not is_reserved(channel):
            filters = filters_in(channel)
            rule = next((rule for rule in self.rules if rule.contains(filters)), None)
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[channel] = rule
        return rule


NO_RULES: Final = Rules((), "")


class _RuleText(msgspec.Struct, frozen=True):
    pattern: dict[str, list[str] | None]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_SIZE)]
    ttl: Annotated[float, msgspec.Meta(ge=MIN_TTL, le=MAX_TTL)]


class _Document(msgspec.Struct, frozen=True):
    version: str
    rules: Annotated[list[_RuleText], msgspec.Meta(max_length=MAX_RULES)]


_DECODER: Final = msgspec.json.Decoder(_Document)


def _tuples(pattern: Mapping[str, list[str] | None]) -> dict[str, tuple[str, ...] | None]:
    return {key: None if values is None else tuple(values) for key, values in pattern.items()}


def _plain(rules: tuple[Rule, ...]) -> list[dict[str, Any]]:
    return [rule.to_dict() for rule in rules]


def _version_of(rules: tuple[Rule, ...]) -> str:
    return sha256(msgspec.json.encode(_plain(rules))).hexdigest()[:16]
