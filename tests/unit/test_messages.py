from __future__ import annotations

from typing import Any

import orjson
import pytest

from realizehit.broker.publication import Publication
from realizehit.errors import ErrorCode, PatternError, RequestError
from realizehit.node.messages import MAX_REQUEST_ID, Action, ActionError, error_reply, parse_action, reply
from realizehit.node.publish_bodies import parse_publication

# --- actions


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ('{"id":"a1","act":"ping"}', Action("a1", "ping", None)),
        ('{"act":"ping"}', Action(None, "ping", None)),
        ('{"id":null,"act":"ping"}', Action(None, "ping", None)),
        ('{"id":0,"act":"ping"}', Action(0, "ping", None)),
        ('{"id":-9223372036854775808,"act":"ping"}', Action(-(2**63), "ping", None)),
        ('{"id":18446744073709551615,"act":"ping"}', Action(2**64 - 1, "ping", None)),
        ('{"id":"","act":"ping"}', Action("", "ping", None)),
        ('{"id":"%s","act":"x"}' % ("é" * 128), Action("é" * 128, "x", None)),
        (' { "act" : "sub" , "pat" : {"a": [1]}, "more": 1 } ', Action(None, "sub", {"a": [1]})),
        ('{"act":"sub","act":"unsub"}', Action(None, "unsub", None)),
    ],
)
def test_an_action(text: str, action: Action) -> None:
    assert parse_action(text.encode()) == action


@pytest.mark.parametrize(
    ("text", "code", "request_id", "said"),
    [
        ("", "bad-json", None, "not JSON"),
        ("{", "bad-json", None, "not JSON"),
        ('{"id":"a1"', "bad-json", None, "not JSON"),
        ('{"act":NaN}', "bad-json", None, "not JSON"),
        ('{"act":"ping"} {}', "bad-json", None, "not JSON"),
        ("[" * 5000, "bad-json", None, "not JSON"),
        ("null", "bad-request", None, "an action is an object"),
        ('"ping"', "bad-request", None, "an action is an object"),
        ('[{"act":"ping"}]', "bad-request", None, "an action is an object"),
        ("{}", "bad-request", None, "act is missing"),
        ('{"id":"a1"}', "bad-request", "a1", "act is missing"),
        ('{"id":"a1","act":null}', "bad-request", "a1", "act is missing or no string"),
        ('{"id":7,"act":["ping"]}', "bad-request", 7, "act is missing or no string"),
        ('{"id":true,"act":"ping"}', "bad-request", None, "id must be"),
        ('{"id":1.5,"act":"ping"}', "bad-request", None, "id must be"),
        ('{"id":18446744073709551616,"act":"ping"}', "bad-request", None, "id must be"),
        ('{"id":{},"act":"ping"}', "bad-request", None, "id must be"),
        ('{"id":"%s","act":"ping"}' % ("x" * 129), "bad-request", None, "at most 128 characters"),
    ],
)
def test_a_bad_action(text: str, code: str, request_id: Any, said: str) -> None:
    with pytest.raises(ActionError) as refused:
        parse_action(text.encode())
    assert (refused.value.code, refused.value.request_id) == (code, request_id)
    assert said in str(refused.value)
    assert isinstance(refused.value, RequestError)


@pytest.mark.parametrize("text", [b"\xff", b'{"act":"\xed\xa0\x80"}', b'{"act":"\\ud800"}'])
def test_invalid_unicode_is_not_json(text: bytes) -> None:
    with pytest.raises(ActionError) as refused:
        parse_action(text)
    assert refused.value.code == "bad-json"


# --- replies


@pytest.mark.parametrize("request_id", ["a1", "", 'q"\\\n', "é😀", 0, -1, 2**64 - 1, "x" * MAX_REQUEST_ID])
def test_a_reply_names_its_request(request_id: str | int) -> None:
    assert orjson.loads(reply(request_id, "3bf1d979")) == {"id": request_id, "ret": "3bf1d979"}
    answer = error_reply(request_id, 'no "such" é', ErrorCode.BAD_PATTERN)
    assert orjson.loads(answer) == {"id": request_id, "err": 'no "such" é', "code": "bad-pattern"}


def test_a_reply_is_compact_and_in_the_wires_order() -> None:
    assert reply("a1", "pong") == b'{"id":"a1","ret":"pong"}'
    assert error_reply(1, "x", "y") == b'{"id":1,"err":"x","code":"y"}'


# --- publications


@pytest.mark.parametrize(
    "payload",
    [
        "null",
        "false",
        "0",
        '""',
        "[]",
        '{ "n" : 12345678901234567890123 ,"f":1.10, "z": "é?\\u003f", "z":2 }',
        "1.000000000000000000000000000001e+2",
        '"\\ud83d\\ude00 \\/"',
        "[ 1 ,\t2 ]",
    ],
)
def test_a_payload_stays_the_text_it_came_as(payload: str) -> None:
    for body in (
        f'{{"pattern":{{"kind":"news"}},"payload":{payload}}}',
        f' {{ "x": [{{}}], "payload" : {payload} , "pattern" : {{"kind":"news"}} }} ',
    ):
        assert parse_publication(body.encode()) == Publication(b"kind:news", payload.encode())


def test_of_two_parts_with_one_name_the_last_one_counts() -> None:
    body = b'{"pattern":{"a":1},"payload":1,"payload":2,"pattern":{"b":1}}'
    assert parse_publication(body) == Publication(b"b:1", b"2")


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (b"", "bad-json", "not JSON"),
        (b'{"pattern":{"a":1},"payload":}', "bad-json", "not JSON"),
        (b'{"pattern":{"a":1},"payload":1}x', "bad-json", "not JSON"),
        (b'{"pattern":{"a":1},"payload":"\xff"}', "bad-json", "not UTF-8"),
        (b"[]", "bad-request", "a publication is an object"),
        (b"null", "bad-request", "a publication is an object"),
        (b'{"payload":1}', "bad-request", "pattern is missing"),
        (b'{"pattern":{"a":1}}', "bad-request", "payload is missing"),
    ],
)
def test_a_bad_publication(body: bytes, code: str, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        parse_publication(body)
    assert refused.value.code == code
    assert said in str(refused.value)


@pytest.mark.parametrize("pattern", ["{}", "null", "[]", "7", '"a"', '{"a":null}', '{"a":""}', '{"a":[1]}'])
def test_a_publications_pattern_must_be_one(pattern: str) -> None:
    with pytest.raises(PatternError) as refused:
        parse_publication(f'{{"pattern":{pattern},"payload":1}}'.encode())
    assert refused.value.code == "bad-pattern"


def test_nothing_is_published_to_a_wildcard() -> None:
    with pytest.raises(PatternError, match="only subscriptions can have wildcards") as refused:
        parse_publication(b'{"pattern":{"a":"*"},"payload":1}')
    assert refused.value.code == "bad-pattern"
