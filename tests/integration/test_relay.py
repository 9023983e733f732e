"""The relay: workers that subscribe through it, over a real Valkey."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from realizehit.broker.base import Bus, BusState, Interest
from realizehit.broker.channel_states import BATCH
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.broker.resp import BACK, LOST
from realizehit.broker.shapes.registry import CONTROL
from realizehit.errors import BrokerRefused, SettingsError
from realizehit.process.relay import Relay
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.gaps import check_gap
from tests.support.valkey import Valkey


@asynccontextmanager
async def relayed(
    valkey: Valkey, workers: int, url: str = ""
) -> AsyncIterator[tuple[Relay, list[tuple[Bus, Recorder]]]]:
    """A relay, and the buses of its workers."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rh-")))
        relay = await stack.enter_async_context(Relay(url or valkey.url, directory / "r.sock"))
        buses = []
        for _ in range(workers):
            bus, recorder = open_bus(valkey.url, subscribe_url=relay.url, link=QUICK), Recorder()
            await bus.start(recorder)
            stack.push_async_callback(bus.close)
            buses.append((bus, recorder))
        yield relay, buses


def subscribed(valkey: Valkey) -> dict[bytes, int]:
    """The broker's channels and how many subscribers each has, without the one that publishers follow."""
    channels = [channel for channel in valkey.command("PUBSUB", "CHANNELS") if channel != CONTROL]
    counts = valkey.command("PUBSUB", "NUMSUB", *channels) if channels else []
    return dict(zip(counts[::2], counts[1::2], strict=True))


async def test_the_broker_sends_a_message_once_however_many_workers_want_it(valkey: Valkey) -> None:
    async with relayed(valkey, 3) as (relay, workers):
        for bus, recorder in workers:
            bus.subscribe(Interest(b"shared"))
            await recorder.until(lambda recorder=recorder: recorder.confirmed == [b"shared"])  # type: ignore[misc]
        assert subscribed(valkey) == {b"shared": 1}
        publisher = workers[0][0]
        payloads = [b'{"n":%d}' % number for number in range(1000)] + [b"\xff", b""]
        outcomes = await publisher.publish_many([Publication(b"shared", payload) for payload in payloads])
        assert outcomes == [Published(1)] * len(payloads)
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: len(recorder.delivered) == len(payloads))  # type: ignore[misc]
            assert recorder.delivered == [(b"shared", payload) for payload in payloads]
        stats = relay.stats()
        assert stats["messages"] == stats["frames_built"] == len(payloads)
        assert stats["deliveries"] == 3 * len(payloads)


async def test_each_worker_gets_its_channels_and_the_last_one_ends_them(valkey: Valkey) -> None:
    async with relayed(valkey, 2) as (_, ((one, got_one), (two, got_two))):
        one.subscribe(Interest(b"a"))
        two.subscribe(Interest(b"b"))
        two.subscribe(Interest(b"a"))
        await got_one.until(lambda: got_one.confirmed == [b"a"])
        await got_two.until(lambda: sorted(got_two.confirmed) == [b"a", b"b"])
        one.unsubscribe(Interest(b"a"))
        await eventually_subscribed(valkey, {b"a": 1, b"b": 1})
        await one.publish_many([Publication(b"a", b"1"), Publication(b"b", b"2")])
        await got_two.until(lambda: len(got_two.delivered) == 2)
        assert got_one.delivered == []
        two.unsubscribe(Interest(b"a"))
        await eventually_subscribed(valkey, {b"b": 1})
        await two.close()
        await eventually_subscribed(valkey, {})


async def eventually_subscribed(valkey: Valkey, wanted: dict[bytes, int]) -> None:
    async with asyncio.timeout(10):
        while subscribed(valkey) != wanted:
            await asyncio.sleep(0.01)


async def test_many_channels_of_many_workers(valkey: Valkey) -> None:
    count = 2 * BATCH + 7
    async with relayed(valkey, 2) as (_, workers):
        for bus, _ in workers:
            for number in range(count):
                bus.subscribe(Interest(b"user:%d" % number))
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: len(recorder.confirmed) == count)  # type: ignore[misc]
        assert set(subscribed(valkey).values()) == {1}
        await workers[0][0].publish_many([Publication(b"user:%d" % number, b"%d" % number) for number in range(count)])
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: len(recorder.delivered) == count)  # type: ignore[misc]


