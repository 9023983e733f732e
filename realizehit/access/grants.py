"""What a client may subscribe to, and what a key may publish.

A pattern is allowed if it is contained in a grant: each of the grant's filters is met by the pattern. So whatever the
pattern receives, the grant allows; a pattern with more filters receives less. All of it is decided on the canonical
text of patterns, where ``3``, ``3.0`` and ``"3"`` are the same.

What has to hold (each is a property in ``tests/property/test_grants.py``):

- Sound: whatever publication an allowed pattern would receive meets the grant too, also with wildcards in the pattern.
- Monotone: a filter added to an allowed pattern keeps it allowed; a grant added to the others takes nothing away.
- Total: every pattern and identity gets an answer, and one alone.
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
"""As a pattern's value any value, as its key any further filter; as a grant's value: the key, whatever its value."""

_MEMBERS: Final = ("pattern", "name")


def filters_of(channel: bytes) -> dict[str, str]:
    """Split a channel into its filters, keys and values in canonical text."""
    filters = {}
    for text in channel.decode("ascii").split("|"):
        key, _, value = text.partition(":")
        filters[key] = value
    return filters


class Decision(NamedTuple):
    """An answer and the reason for it.

    Attributes:
        allowed: the answer.
        why: for the server's owner: the grant that matched, or the nearest miss.
    """

    allowed: bool
    why: str


class Rules(Protocol):
    """Decides about patterns."""

    def allows(self, channel: bytes, identity: Mapping[str, str]) -> bool:
        """Whether an identity may use a pattern."""

    def explain(self, channel: bytes, identity: Mapping[str, str]) -> Decision:
        """Answer the same, and say why."""


class Condition(NamedTuple):
    """One filter of a grant.

    Attributes:
        key: which filter of the pattern it is about.
        values: those that meet it.
        own: the identity's keys whose value meets it too; one that the identity lacks matches nothing.
        any: whether every value meets it.
    """

    key: str
    values: frozenset[str]
    own: tuple[str, ...]
    any: bool

    def met(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> bool:
        """Whether a pattern's filters meet it."""
        value = filters.get(self.key)
        if value is None:
            return False
        if self.any:
            return True
        # The pattern's "any value" is no value: it would receive others than those that are granted.
        return value != ANY and (value in self.values or any(identity.get(key) == value for key in self.own))

    def miss(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> str:
        """Say what is wrong with a pattern that does not meet it."""
        key = unquote(self.key)
        if self.key not in filters:
            return f"{key} is missing"
        wanted = [repr(unquote(value)) for value in sorted(self.values)]
        for name in self.own:
            value = identity.get(name)
            wanted.append(f"${unquote(name)}, which the identity lacks" if value is None else repr(unquote(value)))
        return f"{key} is {unquote(filters[self.key])!r}, not {' or '.join(wanted)}"


class Grant(NamedTuple):
    """What one grant allows: patterns that meet all of its conditions; without any, everything."""

    name: str
    conditions: tuple[Condition, ...]

    def met(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> bool:
        """Whether a pattern is contained in it."""
        for condition in self.conditions:  # noqa: SIM110 - a loop is faster, and this is done for each action
            if not condition.met(filters, identity):
                return False
        return True

    def misses(self, filters: Mapping[str, str], identity: Mapping[str, str]) -> list[str]:
        """Say what keeps a pattern out."""
        return [c.miss(filters, identity) for c in self.conditions if not c.met(filters, identity)]


class Grants(Rules):
    """Allows what any of its grants allows.

    Args:
        grants: in the order in which they are looked at.
    """

    def __init__(self, grants: Sequence[Grant]) -> None:
        self.grants: Final = tuple(grants)

    def allows(self, channel: bytes, identity: Mapping[str, str]) -> bool:
        filters = filters_of(channel)
        for grant in self.grants:  # noqa: SIM110 - as above
            if grant.met(filters, identity):
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
            return Decision(False, "there is no grant at all")
        return Decision(False, f"the nearest is {nearest[0].name}: {'; '.join(nearest[1])}")


class OwnOnly(Rules):
    """Allows everything but other clients' identities: what holds where no grants are given.

    A filter on an identity's key must have the client's own value. "Any further filters" would take others' in, unless
    all of the identity's keys are pinned down.

    Args:
        keys: the identity's keys; without any, everything is allowed.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = frozenset(map(canonical_key, keys))

    def allows(self, channel: bytes, identity: Mapping[str, str]) -> bool:
        return not self._keys or self.explain(channel, identity).allowed

    def explain(self, channel: bytes, identity: Mapping[str, str]) -> Decision:
        filters = filters_of(channel)
        for key in sorted(self._keys):
            if key not in filters and ANY not in filters:
                continue
            value, own = filters.get(key, ANY), identity.get(key)
            if own is None:
                return Decision(False, f"{unquote(key)} belongs to identities, and the client's has none")
            if value != own:
                return Decision(False, f"{unquote(key)} is {unquote(value)!r}, not the client's own {unquote(own)!r}")
        return Decision(True, "there is no file of grants, and no filter is on another client's identity")


def read_grants(table: Mapping[str, Any], where: str, keys: Iterable[str] | None) -> Grants:
    """Read the content of a file of grants.

    Args:
        table: what TOML made of it.
        where: the file, for errors.
        keys: the identity's keys, which ``$`` may name; ``None`` where they are not known, and any may be named.

    Raises:
        SettingsError: something in it is wrong; the text says what and where.
    """
    grants = []
    known = None if keys is None else frozenset(keys)
    for number, (place, entry) in enumerate(read_tables(table, "grant", where), 1):
        unknown = set(entry) - {*_MEMBERS} if isinstance(entry, dict) else set()
        if not isinstance(entry, dict) or "pattern" not in entry or unknown:
            meant = f"; unknown key {min(unknown)!r}{did_you_mean(min(unknown), _MEMBERS)}" if unknown else ""
            raise SettingsError(f"{place}: it has a pattern, and a name if you like, and nothing else{meant}")
        name = entry.get("name", "")
        if not isinstance(name, str):
            raise SettingsError(f"{place}: the name is no text")
        grants.append(read_grant(entry["pattern"], place, known, f"grant {number}{f' ({name})' if name else ''}"))
    return Grants(grants)


def read_grant(pattern: object, place: str, keys: frozenset[str] | None, name: str) -> Grant:
    """Read one grant's pattern.

    Args:
        pattern: a table of filters; a value may be a list of those allowed, ``$key`` for the identity's own, and ``*``.
        place: where it stands, for errors.
        keys: the identity's keys, ``None`` where they are not known.
        name: what explanations call it.

    Raises:
        SettingsError: something in it is wrong.
    """
    if not isinstance(pattern, dict):
        raise SettingsError(f'{place}: pattern is no table; write {{kind = "news"}}')
    conditions = []
    for key, value in pattern.items():
        values, own = set(), []
        choices = value if isinstance(value, list) else [value]
        if not choices:
            raise SettingsError(f"{place}: {key} has an empty list, which nothing meets")
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
        known = f"known are {', '.join('$' + key for key in sorted(keys))}" if keys else "there is none here"
        raise SettingsError(f"{place}: {text} is no key of an identity ({known}); write ${text} for the text itself")
    return canonical_key(text[1:])
