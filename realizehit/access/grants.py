"""What a client may subscribe to, and what a key may publish.

A pattern is allowed if one grant contains it: the pattern meets each filter of the grant. Everything is decided on the
canonical text of patterns, in which ``3``, ``3.0`` and ``"3"`` are the same.

A wildcard is allowed if the same grant allows every publication that the wildcard matches. A filter of a grant with
values therefore needs a fixed value in the pattern; a filter with ``*`` needs the key in the pattern, with a fixed
value or with ``*``. ``"*": "*"`` in the pattern never meets a filter of a grant, since it promises no key.

These properties hold (each is a test in ``tests/property/test_grants.py``):

- Sound: an allowed pattern, with or without wildcards, receives only publications that the client may name.
- Complete: where no grant allows a wildcard, each grant excludes some publication that the wildcard matches.
- Monotone: adding a filter to an allowed pattern keeps it allowed; adding a grant takes nothing away.
- Total: every pattern and identity gets one answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote

from realizehit.access.identity import canonical_filter, canonical_key
from realizehit.access.tables import read_tables
from realizehit.common.suggestions import did_you_mean
from realizehit.errors import PatternError, SettingsError

ANY: Final = "*"
"""In a pattern: as a value, any value; as a key, any further filters. In a grant: any value of the key."""

_MEMBERS: Final = ("pattern", "name")


def filters_of(channel: bytes) -> dict[str, str]:
    """Split a channel into its filters, keys and values in canonical text."""
    filters = {}
    for text in channel.decode("ascii").split("|"):
        key, _, value = text.partition(":")
        filters[key] = value
    return filters


class Decision(NamedTuple):
    """A decision and the reason for it.

    Attributes:
        allowed: the decision.
        why: for the operator: the grant that allows it, or which filter is in the way.
    """

    allowed: bool
    why: str


class Rules(Protocol):
    """Decides about patterns."""

    def allows(self, channel: bytes, identity: Mapping[str, str]) -> bool:
        """Whether an identity may use a pattern, with or without wildcards."""

    def explain(self, channel: bytes, identity: Mapping[str, str]) -> Decision:
        """Decide the same, and say why."""


class Condition(NamedTuple):
    """One filter of a grant.

    Attributes:
        key: the key that a pattern must have.
        values: the values that meet it.
        own: keys of identities; the client's own value of such a key meets it too, if the client has one.
        any: whether every value meets it, ``*`` included.
    """

    key: str
    values: frozenset[str]
    own: tuple[str, ...]
    any: bool

    def is_met(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> bool:
        """Whether the filters of a pattern meet it."""
        value = filters.get(self.key)
        if value is None:
            return False
        if self.any:
            return True
        # A wildcard would receive other values than those that are granted.
        return value != ANY and (value in self.values or any(identity.get(key) == value for key in self.own))

    def miss(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> str:
        """Say why a pattern does not meet it."""
        key = unquote(self.key)
        if self.key not in filters:
            return f"{key} is missing" + (", and '*': '*' does not stand for it" if ANY in filters else "")
        wanted = [repr(unquote(value)) for value in sorted(self.values)]
        for name in self.own:
            value = identity.get(name)
            wanted.append(f"${unquote(name)}, which the identity lacks" if value is None else repr(unquote(value)))
        allowed = " or ".join(wanted)
        if filters[self.key] == ANY:
            return f"{key} is a wildcard, which also matches other values than {allowed}"
        return f"{key} is {unquote(filters[self.key])!r}, not {allowed}"


class Grant(NamedTuple):
    """Allows the patterns that meet all of its conditions; without conditions, all patterns."""

    name: str
    conditions: tuple[Condition, ...]

    def contains(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> bool:
        """Whether it allows a pattern."""
        for condition in self.conditions:  # noqa: SIM110 - a loop is faster, and this runs for each action
            if not condition.is_met(filters, identity):
                return False
        return True

    def misses(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> list[str]:
        """Say why it does not allow a pattern; empty where it does."""
        return [c.miss(filters, identity) for c in self.conditions if not c.is_met(filters, identity)]


class Grants(Rules):
    """Allows the patterns that one of its grants allows.

    Args:
        grants: in the order in which they are checked.
    """

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.grants: Final = tuple(grants)

    def allows(self, channel: bytes, identity: Mapping[str, str]) -> bool:
        filters = filters_of(channel)
        for grant in self.grants:  # noqa: SIM110 - as above
            if grant.contains(filters, identity):
                return True
        return False

    def explain(self, channel: bytes, identity: Mapping[str, str]) -> Decision:
        filters = filters_of(channel)
        nearest: tuple[Grant, list[str]] | None = None
        for grant in self.grants:
            misses = grant.misses(filters, identity)
            if not misses:
                return Decision(True, f"{grant.name} allows it")
            if nearest is None or len(misses) < len(nearest[1]):
                nearest = (grant, misses)
        if nearest is None:
            return Decision(False, "there are no grants")
        return Decision(False, f"the nearest is {nearest[0].name}: {'; '.join(nearest[1])}")


class OwnOnly(Rules):
    """Allows everything except what is for other clients: the rules without a file of grants.

    For each key of identities, a pattern must either fix the key to the client's own value, or not match it at all: a
    wildcard with ``"*": "*"`` and without the key would match publications for other clients.

    Args:
        keys: the keys of identities; without any, everything is allowed.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = frozenset(map(canonical_key, keys))
        # A channel without any of these has neither a key of identities nor a wildcard.
        self._signs = (ANY.encode("ascii"), *(f"{key}:".encode("ascii") for key in self._keys))

    def allows(self, channel: bytes, identity: Mapping[str, str]) -> bool:
        for sign in self._signs:
            if sign in channel:
                break
        else:
            return True
        filters = filters_of(channel)
        for key in self._keys:
            value = filters.get(key)
            if value is None:
                if ANY in filters:
                    return False
            elif value == ANY or value != identity.get(key):
                return False
        return True

    def explain(self, channel: bytes, identity: Mapping[str, str]) -> Decision:
        filters = filters_of(channel)
        for key in sorted(self._keys):
            if key not in filters and ANY not in filters:
                continue
            value, own, name = filters.get(key), identity.get(key), unquote(key)
            if own is None:
                there = "" if key in filters else f"'*': '*' also matches {name}; "
                return Decision(False, f"{there}{name} belongs to identities, and the client's has none")
            if value is None:
                return Decision(False, f"'*': '*' also matches other clients' {name}; add {name}={unquote(own)}")
            if value == ANY:
                return Decision(
                    False, f"{name} is a wildcard, which also matches others than the client's {unquote(own)!r}"
                )
            if value != own:
                return Decision(False, f"{name} is {unquote(value)!r}, not the client's own {unquote(own)!r}")
        return Decision(True, "there is no file of grants, and no filter is on another client's identity")


