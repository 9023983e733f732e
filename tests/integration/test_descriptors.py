"""Connections that pass from one process to another with what they have sent."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from realizehit.process.descriptors import Descriptors

PATIENCE = 15


class Worker(Descriptors):
    """Keeps the connections that it gets."""

    def __init__(self, directory: Path, number: int) -> None:
        super().__init__(lambda number: directory / f"w{number}.fds", number, 1000)
        self.taken: asyncio.Queue[tuple[socket.socket, bytes]] = asyncio.Queue()

    def begin(self) -> None:
        self.start(lambda sock, data: self.taken.put_nowait((sock, data)))


@pytest.fixture
def directory() -> Iterator[Path]:
    with TemporaryDirectory(prefix="rh-") as path:  # short enough for sockets
        yield Path(path)


async def test_a_connection_goes_on_at_the_other_worker(directory: Path) -> None:
    one, other = Worker(directory, 0), Worker(directory, 1)
    with closing(other):
        other.begin()
        client, served = socket.socketpair()
        with client:
            assert one.send(1, served.fileno(), b"GET /")
            served.close()
            taken, data = await asyncio.wait_for(other.taken.get(), PATIENCE)
            with taken:
                assert data == b"GET /"
                assert not os.get_inheritable(taken.fileno())
                client.send(b"more")
                assert taken.recv(10) == b"more"
            assert client.recv(10) == b""  # nobody else has it


async def test_what_the_other_worker_cannot_get_stays_here(directory: Path) -> None:
    one, other = Worker(directory, 0), Worker(directory, 1)
    client, served = socket.socketpair()
    with client, served:
        assert not one.send(1, served.fileno(), b"")  # it has not begun
        other.begin()
        assert not one.send(1, served.fileno(), bytes(1001))
        assert one.send(1, served.fileno(), bytes(1000))
        other.close()
        assert not one.send(1, served.fileno(), b"")
        client.send(b"still here")
        assert served.recv(20) == b"still here"


async def test_a_worker_that_takes_nothing_holds_up_no_other(directory: Path) -> None:
    with closing(Worker(directory, 1)) as other:
        other.begin()
        one = Worker(directory, 0)
        client, served = socket.socketpair()
        with client, served:
            # The event loop does not turn meanwhile.
            sent = 0
            while one.send(1, served.fileno(), bytes(1000)):
                sent += 1
                assert sent < 100_000
            for _ in range(sent):
                (await asyncio.wait_for(other.taken.get(), PATIENCE))[0].close()
            assert one.send(1, served.fileno(), b"")


async def test_what_comes_without_a_connection_is_logged_and_dropped(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Worker(directory, 1)) as other, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        other.begin()
        stranger.sendto(b"nothing", str(directory / "w1.fds"))
        client, served = socket.socketpair()
        with client, served:
            assert Worker(directory, 0).send(1, served.fileno(), b"next")
            taken, data = await asyncio.wait_for(other.taken.get(), PATIENCE)
            taken.close()
            assert data == b"next"
    assert caplog.text.count("taking a connection of another worker failed") == 1


async def test_a_connection_whose_service_fails_is_closed(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(sock: socket.socket, data: bytes) -> None:
        raise RuntimeError("no")

    with closing(Worker(directory, 1)) as other:
        other.start(fail)
        client, served = socket.socketpair()
        with client:
            assert Worker(directory, 0).send(1, served.fileno(), b"")
            served.close()
            client.setblocking(False)
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 10), PATIENCE) == b""
    assert "RuntimeError: no" in caplog.text


async def test_a_place_that_cannot_be_used_is_logged(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Worker(directory / "missing", 1)
    other.begin()
    assert "cannot pass connections of Engine.IO sessions on to this one" in caplog.text
    other.close()
