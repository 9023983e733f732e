from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realizehit.broker.publication import Publication
from realizehit.common.surrogates import Hidden
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.node.publish_bodies import parse_batch, parse_lines, parse_publication

escapes = st.one_of(
    st.sampled_from(
        [
            "\\\\",
            '\\"',
            "\\n",
            "\\ud83d\\ude00",
            "\\\\ud800",
            "\\ue800",
            "\\uFfFf",
            "\ue800",
            "é",
            "\U0001f600",
            "u",
            "d800",
        ]
    ),
    st.integers(0xD800, 0xDFFF).map("\\u{:04x}".format),
    st.integers(0xD800, 0xDFFF).map("\\u{:04X}".format),
    st.characters(codec="utf-8", exclude_characters='"\\', exclude_categories=["Cc"]),
)
strings = st.lists(escapes, max_size=12).map("".join)


def publication(payload: str, pattern: str = '{"k":"a"}') -> bytes:
    return f'{{"pattern":{pattern},"payload":{payload}}}'.encode()


@given(strings)
@example("\\ud800")
@example("\\uDc00\\uD83d")
@example("\\ud83d\\\\ude00")
@example("\\ud83d \\ude00")
def test_any_json_string_is_published_byte_for_byte(text: str) -> None:
    payload = f'["{text}"]'
    json.loads(payload)  # it is JSON
    assert parse_publication(publication(payload)) == Publication(b"k:a", payload.encode())
    assert parse_batch(b'{"messages":[%b]}' % publication(payload), 1) == [Publication(b"k:a", payload.encode())]
    assert parse_lines(publication(payload), 1) == [Publication(b"k:a", payload.encode())]


@given(strings)
def test_hidden_text_is_as_long_and_comes_back(text: str) -> None:
    original = f'"{text}"'.encode()
    hidden = Hidden(original)
    assert len(hidden.text) == len(original)
    assert hidden.restore(hidden.text) == original
    decoded = json.loads(original)
    assert hidden.found == sum(0xD800 <= ord(character) <= 0xDFFF for character in decoded)
    assert hidden.holds_one(json.loads(hidden.text)) == (hidden.found > 0)


HIDDEN_BY_A_LATER_KEY = [
    '{"pattern":{"k":"\\ud800","k":0},"payload":1}',
    '{"pattern":{"k":"\\ud800","k":0},"payload":"\\ud800"}',
    '{"pattern":{"k":["\\ud800"],"k":0},"payload":1}',
    '{"pattern":{"k":0},"payload":"\\ud800","payload":1}',
    '{"pattern":{"k":0},"x":"\\ud800","payload":1}',
]


@pytest.mark.parametrize("body", HIDDEN_BY_A_LATER_KEY)
def test_a_lone_surrogate_outside_the_payload_is_refused(body: str) -> None:
    with pytest.raises(RequestError, match="a lone surrogate stands outside the payload") as error:
        parse_publication(body.encode())
    assert error.value.code == ErrorCode.BAD_JSON


def test_one_outside_a_payload_is_the_error_of_its_message_alone() -> None:
    good = ['{"pattern":{"k":"a"},"payload":["\\udfff",1]}', '{"pattern":{"k":"b"},"payload":2}']
    messages = [good[0], *HIDDEN_BY_A_LATER_KEY, good[1]]
    for parsed in (
        parse_batch(f'{{"messages":[{",".join(messages)}]}}'.encode(), 100),
        parse_lines("\n".join(messages).encode(), 100),
    ):
        assert parsed[0] == Publication(b"k:a", b'["\\udfff",1]')
        assert [str(item) for item in parsed[1:-1]] == ["a lone surrogate stands outside the payload"] * 5
        assert parsed[-1] == Publication(b"k:b", b"2")


@pytest.mark.parametrize("pattern", ['{"k":"\\ud800"}', '{"\\udfff":"a"}', '{"k":"a","z":"b\\uDBff"}'])
def test_a_pattern_with_a_lone_surrogate_is_refused(pattern: str) -> None:
    for payload in ("1", '"\\ud800"'):
        body = publication(payload, pattern)
        with pytest.raises(PatternError, match="lone surrogate"):
            parse_publication(body)
        good = publication('"\\udabc"')
        wrong, right = parse_batch(b'{"messages":[%b,%b]}' % (body, good), 2)
        assert isinstance(wrong, PatternError)
        assert right == Publication(b"k:a", b'"\\udabc"')


def test_invalid_json_with_surrogates_is_refused() -> None:
    for payload in ('"\\ud800', '"\\ud800" 1', "\\ud800", '"\\ud80"', '"\\ud800\\x"'):
        with pytest.raises(RequestError) as info:
            parse_publication(publication(payload))
        assert info.value.code == ErrorCode.BAD_JSON


def test_a_text_that_leaves_no_code_points_is_refused_with_the_reason() -> None:
    every_range = "".join(chr(first * 0x1000 + 0x900) for first in (0xA, 0xB, 0xC, 0xE, 0xF))
    with pytest.raises(RequestError, match="lone surrogates beside code points of all ranges"):
        parse_publication(publication(f'"\\ud800{every_range}"'))
