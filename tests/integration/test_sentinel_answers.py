"""What a bus makes of its sentinels' answers; the sentinels are played, the broker is a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import hiredis
import pytest

from realizehit.broker import redis as redis_bus
from realizehit.broker import sentinel
from realizehit.broker.base import Bus, Interest
from realizehit.broker.open import open_bus
from realizehit.broker.sentinel import GOSSIP_DELAY, SentinelAddress
from realizehit.errors import BrokerUnavailable
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.ports import free_port
from tests.support.valkey import Valkey

PLACE = "10.0.0.1", 6379


class Sentinel:
    """Answers every question for the master with what the test says.

    Attributes:
        answer: the reply, a list or whatever else; ``None`` to stay silent.
    """

    def __init__(self, host: str = PLACE[0], port: int = PLACE[1]) -> None:
        self.answer: object = None
        self.names(host, port)

    def names(self, host: str, port: int, flags: str = "master", epoch: int = 1) -> None:
        self.answer = ["name", "main", "ip", host, "port", str(port), "flags", flags, "config-epoch", str(epoch)]

    async def __aenter__(self) -> Sentinel:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while command := parser.gets():
                if command[0] != b"SENTINEL":
                    writer.write(b"+OK\r\n")
                elif self.answer is not None:
                    writer.write(resp(self.answer))
        writer.close()


def resp(value: object) -> bytes:
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(resp, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def sentinels(
    count: int, host: str = PLACE[0], port: int = PLACE[1]
) -> AsyncIterator[tuple[str, list[Sentinel]]]:
    """The URL of some sentinels, and they themselves."""
    async with AsyncExitStack() as stack:
        them = [await stack.enter_async_context(Sentinel(host, port)) for _ in range(count)]
        yield f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in them)}/main", them


@pytest.fixture
def tcp_valkey(tmp_path: Path) -> Iterator[Valkey]:
    with Valkey(tmp_path, port=free_port()) as server:
        yield server


@asynccontextmanager
async def subscribed(url: str) -> AsyncIterator[tuple[Bus, Recorder]]:
    bus, recorder = open_bus(url, link=QUICK), Recorder()
    await bus.start(recorder)
    try:
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed)
        yield bus, recorder
    finally:
        await bus.close()


async def test_the_gap_of_a_failover_reaches_back_to_before_it(
    tcp_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bus, "WATCH_INTERVAL", 0.02)
    loop = asyncio.get_running_loop()
    async with sentinels(1, "127.0.0.1", tcp_valkey.port) as (url, (one,)), subscribed(url) as (_, recorder):
        began = loop.time()
        one.names("127.0.0.1", tcp_valkey.port, "master,failover_in_progress")
        # The old master is alive and answers while another one is made, to which others may publish already.
        answered = tcp_valkey.calls("ping")
        async with asyncio.timeout(20):
            while tcp_valkey.calls("ping") < answered + 5:
                await asyncio.sleep(0.02)
        lasted = loop.time() - began
        one.names("localhost", tcp_valkey.port, epoch=2)  # the same server will do for another one
        await recorder.until(lambda: recorder.gaps)
        assert recorder.gaps[0] >= lasted


async def test_an_undisturbed_master_is_confirmed_again_and_again(
    tcp_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bus, "WATCH_INTERVAL", 0.02)
    loop = asyncio.get_running_loop()
    async with sentinels(3, "127.0.0.1", tcp_valkey.port) as (url, them), subscribed(url) as (bus, recorder):
        later = loop.time()
        async with asyncio.timeout(20):
            while loop.time() - bus.silence < later:  # as of a time that had not come yet
                await asyncio.sleep(0.02)
        for one in them:
            one.names("localhost", tcp_valkey.port, epoch=2)
        await recorder.until(lambda: recorder.gaps)
        assert recorder.gaps[0] <= loop.time() - later


async def test_when_the_sentinels_confirm_the_master() -> None:
    loop = asyncio.get_running_loop()
    async with sentinels(3) as (url, (_, two, three)):
        address = SentinelAddress(url)
        place = f"{PLACE[0]}:{PLACE[1]}"

        async def asked() -> tuple[float, float]:
            """When the question was put at the earliest and the latest."""
            before = loop.time()
            assert await address.current() == place
            return before, loop.time()

        three.answer = None
        before, after = await asked()
        assert before - GOSSIP_DELAY <= address.confirmed(place) <= after - GOSSIP_DELAY  # the third may know more
        three.names(*PLACE)
        before, after = await asked()
        known = address.confirmed(place)
        assert before <= known <= after
        three.names(*PLACE, flags="master,o_down,failover_in_progress")
        await asked()
        two.answer = three.answer = None  # those left are no majority
        await asked()
        assert address.confirmed(place) == known
        assert address.confirmed("10.0.0.2:6379") == float("-inf")
        await address.close()


async def test_a_master_that_was_replaced_is_not_believed_while_the_others_are_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with sentinels(3) as (url, (one, two, three)):
        address = SentinelAddress(url)
        three.names("10.0.0.2", PLACE[1], epoch=2)
        assert await address.current() == "10.0.0.2:6379"
        three.answer = None
        assert await address.current() == ""
        for each in (one, two):
            each.names("10.0.0.3", PLACE[1], epoch=3)
        assert await address.current() == "10.0.0.3:6379"
        for each in (one, two, three):  # all of them were set up anew
            each.names(*PLACE, epoch=0)
        assert await address.current() == "10.0.0.1:6379"
        three.names("10.0.0.2", PLACE[1], epoch=2)
        assert await address.current() == "10.0.0.2:6379"
        three.answer = None
        monkeypatch.setattr(sentinel, "FORGET_AFTER", 0.0)
        assert await address.current() == "10.0.0.1:6379"
        await address.close()


@pytest.mark.parametrize(
    "answer",
    [
        ["ip"],
        ["ip", PLACE[0], "port"],
        ["ip", PLACE[0]],
        ["ip", PLACE[0], "port", "none"],
        ["ip", PLACE[0], "port", "6379", "config-epoch", "many"],
        ["ip", PLACE[0], "port", "6379", "flags", ["master"]],
        [["ip"], PLACE[0]],
        ["ip", b"\xff", "port", "6379"],
        7,
        "master",
    ],
)
async def test_an_answer_that_makes_no_sense_is_logged_once_and_not_counted(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with sentinels(2) as (url, (one, two)):
        address = SentinelAddress(url)
        one.answer = answer
        assert await address.current() == "10.0.0.1:6379"
        two.answer = answer
        assert await address.current() == await address.current() == ""
        assert caplog.text.count("makes no sense") == 2  # once for each
        one.names(*PLACE)
        assert await address.current() == "10.0.0.1:6379"
        await address.close()


async def test_the_watch_survives_what_it_does_not_understand(
    tcp_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(redis_bus, "WATCH_INTERVAL", 0.02)
    usual = SentinelAddress.current
    failures = iter([RuntimeError("a defect")])

    async def current(self: SentinelAddress) -> str:
        for failure in failures:
            raise failure
        return await usual(self)

    monkeypatch.setattr(SentinelAddress, "current", current)
    async with sentinels(1, "127.0.0.1", tcp_valkey.port) as (url, (one,)), subscribed(url) as (_, recorder):
        one.names("localhost", tcp_valkey.port, epoch=2)
        await recorder.until(lambda: recorder.gaps)
    assert "a defect" in caplog.text


async def test_no_sentinel_answers() -> None:
    address = SentinelAddress(f"redis+sentinel://127.0.0.1:{free_port()}/main")
    assert await address.current() == ""
    with pytest.raises(BrokerUnavailable, match="no sentinel knows a master 'main'"):
        await address.connect(asyncio.Protocol)
    await address.close()
