"""The subscriber connection against scripted peers: everything a broker, or what is none, may answer."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realizehit.broker.base import BusState, Interest
from realizehit.broker.connection import SUBSCRIBE, SubscriberConnection
from realizehit.broker.link_settings import LinkSettings
from realizehit.broker.subscriber import Link
from realizehit.broker.url import Address
from realizehit.errors import BrokerRefused
from tests.support.bus_recorder import QUICK, Recorder

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"


@contextlib.asynccontextmanager
async def scripted(peer: Peer) -> AsyncIterator[str]:
    """Serve ``peer`` for each connection, and give the URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await peer(reader, writer)
        writer.close()

    with tempfile.TemporaryDirectory(prefix="rh-") as directory:
        path = Path(directory) / "p.sock"
        server = await asyncio.start_unix_server(serve, path)
        try:
            yield f"unix://ann:s3cret@{path}"
        finally:
            server.close()


def saying(*answers: bytes) -> Peer:
    """Make a peer that gives one answer to each connection in turn, and the last one ever after."""
    left = list(answers)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"PING\r\n") if b"PING" in await reader.read(1) else None
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        while await reader.read(1000):
            pass

    return peer


@pytest.mark.parametrize(
    "answer",
    [
        b"-WRONGPASS invalid username-password pair or user is disabled.\r\n",
        b"-ERR AUTH <password> called without any password configured for the default user.\r\n",
        b"-ERR unknown command 'auth', with args beginning with: 'ann' 's3cret'\r\n",
        b"-NOPERM no auth for you\r\n",
        OK + b"-NOAUTH Authentication required.\r\n",
        b"-DENIED running in protected mode\r\n",
    ],
)
async def test_a_login_that_can_never_work_fails_start_and_shows_no_secret(answer: bytes) -> None:
    async with scripted(saying(answer)) as url:
        link = Link(Address(url), recorder := Recorder(), settings=QUICK)
        with pytest.raises(BrokerRefused) as refusal:
            await link.start()
    assert "s3cret" not in str(refusal.value)
    assert "ann:***@" in str(refusal.value)
    assert recorder.states == [BusState.CLOSED]


@pytest.mark.parametrize(
    "answer",
    [
        b"-LOADING the dataset is loading\r\n" * 3,
        OK * 2 + b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-ERR max number of clients reached\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"+OK\r\n*0\r\n",
        b"+OK\r\n:0\r\n$-1\r\n+PING\r\n*-1\r\n",
    ],
)
async def test_a_peer_that_is_not_ready_or_no_broker_is_tried_again(
    answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted(saying(answer, OK * 2 + PONG)) as url:
        link = Link(Address(url), recorder := Recorder(), settings=QUICK)
        await link.start()
        await recorder.until(lambda: link.state is BusState.UP)
        await link.close()
    assert "s3cret" not in caplog.text


async def test_rights_that_nothing_depends_on_may_be_missing() -> None:
    answer = OK + b"-NOPERM no 'client|setname'\r\n" + b"-NOPERM no 'ping'\r\n"
    async with scripted(saying(answer)) as url:
        link = Link(Address(url), Recorder(), settings=LinkSettings())
        await link.start()
        assert link.state is BusState.UP
        await link.close()


async def test_a_peer_that_never_answers_is_given_up_in_time() -> None:
    async with scripted(saying(b"")) as url:
        link = Link(Address(url), recorder := Recorder(), settings=QUICK)
        async with asyncio.timeout(5 * QUICK.connect_timeout):
            await link.start()
        assert recorder.states == [BusState.DOWN]
        await link.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"?what\r\n",
        b"*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:1\r\n",
        b"+surplus\r\n+surplus\r\n",
        b"*0\r\n",
        b"%1\r\n*1\r\n:1\r\n:2\r\n",
        b"-ERR what \xff\r\n",
    ],
)
async def test_garbage_costs_the_connection_and_nothing_else(garbage: bytes) -> None:
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n"
    async with scripted(saying(OK * 2 + PONG + message + garbage, OK * 2 + PONG)) as url:
        link = Link(Address(url), recorder := Recorder(), settings=QUICK)
        await link.start()
        await recorder.until(lambda: link.reconnects == 1 and link.state is BusState.UP)
        assert recorder.delivered == [(b"a", b"1")]
        await link.close()


async def test_a_silent_peer_is_probed_and_then_dropped() -> None:
    async with scripted(saying(OK * 2 + PONG)) as url:
        link = Link(Address(url), recorder := Recorder(), settings=QUICK)
        await link.start()
        began = asyncio.get_running_loop().time()
        await recorder.until(lambda: link.reconnects == 1)
        waited = asyncio.get_running_loop().time() - began
        assert waited >= QUICK.probe_after + QUICK.probe_timeout
        await link.close()


def test_the_default_probe_notices_a_dead_peer_within_ten_seconds() -> None:
    times = LinkSettings()
    assert times.probe_after + times.probe_timeout < 9


