"""Properties of grants: what they allow, judged by the publications that a subscription receives.

The oracle of matching is the model of patterns in plain Python, which shares no code with the product.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realizehit.access.connected_clients import Opening
from realizehit.access.gate import Gate
from realizehit.access.grants import Grants, OwnOnly, filters_of, read_grants
from realizehit.access.identity import identity_of
from realizehit.pattern import channel_of
from realizehit.settings import Settings
from tests.support import model_pattern as model

KEYS = ["user", "kind", "a b", "x"]
IDENTITY_KEYS = ["user", "x"]
VALUES: list[Any] = ["1", 1, 1.0, 2, "2", True, "true", "news", "a:b|c", "é", "$user", "-0"]
RESERVED = "realizehit"
OTHER = "other"  # a key and a value that no grant names

values = st.sampled_from(VALUES)
publications = st.dictionaries(st.sampled_from([*KEYS, RESERVED]), values, min_size=1)
patterns = st.dictionaries(st.sampled_from([*KEYS, RESERVED, "*"]), values | st.just("*"), min_size=1).map(
    lambda filters: {key: "*" if key == "*" else value for key, value in filters.items()}
)
identities = st.dictionaries(st.sampled_from(IDENTITY_KEYS), values).map(lambda said: identity_of(said, "the test"))
grant_values = st.one_of(values.map(lambda v: "$$user" if v == "$user" else v), st.sampled_from(["$user", "$x", "*"]))
grant_patterns = st.dictionaries(st.sampled_from(KEYS), grant_values | st.lists(grant_values, min_size=1, max_size=3))
grant_lists = st.lists(grant_patterns, max_size=3)


def grants_of(tables: list[dict[str, Any]]) -> Grants:
    return read_grants({"grant": [{"pattern": table} for table in tables]}, "grants.toml", IDENTITY_KEYS)


def channel(filters: dict[str, Any]) -> bytes:
    return channel_of(filters, wildcards=True)


@st.composite
def subscriptions(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pattern, and a publication that it mostly receives."""
    pattern = draw(patterns)
    if draw(st.booleans()):
        return pattern, draw(publications)
    publication = {key: draw(values) if value == "*" else value for key, value in pattern.items() if key != "*"}
    if "*" in pattern:
        publication = {**draw(publications), **publication}
    return pattern, publication or {"kind": "news"}


def witness(pattern: dict[str, Any]) -> dict[str, Any]:
    """The publication that a pattern matches and that meets as few grants as possible."""
    fixed = {key: OTHER if value == "*" else value for key, value in pattern.items() if key != "*"}
    return fixed or {OTHER: OTHER}


@given(subscriptions(), grant_lists, identities)
def test_an_allowed_wildcard_receives_only_allowed_publications(
    subscription: tuple[dict[str, Any], dict[str, Any]], tables: list[dict[str, Any]], identity: Any
) -> None:
    pattern, publication = subscription
    grants = grants_of(tables)
    if grants.allows(channel(pattern), identity) and model.matches(pattern, publication):
        assert grants.allows(channel(publication), identity)


@given(subscriptions(), identities)
def test_without_grants_a_wildcard_receives_only_allowed_publications(
    subscription: tuple[dict[str, Any], dict[str, Any]], identity: Any
) -> None:
    pattern, publication = subscription
    rules = OwnOnly(IDENTITY_KEYS)
    if rules.allows(channel(pattern), identity) and model.matches(pattern, publication):
        assert rules.allows(channel(publication), identity)
        for key, value in filters_of(channel(publication)).items():
            assert key not in IDENTITY_KEYS or identity.get(key) == value


