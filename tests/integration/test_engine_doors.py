"""Sockets on which an engine accepts, where accepting or a handler fails: it must not be asked again without end."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from realizehit import _fanout

pytestmark = pytest.mark.skipif(not _fanout.HAVE_EPOLL, reason="the engine accepts nothing without epoll")


class Handler:
    """Is told of arrivals, and lets none in."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def on_arrived(self, handle: int, address: str) -> None:
        self.events.append("arrived")

    def on_head(self, handle: int, data: tuple[bytes, bytes]) -> None:
        self.events.append("head")

    def on_client(self, handle: int, client: _fanout.Client) -> None:
        self.events.append("client")

    def on_other(self, handle: int, data: bytes) -> None:
        self.events.append("other")
        raise ValueError("broken")

    def on_late(self, handle: int, _: None) -> None:
        self.events.append("late")

    def on_gone(self, handle: int) -> None:
        self.events.append("gone")

    def on_exhausted(self, handle: int, _: None) -> None:
        self.events.append("exhausted")


@contextmanager
def door(
    call_soon: Callable[[Callable[[], object]], object] = lambda call: call(),
) -> Iterator[tuple[_fanout.Engine, Handler, socket.socket, list[Exception]]]:
    errors: list[Exception] = []
    engine = _fanout.Engine(call_soon, errors.append)
    engine.room = 100
    handler = Handler()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        engine.listen(sock.fileno(), handler, {})
        yield engine, handler, sock, errors
        engine.unlisten(sock.fileno())
    engine.close()


def is_reported(engine: _fanout.Engine, seconds: float = 0.0) -> bool:
    """Whether there is something to do for the engine."""
    return bool(select.select([engine.fileno()], [], [], seconds)[0])


@contextmanager
def no_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    fillers = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for filler in fillers:
            os.close(filler)


def test_what_cannot_be_accepted_is_closed_at_once() -> None:
    with door() as (engine, handler, sock, _), socket.create_connection(sock.getsockname()) as client:
        with no_descriptors():
            assert is_reported(engine, 5.0)
            engine.poll()
            assert not is_reported(engine)
        assert handler.events == ["exhausted"]
        assert client.recv(1) == b""


def test_where_nothing_helps_the_socket_is_left_alone_until_the_next_tick() -> None:
    # Without its spare descriptor, as where the whole system has none.
    with no_descriptors_while_it_listens() as (engine, handler, client):
        assert is_reported(engine, 5.0)
        engine.poll()
        assert not is_reported(engine)  # though the connection still waits
        assert handler.events == ["exhausted"]
        engine.tick(time.monotonic())
        assert is_reported(engine, 5.0)
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        engine.poll()
        client.sendall(b"x")
        assert is_reported(engine, 5.0)
        engine.poll()
        assert "other" in handler.events  # it was accepted after all


@contextmanager
def no_descriptors_while_it_listens() -> Iterator[tuple[_fanout.Engine, Handler, socket.socket]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    engine = _fanout.Engine(lambda call: call(), lambda error: None)
    engine.room = 100
    handler = Handler()
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.create_connection(sock.getsockname()) as client:
        sock.setblocking(False)
        try:
            with no_descriptors():
                engine.listen(sock.fileno(), handler, {})
                yield engine, handler, client
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            engine.unlisten(sock.fileno())
            engine.close()


def test_an_arrival_whose_handler_fails_is_closed() -> None:
    with door() as (engine, handler, sock, errors), socket.create_connection(sock.getsockname()) as client:
        assert is_reported(engine, 5.0)
        engine.poll()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert is_reported(engine, 5.0)
        engine.poll()
        assert [type(error) for error in errors] == [ValueError]
        assert handler.events == ["other", "gone"]
        assert not is_reported(engine)
        client.settimeout(5.0)
        with suppress(ConnectionResetError):
            assert client.recv(1) == b""


def test_in_a_storm_each_poll_does_a_little_and_the_next_one_lets_others_go_first() -> None:
    storm = 40
    later: list[Callable[[], object]] = []
    with door(later.append) as (engine, handler, sock, _), ExitStack() as stack:
        for _ in range(storm):
            client = stack.enter_context(socket.create_connection(sock.getsockname()))
            client.sendall(b"x")
        done, put_off = [0], 0
        while handler.events.count("other") < storm:
            assert is_reported(engine, 5.0)
            engine.on_readable()
            if later:  # it was put off: nothing was done yet
                put_off += 1
                assert handler.events.count("other") == done[-1]
                (again,) = later
                engine.on_readable()
                assert later == [again]
                later.clear()
                again()
            later.clear()  # of others, such as flushes
            done.append(handler.events.count("other"))
        steps = [after - before for before, after in pairwise(done)]
        assert max(steps) <= 8
        assert len(steps) >= storm / 8
        assert put_off
