from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from realizehit import _fanout
from realizehit.errors import ErrorCode, PatternError, WildcardUnsupported
from realizehit.pattern import MAX_CHANNEL, MAX_FILTERS, MAX_KEY, MAX_VALUE, Pattern, channel_of, project, shape_of
from tests.support import model_pattern
from tests.support.vectors import VECTORS

NEWS = {"kind": "news", "channel": "CNN"}


def text(row: dict[str, Any]) -> str:
    return repr(row["in"])[:60]


# --- the vectors, through every way in


def test_the_vectors_are_all_there() -> None:
    assert len(VECTORS["valid"]) >= 37
    assert len(VECTORS["subscription_only"]) >= 3
    assert len(VECTORS["invalid"]) >= 17
    publications = [row for wildcard in VECTORS["wildcards"] for row in wildcard["publications"]]
    assert len(VECTORS["wildcards"]) >= 23
    assert len([row for row in publications if row["matches"]]) >= 56
    assert len([row for row in publications if not row["matches"] and row["projection"]]) >= 12
    assert len([row for row in publications if not row["projection"]]) >= 50


@pytest.mark.parametrize("row", VECTORS["valid"], ids=text)
def test_a_valid_vector(row: dict[str, Any]) -> None:
    pattern = Pattern(row["in"])
    assert (pattern.channel, pattern.id, pattern.has_wildcard) == (row["channel"], row["id"], False)
    assert channel_of(row["in"]) == channel_of(pattern) == row["channel"].encode()
    assert _fanout.canonical(row["in"]) == _fanout.canonical(row["in"], True) == row["channel"].encode()
    assert _fanout.channel_id(row["channel"].encode()) == row["id"]
    assert model_pattern.channel(row["in"]) == row["channel"]


@pytest.mark.parametrize("row", VECTORS["subscription_only"], ids=text)
def test_a_vector_with_a_wildcard(row: dict[str, Any]) -> None:
    pattern = Pattern(row["in"])
    assert (pattern.channel, pattern.id, pattern.has_wildcard) == (row["channel"], row["id"], True)
    assert channel_of(row["in"], wildcards=True) == row["channel"].encode()
    assert model_pattern.channel(row["in"], wildcards=True) == row["channel"]
    with pytest.raises(WildcardUnsupported, match=r"'\*'") as refused:
        channel_of(row["in"])
    assert refused.value.code == "wildcard-unsupported"
    with pytest.raises(_fanout.InvalidPattern) as low:
        _fanout.canonical(row["in"])
    assert low.value.wildcard


@pytest.mark.parametrize("row", VECTORS["wildcards"], ids=text)
def test_a_wildcard_vector(row: dict[str, Any]) -> None:
    pattern = Pattern(row["in"])
    assert (pattern.channel, pattern.id, pattern.shape) == (row["channel"], row["id"], row["shape"])
    assert pattern.has_wildcard
    shape = shape_of(channel_of(row["in"], wildcards=True))
    assert shape.decode() == row["shape"] == model_pattern.shape(row["in"])
    for publication in row["publications"]:
        filters, projection = publication["in"], publication["projection"]
        assert Pattern(filters).channel == publication["channel"]
        projected = project(channel_of(filters), shape)
        assert (projected and projected.decode()) == projection == model_pattern.projection(row["in"], filters), filters
        assert pattern.matches(filters) is pattern.matches(Pattern(filters)) is publication["matches"], filters
        assert model_pattern.matches(row["in"], filters) is publication["matches"], filters


@pytest.mark.parametrize("row", VECTORS["invalid"], ids=lambda row: row["why"])
@pytest.mark.parametrize("wildcards", [False, True])
def test_an_invalid_vector(row: dict[str, Any], wildcards: bool) -> None:
    with pytest.raises(PatternError) as refused:
        channel_of(row["in"], wildcards=wildcards)
    assert refused.value.code == ErrorCode.BAD_PATTERN
    assert not isinstance(refused.value, WildcardUnsupported)
    if row["in"] is not None:
        with pytest.raises(PatternError):
            Pattern(row["in"])
    if isinstance(row["in"], dict):
        with pytest.raises(_fanout.InvalidPattern):
            _fanout.canonical(row["in"], wildcards)
    with pytest.raises(model_pattern.Refused):
        model_pattern.channel(row["in"], wildcards=wildcards)


