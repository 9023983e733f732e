"""What tells patterns apart on a client's side."""

from __future__ import annotations

import uuid
from collections.abc import Hashable
from enum import Enum
from typing import Any

import pytest

from realizehit.client.filters import filters_of, pattern_key
from realizehit.errors import PatternError
from realizehit.pattern import Pattern
from tests.support.vectors import VECTORS


class Kind(Enum):
    NEWS = "news"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 3, "b": True}, {"b": "true", "a": 3.0}),
        ({"a": "3"}, {"a": 3}),
        ({"a": 1e-7}, {"a": "1e-7"}),
        ({"a": 1e21}, {"a": "1e+21"}),
        ({"a": -0.0}, {"a": 0}),
        ({"a": 123456789012345680000.0}, {"a": "123456789012345680000"}),
        ({"a": Kind.NEWS}, {"a": "news"}),
        ({"a": uuid.UUID(int=1)}, {"a": "00000000-0000-0000-0000-000000000001"}),
    ],
)
def test_two_spellings_of_a_pattern_have_one_key(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert pattern_key(one) == pattern_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": False}, {"a": 0}),
        ({"a": "b|c:d"}, {"a": "b", "c": "d"}),
        ({"a": 1e-7}, {"a": "1e-07"}),
        ({"a": 1e21}, {"a": "1000000000000000000000"}),
        ({"a": 123456789012345680000.0}, {"a": "123456789012345683968"}),
        ({"a": True}, {"a": "True"}),
        ({"a": None}, {"a": "None"}),
        ({"a": None}, {"a": "null"}),
        ({"a": float("nan")}, {"a": "nan"}),
        ({"a": [1]}, {"a": "[1]"}),
        ({"a": {}}, {"a": "{}"}),
    ],
)
def test_other_patterns_have_other_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert pattern_key(one) != pattern_key(other)


def test_keys_tell_patterns_apart_as_channels_do() -> None:
    channels: dict[Hashable, str] = {}
    for row in VECTORS["valid"]:
        try:
            key = pattern_key(filters_of(row["in"]))
        except PatternError:  # an integer that this client cannot write
            continue
        channel = Pattern(row["in"]).channel
        assert channels.setdefault(key, channel) == channel
    assert len(channels) > 20


def test_filters() -> None:
    assert filters_of(Pattern(kind="news")) == {"kind": "news"}
    bad: object
    for bad in (None, [], "kind=news", 7):
        with pytest.raises(PatternError, match="a mapping of filters"):
            filters_of(bad)
    for unwritable in ({1: "x"}, {"kind": object()}):
        with pytest.raises(PatternError, match="cannot be written as JSON"):
            filters_of(unwritable)
