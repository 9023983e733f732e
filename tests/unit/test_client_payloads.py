from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.client.messages import RawJSON, encode_payload
from realizehit.client.payloads import decode_payload
from realizehit.errors import ClientError, RequestError


def test_lone_surrogates_stay_where_they_were() -> None:
    assert decode_payload(rb'{"\ud800a":["\udfff","\ud83d\ude00","\\ud800"],"b":{"c":"\uDBFF"}}') == {
        "\ud800a": ["\udfff", "\U0001f600", "\\ud800"],
        "b": {"c": "\udbff"},
    }
    assert decode_payload(rb'"\ud800"') == "\ud800"


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "1" * 5000, "-" + "9" * 310, "2.5E+9999"])
def test_a_number_beyond_a_double_is_its_text(number: str) -> None:
    assert decode_payload(number.encode()) == number
    assert decode_payload(f'[{number},"{number}",1.5]'.encode()) == [number, number, 1.5]
    assert decode_payload(f'{{"{number}":[{number}],"\\ud800":0}}'.encode()) == {number: [number], "\ud800": 0}


def test_a_deep_payload_is_read_without_recursion() -> None:
    depth = 1000
    value = decode_payload(b"[" * depth + rb'"\ud800",1e400' + b"]" * depth)
    for _ in range(depth - 1):
        (value,) = value
    assert value == ["\ud800", "1e400"]


any_text = st.text(st.characters(exclude_categories=()), max_size=8)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_it_reads_what_the_standard_library_reads(value: Any) -> None:
    text = json.dumps(value)  # escapes lone surrogates
    assert decode_payload(text.encode()) == json.loads(text)


@given(st.binary(max_size=40) | st.text('[]{}",:\\u1e9d8-+. ', max_size=40).map(str.encode))
def test_anything_else_is_an_error(text: bytes) -> None:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            with pytest.raises(ClientError):
                decode_payload(text)
        else:
            assert isinstance(decode_payload(text), type(value) | str)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


@pytest.mark.parametrize(
    "text", [b'"' * 100_001, b'"\\"' * 50_000, b"1" * 100_000 + b"x", b"-" * 100_000, b'"\\' * 50_001]
)
def test_a_long_text_that_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ClientError):
        decode_payload(text)


def test_a_raw_payload_may_have_lone_surrogates() -> None:
    assert encode_payload(RawJSON(r'"\ud800"')) == rb'"\ud800"'
    with pytest.raises(RequestError, match="not JSON"):
        encode_payload(RawJSON(r'"\ud800'))