@given(subscriptions(), identities, st.booleans(), st.booleans())
def test_no_wildcard_receives_what_the_gate_refuses_by_name(
    subscription: tuple[dict[str, Any], dict[str, Any]], identity: Any, local: bool, console: bool
) -> None:
    pattern, publication = subscription
    settings = Settings(identify=("user=X-User", "x=X-X"), trusted_proxies=("10.0.0.0/8",), console=console)
    gate = Gate(settings, clock=lambda: 0.0)
    gate.connected.on_connected(1, Opening(identity, local=local))
    if model.matches(pattern, publication) and gate.connected.may_subscribe(1, channel(pattern)):
        assert gate.connected.may_subscribe(1, channel(publication))


@given(patterns, grant_patterns, identities)
def test_a_refused_wildcard_matches_a_refused_publication(
    pattern: dict[str, Any], table: dict[str, Any], identity: Any
) -> None:
    grants = grants_of([table])
    publication = witness(pattern)
    if model.matches(pattern, publication):  # nothing matches a wildcard with the reserved key
        assert grants.allows(channel(pattern), identity) == grants.allows(channel(publication), identity)


@given(patterns, identities)
def test_without_grants_a_refused_wildcard_matches_a_refused_publication(
    pattern: dict[str, Any], identity: Any
) -> None:
    rules = OwnOnly(IDENTITY_KEYS)
    publication = witness(pattern)
    if "*" in pattern:  # the worst case of an open pattern has every key of identities
        publication = {**dict.fromkeys(IDENTITY_KEYS, OTHER), **publication}
    if model.matches(pattern, publication):
        assert rules.allows(channel(pattern), identity) == rules.allows(channel(publication), identity)


@given(patterns, st.sampled_from(KEYS), values, grant_lists, identities)
def test_adding_a_filter_keeps_a_pattern_allowed(
    pattern: dict[str, Any], key: str, value: Any, tables: list[dict[str, Any]], identity: Any
) -> None:
    grants = grants_of(tables)
    if grants.allows(channel(pattern), identity):
        assert grants.allows(channel({key: value, **pattern}), identity)
        assert grants.allows(channel({"*": "*", **pattern}), identity)


@given(patterns, grant_lists, grant_lists, identities)
def test_grants_together_allow_what_one_of_them_allows(
    pattern: dict[str, Any], some: list[dict[str, Any]], others: list[dict[str, Any]], identity: Any
) -> None:
    one, other = (
        grants_of(some).allows(channel(pattern), identity),
        grants_of(others).allows(channel(pattern), identity),
    )
    assert grants_of(some + others).allows(channel(pattern), identity) == (one or other)


@given(st.sampled_from(KEYS), patterns, grant_patterns, identities)
def test_a_wildcard_meets_only_the_star_of_a_grant(
    key: str, pattern: dict[str, Any], table: dict[str, Any], identity: Any
) -> None:
    wild = channel({**pattern, key: "*"})
    if key in table:
        choices = table[key] if isinstance(table[key], list) else [table[key]]
        if "*" not in choices:
            assert not grants_of([table]).allows(wild, identity)


@given(patterns, grant_lists, identities)
def test_every_decision_is_explained(pattern: dict[str, Any], tables: list[dict[str, Any]], identity: Any) -> None:
    for rules in (grants_of(tables), OwnOnly(IDENTITY_KEYS), OwnOnly([])):
        decision = rules.explain(channel(pattern), identity)
        assert decision.allowed is rules.allows(channel(pattern), identity)
        assert decision.why


@given(patterns, identities)
def test_the_empty_grant_allows_everything_and_no_grant_allows_nothing(pattern: dict[str, Any], identity: Any) -> None:
    assert grants_of([{}]).allows(channel(pattern), identity)
    assert not grants_of([]).allows(channel(pattern), identity)


@given(st.sampled_from(KEYS), values, values)
def test_values_are_compared_in_canonical_form(key: str, granted: Any, value: Any) -> None:
    literal = "$$user" if granted == "$user" else granted
    same = channel({key: granted}) == channel({key: value})
    assert grants_of([{key: literal}]).allows(channel({key: value}), {}) is same
