"""What the WebSocket client says, hears and when it comes back."""

from __future__ import annotations

import orjson
import pytest

from realizehit.client.wire import (
    MAX_DELAY,
    MAX_SECONDS,
    Backoff,
    action,
    asked_delay,
    filters_of,
    may_return,
    parse_event,
    parse_reply,
)
from realizehit.errors import PatternError, Rejected, ServerUnavailable
from realizehit.pattern import Pattern


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


def test_filters() -> None:
    assert filters_of(Pattern(kind="news")) == {"kind": "news"}
    bad: object
    for bad in (None, [], "kind=news", 7):
        with pytest.raises(PatternError, match="a mapping of filters"):
            filters_of(bad)
    for unwritable in ({1: "x"}, {"kind": object()}):
        with pytest.raises(PatternError, match="cannot be written as JSON"):
            filters_of(unwritable)


@pytest.mark.parametrize("code", [None, 1000, 1001, 1006, 1011, 4000, 4001, 4002, 4003, 4499, 5000])
def test_codes_after_which_it_comes_back(code: int | None) -> None:
    assert may_return(code)


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4999])
def test_codes_after_which_it_does_not(code: int) -> None:
    assert not may_return(code)


def test_the_delay_that_a_server_asks_for() -> None:
    assert asked_delay(4001, "delay=1500") == 1.5
    assert asked_delay(4001, "delay=0") == 0
    assert asked_delay(4001, "delay=999999999") == MAX_DELAY
    for code, reason in ((4001, ""), (4001, "delay=-1"), (4001, "delay=1s"), (4002, "delay=1500"), (None, "")):
        assert asked_delay(code, reason) is None


def test_back_off_is_drawn_from_a_doubling_range_up_to_the_cap() -> None:
    highest = Backoff(0.5, 8, draw=lambda: 1.0)
    assert [highest.next() for _ in range(7)] == [0.5, 1, 2, 4, 8, 8, 8]
    highest.reset()
    assert highest.next() == 0.5
    lowest = Backoff(0.5, 8, draw=lambda: 0.0)
    assert [lowest.next() for _ in range(3)] == [0, 0, 0]
    endless = Backoff(0.5, 8, draw=lambda: 1.0)
    assert [endless.next() for _ in range(5000)][-1] == 8


def test_back_off_uses_the_whole_range() -> None:
    backoff = Backoff(1, 1)
    drawn = [backoff.next() for _ in range(500)]
    assert min(drawn) < 0.1
    assert max(drawn) > 0.9


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
