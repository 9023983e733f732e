"""Engines without an event loop, with subscribers that discard their bytes or are one end of a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from realizehit import _fanout

CHANNEL = b"channel:CNN|kind:news"
WEBSOCKET = _fanout.WEBSOCKET
MIXED = (_fanout.WEBSOCKET, _fanout.RESP)
PAYLOAD = b'{"title":"' + b"x" * 116 + b'"}'  # 128 bytes

_PING = bytes([0x81, 0x80 | 4, 0, 0, 0, 0]) + b"ping"  # a masked text frame, which calls `Null.on_text`


class Null:
    """A transport that discards its bytes, and a handler that runs a given function."""

    def __init__(self) -> None:
        self.inside: Callable[[], None] | None = None
        self.failed: Exception | None = None

    def write(self, data: bytes) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def abort(self) -> None:
        """Do nothing."""

    def on_text(self, handle: int, data: bytes) -> None:
        if self.inside is not None:
            self.inside()

    def on_binary(self, handle: int, data: bytes) -> None:
        """Do nothing."""

    def on_bytes(self, handle: int, data: bytes) -> None:
        """Do nothing."""

    def on_gone(self, handle: int) -> None:
        """Do nothing."""


class Bench:
    """An engine and its connections."""

    def __init__(self, **options: Any) -> None:
        self.null = Null()
        self.soon: list[Callable[[], None]] = []
        self.engine = _fanout.Engine(self.soon.append, self._fail, **options)
        self.handles: list[int] = []
        self.peers: list[socket.socket] = []

    def _fail(self, error: Exception) -> None:
        self.null.failed = error

    def null_subscribers(self, count: int, channel: bytes = CHANNEL, *, framings: Sequence[int] = (WEBSOCKET,)) -> None:
        """Add subscribers whose bytes go nowhere, of each framing in turn."""
        for n in range(count):
            handle = self.engine.attach(self.null, self.null, framing=framings[n % len(framings)])
            self.engine.subscribe(handle, channel)
            self.handles.append(handle)
        self.settle()

    def socket_subscribers(self, count: int, channel: bytes = CHANNEL) -> None:
        """Add subscribers on socket pairs; the other ends are in `peers`."""
        for _ in range(count):
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            theirs.setblocking(False)
            handle = self.engine.adopt(ours.detach(), self.null)
            self.engine.subscribe(handle, channel)
            self.handles.append(handle)
            self.peers.append(theirs)
        self.settle()

    def settle(self) -> None:
        """Run the callbacks that the engine scheduled, until it schedules no more."""
        while self.soon:
            self.soon.pop(0)()

    def unflushed(self, work: Callable[[], None]) -> None:
        """Run `work` inside a callback, where a dispatch only fills queues: the end of the callback flushes them.

        This separates the cost of a message from the cost of its system calls.
        """
        self.null.inside = work
        handle = self.engine.attach(self.null, self.null)
        self.engine.feed(handle, _PING)
        self.null.inside = None
        if self.null.failed is not None:
            raise self.null.failed
        self.engine.lost(handle)
        self.settle()

    def drain(self) -> None:
        """Read everything that the socket pairs hold."""
        for peer in self.peers:
            try:
                while len(peer.recv(1 << 20)) == 1 << 20:
                    pass
            except BlockingIOError:
                continue

    def close(self) -> None:
        """End the engine and its connections."""
        self.engine.close()
        for peer in self.peers:
            peer.close()


def batch_of(count: int, channel: bytes = CHANNEL, payload: bytes = PAYLOAD) -> list[list[bytes]]:
    """Return a batch as the broker's connection delivers it."""
    return [[b"message", channel, payload] for _ in range(count)]