async def test_workers_see_a_broker_outage_and_resubscribe_after_it(valkey: Valkey) -> None:
    async with relayed(valkey, 2) as (relay, workers):
        for bus, recorder in workers:
            bus.subscribe(Interest(b"a"))
            await recorder.until(lambda recorder=recorder: recorder.confirmed == [b"a"])  # type: ignore[misc]
        valkey.kill()
        for bus, recorder in workers:
            await recorder.until(lambda bus=bus: bus.state is BusState.DOWN)  # type: ignore[misc]
        valkey.start()
        for bus, recorder in workers:
            await recorder.until(lambda bus=bus: bus.state is BusState.UP, 20.0)  # type: ignore[misc]
        await eventually_subscribed(valkey, {b"a": 1})
        # Subscribed at the broker for one worker; the other one's command may still be on its way.
        for bus, recorder in workers:
            bus.subscribe(Interest(b"b"))
            await recorder.until(lambda recorder=recorder: b"b" in recorder.confirmed)  # type: ignore[misc]
        await workers[0][0].publish(Publication(b"a", b"again"))
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: (b"a", b"again") in recorder.delivered)  # type: ignore[misc]
        assert not relay._hub.gaps._open  # and keeps no exceptions for a telling that never comes


async def test_workers_measure_the_gap_of_the_broker_and_not_of_the_relay(valkey: Valkey) -> None:
    async with relayed(valkey, 2) as (relay, workers):
        for bus, recorder in workers:
            bus.subscribe(Interest(b"a"))
            await recorder.until(lambda recorder=recorder: recorder.confirmed == [b"a"])  # type: ignore[misc]
        # Workers hear from the relay all the time; the relay hears nothing from the broker.
        gone = time.monotonic()
        valkey.pause()
        async with asyncio.timeout(20):
            while relay._bus.silence < 2.0:
                await asyncio.sleep(0.01)
        assert all(bus.silence < 1.0 for bus, _ in workers)
        valkey.kill()
        valkey.start()
        back = time.monotonic()
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: recorder.gaps)  # type: ignore[misc]
            check_gap(recorder.gaps[0], gone, back, time.monotonic())
        assert subscribed(valkey) == {b"a": 1}


async def test_only_the_relay_resubscribes_and_workers_stay_connected(valkey: Valkey) -> None:
    count = 2 * BATCH + 7
    channels = [b"c:%d" % number for number in range(count)]
    async with relayed(valkey, 2) as (relay, workers):
        for bus, recorder in workers:
            for channel in channels:
                bus.subscribe(Interest(channel))
            await recorder.until(lambda recorder=recorder: len(recorder.confirmed) == count)  # type: ignore[misc]
        connections = relay.stats()["connections_total"]
        valkey.kill()
        for bus, recorder in workers:
            await recorder.until(lambda bus=bus: bus.state is BusState.DOWN)  # type: ignore[misc]
            # What was in force is not so; what is new waits as well; what nobody wants any more is left in the end.
            assert not bus.subscribe(Interest(channels[0]))
            assert not bus.subscribe(Interest(b"new"))
            bus.unsubscribe(Interest(channels[1]))
            bus.unsubscribe(Interest(channels[2]))
            assert not bus.subscribe(Interest(channels[2]))
            recorder.confirmed.clear()
            assert recorder.gaps == []
        valkey.start()
        for bus, recorder in workers:
            await recorder.until(lambda recorder=recorder: recorder.gaps, 20)  # type: ignore[misc]
            await recorder.until(lambda recorder=recorder: b"new" in recorder.confirmed)  # type: ignore[misc]
            assert sorted(recorder.confirmed) == [channels[0], channels[2], b"new"]
            assert bus.state is BusState.UP
            assert bus.reconnects == 1
        await eventually_subscribed(valkey, dict.fromkeys([*channels[:1], *channels[2:], b"new"], 1))
        assert relay.stats()["connections_total"] == connections
        # Three for what was in force, what is new of each worker, and three publishers that follow the rules.
        assert valkey.calls("subscribe") <= 8
        await workers[0][0].publish_many([Publication(channel, b"again") for channel in channels])
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: len(recorder.delivered) == count - 1)  # type: ignore[misc]
            assert recorder.delivered == [(channel, b"again") for channel in channels if channel != channels[1]]


