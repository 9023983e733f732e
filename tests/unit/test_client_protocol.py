"""The texts of the WebSocket protocol as the client writes and reads them."""

from __future__ import annotations

from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realizehit.client.protocol import MAX_SECONDS, action, channel_in, filters_in, parse_event, parse_reply
from realizehit.errors import PatternError, Rejected, ServerUnavailable
from realizehit.pattern import channel_of


def test_an_action() -> None:
    assert orjson.loads(action("a1", "ping")) == {"id": "a1", "act": "ping"}
    assert orjson.loads(action("a3", "sub", {"kind": "né"}, sub_keys={"last": 3})) == {
        "id": "a3",
        "act": "sub",
        "pat": {"kind": "né"},
        "last": 3,
    }
    assert orjson.loads(action("a2", "sub", {"kind": "né"})) == {"id": "a2", "act": "sub", "pat": {"kind": "né"}}


@pytest.mark.parametrize("message", [b"", b"{", b"[]", b"7", b'{"ret":"x"}', b'{"id":7,"ret":"x"}'])
def test_a_message_that_is_not_a_reply_is_ignored(message: bytes) -> None:
    assert parse_reply(message) is None


def test_a_reply() -> None:
    reply = parse_reply(b'{"id":"a1","ret":"3bf1d979"}')
    assert reply is not None
    assert reply.failure() is None
    assert reply == ("a1", "3bf1d979", "", "", None, None)
    assert parse_reply(b'{"id":"a1"}') == ("a1", None, "", "", None, None)  # the JavaScript server leaves ret out


def test_a_reply_with_a_position() -> None:
    assert parse_reply(b'{"id":"1","ret":"x","at":"k3f09a2c.17","recovered":true}') == (
        *("1", "x", "", ""),
        "k3f09a2c.17",
        True,
    )
    assert parse_reply(b'{"id":"1","ret":"x","at":17,"recovered":"yes"}') == ("1", "x", "", "", None, None)


def test_a_reply_that_says_no() -> None:
    reply = parse_reply(b'{"id":"a1","err":"two patterns","code":"id-collision"}')
    assert reply is not None
    failure = reply.failure()
    assert isinstance(failure, Rejected)
    assert (str(failure), failure.code, failure.status) == ("two patterns", "id-collision", None)
    away = parse_reply(b'{"id":"a1","err":"no broker","code":"unavailable"}')
    assert away is not None
    assert isinstance(away.failure(), ServerUnavailable)


@pytest.mark.parametrize(
    "message", [b"", b"{oops", b"[]", b'{"evt":1}', b'{"id":"a1","ret":"pong"}', b'"evt"', b"\xff"]
)
def test_a_message_that_is_not_an_event_is_ignored(message: bytes) -> None:
    assert parse_event(message) is None


def test_events() -> None:
    assert parse_event(b'{"evt":"gap","ids":["a","b"],"seconds":1.5}') == ("gap", ("a", "b"), 1.5, "", "", {}, None)
    assert parse_event(b'{"evt":"gap","ids":[1,null],"seconds":"x"}') == ("gap", (), 0.0, "", "", {}, None)
    with_positions = parse_event(b'{"evt":"gap","ids":["a"],"seconds":1,"at":{"a":"k3f09a2c.17","b":5}}')
    assert with_positions == ("gap", ("a",), 1.0, "", "", {"a": "k3f09a2c.17"}, None)
    odd = parse_event(b'{"evt":"gap","ids":["a"],"at":["k3f09a2c.17"]}')
    assert odd == ("gap", ("a",), 0.0, "", "", {}, None)
    event = parse_event(b'{"evt":"unsubscribed","ids":["a"],"code":"forbidden","reason":"because"}')
    assert event == ("unsubscribed", ("a",), 0.0, "because", "forbidden", {}, None)
    assert parse_event(b'{"evt":"note","note":{"text":"hi"}}') == ("note", (), 0.0, "", "", {}, {"text": "hi"})


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("1e308", MAX_SECONDS), ("1" * 30, MAX_SECONDS), ("-5", 0.0), ("2.5", 2.5), ("true", 1.0), ('"9"', 0.0)],
)
def test_seconds_that_a_server_tells_have_bounds(told: str, seconds: float) -> None:
    notice = parse_event(b'{"evt":"expiring","seconds":%b}' % told.encode())
    assert notice is not None
    assert notice.seconds == seconds


@pytest.mark.parametrize(
    ("label", "filters"),
    [
        (b"c=kind:news", {"kind": "news"}),
        (b"c=channel:CNN|kind:news", {"channel": "CNN", "kind": "news"}),
        (b"o=17&c=a:b&t=00-ab=cd", {"a": "b"}),
        (b"c=%C3%B6:a%20%26%3D%3F%7C%3A", {"ö": "a &=?|:"}),
        (b"c=a:-._~", {"a": "-._~"}),
    ],
)
def test_the_channel_in_a_label(label: bytes, filters: dict[str, str]) -> None:
    assert filters_in(channel_in(label)) == filters


@pytest.mark.parametrize(
    ("label", "error"),
    [
        (b"", "a field is empty"),
        (b"c=a:b&", "a field is empty"),
        (b"c", "not key=value"),
        (b"o=17", "c is missing"),
        (b"c=a:b&c=a:b", "c is there twice"),
        (b"c=a:%FF", "c is not UTF-8"),
        *((b"c=" + channel, "c is not a channel") for channel in (
            b"", b"a", b":", b"a:", b":b", b"a:*", b"*:*", b"a:b|", b"|a:b", b"a:b:c", b"a:%2", b"a:%2c", b"a:\xc3",
        )),
    ],
)  # fmt: skip
def test_a_malformed_label(label: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        channel_in(label)


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=8), min_size=1, max_size=4))
def test_a_label_gives_back_the_pattern_of_each_channel(filters: dict[str, str]) -> None:
    try:
        channel = channel_of(filters)
    except PatternError:  # it carries a star
        return
    assert filters_in(channel_in(b"c=" + channel)) == filters


@given(st.binary(max_size=40))
def test_no_label_raises_anything_else(label: bytes) -> None:
    with suppress(ValueError):
        channel = channel_in(label)
        assert channel_of(filters_in(channel))
