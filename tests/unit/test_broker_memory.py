from __future__ import annotations

import asyncio

import pytest

from realizehit.broker.base import BusState, Interest
from realizehit.broker.memory import MemoryBus, _spaces
from realizehit.broker.publication import Publication, Published
from realizehit.errors import BrokerUnavailable
from tests.support.bus_recorder import Recorder


async def test_a_publication_reaches_the_subscribed_and_comes_later() -> None:
    bus, recorder = MemoryBus("reach"), Recorder()
    await bus.start(recorder)
    assert bus.subscribe(Interest(b"a"))
    assert await bus.publish(Publication(b"a", b"1")) == Published(1)
    assert await bus.publish(Publication(b"b", b"2")) == Published(0)
    assert recorder.batches == []
    await recorder.until(lambda: recorder.batches)
    assert recorder.batches == [[(b"a", b"1")]]
    assert bus.messages_received == 1
    await bus.close()


async def test_publications_of_one_turn_come_in_one_batch_and_in_order() -> None:
    bus, recorder = MemoryBus("batch"), Recorder()
    await bus.start(recorder)
    bus.subscribe(Interest(b"a"))
    bus.subscribe(Interest(b"b"))
    messages = [(channel, b"%d" % number) for number in range(50) for channel in (b"a", b"b", b"nobody")]
    assert (
        await bus.publish_many([Publication(*message) for message in messages])
        == [Published(1), Published(1), Published(0)] * 50
    )
    await recorder.until(lambda: recorder.batches)
    assert recorder.batches == [[message for message in messages if message[0] != b"nobody"]]
    await bus.close()


async def test_buses_of_one_name_share_their_channels() -> None:
    one, two, other = MemoryBus("shared"), MemoryBus("shared"), MemoryBus("apart")
    recorders = [Recorder(), Recorder(), Recorder()]
    for bus, recorder in zip((one, two, other), recorders, strict=True):
        await bus.start(recorder)
        bus.subscribe(Interest(b"a"))
    publisher = MemoryBus("shared")
    await publisher.start(None)
    assert await publisher.publish(Publication(b"a", b"1")) == Published(2)
    await recorders[0].until(lambda: recorders[0].batches)
    assert recorders[1].delivered == [(b"a", b"1")]
    assert recorders[2].delivered == []
    two.unsubscribe(Interest(b"a"))
    assert await publisher.publish(Publication(b"a", b"2")) == Published(1)
    for bus in (one, two, other, publisher):
        await bus.close()
    assert one._space.channels == {}


async def test_after_close_nothing_is_published_or_delivered() -> None:
    bus, recorder = MemoryBus("closed"), Recorder()
    with pytest.raises(BrokerUnavailable, match="not started"):
        await bus.publish(Publication(b"a", b"1"))
    await bus.start(recorder)
    await bus.ping()
    bus.subscribe(Interest(b"a"))
    await bus.publish(Publication(b"a", b"1"))
    await bus.close()
    await bus.close()
    await asyncio.sleep(0)
    assert recorder.batches == []
    assert recorder.states == [BusState.UP, BusState.CLOSED]
    with pytest.raises(BrokerUnavailable):
        await bus.publish(Publication(b"a", b"1"))
    with pytest.raises(BrokerUnavailable):
        await bus.ping()
    assert all(
        isinstance(outcome, BrokerUnavailable) for outcome in await bus.publish_many([Publication(b"a", b"1")] * 3)
    )


async def test_unknown_channels_are_left_without_complaint() -> None:
    bus = MemoryBus("unknown")
    await bus.start(Recorder())
    bus.unsubscribe(Interest(b"never"))
    assert bus._space.channels == {}
    await bus.close()


def test_an_unused_name_is_forgotten() -> None:
    bus = MemoryBus("forgotten")
    assert "forgotten" in _spaces
    del bus
    assert "forgotten" not in _spaces


async def test_a_publication_callback_may_publish() -> None:
    bus = MemoryBus("chain")
    await bus.start(None)
    outcomes: list[object] = []
    finished = asyncio.Event()

    def told(outcome: object) -> None:
        outcomes.append(outcome)
        if len(outcomes) < 5000:
            bus.publish_soon(Publication(b"a", b"%d" % len(outcomes)), told)
        else:
            finished.set()

    bus.publish_soon(Publication(b"a", b"0"), told)
    async with asyncio.timeout(20):
        await finished.wait()
    assert outcomes == [Published(0)] * 5000
    await bus.close()
    outcomes.clear()
    finished.clear()
    bus.publish_soon(Publication(b"a", b"0"), told)
    async with asyncio.timeout(20):
        await finished.wait()
    assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
