"""Each timer and each lasting task of a server is made to fail: the server goes on, and the log says what happened."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn

from realizehit.broker import embedded
from realizehit.broker.base import BusState, Interest
from realizehit.broker.connection import SubscriberConnection
from realizehit.broker.embedded import EmbeddedValkey
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.broker.subscriber import Link
from realizehit.common import upkeep
from realizehit.errors import BrokerUnavailable
from realizehit.node import figures
from realizehit.node.figures import STATS
from realizehit.pattern import Pattern
from realizehit.process.relay import Relay
from realizehit.process.server import Node, serve
from realizehit.process.supervisor import _Parent
from realizehit.process.worker import Worker
from realizehit.settings import Settings
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.ports import free_port
from tests.support.processes import embedded_pids
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, unique


class Failing:
    """Raises for the first few calls, then does what it stands for.

    Attributes:
        recovered: set once it was called again after the last failure.
    """

    def __init__(self, usual: Callable[..., Any], times: int = 2) -> None:
        self.recovered = asyncio.Event()
        self.calls = 0
        self._usual = usual
        self._times = times
        self._loop = asyncio.get_running_loop()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls <= self._times:
            raise RuntimeError("made to fail")
        self._loop.call_soon_threadsafe(self.recovered.set)
        return self._usual(*args, **kwargs)

    async def until_recovered(self) -> None:
        await asyncio.wait_for(self.recovered.wait(), 20)


def make_fail(patch: pytest.MonkeyPatch, owner: object, name: str, times: int = 2) -> Failing:
    """Put a `Failing` in the place of a function or method."""
    failing = Failing(getattr(owner, name), times)

    def stand_in(*args: Any, **kwargs: Any) -> Any:  # a function, so that it is a method where it stands in a class
        return failing(*args, **kwargs)

    patch.setattr(owner, name, stand_in)
    return failing


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == upkeep.__name__ and record.exc_info and "made to fail" in str(record.exc_info[1])
    ]


@pytest.mark.parametrize("part", ["hub", "guard"])
async def test_the_timer_of_a_node_goes_on(
    node: Node, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = make_fail(monkeypatch, getattr(node, part), "tick")
    await failing.until_recovered()
    assert failures(caplog) == ["the node's timer failed and goes on"]


async def test_subscriptions_time_out_although_another_timer_part_fails(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(port=0, redis=valkey.url, subscribe_timeout=0.2)
    async with serve(settings) as node:
        make_fail(monkeypatch, node.guard, "tick", 1 << 30)
        ws = await RawClient.connect(node.ws_url)
        valkey.pause()
        try:
            ws.act(id="s", act="sub", pat=unique("timer"))
            await ws.wait_for(1)
            assert orjson.loads(ws.texts[0])["code"] == "unavailable"
        finally:
            valkey.resume()
        ws.transport.abort()


async def test_the_timer_of_a_relay_goes_on(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("realizehit.process.relay.TICK", 0.01)
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        async with Relay(shared_valkey.url, Path(directory) / "r.sock") as relay:
            failing = make_fail(monkeypatch, relay._hub, "tick")
            await failing.until_recovered()
    assert failures(caplog) == ["the relay's timer failed and goes on"]


async def test_the_http_servers_timer_goes_on_and_the_server_can_be_closed(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(Settings(port=0, redis=shared_valkey.url)) as node:
        failing = make_fail(monkeypatch, uvicorn.Server, "on_tick")
        await failing.until_recovered()
        ws = await RawClient.connect(node.ws_url)
        ws.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await RawClient.connect(node.ws_url)
    assert failures(caplog) == ["the HTTP server's timer failed and goes on"]


async def test_figures_are_published_again(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures, "INTERVAL", 0.05)
    monkeypatch.setattr(figures.Figures.__init__, "__kwdefaults__", {"interval": 0.05})
    async with serve(Settings(port=0, redis=shared_valkey.url, console=True)) as node:
        ws = await RawClient.connect(node.ws_url)
        failing = make_fail(monkeypatch, figures.Figures, "take")
        ws.act(id="s", act="sub", pat=STATS)
        await failing.until_recovered()
        await ws.wait_for(2)  # the answer and figures
        ws.transport.abort()
    assert failures(caplog) == ["publishing the figures of this node failed and goes on"]


async def test_a_reload_closes_a_connection_whose_check_fails_and_continues(
    shared_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grants = tmp_path / "grants.toml"
    grants.write_text('[[grant]]\npattern = {kind = ["news", "chat"]}\n')
    async with serve(Settings(port=0, redis=shared_valkey.url, grants=str(grants))) as node:
        clients = [await RawClient.connect(node.ws_url) for _ in range(5)]
        for one in clients:
            one.act(id="s", act="sub", pat={"kind": "news"})
        for one in clients:
            await one.wait_for(1)
        make_fail(monkeypatch, node.guard, "recheck", 1)
        grants.write_text('[[grant]]\npattern = {kind = "chat"}\n')
        node.reload()
        async with asyncio.timeout(20):
            while sum(one.closed.is_set() or len(one.texts) > 1 for one in clients) < 5:
                await asyncio.sleep(0.01)
        assert sorted(one.close_code or 0 for one in clients) == [0, 0, 0, 0, 1011]
        told = [orjson.loads(one.texts[1])["evt"] for one in clients if not one.closed.is_set()]
        assert told == ["unsubscribed"] * 4
        for one in clients:
            one.transport.abort()
    assert failures(caplog) == ["checking what a client may have failed and goes on"]


async def test_a_failing_step_of_the_broker_link_costs_one_connection(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus, recorder = open_bus(shared_valkey.url, link=QUICK), Recorder()
    await bus.start(recorder)
    channel = Pattern(unique("link")).channel.encode()
    try:
        for name in ("_open", "_stay", "_send_due"):
            with monkeypatch.context() as patch:
                failing = make_fail(patch, Link, name, 1)
                recorder.confirmed.clear()
                bus._link._connection.drop("a test")  # type: ignore[attr-defined]
                await recorder.until(lambda: bus.state is BusState.DOWN)
                bus.unsubscribe(Interest(channel))
                bus.subscribe(Interest(channel))
                await recorder.until(lambda: recorder.confirmed == [channel] and bus.state is BusState.UP)
                assert failing.calls >= 2, name
        assert await bus.publish(Publication(channel, b"1")) == Published(1)
        await recorder.until(lambda: recorder.delivered == [(channel, b"1")])
    finally:
        await bus.close()
    assert failures(caplog) == ["the link to the broker failed and goes on"]  # three errors


async def test_a_probe_that_fails_leads_to_a_new_connection(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus, recorder = open_bus(shared_valkey.url, link=QUICK), Recorder()
    await bus.start(recorder)
    failing = make_fail(monkeypatch, SubscriberConnection, "_probe", 1)
    await recorder.until(lambda: recorder.states == [BusState.UP, BusState.DOWN, BusState.UP])
    await failing.until_recovered()
    await bus.close()
    assert "the probe failed: RuntimeError('made to fail')" in caplog.text


async def test_the_link_reconnects_after_a_listener_raised(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    bus, recorder = open_bus(valkey.url, link=QUICK), Recorder()
    await bus.start(recorder)
    failing = make_fail(monkeypatch, recorder, "state_changed", 1)
    valkey.kill()
    valkey.start()
    await failing.until_recovered()
    await recorder.until(lambda: bus.state is BusState.UP)
    assert await bus.publish(Publication(b"a", b"1")) == Published(0)
    await bus.close()


async def test_waiting_publications_fail_when_connecting_fails(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(shared_valkey.url, publish_timeout=60)
    await bus.start(None)
    make_fail(monkeypatch, bus._address, "connect")  # type: ignore[attr-defined]
    bus._pipeline.leave("another place")  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="connecting failed: RuntimeError"):
            await asyncio.wait_for(bus.publish(Publication(b"a", b"1")), 10)
    assert await bus.publish(Publication(b"a", b"1")) == Published(0)
    await bus.close()
    assert failures(caplog) == ["the connection for publishing failed and goes on"]


async def test_the_sentinels_are_watched_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    bus = open_bus(f"redis+sentinel://127.0.0.1:{free_port()}/main", publish_timeout=0.2)
    failing = make_fail(monkeypatch, bus._address, "current")  # type: ignore[attr-defined]
    await bus.start(None)
    await failing.until_recovered()
    await bus.close()
    (line,) = failures(caplog)
    assert line.startswith("watching the sentinels of redis+sentinel://")


@pytest.mark.parametrize("name", ["_wait_for_its_end", "_start_again"])
async def test_the_thread_that_keeps_the_embedded_broker_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "BACKOFF_FIRST", 0.01)
    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        failing = make_fail(monkeypatch, EmbeddedValkey, name, 1)
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", None)
        with EmbeddedValkey() as valkey:
            bus, recorder = open_bus(valkey.url, link=QUICK), Recorder()
            await bus.start(recorder)
            (pid,) = embedded_pids({"TMPDIR": directory})
            os.kill(pid, signal.SIGKILL)
            await recorder.until(lambda: recorder.gaps, 20)
            await failing.until_recovered()
            await bus.close()
    assert failures(caplog) == ["looking after the embedded Valkey failed and goes on"]


async def test_a_workers_place_is_filled_again_where_watching_it_fails(
    shared_valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    failing = make_fail(monkeypatch, Worker, "report", 1)
    serves = asyncio.Event()
    parent = _Parent(
        Settings(port=free_port(), workers=2), shared_valkey.url, None, lambda ws, api: serves.set(), tmp_path
    )
    running = asyncio.create_task(parent.run())
    await asyncio.wait_for(serves.wait(), 60)
    assert failing.calls == 3
    parent._stop.set()
    await asyncio.wait_for(running, 60)
    assert failures(caplog) == ["keeping a worker failed and goes on"]
