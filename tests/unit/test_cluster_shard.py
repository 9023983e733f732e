"""A connection to one machine of a cluster, and the channels that are wanted there, when slots move."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from realizehit.broker.base import Batch, BusState, Interest, Source
from realizehit.broker.channel_states import WINDOW
from realizehit.broker.cluster.shard_connection import ShardConnection
from realizehit.broker.cluster.shard_link import RETRY, ShardLink
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.subscriber import GATHER
from realizehit.broker.url import Address
from realizehit.errors import BrokerError

A, B = Interest(b"a"), Interest(b"b")
TWINS = [Interest(b"{a}%d" % number) for number in range(3)]  # of the slot of A


def push(kind: str, channel: bytes) -> bytes:
    return b"*3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind.encode(), len(channel), channel)


def message(channel: bytes, payload: bytes) -> bytes:
    head = push("smessage", channel).removesuffix(b":1\r\n")
    return head + b"$%d\r\n%b\r\n" % (len(payload), payload)


def moved(channel: bytes) -> bytes:
    return b"-MOVED %d 127.0.0.1:1\r\n" % slot_of(channel)


class Pipe(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True

    def commands(self) -> list[bytes]:
        """Return the commands since the last call, as lines."""
        lines = self.written.split(b"\r\n")
        self.written = b""
        words = [line for line in lines if line and not line.startswith((b"*", b"$"))]
        return b" ".join(words).replace(b" s", b"\ns").split(b"\n")


class User:
    """What a link reports to."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.delivered: list[bytes] = []

    def deliver(self, batch: Batch) -> None:
        self.delivered += [payload for _, _, payload in batch]

    def subscribed(self, channel: Interest) -> None:
        self.events.append(("subscribed", channel))

    def all_subscribed(self, channels: Sequence[Interest]) -> None:
        for channel in channels:
            self.subscribed(channel)

    def refused(self, channel: Interest, error: BrokerError) -> None:
        self.events.append(("refused", channel))

    def state_changed(self, source: Source, state: BusState) -> None:
        self.events.append((state,))

    def restored(self, source: Source, seconds: float, *, logged: bool = True) -> None:
        pass

    def lost(self, link: ShardLink, channels: Sequence[Interest], since: float) -> None:
        self.events.append(("lost", *channels))

    def misplaced(self, link: ShardLink) -> None:
        self.events.append(("misplaced",))

    def take(self) -> list[tuple[Any, ...]]:
        events, self.events = self.events, []
        return events


class Rig:
    """A link with a connection that a test answers for."""

    def __init__(self) -> None:
        self.user = User()
        self.link = ShardLink(
            ("h", 1),
            Address("redis://h:1"),
            cast("Any", self.user),
            deliver=self.user.deliver,
            confirmed=lambda: 0.0,
            client_name="test",
            settings=None,
        )
        self.pipe = Pipe()

    async def connect(self) -> None:
        self.connection = ShardConnection(self.link, [], "test", 60.0, 60.0)
        self.connection.connection_made(self.pipe)
        self.connection.data_received(b"*2\r\n$4\r\nmode\r\n$7\r\ncluster\r\n+PONG\r\n")
        self.link._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(self.link._stay(self.connection, asyncio.Event()))
        await self.turn()
        self.pipe.commands()
        self.user.take()

    async def turn(self) -> None:
        """Let the link send what is due."""
        for _ in range(3):
            await asyncio.sleep(0)

    async def have(self, *channels: Interest) -> None:
        """Have channels in force."""
        for channel in channels:
            assert not self.link.subscribe(channel)
        await self.turn()
        self.says(*(push("ssubscribe", channel) for channel in channels))
        assert self.user.take() == [("subscribed", channel) for channel in channels]
        self.pipe.commands()

    def says(self, *answers: bytes) -> None:
        self.connection.data_received(b"".join(answers))

    def close(self) -> None:
        self.connection.connection_lost(None)


@pytest.fixture
async def rig() -> Any:
    rig = Rig()
    await rig.connect()
    yield rig
    rig.close()
    await rig.task


async def test_commands_have_channels_of_one_slot(rig: Rig) -> None:
    for channel in (TWINS[0], B, TWINS[1]):
        rig.link.subscribe(channel)
    await rig.turn()
    assert rig.pipe.commands() == [b"ssubscribe {a}0 {a}1", b"ssubscribe b"]


async def test_while_replies_are_awaited_channels_wait_for_others(rig: Rig) -> None:
    rig.link.subscribe(A)
    await rig.turn()
    assert rig.pipe.commands() == [b"ssubscribe a"]
    for channel in TWINS:
        rig.link.subscribe(channel)
        await rig.turn()
        assert rig.pipe.commands() == [b""]
    rig.says(push("ssubscribe", A))
    await rig.turn()
    assert rig.pipe.commands() == [b"ssubscribe {a}0 {a}1 {a}2"]


