"""The functions of patterns in plain Python have the results of the compiled ones, and the texts of their errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realizehit import _fanout, pattern_text
from tests.property.test_pattern import keys, patterns, publications, subscriptions, values
from tests.support.vectors import VECTORS

Outcome = tuple[str, object]


class Text(str):
    """A text of another class."""

    __slots__ = ()


def outcome(function: Callable[..., object], *arguments: object) -> Outcome:
    """Return what a function returns, or the name, text and flag of its error."""
    try:
        return "returned", function(*arguments)
    except (_fanout.InvalidPattern, pattern_text.InvalidPattern) as error:
        return type(error).__name__, (str(error), error.wildcard)
    except (TypeError, ValueError) as error:
        return type(error).__name__, str(error) if type(error) is ValueError else ""


def same(name: str, *arguments: object) -> object:
    """Check that both modules give the same outcome, and return it."""
    compiled, plain = (outcome(getattr(module, name), *arguments) for module in (_fanout, pattern_text))
    assert plain == compiled, (name, arguments)
    return plain[1]


def public(module: ModuleType) -> set[str]:
    return {name for name in vars(module) if not name.startswith("_")}


def test_it_has_the_names_that_patterns_need() -> None:
    functions = {name for name, _ in inspect.getmembers(pattern_text, inspect.isfunction) if name in vars(_fanout)}
    assert functions == {"canonical", "channel_id", "project", "projections", "shape_of"}
    for name in ("MAX_CHANNEL", "MAX_FILTERS", "MAX_KEY", "MAX_VALUE"):
        assert getattr(pattern_text, name) == getattr(_fanout, name)
    assert public(pattern_text) & public(_fanout) > functions


@pytest.mark.parametrize("kind", ["valid", "subscription_only", "invalid", "wildcards"])
def test_it_gives_what_the_vectors_say(kind: str) -> None:
    for row in VECTORS[kind]:
        if not isinstance(row["in"], dict):
            continue
        for wildcards in (False, True):
            channel = same("canonical", row["in"], wildcards)
        if kind == "invalid":
            assert isinstance(channel, tuple)
            continue
        assert channel == row["channel"].encode()
        assert same("channel_id", channel) == row["id"]
        for publication in row.get("publications", ()):
            published = same("canonical", publication["in"])
            projected = same("project", published, row["shape"].encode())
            assert (projected.decode() if isinstance(projected, bytes) else None) == publication["projection"]


@settings(max_examples=600, deadline=None)
@given(patterns, st.booleans())
@example({"a": 2**64 - 1, "b": 2**64, "c": -(2**63), "d": -(2**63) - 1}, False)
@example({"a": 1e21, "b": 1e-6, "c": 1e-7, "d": 5e-324, "e": 1.7976931348623157e308, "f": -0.0}, False)
@example({"a": "x", "a.": "x", "a-": "x", "aa": "x", "a ": "x", "a|": "x"}, False)
@example({"a": "*", "b": ""}, False)
@example({"a": "", "b": "*"}, False)
@example({"é" * 11: "\ud800"}, True)
@example({Text("a"): Text("b"), "c": True}, True)
@example({f"k{n}": "v" * 256 for n in range(4)}, True)
@example({"\n\x00é" * 5000: "v"}, True)
@example({("a",): 1}, True)
def test_channel_and_id_are_the_same(filters: dict[Any, Any], wildcards: bool) -> None:
    channel = same("canonical", filters, wildcards)
    if isinstance(channel, bytes):
        same("channel_id", channel)
        same("shape_of", channel)


@settings(max_examples=500, deadline=None)
@given(st.lists(subscriptions(), min_size=1, max_size=4), publications)
def test_projections_are_the_same(wildcards: list[dict[str, Any]], publication: dict[str, Any]) -> None:
    shapes = tuple(_fanout.shape_of(_fanout.canonical(filters, True)) for filters in wildcards)
    channel = _fanout.canonical(publication)
    each = [same("project", channel, shape) for shape in shapes]
    assert same("projections", channel, shapes) == [projection for projection in each if projection is not None]


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(keys, values, min_size=1, max_size=16), st.dictionaries(keys, values, min_size=1, max_size=16))
def test_projections_of_any_filters_are_the_same(subscription: dict[str, Any], publication: dict[str, Any]) -> None:
    for filters in (subscription, {**dict(list(publication.items())[: len(subscription)]), "*": "*"}):
        wildcard, channel = same("canonical", filters, True), same("canonical", publication)
        if isinstance(wildcard, bytes) and isinstance(channel, bytes):
            same("project", channel, same("shape_of", wildcard))


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=40) | st.text("ab:|*=%", max_size=20).map(str.encode),
    st.text("ab:|*=%", max_size=20).map(str.encode),
)
@example(b"a:" + b"b" * 1022, b"a:=")
@example(b"a:" + b"b" * 1023, b"a:=")
@example(b"|".join([b"a:"] * 16), b"a:=")
@example(b"|".join([b"a:b"] * 17), b"a:=")
@example(b"|".join([b"k" * 62 + b":"] * 16), b"*:*")
@example(b"realizehit:stats", b"*:*")
@example(b"", b"")
def test_any_bytes_give_the_same(channel: bytes, shape: bytes) -> None:
    same("channel_id", channel)
    same("shape_of", channel)
    same("project", channel, shape)
    same("projections", channel, (shape, b"*:*", b"x"))


@pytest.mark.parametrize("function", ["channel_id", "shape_of", "project", "projections"])
def test_texts_in_place_of_bytes_are_refused(function: str) -> None:
    further = {"project": ("*:*",), "projections": (("*:*",),)}.get(function, ())
    channel = b"a:b" if further else "a:b"
    with pytest.raises(TypeError):
        getattr(pattern_text, function)(channel, *further)
