"""What has to hold of all grants, patterns and identities, judged by which publications are received."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realizehit.access.grants import ANY, Grants, OwnOnly, filters_of, read_grants
from realizehit.access.identity import identity_of
from realizehit.pattern import channel_of

KEYS = ["user", "kind", "a b", "x"]
IDENTITY_KEYS = ["user", "x"]
VALUES: list[Any] = ["1", 1, 1.0, 2, "2", True, "true", "news", "a:b|c", "é", "$user", "-0"]

values = st.sampled_from(VALUES)
publications = st.dictionaries(st.sampled_from(KEYS), values, min_size=1)
patterns = st.dictionaries(st.sampled_from([*KEYS, "*"]), values | st.just("*"), min_size=1).map(
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


def receives(pattern: dict[str, Any], publication: dict[str, Any]) -> bool:
    """Whether a subscription would get a publication, wildcards included."""
    wanted, there = filters_of(channel(pattern)), filters_of(channel(publication))
    further = wanted.pop(ANY, None) is not None
    fits = all(key in there and value in (ANY, there[key]) for key, value in wanted.items())
    return fits and (further or wanted.keys() == there.keys())


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


@given(subscriptions(), grant_lists, identities)
def test_what_an_allowed_pattern_receives_is_granted_too(
    subscription: tuple[dict[str, Any], dict[str, Any]], tables: list[dict[str, Any]], identity: Any
) -> None:
    pattern, publication = subscription
    grants = grants_of(tables)
    if grants.allows(channel(pattern), identity) and receives(pattern, publication):
        assert grants.allows(channel(publication), identity)


@given(subscriptions(), identities)
def test_without_grants_nobody_receives_what_is_somebody_elses(
    subscription: tuple[dict[str, Any], dict[str, Any]], identity: Any
) -> None:
    pattern, publication = subscription
    rules = OwnOnly(IDENTITY_KEYS)
    if rules.allows(channel(pattern), identity) and receives(pattern, publication):
        assert all(
            identity.get(key) == value
            for key, value in filters_of(channel(publication)).items()
            if key in IDENTITY_KEYS
        )


@given(patterns, st.sampled_from(KEYS), values, grant_lists, identities)
def test_a_filter_more_keeps_a_pattern_allowed(
    pattern: dict[str, Any], key: str, value: Any, tables: list[dict[str, Any]], identity: Any
) -> None:
    grants = grants_of(tables)
    if grants.allows(channel(pattern), identity):
        assert grants.allows(channel({key: value, **pattern}), identity)
        assert grants.allows(channel({"*": "*", **pattern}), identity)


@given(patterns, grant_lists, grant_lists, identities)
def test_grants_together_allow_what_one_of_them_does(
    pattern: dict[str, Any], some: list[dict[str, Any]], others: list[dict[str, Any]], identity: Any
) -> None:
    one, other = (
        grants_of(some).allows(channel(pattern), identity),
        grants_of(others).allows(channel(pattern), identity),
    )
    assert grants_of(some + others).allows(channel(pattern), identity) == (one or other)


@given(st.sampled_from(KEYS), patterns, grant_patterns, identities)
def test_any_value_meets_no_filter_but_any(
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
def test_the_empty_grant_allows_everything_and_none_allows_nothing(pattern: dict[str, Any], identity: Any) -> None:
    assert grants_of([{}]).allows(channel(pattern), identity)
    assert not grants_of([]).allows(channel(pattern), identity)


@given(st.sampled_from(KEYS), values, values)
def test_values_are_compared_as_channels_have_them(key: str, granted: Any, value: Any) -> None:
    literal = "$$user" if granted == "$user" else granted
    same = channel({key: granted}) == channel({key: value})
    assert grants_of([{key: literal}]).allows(channel({key: value}), {}) is same
