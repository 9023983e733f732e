"""The load client against a real node and a real Valkey."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import orjson
import pytest

from realizehit.loadtest import _load
from realizehit.loadtest._load import DELIVERED, READY, SENT, TIME, Fleet
from realizehit.process.server import Node
from tests.support.valkey import Valkey
from tests.support.wire import unique

pytestmark = pytest.mark.skipif(not _load.HAVE_EPOLL, reason="the load client needs epoll")


def fleet_of(node: Node, channels: int, subscriptions: list[list[int]]) -> Fleet:
    test = unique("load")
    patterns = [{**test, "channel": n} for n in range(channels)]
    names = [b"channel:%d|n:%d|test:load" % (n, test["n"]) for n in range(channels)]
    port = urlsplit(node.ws_url).port
    assert port is not None
    pairs = [(name, orjson.dumps(pattern)) for name, pattern in zip(names, patterns, strict=True)]
    return Fleet(("127.0.0.1", port), pairs, subscriptions)


def publish(fleet: Fleet, node: Node, valkey: Valkey, how: str) -> None:
    if how == "redis":
        with socket.socket(socket.AF_UNIX) as broker:
            broker.connect(str(valkey.socket))
            fleet.publish_over(broker.detach())
        return
    port = urlsplit(node.api_url).port
    assert port is not None
    batch = how == "batch"
    fleet.publish_http(("127.0.0.1", port), path="/batch" if batch else "/", batch=batch, connections=3, batch_max=50)


@pytest.mark.parametrize("how", ["redis", "api", "batch"])
@pytest.mark.parametrize("outstanding", [0, 40])
async def test_every_message_reaches_every_subscriber(
    node: Node, shared_valkey: Valkey, how: str, outstanding: int
) -> None:
    fleet = fleet_of(node, 7, [[n % 7, 6] if n % 7 != 6 else [6] for n in range(21)])
    publish(fleet, node, shared_valkey, how)
    fleet.connect()
    assert await asyncio.to_thread(fleet.run, 15, READY)
    fleet.schedule(rate=0 if outstanding else 2_000, outstanding=outstanding, messages=300, payload_bytes=200)
    assert await asyncio.to_thread(fleet.run, 15, DELIVERED), (fleet.counts(), fleet.notes())
    counts = fleet.counts()
    # Six channels with three subscribers, one with all 21; the seventh gets 42 of the 300.
    expected = 258 * 3 + 42 * 21
    assert (counts["published"], counts["acknowledged"], counts["deliveries"]) == (300, 300, expected)
    for fault in ("lost", "duplicates", "reordered", "unexpected", "foreign", "refused", "failed", "publish_errors"):
        assert counts[fault] == 0, (fault, fleet.notes(), fleet.problems())
    assert counts["heard"] == (0 if how == "batch" else 300)
    assert sum(count for _, count in fleet.take_latencies()) == expected
    assert fleet.missing() == 0
    fleet.close()


async def test_coming_and_going_loses_nothing(node: Node, shared_valkey: Valkey) -> None:
    fleet = fleet_of(node, 5, [[n % 5, (n + 1) % 5] for n in range(40)])
    publish(fleet, node, shared_valkey, "redis")
    fleet.connect()
    assert await asyncio.to_thread(fleet.run, 15, READY)
    fleet.churn(reconnects=100, resubscribes=200)
    fleet.schedule(rate=2_000, messages=3_000)
    assert await asyncio.to_thread(fleet.run, 30, SENT)
    fleet.churn()
    assert await asyncio.to_thread(fleet.run, 15, READY)
    for _ in range(100):
        await asyncio.to_thread(fleet.run, 0.05, TIME)
        if not fleet.missing():
            break
    counts = fleet.counts()
    assert fleet.give_up() == 0, fleet.problems()
    assert counts["reconnects"] > 50
    assert counts["resubscribes"] > 50
    assert counts["ready"] == 40
    for fault in ("lost", "duplicates", "reordered", "unexpected", "foreign", "refused", "failed", "dropped"):
        assert counts[fault] == 0, (fault, fleet.notes(), fleet.problems())
    fleet.close()


@pytest.mark.parametrize("how", ["api", "batch"])
async def test_what_the_api_refuses_is_an_error_and_told(node: Node, shared_valkey: Valkey, how: str) -> None:
    fleet = Fleet(("127.0.0.1", 1), [(b"no", b'{"a":null}')], [])
    publish(fleet, node, shared_valkey, how)
    fleet.schedule(rate=1e6, messages=20)
    assert await asyncio.to_thread(fleet.run, 15, SENT)
    counts = fleet.counts()
    assert (counts["published"], counts["acknowledged"], counts["publish_errors"]) == (20, 0, 20)
    assert any("bad-pattern" in note for note in fleet.notes())
    fleet.close()


@pytest.mark.parametrize("how", ["redis", "api", "batch"])
async def test_publications_are_sent_after_the_end_of_the_schedule_too(
    node: Node, shared_valkey: Valkey, how: str
) -> None:
    fleet = fleet_of(node, 4, [[0, 1, 2, 3]])
    publish(fleet, node, shared_valkey, how)
    fleet.connect()
    assert await asyncio.to_thread(fleet.run, 15, READY)
    for _ in range(5):
        fleet.schedule(rate=20_000)
        await asyncio.to_thread(fleet.run, 0.02, TIME)
        fleet.unschedule()
        assert await asyncio.to_thread(fleet.run, 15, DELIVERED), fleet.counts()
    counts = fleet.counts()
    assert counts["published"] == counts["acknowledged"] == counts["deliveries"] > 0
    fleet.close()
