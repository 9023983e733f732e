"""The texts of the WebSocket protocol as the client writes and reads them."""

from __future__ import annotations

import orjson
import pytest

from realizehit.client.protocol import MAX_SECONDS, action, parse_event, parse_reply
from realizehit.errors import Rejected, ServerUnavailable


def test_an_action() -> None:
    assert orjson.loads(action("a1", "ping")) == {"id": "a1", "act": "ping"}
    assert orjson.loads(action("a2", "sub", {"kind": "né"})) == {"id": "a2", "act": "sub", "pat": {"kind": "né"}}


@pytest.mark.parametrize("message", [b"", b"{", b"[]", b"7", b'{"ret":"x"}', b'{"id":7,"ret":"x"}'])
def test_what_is_no_reply_is_ignored(message: bytes) -> None:
    assert parse_reply(message) is None


def test_a_reply() -> None:
    reply = parse_reply(b'{"id":"a1","ret":"3bf1d979"}')
    assert reply is not None
    assert reply.failure() is None
    assert reply == ("a1", "3bf1d979", "", "")
    assert parse_reply(b'{"id":"a1"}') == ("a1", None, "", "")  # the JavaScript server leaves ret out


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
def test_what_is_no_event(message: bytes) -> None:
    assert parse_event(message) is None


def test_events() -> None:
    assert parse_event(b'{"evt":"gap","ids":["a","b"],"seconds":1.5}') == ("gap", ("a", "b"), 1.5, "", "")
    assert parse_event(b'{"evt":"gap","ids":[1,null],"seconds":"x"}') == ("gap", (), 0.0, "", "")
    event = parse_event(b'{"evt":"unsubscribed","ids":["a"],"code":"forbidden","reason":"because"}')
    assert event == ("unsubscribed", ("a",), 0.0, "because", "forbidden")


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("1e308", MAX_SECONDS), ("1" * 30, MAX_SECONDS), ("-5", 0.0), ("2.5", 2.5), ("true", 1.0), ('"9"', 0.0)],
)
def test_seconds_that_a_server_tells_have_bounds(told: str, seconds: float) -> None:
    notice = parse_event(b'{"evt":"expiring","seconds":%b}' % told.encode())
    assert notice is not None
    assert notice.seconds == seconds
