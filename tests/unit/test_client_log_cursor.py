"""Where a subscription stands in the history of its pattern."""

from __future__ import annotations

from typing import Any

import pytest

from realizehit.client.log_cursor import LogCursor
from realizehit.client.protocol import Reply
from realizehit.errors import ErrorCode, RequestError


def answer(at: str | None = None, recovered: bool | None = None) -> Reply:
    return Reply("1", "bc86961b", "", "", at, recovered)


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, {}),
        ({"offsets": True}, {"offsets": True}),
        ({"last": 3}, {"last": 3}),
        ({"last": 3, "offsets": True}, {"last": 3}),
        ({"since": "k3f09a2c.17"}, {"since": "k3f09a2c.17"}),
    ],
)
def test_what_the_first_sub_asks_for(given: dict[str, Any], asked: dict[str, Any]) -> None:
    cursor = LogCursor(**given)
    assert cursor.history_keys() == asked
    assert cursor.has_positions is bool(given)
    assert cursor.begins_earlier is (not asked.keys() <= {"offsets"})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"since": "a.1", "last": 1}, "since and last were both given"),
        ({"since": 17}, "since is 17"),
        ({"since": "17"}, "since is '17'"),
        ({"since": ".17"}, r"since is '\.17'"),
        ({"since": "a."}, r"since is 'a\.'"),
        ({"last": 0}, "last is 0"),
        ({"last": True}, "last is True"),
        ({"last": "3"}, "last is '3'"),
    ],
)
def test_values_that_cannot_be_used(given: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text) as caught:
        LogCursor(**given)
    assert caught.value.code == ErrorCode.BAD_REQUEST


def test_a_subscription_without_positions_never_asks_for_any() -> None:
    cursor = LogCursor()
    assert cursor.confirmed(answer("a.1", True)) is None
    cursor.gap("a.5")
    assert cursor.position is None
    assert cursor.history_keys() == {}


def test_it_goes_on_after_its_last_message() -> None:
    cursor = LogCursor(offsets=True)
    cursor.history_keys()
    assert cursor.confirmed(answer("a.17")) is None
    assert cursor.history_keys() == {"since": "a.17"}
    assert cursor.confirmed(answer("a.17", True)) is True
    assert cursor.advance(b"o=18") == "a.18"
    assert cursor.advance(b"o=19&c=kind:news") == "a.19"
    assert cursor.advance(b"c=kind:news&later=x&o=20") == "a.20"
    assert cursor.history_keys() == {"since": "a.20"}


def test_an_epoch_with_an_offset_begins_a_new_one() -> None:
    cursor = LogCursor(offsets=True)
    cursor.history_keys()
    cursor.confirmed(answer("a.17"))
    assert cursor.advance(b"o=b.1") == "b.1"
    assert cursor.advance(b"o=2") == "b.2"


@pytest.mark.parametrize("label", [b"", b"c=kind:o=7", b"o=", b"o=x", b"o=a.b", b"o=7x", b"O=7", b"xo=7", b"o=7\n"])
def test_a_label_without_an_offset_leaves_the_position(label: bytes) -> None:
    cursor = LogCursor(offsets=True)
    cursor.history_keys()
    cursor.confirmed(answer("a.17"))
    assert cursor.advance(label) is None
    assert cursor.position == "a.17"


def test_an_offset_without_a_known_epoch_is_no_position() -> None:
    cursor = LogCursor(offsets=True)
    cursor.history_keys()
    cursor.confirmed(answer())
    assert cursor.advance(b"o=7") is None
    assert cursor.history_keys() == {"offsets": True}
    assert cursor.advance(b"o=a.7") == "a.7"


def test_last_is_asked_for_until_it_was_answered_once() -> None:
    cursor = LogCursor(last=3)
    assert [cursor.history_keys(), cursor.history_keys()] == [{"last": 3}] * 2
    cursor.confirmed(answer())  # no history
    assert cursor.history_keys() == {"offsets": True}
    cursor = LogCursor(last=3)
    cursor.history_keys()
    cursor.confirmed(answer("a.14"))
    assert cursor.history_keys() == {"since": "a.14"}  # the three have not come


def test_what_cannot_be_recovered_goes_on_where_the_server_says() -> None:
    cursor = LogCursor(since="a.17")
    cursor.history_keys()
    assert cursor.confirmed(answer("b.4", False)) is False
    assert cursor.advance(b"o=5") == "b.5"
    cursor.history_keys()
    assert cursor.confirmed(answer(None, False)) is False  # no rule any more
    assert cursor.position is None
    assert cursor.history_keys() == {"offsets": True}


def test_a_server_without_history_recovers_nothing() -> None:
    cursor = LogCursor(since="a.17")
    cursor.history_keys()
    assert cursor.confirmed(answer()) is False
    assert cursor.position is None


def test_recovered_in_a_new_epoch() -> None:
    """The position stays until a message has come: if the connection is lost before that, it is asked for again."""
    cursor = LogCursor(since="a.17")
    cursor.history_keys()
    assert cursor.confirmed(answer("b.17", True)) is True
    assert cursor.history_keys() == {"since": "a.17"}
    assert cursor.advance(b"o=18") == "b.18"


def test_a_gap_moves_the_position() -> None:
    cursor = LogCursor(since="a.17")
    cursor.gap(None)
    assert cursor.position == "a.17"
    cursor.gap("b.40")
    assert cursor.advance(b"o=41") == "b.41"