# --- what an error says


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({}, "a pattern needs at least one filter"),
        (None, "not null"),
        ([], "not a list"),
        ("a:b", "not a string"),
        (7, "not a number"),
        (True, "not a boolean"),
        ({"a": None}, "the value of 'a' is null"),
        ({"a": []}, "the value of 'a' is a list"),
        ({"a": ()}, "the value of 'a' is a list"),
        ({"a": {}}, "the value of 'a' is an object"),
        ({"a": b"x"}, "the value of 'a' is a bytes"),
        ({"a": ""}, "the value of 'a' is empty"),
        ({"": "a"}, "a key is empty"),
        ({7: "a"}, "the key 7 is not a string"),
        ({"a": float("nan")}, "the value of 'a' is not a finite number"),
        ({"a": float("-inf")}, "the value of 'a' is not a finite number"),
        ({"a": 10**400}, "the value of 'a' is not a finite number"),
        ({"a": "\ud800"}, "the value of 'a' holds a lone surrogate"),
        ({"\udfff": "a"}, r"the key '\udfff' holds a lone surrogate"),
        ({"*": "a"}, "the key '*' takes only the value '*'"),
        ({"*": 1}, "the key '*' takes only the value '*'"),
        ({"a": "*"}, "the value of 'a' is the wildcard '*'"),
        ({"k" * 65: "v"}, "is longer than 64 bytes when percent-encoded"),
        ({"é" * 11: "v"}, "is longer than 64 bytes when percent-encoded"),
        ({"a": "v" * 257}, "the value of 'a' is longer than 256 bytes when percent-encoded"),
        ({f"k{n}": "v" for n in range(17)}, "a pattern has at most 16 filters, not 17"),
        ({f"k{n}": "v" * 256 for n in range(4)}, "longer than 1024 bytes as a channel"),
    ],
)
def test_an_error_names_the_filter_and_the_bound(filters: Any, said: str) -> None:
    with pytest.raises(PatternError) as refused:
        channel_of(filters)
    assert said in str(refused.value)


def test_an_error_stays_short_and_printable_for_any_key() -> None:
    with pytest.raises(PatternError) as refused:
        channel_of({"\n\x00é" * 5000: "v"})
    assert len(str(refused.value)) < 200
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


def test_the_bounds_hold_exactly() -> None:
    assert (MAX_FILTERS, MAX_KEY, MAX_VALUE, MAX_CHANNEL) == (16, 64, 256, 1024)
    assert channel_of({"k" * 64: "v" * 256}) == b"k" * 64 + b":" + b"v" * 256
    assert len(channel_of({f"{n:02}": "v" for n in range(16)})) == 16 * 5 - 1
    full = {"a": "v" * 256, "b": "v" * 256, "c": "v" * 256, "d": "v" * 245}  # 4 * 2 + 3 and the values
    assert len(channel_of(full)) == 1024
    with pytest.raises(PatternError, match="1024"):
        channel_of({**full, "d": "v" * 246})


# --- what a pattern is


def test_a_pattern_is_a_mapping_of_its_filters() -> None:
    pattern = Pattern(NEWS)
    assert isinstance(pattern, Mapping)
    assert dict(pattern) == NEWS
    assert list(pattern) == ["kind", "channel"]  # as they were written
    assert pattern["kind"] == "news"
    assert pattern.get("none") is None
    assert len(pattern) == 2
    assert "channel" in pattern
    with pytest.raises(KeyError):
        pattern["none"]


def test_its_text_is_its_channel() -> None:
    pattern = Pattern(NEWS)
    assert str(pattern) == f"{pattern}" == pattern.channel == "channel:CNN|kind:news"
    assert pattern.id == "3bf1d979"
    assert repr(pattern) == "Pattern({'kind': 'news', 'channel': 'CNN'})"
    assert eval(repr(pattern)) == pattern


def test_patterns_are_equal_by_channel() -> None:
    one, other = Pattern(a=3, b=True), Pattern({"b": "true", "a": 3.0})
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other}) == 1
    assert one != Pattern(a=3)
    assert one != one.channel
    assert one != dict(one)  # a dict is no pattern: it has no hash that could agree
    # Two patterns with one id are two patterns.
    assert Pattern(user=25442).id == Pattern(user=28322).id
    assert Pattern(user=25442) != Pattern(user=28322)