async def test_no_channel_waits_long_for_replies(rig: Rig) -> None:
    rig.link.subscribe(A)
    await rig.turn()
    rig.link.subscribe(B)
    async with asyncio.timeout(5.0):
        while not rig.pipe.written.endswith(b"\r\nb\r\n"):
            await asyncio.sleep(GATHER)
    assert rig.pipe.commands() == [b"ssubscribe a", b"ssubscribe b"]


async def test_the_channels_in_flight_are_bounded(rig: Rig) -> None:
    names = [Interest(b"{x}%d" % number) for number in range(WINDOW + 10)]
    for channel in names:
        rig.link.subscribe(channel)
    await rig.turn()
    assert rig.connection.channels_in_flight == WINDOW
    rig.says(*(push("ssubscribe", channel) for channel in names[:WINDOW]))
    await rig.turn()
    assert rig.connection.channels_in_flight == 10


async def test_a_slot_that_moves_away(rig: Rig) -> None:
    await rig.have(A, TWINS[0], B)
    rig.says(push("sunsubscribe", TWINS[0]), push("sunsubscribe", A))
    assert rig.user.take() == [("lost", TWINS[0], A), ("misplaced",)]
    assert rig.link.subscribe(B)
    await rig.turn()
    assert rig.pipe.commands() == [b""]  # nothing is sent before the owner is known
    await asyncio.sleep(RETRY * 1.5)
    assert rig.pipe.commands() == [b"ssubscribe {a}0 a"]
    rig.says(moved(A))
    assert rig.user.take() == [("misplaced",)]
    rig.link.give_away(A)
    rig.link.give_away(TWINS[0])
    await asyncio.sleep(RETRY * 1.5)
    assert rig.pipe.commands() == [b""]
    assert len(rig.link) == 1


@pytest.mark.parametrize("others", [[], [TWINS[1]]])
async def test_a_slot_that_moves_while_its_channels_are_left(rig: Rig, others: list[Interest]) -> None:
    """What comes unasked looks like the reply, and the reply is an error that then answers nothing."""
    await rig.have(A, *others, B)
    rig.link.unsubscribe(A)
    rig.link.unsubscribe(B)
    await rig.turn()
    assert rig.pipe.commands() == [b"sunsubscribe a", b"sunsubscribe b"]
    unasked = [push("sunsubscribe", channel) for channel in (*others, A)]
    rig.says(*unasked, moved(A), push("sunsubscribe", B))
    assert not rig.pipe.is_aborted
    assert rig.user.take() == ([("lost", *others), ("misplaced",)] if others else [])
    assert len(rig.link) == len(others)
    await rig.have(B)


async def test_what_a_machine_sends_of_a_channel_given_away_is_dropped(rig: Rig) -> None:
    await rig.have(A, B)
    assert rig.link.give_away(A)
    rig.says(message(A, b"late"), message(B, b"1"))
    assert rig.user.delivered == [b"1"]
    await rig.turn()
    assert rig.pipe.commands() == [b"sunsubscribe a"]
    rig.says(push("sunsubscribe", A))
    await rig.have(A)  # it has come back
    rig.says(message(A, b"2"))
    assert rig.user.delivered == [b"1", b"2"]


async def test_each_channel_is_reported_when_the_connection_is_back(rig: Rig) -> None:
    await rig.have(A, B)
    rig.close()
    await rig.task
    assert rig.user.take() == [(BusState.DOWN,), ("lost", A, B)]
    await rig.connect()
    await rig.turn()
    rig.says(push("ssubscribe", B), push("ssubscribe", A))
    assert rig.user.take() == [("subscribed", B), ("subscribed", A)]


@pytest.mark.parametrize("text", ["-CLUSTERDOWN no\r\n", "-TRYAGAIN later\r\n"])
async def test_what_a_machine_cannot_do_now_is_tried_again(rig: Rig, text: str) -> None:
    rig.link.subscribe(A)
    await rig.turn()
    rig.pipe.commands()
    rig.says(text.encode())
    assert not rig.pipe.is_aborted
    await asyncio.sleep(RETRY * 1.5)
    assert rig.pipe.commands() == [b"ssubscribe a"]


async def test_a_broker_that_is_no_cluster_is_refused() -> None:
    connection = ShardConnection(Rig().link, [], "test", 60.0, 60.0)
    connection.connection_made(pipe := Pipe())
    connection.data_received(b"*2\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n+PONG\r\n")
    assert pipe.is_aborted
    with pytest.raises(BrokerError, match="redis://"):
        await connection.ready
    connection.connection_lost(None)
