"""The key ``every`` of ``sub``, and the timer of its windows, over a real engine and hub."""

from __future__ import annotations

import logging
from collections.abc import Callable

import orjson
import pytest

from realizehit import _fanout
from realizehit.errors import RequestError
from realizehit.node.conflation import WindowTimer, every_of
from realizehit.node.history_request import HistoryRequest
from realizehit.transports.sse_query import wanted_of
from realizehit.transports.sse_responses import Refusal
from tests.support.engines import bench
from tests.unit.test_hub import NEWS as HUB_NEWS
from tests.unit.test_hub import NEWS_ID, desk
from tests.unit.test_session import CHANNEL, ID, NEWS, Client, client


def refused(c: Client, **keys: object) -> str:
    (answer,) = c.act(id="a", act="sub", pat=NEWS, **keys)
    assert (answer["id"], answer["code"]) == ("a", "bad-request")
    return str(answer["err"])


@pytest.mark.parametrize("every", [0, -1, 60_001, 1.5, "100", True, [], {}])
def test_wrong_times_are_refused_and_named(every: object) -> None:
    with client() as c:
        assert refused(c, every=every) == "every must be an integer of 1 to 60000, in milliseconds"
        assert c.bench.engine.subscriptions(c.conn) == []


@pytest.mark.parametrize("history", [{"last": 1}, {"offsets": True}, {"since": "k3f09a2c.17"}])
def test_every_with_history_is_refused(history: dict[str, object]) -> None:
    with client() as c:
        assert "every was given together with since, last or offsets" in refused(c, every=100, **history)
        assert c.act(id="b", act="sub", pat=NEWS, every=100, offsets=False) == [{"id": "b", "ret": ID}]


def test_null_counts_as_left_out() -> None:
    assert every_of(None) == 0
    with client() as c:
        assert c.act(id="a", act="sub", pat=NEWS, every=None) == [{"id": "a", "ret": ID}]
        assert c.bench.engine.every(c.conn, CHANNEL) == 0


def test_last_sub_decides() -> None:
    with client() as c:
        for every in (100, 60_000, 30):
            assert c.act(id="a", act="sub", pat=NEWS, every=every) == [{"id": "a", "ret": ID}]
            assert c.bench.engine.every(c.conn, CHANNEL) == every
        assert c.act(id="a", act="sub", pat=NEWS) == [{"id": "a", "ret": ID}]
        assert c.bench.engine.every(c.conn, CHANNEL) == 0


def test_sub_that_waits_for_the_broker_conflates_from_its_answer_on() -> None:
    with client(confirmed=None) as c:
        assert c.act(id="a", act="sub", pat=NEWS, every=100) == []
        assert c.act(id="b", act="sub", pat=NEWS, every=200) == []
        c.bus.confirm(CHANNEL)
        c.bench.loop.run()
        assert [answer["id"] for answer in c.told()] == ["a", "b"]
        assert c.bench.engine.every(c.conn, CHANNEL) == 200
        c.bench.publish((CHANNEL, b"1"), (CHANNEL, b"2"))
        assert c.peer.texts() == [ID.encode() + b"?1"]


def test_subscription_with_positions_takes_no_every() -> None:
    with client(confirmed=None) as c:
        assert c.act(id="a", act="sub", pat=NEWS, offsets=True) == []
        assert "unsub" in refused(c, every=100)
        c.bus.confirm(CHANNEL)
        c.bench.loop.run()
        assert c.told() == [{"id": "a", "ret": ID}]
        # The pattern has no history, so that the subscription has no positions after all.
        assert c.act(id="b", act="sub", pat=NEWS, every=100) == [{"id": "b", "ret": ID}]


def test_gap_is_told_after_what_was_kept() -> None:
    with desk() as (d, b):
        conn, peer = b.connect()
        d.sub(conn, HUB_NEWS)
        d.bus.confirm(HUB_NEWS)
        d.take()
        assert b.engine.set_every(conn, HUB_NEWS, 1000)
        b.publish((HUB_NEWS, b"1"), (HUB_NEWS, b"2"))
        d.bus.go_away()
        d.bus.restore(1)
        b.loop.run()
        first, second, gap = peer.texts()
        assert [first, second] == [NEWS_ID.encode() + b"?1", NEWS_ID.encode() + b"?2"]
        assert orjson.loads(gap)["ids"] == [NEWS_ID]


class Timers:
    """The timers of an event loop with a clock of its own."""

    def __init__(self) -> None:
        self.now = 5.0
        self.set: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.set.append((self.now + seconds, call))

    def run_next(self) -> None:
        ((self.now, call),) = self.set
        self.set.clear()
        call()


def test_timer_runs_only_while_a_window_is_open() -> None:
    with bench() as b:
        timers = Timers()
        WindowTimer(b.engine, lambda: timers.now, timers.call_later)
        handle, peer = b.connect()
        b.engine.subscribe(handle, CHANNEL)
        b.engine.set_every(handle, CHANNEL, 50)
        assert timers.set == []
        b.publish((CHANNEL, b"1"), (CHANNEL, b"2"))
        came: list[float] = []
        while timers.set:
            timers.run_next()
            came += [timers.now - 5.0] * len(peer.texts()[-1:])
        assert came == [pytest.approx(0.01, abs=0.002), pytest.approx(0.05, abs=0.002)]
        assert timers.now == pytest.approx(5.10, abs=0.002)  # one more window, in which nothing came


def test_timer_goes_on_after_an_error(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        on_windows: Callable[[], None]
        calls = 0

        def advance_windows(self, now: float) -> float:
            self.calls += 1
            if self.calls == 1:
                raise MemoryError("full")
            return 0.0

    engine, timers = Failing(), Timers()
    WindowTimer(engine, lambda: timers.now, timers.call_later)  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        engine.on_windows()
    assert "every failed" in caplog.text
    timers.run_next()
    assert (engine.calls, timers.set) == (2, [])


def test_every_stands_behind_its_pattern_in_a_query() -> None:
    first, second = wanted_of(b"pat=a=1&every=250&pat=b=2", wildcards=False)
    assert (first.every, second.every) == (250, 0)


def test_offsets_of_a_stream_are_for_its_other_patterns() -> None:
    first, second = wanted_of(b"pat=a=1&every=250&pat=b=2&offsets=1", wildcards=False)
    assert (first.every, first.history) == (250, None)
    assert second.history == HistoryRequest()


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (b"pat=a=1&every=0", "every must be an integer"),
        (b"pat=a=1&every=x", "every must be an integer"),
        (b"pat=a=1&every=" + b"9" * 5000, "every must be an integer"),
        (b"pat=a=1&last=" + b"9" * 5000, "last must be an integer"),
        (b"pat=a=1&every=5&last=1", "every was given together"),
        (b"every=5&pat=a=1", "every must stand behind the pat"),
    ],
)
def test_wrong_queries_are_refused_and_named(query: bytes, detail: str) -> None:
    (wanted,) = wanted_of(query, wildcards=False)
    assert isinstance(wanted.channel, Refusal)
    assert wanted.channel.code == "bad-request"
    assert detail in wanted.channel.detail


def test_event_id_does_not_turn_every_into_positions() -> None:
    label = _fanout.channel_id(b"a:1")
    (wanted,) = wanted_of(b"pat=a=1&every=5", f"{label}@o=k3f09a2c.17".encode(), wildcards=False)
    assert (wanted.every, wanted.history) == (5, None)


def test_largest_time_is_the_engine_s() -> None:
    assert every_of(_fanout.MAX_EVERY) == 60_000
    with pytest.raises(RequestError):
        every_of(_fanout.MAX_EVERY + 1)