def test_a_pattern_never_changes() -> None:
    filters: dict[str, Any] = {"kind": "news"}
    pattern = Pattern(filters)
    filters["kind"] = "weather"
    filters["x"] = 1
    assert dict(pattern) == {"kind": "news"}
    for name in ("channel", "id", "has_wildcard", "_filters", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(pattern, name, "x")
        with pytest.raises(AttributeError, match="immutable"):
            delattr(pattern, name)
    with pytest.raises(TypeError):
        pattern["kind"] = "x"  # type: ignore[index]
    assert not hasattr(pattern, "__dict__")


@pytest.mark.parametrize("pattern", [Pattern(NEWS), Pattern(a=1.5, b="*"), Pattern({"*": "*"})], ids=str)
def test_a_pattern_is_copied_and_pickled_whole(pattern: Pattern) -> None:
    copies = [copy.copy(pattern), copy.deepcopy(pattern)]
    copies += [pickle.loads(pickle.dumps(pattern, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for other in copies:
        assert type(other) is Pattern
        assert (other, dict(other), other.id) == (pattern, dict(pattern), pattern.id)


def test_keyword_arguments_are_filters_and_win() -> None:
    assert Pattern(kind="news", channel="CNN") == Pattern(NEWS)
    assert Pattern(NEWS, kind="weather").channel == "channel:CNN|kind:weather"
    assert Pattern(self=1, filters=2, cls=3).channel == "cls:3|filters:2|self:1"
    with pytest.raises(PatternError, match="at least one filter"):
        Pattern()


def test_any_mapping_will_do() -> None:
    assert Pattern(MappingProxyType(NEWS)) == Pattern(Pattern(NEWS)) == Pattern(NEWS)
    assert channel_of(MappingProxyType(NEWS)) == b"channel:CNN|kind:news"


def test_subclasses_of_the_value_types_are_values() -> None:
    class Name(str): ...

    class Number(int): ...

    class Real(float): ...

    assert Pattern(a=Name("x"), b=Number(3), c=Real(3.5)).channel == "a:x|b:3|c:3.5"


# --- what a subscription matches


def test_without_a_star_it_matches_itself_alone() -> None:
    assert Pattern(NEWS).matches({"channel": "CNN", "kind": "news"})
    assert Pattern(n=3).matches({"n": "3"})
    assert not Pattern(NEWS).matches({"kind": "news"})
    assert not Pattern(kind="news").matches(NEWS)
    assert Pattern(realizehit="stats").matches({"realizehit": "stats"})


@pytest.mark.parametrize("subscription", [Pattern(NEWS), Pattern({"*": "*"})], ids=str)
@pytest.mark.parametrize("publication", [{"kind": "*"}, {"kind": "news", "*": "*"}, Pattern({"*": "*"})], ids=str)
def test_nothing_is_published_to_a_star(subscription: Pattern, publication: dict[str, Any]) -> None:
    with pytest.raises(WildcardUnsupported) as refused:
        subscription.matches(publication)
    assert refused.value.code == ErrorCode.WILDCARD_UNSUPPORTED


def test_an_invalid_pattern_matches_nothing() -> None:
    with pytest.raises(PatternError, match="not null"):
        Pattern({"*": "*"}).matches(None)  # type: ignore[arg-type]
    with pytest.raises(PatternError, match="the value of 'a' is empty"):
        Pattern({"*": "*"}).matches({"a": ""})


def test_the_shape_of_a_pattern_without_a_star() -> None:
    assert Pattern(NEWS).shape == "channel:=|kind:="
    assert project(b"channel:CNN|kind:news", b"channel:=|kind:=") == b"channel:CNN|kind:news"


@pytest.mark.parametrize("channel", [b"", b"a", b"a|b:c", b"a:b|", b"a:b|" * 16 + b"a:b", b"a:" + b"v" * 1023])
def test_an_invalid_channel_has_no_shape_and_no_projection(channel: bytes) -> None:
    with pytest.raises(ValueError, match="is not a channel"):
        shape_of(channel)
    assert project(channel, b"*:*") is None
    assert project(b"a:b", channel) is None


def test_a_shape_may_be_longer_than_its_channel_but_not_than_any() -> None:
    with pytest.raises(ValueError, match="is not a channel"):
        shape_of(b"a" * 1023 + b":")


# --- the command line's form


@pytest.mark.parametrize(
    ("line", "filters"),
    [
        ("kind=news,channel=CNN", NEWS),
        (" kind = news , channel = CNN ", NEWS),
        ("a=b=c", {"a": "b=c"}),
        ("a=1%2C2%3D3%25", {"a": "1,2=3%"}),
        ("k%C3%A9y=%F0%9F%98%80", {"kéy": "😀"}),
        ("a=é", {"a": "é"}),
        ("show=*", {"show": "*"}),
        ("kind=news,channel=*", {"kind": "news", "channel": "*"}),
        ("user=42,**", {"user": 42, "*": "*"}),
        ("user=42,*=*", {"user": 42, "*": "*"}),
        (" ** , user = 42 ", {"user": 42, "*": "*"}),
        ("**", {"*": "*"}),
        ("a=**,b=***", {"a": "**", "b": "***"}),
        ("user=42", {"user": 42}),
    ],
)
def test_parse(line: str, filters: dict[str, Any]) -> None:
    assert Pattern.parse(line) == Pattern(filters)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "'' in '' is not a filter; write key=value"),
        ("kind", "'kind' in 'kind' is not a filter"),
        ("a=1,", "'' in 'a=1,' is not a filter"),
        ("a=1,b", "'b' in 'a=1,b' is not a filter"),
        ("a=1,a=2", "the key 'a' occurs twice"),
        ("a=1,%61=2", "the key 'a' occurs twice"),
        ("**,**", "the key '*' occurs twice in '**,**'"),
        ("*=*,**", "the key '*' occurs twice"),
        ("*", "'*' in '*' is not a filter"),
        ("a=1,***", "'***' in 'a=1,***' is not a filter"),
        ("%2A%2A", "'%2A%2A' in '%2A%2A' is not a filter"),
        ("*=1", "the key '*' takes only the value '*'"),
        ("a=%FF", "is not valid UTF-8 once decoded"),
        ("a=", "the value of 'a' is empty"),
        ("=a", "a key is empty"),
    ],
)
def test_parse_says_what_is_wrong_and_where(line: str, said: str) -> None:
    with pytest.raises(PatternError) as refused:
        Pattern.parse(line)
    assert said in str(refused.value)
