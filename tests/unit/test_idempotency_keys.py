"""Idempotency keys: which texts can be one, on the way in and on the way to the broker."""

from __future__ import annotations

import json
import string

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.broker.idempotency import key_name
from realizehit.broker.publication import Publication, Published, published
from realizehit.broker.publish_script import combined
from realizehit.common.idempotency_keys import MAX_KEY, check_key, new_key
from realizehit.errors import RequestError
from realizehit.node.publish_bodies import parse_batch, parse_lines, parse_publication

PRINTABLE = string.ascii_letters + string.digits + string.punctuation + " "


@given(st.text(PRINTABLE, min_size=1, max_size=MAX_KEY).filter(lambda text: text == text.strip()))
def test_a_printable_text_is_a_key_everywhere(text: str) -> None:
    body = orjson.dumps({"pattern": {"a": 1}, "payload": 1, "key": text})
    expected = Publication(b"a:1", b"1", text.encode())
    assert check_key(text, "key") == text.encode()
    assert parse_publication(body) == expected
    assert parse_batch(b'{"messages":[%b]}' % body, 1) == [expected]
    assert parse_lines(body, 1) == [expected]
    assert key_name(expected) == b"realizehit:once:{a:1}:" + text.encode()


@given(st.one_of(st.text(max_size=100), st.integers(), st.none(), st.booleans(), st.lists(st.text())))
def test_everything_else_is_refused_with_its_place(value: object) -> None:
    if isinstance(value, str) and 0 < len(value) <= MAX_KEY and value == value.strip() and set(value) <= set(PRINTABLE):
        return
    with pytest.raises(RequestError, match=r"^the place") as refused:
        check_key(value, "the place")
    assert refused.value.code == "bad-request"
    good = b'{"pattern":{"a":1},"payload":2}'
    bad = json.dumps({"pattern": {"a": 1}, "payload": 1, "key": value}).encode()
    wrong, right = parse_batch(b'{"messages":[%b,%b]}' % (bad, good), 2)
    assert isinstance(wrong, RequestError)
    assert str(wrong).startswith("key ")
    assert right == Publication(b"a:1", b"2")


def test_new_keys_differ_and_are_keys() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(check_key(key, "key") == key.encode() for key in keys)


def test_a_lone_surrogate_beside_a_key() -> None:
    body = rb'{"pattern":{"a":1},"payload":"\ud800","key":"k"}'
    assert parse_publication(body) == Publication(b"a:1", rb'"\ud800"', b"k")


@given(nodes=st.integers(0, 5000), again=st.integers(0, 5000))
def test_replies_of_the_script(nodes: int, again: int) -> None:
    assert published(nodes) == Published(nodes)
    assert published(-1 - nodes) == Published(nodes, duplicate=True)
    # The later reply knows the message from the first call, so it always says that it is a duplicate.
    assert published(combined(nodes, -1 - again)) == Published(again)
    assert published(combined(-1 - nodes, -1 - again)) == Published(again, duplicate=True)
    assert combined(None, nodes) == nodes
