"""``every`` in the Python clients: which values they take, and what subscriptions to one pattern share."""

from __future__ import annotations

import pytest

from realizehit.client.conflation import check_every, sub_keys
from realizehit.client.log_cursor import LogCursor
from realizehit.client.subscription import Subscription
from realizehit.client.topics import Topics
from realizehit.common.backoff import Backoff
from realizehit.errors import RequestError
from realizehit.sync import Subscriber

PRICE = {"kind": "price"}


@pytest.mark.parametrize("every", [0, -5, True, 1.5, "100"])
def test_wrong_times_are_refused(every: object) -> None:
    with pytest.raises(RequestError, match="it must be an integer of at least 1, in milliseconds"):
        check_every(every, LogCursor())
    with pytest.raises(RequestError, match="every is"):
        Subscriber("ws://127.0.0.1:1/ws", PRICE, every=every)  # type: ignore[arg-type]


@pytest.mark.parametrize("cursor", [LogCursor(last=1), LogCursor(since="a.1"), LogCursor(offsets=True)])
def test_every_with_history_is_refused(cursor: LogCursor) -> None:
    check_every(None, cursor)
    with pytest.raises(RequestError, match="together with since, last or offsets"):
        check_every(5, cursor)


def test_keys_of_sub() -> None:
    assert sub_keys(LogCursor(), 5, trace=False) == {"every": 5}
    assert sub_keys(LogCursor(last=3), None, trace=False) == {"last": 3}
    assert sub_keys(LogCursor(), None, trace=False) == {}
    assert sub_keys(LogCursor(), 5, trace=True) == {"every": 5, "trace": True}


async def test_subscriptions_to_one_pattern_share_the_time() -> None:
    topics = Topics(Backoff(1.0, 1.0))

    def joins(every: int | None) -> None:
        topics.join(Subscription(None, PRICE, raw=False, maxsize=1, overflow=None), LogCursor(), every)  # type: ignore[arg-type]

    joins(100)
    joins(100)
    for other in (None, 50):
        with pytest.raises(RequestError, match="is subscribed to already, with every=100"):
            joins(other)
    assert len(topics.members) == 2