async def test_two_outages_before_recovery_make_one_gap(valkey: Valkey) -> None:
    async with relayed(valkey, 1) as (relay, ((bus, recorder),)):
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed == [b"a"])
        for seconds in ("1.000", "0.000"):
            relay._tell(LOST, seconds.encode())
            await recorder.until(lambda: bus.state is BusState.DOWN)
        relay._tell(BACK)
        await recorder.until(lambda: recorder.gaps)
        relay._tell(BACK)  # which nobody waits for, as after a connection of a worker during a gap
        await bus.publish(Publication(b"a", b"1"))
        await recorder.until(lambda: recorder.delivered == [(b"a", b"1")])
        assert len(recorder.gaps) == 1
        assert recorder.gaps[0] >= 1.0
        assert recorder.states == [BusState.UP, BusState.DOWN, BusState.UP]


async def test_a_worker_that_reconnects_during_an_outage_resubscribes(valkey: Valkey) -> None:
    async with relayed(valkey, 1) as (relay, ((bus, recorder),)):
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed == [b"a"])
        valkey.kill()
        await recorder.until(lambda: bus.state is BusState.DOWN)
        relay.turn_away()
        async with asyncio.timeout(20):
            while relay.stats()["connections"]:
                await asyncio.sleep(0.01)
        valkey.start()
        await recorder.until(lambda: recorder.gaps, 20)
        assert bus.state is BusState.UP
        assert await bus.publish(Publication(b"a", b"1")) == Published(1)
        await recorder.until(lambda: recorder.delivered == [(b"a", b"1")])
        assert len(recorder.gaps) == 1


async def test_workers_lose_channels_that_the_broker_now_refuses(valkey: Valkey) -> None:
    valkey.command("ACL", "SETUSER", "ann", "on", ">secret", "+@all", "&*")
    url = valkey.url.replace("unix://", "unix://ann:secret@")
    async with relayed(valkey, 2, url) as (relay, workers):
        for bus, recorder in workers:
            for channel in (b"a", b"b"):
                bus.subscribe(Interest(channel))
            await recorder.until(lambda recorder=recorder: sorted(recorder.confirmed) == [b"a", b"b"])  # type: ignore[misc]
        workers[1][0].unsubscribe(Interest(b"b"))
        await eventually(lambda: relay.stats()["subscriptions"] == 3)
        valkey.command("ACL", "SETUSER", "ann", "resetchannels", "&a")  # which ends its connections
        for _, recorder in workers:
            await recorder.until(lambda recorder=recorder: recorder.gaps, 20)  # type: ignore[misc]
        (_, one), (_, two) = workers
        assert {channel: type(error) for channel, error in one.refusals.items()} == {b"b": BrokerRefused}
        assert two.refusals == {}
        await eventually(lambda: relay.stats()["subscriptions"] == 2)
        await eventually_subscribed(valkey, {b"a": 1})


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_channel_that_the_broker_refuses_is_refused_to_the_worker_alone(valkey: Valkey) -> None:
    valkey.command("ACL", "SETUSER", "few", "on", ">pw", "resetchannels", "&ok:*", "+@all")
    url = valkey.url.replace("unix://", "unix://few:pw@")
    async with relayed(valkey, 1, url) as (_, ((bus, recorder),)):
        for channel in (b"ok:1", b"secret:1", b"ok:2"):
            bus.subscribe(Interest(channel))
        await recorder.until(lambda: len(recorder.confirmed) == 2 and recorder.refusals)
        assert sorted(recorder.confirmed) == [b"ok:1", b"ok:2"]
        assert list(recorder.refusals) == [b"secret:1"]
        assert subscribed(valkey) == {b"ok:1": 1, b"ok:2": 1}


async def test_credentials_that_can_never_work_fail_the_start(valkey: Valkey, tmp_path: Path) -> None:
    with pytest.raises(BrokerRefused):
        async with Relay(valkey.url.replace("unix://", "unix://who:s3cret@"), tmp_path / "r.sock"):
            pass


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 100) / "r.sock"
    with pytest.raises(SettingsError, match=f"cannot listen on {path}: .*over 103 bytes.*TMPDIR.*--relay off"):
        Relay("memory://", path)


async def test_an_unknown_command_ends_the_connection_of_its_sender(valkey: Valkey) -> None:
    async with relayed(valkey, 1) as (relay, ((bus, recorder),)):
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed == [b"a"])
        for garbage in (b"*1\r\n$8\r\nFLUSHALL\r\n", b"?what\r\n", b":1\r\n", b"*0\r\n", b"*1\r\n:1\r\n"):
            reader, writer = await asyncio.open_unix_connection(relay.url.removeprefix("unix://"))
            writer.write(garbage)
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
        await bus.publish(Publication(b"a", b"1"))
        await recorder.until(lambda: recorder.delivered == [(b"a", b"1")])
        assert bus.reconnects == 0
