"""The compiled patterns against the plain-Python model, on whatever Hypothesis can think of."""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import struct
import subprocess
from typing import Any
from urllib.parse import quote, unquote

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realizehit import _fanout
from realizehit.client.filters import filters_of, pattern_key
from realizehit.errors import PatternError, RequestError, WildcardUnsupported
from realizehit.node.messages import ActionError, parse_action
from realizehit.node.publish_bodies import parse_publication
from realizehit.pattern import MAX_CHANNEL, Pattern, channel_of, project, shape_of
from tests.support import model_pattern

anything = st.text(st.characters(exclude_categories=()))  # of all planes, lone surrogates too
special = st.text("*%:|?~-._ aé[]\\\x00\n\U0001f600")
long = st.builds(
    lambda text, n: text * n,
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
    st.integers(1, 130),
)
texts = anything | special | long | st.just("*")
doubles = st.floats() | st.builds(  # every bit pattern, so that exponents are as likely at either end
    lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0], st.integers(0, 2**64 - 1)
)
near = st.sampled_from([2**31, 2**53, 2**63, 2**64, 10**21, 10**308])
integers = (
    st.integers()
    | st.integers(-(2**80), 2**80)
    | st.builds(lambda a, b, s: s * (a + b), near, st.integers(-3, 3), st.sampled_from([1, -1]))
)
values = texts | doubles | integers | st.booleans()
wrong = st.none() | st.lists(texts, max_size=2) | st.dictionaries(texts, texts, max_size=1) | st.binary(max_size=2)
keys = texts | st.sampled_from(["a", "b", "ab", "A", "*"])
patterns = st.dictionaries(keys, values, max_size=18) | st.dictionaries(keys, values | wrong, max_size=3)


def ours(filters: Any, wildcards: bool) -> str:
    try:
        return channel_of(filters, wildcards=wildcards).decode("ascii")
    except WildcardUnsupported:
        return "wildcard"
    except PatternError:
        return "refused"


def models(filters: Any, wildcards: bool) -> str:
    try:
        return model_pattern.channel(filters, wildcards=wildcards)
    except model_pattern.RefusedWildcard:
        return "wildcard"
    except model_pattern.Refused:
        return "refused"


@settings(max_examples=500, deadline=None)
@given(patterns, st.booleans())
@example({"a": 2**64 - 1, "b": 2**64, "c": -(2**63), "d": -(2**63) - 1}, False)
@example(
    {"a": 1e21, "b": 1e-6, "c": 1e-7, "d": 5e-324, "e": 1.7976931348623157e308, "f": 123456789012345680000.0}, False
)
@example({"a": "x", "a.": "x", "a-": "x", "aa": "x", "a ": "x", "a|": "x"}, False)
def test_the_compiled_channel_is_the_models(filters: dict[Any, Any], wildcards: bool) -> None:
    expected = models(filters, wildcards)
    actual = ours(filters, wildcards)
    if expected == "refused" and actual == "wildcard":
        # Broken in two ways: which of them is told is the order of the filters.
        assert any(value == "*" for value in filters.values() if isinstance(value, str))
    else:
        assert actual == expected
    if ":" in expected:
        assert _fanout.channel_id(expected.encode()) == model_pattern.pattern_id(expected)
        pattern = Pattern(filters)
        assert (pattern.channel, pattern.id) == (expected, model_pattern.pattern_id(expected))
        assert channel_of(dict(reversed(filters.items())), wildcards=wildcards) == expected.encode()


@settings(max_examples=500, deadline=None)
@given(doubles)
def test_a_double_is_written_as_ecmascript_writes_it(x: float) -> None:
    if math.isfinite(x):
        assert channel_of({"a": x}).decode() == "a:" + model_pattern.percent_encode(model_pattern.number_to_string(x))
    else:
        with pytest.raises(PatternError, match="not a finite number"):
            channel_of({"a": x})


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=2000))
def test_an_id_is_the_start_of_the_md5(channel: bytes) -> None:
    assert _fanout.channel_id(channel) == hashlib.md5(channel).hexdigest()[:8]


