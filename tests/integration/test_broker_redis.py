"""The bus on a real Valkey: subscribing, publishing, logging in, and what happens when the broker goes away."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realizehit.broker.base import Bus, BusState, Interest
from realizehit.broker.channel_states import BATCH, WINDOW
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.open import open_bus
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.registry import CONTROL
from realizehit.broker.subscriber import Link
from realizehit.broker.url import Address
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, SettingsError
from tests.support.bus_recorder import QUICK, Recorder
from tests.support.gaps import check_gap
from tests.support.ports import free_port
from tests.support.valkey import Valkey

FOLLOWERS = 1  # the publisher's connection, which follows the rules of history


@asynccontextmanager
async def started(
    url: str,
    *,
    link: LinkSettings = QUICK,
    publish_timeout: float = 2.0,
    name: str = "realizehit",
    project: bool = True,
) -> AsyncIterator[tuple[Bus, Recorder]]:
    bus = open_bus(url, publish_timeout=publish_timeout, client_name=name, link=link, project=project)
    recorder = Recorder()
    await bus.start(recorder)
    try:
        yield bus, recorder
    finally:
        await bus.close()
        assert bus.state is BusState.CLOSED


async def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something that another process does."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def cut(valkey: Valkey, name: str = "realizehit") -> None:
    """End the subscriber connection of that name at the broker."""
    for connection in valkey.clients():
        if connection["name"] == name:
            valkey.command("CLIENT", "KILL", "ID", connection["id"])


async def test_a_subscription_is_in_force_when_it_is_confirmed(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        for number in range(50):
            channel = b"c:%d" % number
            assert bus.subscribe(Interest(channel)) is False
            await recorder.until(lambda channel=channel: channel in recorder.confirmed)  # type: ignore[misc]
            assert await bus.publish(Publication(channel, b"%d" % number)) == Published(1)
            assert bus.subscribe(Interest(channel)) is True
        await recorder.until(lambda: len(recorder.delivered) == 50)
        assert recorder.delivered == [(b"c:%d" % number, b"%d" % number) for number in range(50)]
        bus.unsubscribe(Interest(b"c:0"))
        await eventually(lambda: b"c:0" not in valkey.command("PUBSUB", "CHANNELS"))
        assert await bus.publish(Publication(b"c:0", b"x")) == Published(0)


async def test_one_turn_of_the_loop_is_one_command_of_up_to_a_batch_of_channels(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        count = 2 * BATCH + 10
        for number in range(count):
            bus.subscribe(Interest(b"many:%d" % number))
            bus.subscribe(Interest(b"many:%d" % number))  # many clients that ask for the same
        await recorder.until(lambda: len(recorder.confirmed) == count)
        assert valkey.calls("subscribe") == 3 + FOLLOWERS
        for number in range(count):
            bus.unsubscribe(Interest(b"many:%d" % number))
        await eventually(lambda: valkey.command("PUBSUB", "CHANNELS") == [CONTROL])
        assert valkey.calls("unsubscribe") == 3


async def test_opposite_wishes_of_one_turn_cancel(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        bus.subscribe(Interest(b"kept"))
        await recorder.until(lambda: recorder.confirmed == [b"kept"])
        bus.unsubscribe(Interest(b"kept"))
        bus.subscribe(Interest(b"never"))
        assert bus.subscribe(Interest(b"kept")) is True
        bus.unsubscribe(Interest(b"never"))
        bus.subscribe(Interest(b"marker"))
        await recorder.until(lambda: b"marker" in recorder.confirmed)
        assert valkey.calls("subscribe") == 2 + FOLLOWERS
        assert valkey.calls("unsubscribe") == 0


_serial = itertools.count()
steps = st.lists(
    st.tuples(st.sampled_from(["subscribe", "unsubscribe", "publish", "turn", "settle", "cut"]), st.integers(0, 3)),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_promised_publications_arrive_for_any_order_of_actions(
    shared_valkey: Valkey, steps: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        own = f"interleaved-{next(_serial)}"
        async with (
            started(shared_valkey.url, name=own) as (bus, recorder),
            started(shared_valkey.url) as (publisher, _),
        ):
            model = Interleaving(shared_valkey, own, bus, recorder, publisher)
            for act, which in steps:
                await getattr(model, act)(model.names[which])
            await model.check()

    asyncio.run(scenario())


class Interleaving:
    """A model beside the real thing: who has been told "in force" gets every publication until he leaves."""

    def __init__(self, valkey: Valkey, own: str, bus: Bus, recorder: Recorder, publisher: Bus) -> None:
        self.names = [b"%s:%d" % (own.encode(), number) for number in range(4)]
        self._valkey = valkey
        self._own = own
        self._bus = bus
        self._recorder = recorder
        self._publisher = publisher
        self._wanted: set[bytes] = set()
        self._promised: set[bytes] = set()  # in force, as far as the node was told
        self._due: list[tuple[bytes, bytes]] = []
        self._told = 0
        self._serial = 0

    async def subscribe(self, name: bytes) -> None:
        self._wanted.add(name)
        if self._bus.subscribe(Interest(name)):
            self._promised.add(name)

    async def unsubscribe(self, name: bytes) -> None:
        self._bus.unsubscribe(Interest(name))
        self._wanted.discard(name)
        self._promised.discard(name)

    async def publish(self, name: bytes) -> None:
        self._take_confirmations()
        expected = name in self._promised
        self._serial += 1
        message = name, b"%d" % self._serial
        await self._publisher.publish(Publication(*message))
        self._take_confirmations()
        if expected:
            self._due.append(message)
            await self._recorder.until(lambda: message in self._recorder.delivered)

    async def turn(self, _: bytes) -> None:
        await asyncio.sleep(0)
        self._take_confirmations()

    async def settle(self, _: bytes) -> None:
        await self._recorder.until(lambda: self._take_confirmations() >= self._wanted)

    async def cut(self, _: bytes) -> None:
        if self._bus.state is not BusState.UP:
            return
        before = self._bus.reconnects
        cut(self._valkey, self._own)
        await self._recorder.until(lambda: self._bus.reconnects > before and self._bus.state is BusState.UP)
        self._promised.clear()  # what was on its way may be lost, and the node was told so
        await self._ask_again()
        self._told = len(self._recorder.confirmed)

    async def check(self) -> None:
        """At the end exactly what is wanted is in force, here and at the broker."""
        await self._ask_again()
        names, wanted = set(self.names), self._wanted
        await eventually(lambda: names.intersection(self._valkey.command("PUBSUB", "CHANNELS")) == wanted)
        for channel in wanted:
            message = channel, b"last"
            await self._publisher.publish(Publication(*message))
            await self._recorder.until(lambda message=message: message in self._recorder.delivered)  # type: ignore[misc]
        delivered = self._recorder.delivered
        # Each message at most once, in the order of publication.
        for channel in names:
            numbers = [int(text) for name, text in delivered if name == channel and text != b"last"]
            assert numbers == sorted(set(numbers))
        assert [message for message in self._due if message not in delivered] == []

    def _take_confirmations(self) -> set[bytes]:
        confirmed = self._recorder.confirmed
        self._promised.update(channel for channel in confirmed[self._told :] if channel in self._wanted)
        self._told = len(confirmed)
        return self._promised

    async def _ask_again(self) -> None:
        """Wait until the link itself says that all is in force; a node asks by subscribing once more."""
        async with asyncio.timeout(10):
            for channel in self._wanted:
                while not self._bus.subscribe(Interest(channel)):
                    await asyncio.sleep(0.001)
                self._promised.add(channel)


# ---- publishing


async def test_concurrent_publications_share_pipelines_and_keep_their_order(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        bus.subscribe(Interest(b"order"))
        await recorder.until(lambda: recorder.confirmed)
        counts = await asyncio.gather(*(bus.publish(Publication(b"order", b"%d" % number)) for number in range(2_000)))
        assert counts == [Published(1)] * 2_000
        await recorder.until(lambda: len(recorder.delivered) == 2_000)
        assert [int(payload) for _, payload in recorder.delivered] == list(range(2_000))
        assert bus.messages_received == 2_000
        # Far fewer reads of the socket than messages: they came in pipelines.
        assert len(recorder.batches) < 500


async def test_publish_many_answers_message_by_message(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        bus.subscribe(Interest(b"a"))
        await recorder.until(lambda: recorder.confirmed)
        messages = [(b"a" if number % 2 else b"b", b"%d" % number) for number in range(1_500)]
        assert await bus.publish_many([Publication(*message) for message in messages]) == [
            Published(number % 2) for number in range(1_500)
        ]
        await recorder.until(lambda: len(recorder.delivered) == 750)
        assert recorder.delivered == [message for message in messages if message[0] == b"a"]
        assert await bus.publish_many([]) == []


async def test_payloads_of_any_bytes_and_sizes(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        bus.subscribe(Interest(b"bytes"))
        await recorder.until(lambda: recorder.confirmed)
        payloads = [b"", b"\r\n$1\r\n*3\r\n", bytes(range(256)), b"x" * (1 << 20), b"\xff" * 70_000]
        for payload in payloads:
            assert await bus.publish(Publication(b"bytes", payload)) == Published(1)
        await recorder.until(lambda: len(recorder.delivered) == len(payloads))
        assert [payload for _, payload in recorder.delivered] == payloads


async def test_a_bus_without_a_listener_publishes_only(valkey: Valkey) -> None:
    bus = open_bus(valkey.url)
    await bus.start(None)
    assert bus.state is BusState.UP
    assert await bus.publish(Publication(b"nobody", b"1")) == Published(0)
    with pytest.raises(RuntimeError, match="without a listener"):
        bus.subscribe(Interest(b"a"))
    # It follows the registry of shapes, and has no subscribing connection.
    assert [client["name"] for client in valkey.clients("TYPE", "pubsub")] == ["realizehit-publisher"]
    await bus.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await bus.publish(Publication(b"nobody", b"1"))


# ---- when the broker goes away


async def test_after_a_broker_restart_all_channels_are_subscribed_again(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        count = 3 * BATCH
        for number in range(count):
            bus.subscribe(Interest(b"again:%d" % number))
        await recorder.until(lambda: len(recorder.confirmed) == count)
        valkey.kill()
        await recorder.until(lambda: bus.state is BusState.DOWN)
        with pytest.raises(BrokerUnavailable):
            await bus.publish(Publication(b"again:1", b"lost"))
        with pytest.raises(BrokerUnavailable):
            await bus.ping()
        outcomes = await bus.publish_many([Publication(b"again:1", b"lost")] * 600)
        assert len(outcomes) == 600
        assert all(isinstance(outcome, BrokerUnavailable) for outcome in outcomes)
        assert bus.subscribe(Interest(b"while:away")) is False
        bus.unsubscribe(Interest(b"again:0"))
        valkey.start()
        await recorder.until(lambda: b"while:away" in recorder.confirmed)
        assert bus.reconnects == 1
        # Only who still waited is told; the rest was promised before.
        assert len(recorder.confirmed) == count + 1
        await eventually(lambda: len({*valkey.command("PUBSUB", "CHANNELS")} - {CONTROL}) == count)
        assert await bus.publish(Publication(b"again:0", b"x")) == Published(0)
        assert await bus.publish(Publication(b"again:7", b"back")) == Published(1)
        await recorder.until(lambda: recorder.delivered == [(b"again:7", b"back")])
        assert recorder.states == [BusState.UP, BusState.DOWN, BusState.UP]


async def test_a_gap_ends_when_all_earlier_channels_are_in_force_again(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        count = 2 * BATCH
        for number in range(count):
            bus.subscribe(Interest(b"gap:%d" % number))
        await recorder.until(lambda: len(recorder.confirmed) == count)
        heard = bus.silence
        assert heard < 10
        killed = time.monotonic()
        valkey.kill()
        await recorder.until(lambda: recorder.states[-1] is BusState.DOWN)
        bus.unsubscribe(Interest(b"gap:0"))
        bus.subscribe(Interest(b"gap:new"))
        await eventually(lambda: bus.silence > heard)
        assert recorder.gaps == []
        valkey.start()
        back = time.monotonic()
        await recorder.until(lambda: recorder.gaps)
        check_gap(recorder.gaps[0], killed, back, time.monotonic())
        in_force = {*valkey.command("PUBSUB", "CHANNELS")} - {CONTROL}
        assert in_force >= {b"gap:%d" % number for number in range(1, count)}
        killed = time.monotonic()
        cut(valkey)
        await recorder.until(lambda: len(recorder.gaps) == 2)
        check_gap(recorder.gaps[1], killed, killed, time.monotonic())
        assert len(recorder.confirmed) == count + 1  # nobody waited for the others


async def test_a_gap_without_channels_is_over_with_the_connection(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        bus.subscribe(Interest(b"gone"))
        await recorder.until(lambda: recorder.confirmed)
        valkey.kill()
        await recorder.until(lambda: recorder.states[-1] is BusState.DOWN)
        bus.unsubscribe(Interest(b"gone"))
        assert recorder.gaps == []
        valkey.start()
        await recorder.until(lambda: recorder.gaps)
        assert recorder.states[-1] is BusState.UP


async def test_a_broker_that_is_away_at_the_start_is_waited_for(valkey: Valkey) -> None:
    valkey.kill()
    async with started(valkey.url) as (bus, recorder):
        assert bus.state is BusState.DOWN
        bus.subscribe(Interest(b"early"))
        valkey.start()
        await recorder.until(lambda: recorder.confirmed == [b"early"])
        assert bus.reconnects == 0


async def test_a_stopped_broker_behind_a_live_connection_is_noticed(valkey: Valkey) -> None:
    async with started(valkey.url, publish_timeout=0.3) as (bus, recorder):
        bus.subscribe(Interest(b"quiet"))
        await recorder.until(lambda: recorder.confirmed)
        valkey.pause()
        try:
            await recorder.until(lambda: bus.state is BusState.DOWN)
            with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.3 seconds"):
                await bus.publish(Publication(b"quiet", b"1"))
        finally:
            valkey.resume()
        await recorder.until(lambda: bus.state is BusState.UP)
        await eventually(lambda: valkey.command("PUBSUB", "NUMSUB", "quiet")[1] == 1)
        assert await bus.publish(Publication(b"quiet", b"2")) == Published(1)
        await recorder.until(lambda: (b"quiet", b"2") in recorder.delivered)


async def test_a_connection_that_the_broker_cuts_is_made_again(valkey: Valkey) -> None:
    async with started(valkey.url) as (bus, recorder):
        bus.subscribe(Interest(b"cut"))
        await recorder.until(lambda: recorder.confirmed)
        for times in (1, 2, 3):
            cut(valkey)
            await recorder.until(lambda times=times: bus.reconnects == times and bus.state is BusState.UP)  # type: ignore[misc]
        await eventually(lambda: valkey.command("PUBSUB", "NUMSUB", "cut")[1] == 1)
        assert await bus.publish(Publication(b"cut", b"1")) == Published(1)
        await recorder.until(lambda: recorder.delivered == [(b"cut", b"1")])


# ---- logging in


async def test_the_wrong_password_fails_at_once_and_is_not_shown(tmp_path: Path) -> None:
    with Valkey(tmp_path, port=free_port()) as valkey:
        valkey.command("CONFIG", "SET", "requirepass", "s3cret")
        address = valkey.tcp_url.removeprefix("redis://")
        for url in (f"redis://:wr0ng@{address}", f"redis://{address}", f"redis://nobody:wr0ng@{address}"):
            with pytest.raises(BrokerRefused) as refusal:
                async with started(url):
                    pass
            assert "wr0ng" not in str(refusal.value)
        async with started(f"redis://:s3cret@{address}/0") as (bus, recorder):
            bus.subscribe(Interest(b"a"))
            await recorder.until(lambda: recorder.confirmed)
            assert await bus.publish(Publication(b"a", b"1")) == Published(1)


async def test_a_user_with_few_rights_is_refused_channel_by_channel(valkey: Valkey) -> None:
    valkey.command(
        "ACL", "SETUSER", "ann", "on", ">s3cret", "resetchannels", "&open:*",
        "+subscribe", "+unsubscribe", "+publish", "+ping", "+auth", "+hello", "+client|setinfo", "+select",
    )  # fmt: skip
    url = valkey.url.replace("unix://", "unix://ann:s3cret@")
    async with started(url, project=False) as (bus, recorder):
        for number in range(20):
            bus.subscribe(Interest(b"open:%d" % number))
        bus.subscribe(Interest(b"closed:1"))
        await recorder.until(lambda: len(recorder.confirmed) == 20 and recorder.refusals)
        assert list(recorder.refusals) == [b"closed:1"]
        assert isinstance(recorder.refusals[b"closed:1"], BrokerRefused)
        assert bus.state is BusState.UP
        assert bus.reconnects == 0
        assert await bus.publish(Publication(b"open:1", b"1")) == Published(1)
        with pytest.raises(BrokerRefused, match="NOPERM"):
            await bus.publish(Publication(b"closed:1", b"1"))
        good, bad, late = await bus.publish_many(
            [Publication(b"open:2", b"1"), Publication(b"closed:2", b"1"), Publication(b"open:3", b"1")]
        )
        assert (good, late) == (Published(1), Published(1))
        assert isinstance(bad, BrokerRefused)


async def test_tls_is_used_and_its_certificate_is_checked(tmp_path: Path, valkey: Valkey) -> None:
    """The Valkey at hand is built without TLS, so a proxy ends it, as stunnel would."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.close()

    async def front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_unix_connection(valkey.socket)
        await asyncio.gather(copy(reader, back_writer), copy(back_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(front, "127.0.0.1", 0, ssl=context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with started(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}") as (bus, recorder):
            bus.subscribe(Interest(b"a"))
            await recorder.until(lambda: recorder.confirmed)
            assert await bus.publish(Publication(b"a", b"1")) == Published(1)
            await recorder.until(lambda: recorder.delivered == [(b"a", b"1")])
        with pytest.raises(BrokerRefused, match="certificate"):
            async with started(url):
                pass


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("http://localhost", "unknown scheme"),
        ("localhost:6379", "unknown scheme"),
        ("redis://:p4ss@localhost:x", "port"),
        ("unix://", "path"),
    ],
)
def test_a_url_that_cannot_be_used(url: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as refusal:
        open_bus(url)
    assert "p4ss" not in str(refusal.value)


def test_broker_errors_have_stable_codes() -> None:
    assert (BrokerUnavailable.code, BrokerRefused.code, BrokerError.code) == ("unavailable", "broker-refused", "")


async def test_a_flood_of_sub_and_unsub_delays_no_other_client(valkey: Valkey) -> None:
    """What was wanted and left in one turn needs no command, and so brings no reply that would go on with the rest."""
    link = Link(Address(valkey.url), recorder := Recorder(), settings=LinkSettings(probe_after=3600.0))
    await link.start()
    try:
        for number in range(2 * WINDOW):
            link.subscribe(Interest(b"c:%d" % number))
            link.unsubscribe(Interest(b"c:%d" % number))
        link.subscribe(Interest(b"c:last"))
        await recorder.until(lambda: recorder.confirmed == [b"c:last"])
    finally:
        await link.close()