def read_grants(table: Mapping[str, Any], where: str, keys: Iterable[str] | None) -> Grants:
    """Read the content of a file of grants.

    Args:
        table: the parsed TOML.
        where: the file's name, for errors.
        keys: the keys of identities, which ``$`` may name; ``None`` where they are unknown and any may be named.

    Raises:
        SettingsError: the content is wrong; the text says what and where.
    """
    grants = []
    known = None if keys is None else frozenset(keys)
    for number, (place, entry) in enumerate(read_tables(table, "grant", where), 1):
        unknown = set(entry) - {*_MEMBERS} if isinstance(entry, dict) else set()
        if not isinstance(entry, dict) or "pattern" not in entry or unknown:
            meant = f"; unknown key {min(unknown)!r}{did_you_mean(min(unknown), _MEMBERS)}" if unknown else ""
            raise SettingsError(f"{place}: a grant has a pattern and optionally a name{meant}")
        name = entry.get("name", "")
        if not isinstance(name, str):
            raise SettingsError(f"{place}: the name is not a text")
        grants.append(read_grant(entry["pattern"], place, known, f"grant {number}{f' ({name})' if name else ''}"))
    return Grants(grants)


def read_grant(pattern: object, place: str, keys: frozenset[str] | None, name: str) -> Grant:
    """Read one grant's pattern.

    Args:
        pattern: a table of filters; a value is a text, number or boolean, ``$key`` for the client's own value, ``*``
            for any value, or a list of these.
        place: the file and the grant, for errors.
        keys: the keys of identities, ``None`` where they are unknown.
        name: how explanations call it.

    Raises:
        SettingsError: the pattern is wrong.
    """
    if not isinstance(pattern, dict):
        raise SettingsError(f'{place}: pattern is not a table; write {{kind = "news"}}')
    conditions = []
    for key, value in pattern.items():
        values, own = set(), []
        choices = value if isinstance(value, list) else [value]
        if not choices:
            raise SettingsError(f"{place}: {key} has an empty list, so nothing can meet it")
        for choice in choices:
            try:
                encoded = canonical_key(key)
                if choice == ANY:
                    continue
                if isinstance(choice, str) and choice.startswith("$") and not choice.startswith("$$"):
                    own.append(_identity_key(choice, place, keys))
                else:
                    literal = choice[1:] if isinstance(choice, str) and choice.startswith("$$") else choice
                    values.add(canonical_filter(key, literal)[1])
            except PatternError as error:
                raise SettingsError(f"{place}: {error}") from None
        conditions.append(Condition(encoded, frozenset(values), tuple(own), ANY in choices))
    return Grant(name, tuple(conditions))


def _identity_key(text: str, place: str, keys: frozenset[str] | None) -> str:
    if keys is not None and text[1:] not in keys:
        known = f"known are {', '.join('$' + key for key in sorted(keys))}" if keys else "none can be used here"
        raise SettingsError(f"{place}: {text} is not a key of identities ({known}); write ${text} for the text itself")
    return canonical_key(text[1:])