# Few and treacherous parts, so that two patterns come close to each other often.
close_texts = st.text("a:|%*é", min_size=1, max_size=3) | st.sampled_from(["1", "true", "%3A", "a:b", "a|b", "1e+21"])
close_values = close_texts | st.sampled_from([1, 1.0, True, False, 0, -0.0, 1e21, 10**21])
close_patterns = st.dictionaries(close_texts, close_values, min_size=1, max_size=3)


@settings(max_examples=500, deadline=None)
@given(close_patterns, close_patterns)
def test_two_patterns_never_share_a_channel(one: dict[str, Any], other: dict[str, Any]) -> None:
    try:
        channels = channel_of(one, wildcards=True), channel_of(other, wildcards=True)
    except PatternError:
        return
    assert (channels[0] == channels[1]) == (model_pattern.normal(one) == model_pattern.normal(other))


def read_back(channel: str) -> frozenset[tuple[str, str]]:
    return frozenset(
        (unquote(key), unquote(value)) for key, _, value in (pair.partition(":") for pair in channel.split("|"))
    )


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys, values, min_size=1, max_size=6))
def test_a_channel_can_be_read_back(filters: dict[str, Any]) -> None:
    """Why two patterns cannot share one: the channel holds all that the pattern says."""
    try:
        channel = channel_of(filters).decode()
    except PatternError:
        return
    assert read_back(channel) == model_pattern.normal(filters)
    assert set(channel) <= set(map(chr, model_pattern.UNRESERVED)) | set("%:|")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(texts, texts, min_size=1, max_size=4))
def test_the_command_lines_form_says_the_same(filters: dict[str, str]) -> None:
    try:
        channel = channel_of(filters, wildcards=True).decode()
    except PatternError:
        return
    assert (
        Pattern.parse(",".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in filters.items())).channel
        == channel
    )
    # The channel itself is one step away from it.
    if "*" not in filters and "*" not in filters.values():
        assert Pattern.parse(channel.replace(":", "=").replace("|", ",")).channel == channel


def spellings(filters: dict[str, Any]) -> dict[str, Any]:
    """Write the values of a pattern as Python's own texts of them, most of which are other patterns."""
    return {key: str(value) for key, value in filters.items()}


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(keys, values, max_size=3), st.dictionaries(keys, values | wrong, max_size=3))
@example({"a": 1e-7}, {"a": "1e-07"})
@example({"a": None}, {"a": "None"})
def test_the_clients_keys_are_equal_where_the_channels_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    written = []
    for filters in (one, other, spellings(one), spellings(other), dict(reversed(one.items()))):
        try:
            key, channel = pattern_key(filters_of(filters)), models(filters, True)
        except PatternError:  # it cannot be written as JSON
            continue
        written.append((key, channel))
        if channel != "refused":  # and in texts alone, numbers as the channel has them
            plain = {name: model_pattern.value_text(value) for name, value in filters.items()}
            written.append((pattern_key(plain), channel))
    for key, channel in written:
        for other_key, other_channel in written:
            if channel != "refused":
                assert (key == other_key) == (channel == other_channel)


# For wildcards: few keys, of which one begins another, one sorts before the star, and one is reserved.
wild_keys = st.sampled_from(["a", "aa", "a-", "é", "b", "realizehit"])
fixed_values = st.sampled_from(["x", "y", "=", "**", 1, 1.0, True])
publications = st.dictionaries(wild_keys, fixed_values, min_size=1, max_size=4)


@st.composite
def subscriptions(draw: st.DrawFn) -> dict[str, Any]:
    filters: dict[str, Any] = draw(st.dictionaries(wild_keys, fixed_values | st.just("*"), max_size=3))
    if not filters or draw(st.booleans()):
        filters["*"] = "*"
    return filters


