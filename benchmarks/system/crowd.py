"""Subscribers and a publisher: the load client's `Fleet`, on the client's core, for the benchmarks."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import orjson

from benchmarks.system.place import raise_file_limit
from benchmarks.system.processes import Child, Valkey
from realizehit.loadtest._load import DELIVERED, READY, Fleet
from realizehit.pattern import channel_of

PAYLOAD = 128  # bytes
SPARE = 200  # descriptors besides the connections
TIMEOUT = 20.0  # seconds, for every wait
FAULTS = (
    "failed",
    "dropped",
    "refused",
    "lost",
    "duplicates",
    "reordered",
    "unexpected",
    "publish_errors",
    "abandoned",
)


@dataclass(frozen=True, slots=True)
class Flow:
    """The cost of delivering a number of messages.

    Attributes:
        deliveries: how many.
        seconds: by the clock.
        server_cpu: seconds of the server's CPU.
        client_cpu: seconds of this process's CPU.
    """

    deliveries: int
    seconds: float
    server_cpu: float
    client_cpu: float

    @property
    def cost(self) -> float:
        """The server's CPU for a delivery, in microseconds."""
        return self.server_cpu / self.deliveries * 1e6

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds


class Crowd:
    """Connections to one server, subscribed, with a publisher to its broker.

    Args:
        ws_url: the server's.
        valkey: where to publish; ``None`` for a crowd that publishes nothing.
        patterns: the channels.
        subscriptions: for each connection its channels, as places in ``patterns``.
        sources: source addresses.
        others: connections that this process has besides.
        over_http: whether to publish at the server instead of the broker.
        headers: further header lines of the handshakes.
        max_pending: connections that may be between connect and reply at once.
        kernel_times: see `Fleet`.
    """

    def __init__(
        self,
        ws_url: str,
        valkey: Valkey | None,
        patterns: Sequence[dict[str, object]],
        subscriptions: Sequence[Sequence[int]],
        *,
        sources: Sequence[str] = (),
        others: int = 0,
        over_http: bool = False,
        headers: Sequence[tuple[str, str]] = (),
        max_pending: int = 512,
        kernel_times: bool = False,
    ) -> None:
        raise_file_limit(len(subscriptions) + others + SPARE)
        url = urlsplit(ws_url)
        assert url.hostname is not None
        assert url.port is not None
        self.size = len(subscriptions)
        self.fleet = Fleet(
            (url.hostname, url.port),
            [(channel_of(pattern), orjson.dumps(pattern)) for pattern in patterns],
            subscriptions,
            sources=sources,
            headers=headers,
            max_pending=max_pending,
            kernel_times=kernel_times,
        )
        if over_http:
            self.fleet.publish_http((url.hostname, url.port))
        if over_http or valkey is None:
            return
        publisher = socket.socket(socket.AF_UNIX)
        publisher.connect(str(valkey.path))
        publisher.setblocking(False)
        self.fleet.publish_over(publisher.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.fleet.close()

    def join(self) -> float:
        """Connect and subscribe all clients; return the seconds."""
        start = time.perf_counter()
        self.fleet.connect()
        if not self.fleet.run(TIMEOUT, READY):
            raise RuntimeError(f"not all are connected after {TIMEOUT:g} s: {self.fleet.counts()}")
        seconds = time.perf_counter() - start
        self.check()
        return seconds

    def check(self) -> None:
        """Check that every message reached its subscribers, once and in order.

        Raises:
            RuntimeError: it did not; the text has the counts.
        """
        counts = self.fleet.counts()
        wrong = {name: counts[name] for name in FAULTS if counts[name]}
        if wrong or counts["ready"] != self.size:
            raise RuntimeError(f"{wrong}, {counts['ready']} of {self.size} connected: {self.fleet.notes()}")

    def flow(self, server: Child, *, outstanding: int, messages: int) -> Flow:
        """Publish messages, with a number outstanding, until all subscribers have them; to each channel in turn."""
        before, cpu = self.fleet.deliveries, server.cpu
        own, start = time.process_time(), time.perf_counter()
        self.deliver(outstanding=outstanding, messages=messages)
        seconds = time.perf_counter() - start
        return Flow(self.fleet.deliveries - before, seconds, server.cpu - cpu, time.process_time() - own)

    def deliver(self, *, outstanding: int, messages: int) -> None:
        """Like `flow`, without counting the cost."""
        self.fleet.schedule(outstanding=outstanding, messages=messages, payload_bytes=PAYLOAD)
        if not self.fleet.run(TIMEOUT, DELIVERED):
            raise RuntimeError(f"not all was delivered after {TIMEOUT:g} s: {self.fleet.counts()}")
        self.check()
