"""The patterns of rules, such as those of history: which channels they contain."""

from __future__ import annotations

from collections.abc import Mapping

Filters = Mapping[str, tuple[str, ...] | None]
"""Encoded keys, with the encoded values that a pattern may have; None for any value."""


def contains(rule: Filters, filters: Mapping[str, str]) -> bool:
    """Whether a pattern, encoded keys and values, has all filters of a rule.

    A ``*`` in the pattern meets a filter that allows any value, and no other.
    """
    for key, values in rule.items():
        value = filters.get(key)
        if value is None or (values is not None and value not in values):
            return False
    return True


def filters_in(channel: bytes) -> dict[str, str]:
    """Return the filters of a channel; any bytes have some."""
    filters = {}
    for text in channel.decode("ascii", "replace").split("|"):
        key, _, value = text.partition(":")
        filters[key] = value
    return filters


def described(rule: Filters) -> str:
    """Return the pattern of a rule for people: ``kind=chat,room=*``."""
    texts = (f"{key}={'*' if values is None else '|'.join(values)}" for key, values in rule.items())
    return ",".join(texts) or "every pattern"