@settings(max_examples=1000, deadline=None)
@given(subscriptions(), publications)
def test_a_subscription_gets_what_projects_to_it(subscription: dict[str, Any], publication: dict[str, Any]) -> None:
    pattern = Pattern(subscription)
    matches = model_pattern.matches(subscription, publication)
    assert pattern.matches(publication) is matches
    assert pattern.shape == model_pattern.shape(subscription)
    if not pattern.has_wildcard:
        return
    projection = project(channel_of(publication), pattern.shape.encode())
    assert (projection and projection.decode()) == model_pattern.projection(subscription, publication)
    assert (projection == pattern.channel.encode()) is matches
    if projection is not None:  # it is a subscription of that shape, which gets the publication
        assert shape_of(projection).decode() == pattern.shape
        assert model_pattern.matches(dict(read_back(projection.decode())), publication)


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(keys, values, min_size=1, max_size=16), st.dictionaries(keys, values, min_size=1, max_size=16))
def test_wildcards_of_any_filters(subscription: dict[str, Any], publication: dict[str, Any]) -> None:
    # Beside the one that is drawn, which seldom matches: some of the publication's filters, and any others.
    some = list(publication.items())[: len(subscription)]
    for filters in (subscription, {**dict(some), "*": "*"}):
        try:
            pattern, channel = Pattern(filters), channel_of(publication)
        except PatternError:
            continue
        assert pattern.matches(publication) is model_pattern.matches(filters, publication)
        if pattern.has_wildcard:
            projection = project(channel, pattern.shape.encode())
            assert (projection and projection.decode()) == model_pattern.projection(filters, publication)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=40) | st.text("ab:|*=%", max_size=20).map(str.encode), st.text("ab:|*=%", max_size=20))
def test_a_noncanonical_channel_projects_without_memory_errors(channel: bytes, shape: str) -> None:
    projection = project(channel, shape.encode())
    assert projection is None or len(projection) <= MAX_CHANNEL


json_numbers = st.from_regex(r"\A-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?\Z")
json_values = st.one_of(
    json_numbers,
    st.booleans().map(json.dumps),
    anything.map(json.dumps),
    anything.filter(lambda text: text.isprintable()).map(lambda text: json.dumps(text, ensure_ascii=False)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), json_values), min_size=1, max_size=4))
@example([("a", '"\\ud800"'), ("a", "0")])
def test_publisher_and_subscriber_read_a_pattern_alike(pairs: list[tuple[str, str]]) -> None:
    """The two sides parse JSON with different libraries; whatever the text, they must find the same channel or none."""
    pattern = "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"

    def subscribed() -> bytes | None:
        try:
            return channel_of(parse_action(f'{{"act":"sub","pat":{pattern}}}'.encode()).pattern)
        except (ActionError, PatternError):
            return None

    def published() -> bytes | None:
        try:
            return parse_publication(f'{{"pattern":{pattern},"payload":1}}'.encode()).channel
        except (RequestError, PatternError):
            return None

    assert subscribed() == published()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_doubles_are_written_as_node_writes_them() -> None:
    chance = random.Random(20240229)
    numbers = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(60_000)]
    numbers += [sign * 10.0**n * m for n in range(-323, 308) for m in (1, 9.5, 1 / 3) for sign in (1, -1)]
    numbers += [chance.uniform(-1e7, 1e7) for _ in range(20_000)] + [float(n) for n in range(-1000, 1000)]
    numbers += [math.ldexp(1, n) for n in range(-1074, 1024)]
    numbers = [x for x in numbers if math.isfinite(x)]
    script = (
        "const b = require('fs').readFileSync(0); const out = [];"
        "for (let i = 0; i < b.length; i += 8) out.push(String(b.readDoubleLE(i)));"
        "process.stdout.write(JSON.stringify(out))"
    )
    data = struct.pack(f"<{len(numbers)}d", *numbers)
    node = subprocess.run(["node", "-e", script], input=data, capture_output=True, check=True, timeout=60)
    written = orjson.loads(node.stdout)
    assert len(written) == len(numbers) > 80_000
    for x, theirs in zip(numbers, written, strict=True):
        assert channel_of({"a": x}).decode() == "a:" + theirs.replace("+", "%2B")
        assert model_pattern.number_to_string(x) == theirs