class Owner:
    """What a connection reports, in its order."""

    keeps = True  # the connection, where a relay has lost the broker

    def __init__(self) -> None:
        self.log: list[object] = []

    def deliver(self, batch: Sequence[Sequence[bytes]]) -> None:
        self.log += [(channel, payload) for _, channel, payload in batch]

    def confirmed(self, kind: bytes, channels: Sequence[bytes]) -> None:
        self.log += [(kind, channel) for channel in channels]

    def failed(self, command: object, text: str) -> None:
        self.log.append(text)

    def answered(self) -> None:
        pass

    def relay_lost_broker(self) -> bool:
        self.log.append("lost")
        return self.keeps

    def relay_has_broker(self) -> None:
        self.log.append("back")

    def relay_refused(self, channel: bytes, text: str) -> None:
        self.log.append((channel, text))

    def disconnected(self) -> None:
        self.log.append("gone")


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True


def connected() -> tuple[SubscriberConnection, Owner, Pipe]:
    connection = SubscriberConnection(owner := Owner(), [], "name", 3.0, 5.0)
    connection.connection_made(pipe := Pipe())
    connection.data_received(OK + PONG)
    assert connection.ready.done()
    return connection, owner, pipe


channels = st.binary(min_size=1, max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(channels, st.binary(max_size=50)), max_size=20), st.lists(st.integers(1, 40), min_size=1))
def test_messages_arrive_whole_and_in_order_for_any_split(
    messages: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    async def scenario() -> None:
        connection, owner, _ = connected()
        stream = b"".join(
            b"*3\r\n$7\r\nmessage\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(channel), channel, len(payload), payload)
            for channel, payload in messages
        )
        read = turn = 0
        while read < len(stream):
            size = sizes[turn % len(sizes)]
            connection.data_received(stream[read : read + size])
            read, turn = read + size, turn + 1
        assert owner.log == messages
        assert connection.messages_received == len(messages)
        assert connection.bytes_received == len(stream) + len(OK + PONG)
        connection.connection_lost(None)

    asyncio.run(scenario())


LOST = b"*2\r\n$4\r\nlost\r\n$5\r\n1.250\r\n"
BACK = b"*1\r\n$4\r\nback\r\n"


@pytest.mark.parametrize("keeps", [True, False])
async def test_a_relay_reports_a_lost_broker(keeps: bool) -> None:
    connection, owner, pipe = connected()
    owner.keeps = keeps
    connection.send(SUBSCRIBE, [Interest(b"a")])
    before = connection.certain
    connection.data_received(LOST)
    assert before - 1.3 < connection.certain <= asyncio.get_running_loop().time() - 1.25
    assert owner.log == ["lost"]
    assert pipe.aborted is not keeps
    if keeps:
        connection.data_received(b"*3\r\n$7\r\nrefused\r\n$1\r\nb\r\n$6\r\nNOPERM\r\n" + BACK)
        connection.data_received(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n")  # replies are matched as ever
        assert owner.log == ["lost", (b"b", "NOPERM"), "back", (SUBSCRIBE, b"a")]
        assert not pipe.aborted
    connection.connection_lost(None)


@pytest.mark.parametrize(
    "odd",
    [
        b"*1\r\n$4\r\nlost\r\n",
        b"*2\r\n$4\r\nlost\r\n$1\r\nx\r\n",
        b"*2\r\n$4\r\nlost\r\n*0\r\n",
        b"*2\r\n$4\r\nback\r\n:1\r\n",
        b"*2\r\n$7\r\nrefused\r\n$1\r\na\r\n",
        b"*3\r\n$7\r\nrefused\r\n$1\r\na\r\n:1\r\n",
    ],
)
async def test_unknown_relay_messages_end_the_connection(odd: bytes) -> None:
    connection, owner, pipe = connected()
    connection.data_received(odd)
    assert pipe.aborted
    assert owner.log == []
    connection.connection_lost(None)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([OK, PONG, LOST, BACK, b"*3\r\n$7\r\nmessage\r\n", b"$1\r\na\r\n", b"*0\r\n"])
    )
)
def test_no_bytes_make_a_callback_raise(reads: list[bytes]) -> None:
    async def scenario() -> None:
        connection, _, pipe = connected()
        connection.send(SUBSCRIBE, [Interest(b"a"), Interest(b"b")])
        connection.flush()
        for data in reads:
            connection.data_received(data)
        if pipe.aborted:
            connection.data_received(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$4\r\nlate\r\n")
        connection.connection_lost(None)
        assert connection.closed.done()

    asyncio.run(scenario())


async def test_a_confirmation_precedes_the_publications_of_the_same_read() -> None:
    connection, owner, pipe = connected()
    connection.send(SUBSCRIBE, [Interest(b"a"), Interest(b"b")])
    connection.flush()
    assert pipe.written.endswith(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n$1\r\nb\r\n")
    connection.data_received(
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
        b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\n1\r\n"
        b"*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"
    )
    assert owner.log == [(SUBSCRIBE, b"a"), (SUBSCRIBE, b"b"), (b"a", b"1")]
    assert connection.channels_in_flight == 0
    connection.connection_lost(None)
    assert owner.log[-1] == "gone"
