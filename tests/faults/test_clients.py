"""Clients that stall, that vanish without a word, and that all come back at once."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import trustme

from realizehit.loadtest import _load
from realizehit.loadtest.histogram import Histogram
from realizehit.pattern import Pattern
from tests.faults.test_process import open_files
from tests.support.engines import CLOSE, TEXT, client_frame
from tests.support.figures import note
from tests.support.ports import free_port
from tests.support.processes import Server, serving
from tests.support.valkey import Valkey
from tests.support.wire import HANDSHAKE, unique

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _load.HAVE_EPOLL, reason="the load client needs epoll"),
]

STALLED, HEALTHY = 1000, 100
RATE = 100.0  # messages a second, each of them to everybody: 10,000 deliveries a second to the healthy
PAYLOAD = 2048  # bytes
QUEUE = 2 << 20  # bytes that may wait for a client: ten seconds of messages

SLOW = 'realizehit_disconnects_total{reason="slow_consumer"}'
OTHERWISE = [f'realizehit_disconnects_total{{reason="{reason}"}}' for reason in ("heartbeat_missed", "protocol_error")]
# What the server may grow by, as docs/reliability.md has it: those who stall on one channel share its frames, and each
# has a ring of pointers, of a power of two, and has outgrown those of the powers below. Allocators round up.
RING = 8 * 1024  # bytes, for the thousand messages that are 2 MiB
COST = 1.2 * (QUEUE + STALLED * 2 * RING)


def metric(server: Server, name: str) -> float:
    with urllib.request.urlopen(server.api + "metrics", timeout=20) as response:
        for line in response.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
    raise AssertionError(f"there is no {name}")


def rss(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Stalled:
    """A subscriber that reads the reply to its `sub` and nothing more."""

    def __init__(self, address: tuple[str, int], pattern: Pattern, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.settimeout(20)
        self.sock.connect(address)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
        self.sock.sendall(HANDSHAKE)
        text = b""
        while b"\r\n\r\n" not in text:
            text += self.sock.recv(4096)
        self.sock.sendall(client_frame(TEXT, json.dumps({"id": "s", "act": "sub", "pat": dict(pattern)}).encode()))
        assert b'"ret"' in self.sock.recv(4096)

    def close_code(self) -> int | None:
        """Read to the end, and return the code of the close frame there."""
        rest = b""
        try:
            while data := self.sock.recv(1 << 16):
                rest = (rest + data)[-256:]
        except ConnectionResetError:
            return None
        finally:
            self.sock.close()
        at = rest.rfind(bytes([0x80 | CLOSE]))
        return int(struct.unpack(">H", rest[at + 2 : at + 4])[0]) if at >= 0 else None


class Readers:
    """The healthy ones of a server, and who publishes to all, on a thread of their own: nothing may hold them up."""

    def __init__(self, server: Server, valkey: Valkey) -> None:
        self.server = server
        self.pattern = Pattern(unique("stall"))
        parts = urlsplit(server.ws)
        self.address = (parts.hostname or "", parts.port or 0)
        channels = [(self.pattern.channel.encode(), json.dumps(dict(self.pattern)).encode())]
        self._fleet = _load.Fleet(self.address, channels, [[0]] * HEALTHY)
        self._fleet.connect()
        assert self._fleet.run(20, _load.READY)
        with socket.socket(socket.AF_UNIX) as broker:
            broker.connect(str(valkey.socket))
            self._fleet.publish_over(broker.detach())
        self._fleet.schedule(rate=RATE, payload_bytes=PAYLOAD)
        self._latencies = Histogram()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._fleet.run(0.05)
            self._latencies.add(self._fleet.take_latencies())

    def begin(self) -> None:
        """Forget what was measured."""
        self._latencies = Histogram()

    @property
    def p99(self) -> float:
        """Seconds, since `begin`."""
        found = self._latencies.percentile(99)
        assert found is not None
        return found

    def end(self) -> dict[str, int]:
        """Stop publishing, take what is on its way, and return the counts."""
        self._ended.set()
        self._thread.join()
        self._fleet.unschedule()
        self._fleet.run(1.0)
        counts = self._fleet.counts()
        self._fleet.close()
        return counts


@contextmanager
def read(valkey: Valkey) -> Iterator[Readers]:
    with serving("--redis", valkey.url, "--max-queue-bytes", str(QUEUE)) as server:
        readers = Readers(server, valkey)
        try:
            yield readers
        finally:
            counts = readers.end()
        assert (counts["dropped"], counts["closed"], counts["duplicates"], counts["reordered"]) == (0, 0, 0, 0)


def test_readers_that_stall_cost_the_others_nothing_and_are_closed(valkey: Valkey) -> None:
    """Two servers with the same load, of which one has the stalled: what else the machine does is the same for both."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    without: list[float] = []
    beside: list[float] = []
    with read(valkey) as others, read(valkey) as readers:
        server = readers.server
        stalled = [Stalled(readers.address, readers.pattern) for _ in range(STALLED)]
        before = most = rss(server.pid)
        deadline = time.monotonic() + 120
        # Until the system takes no more of what they do not read, they are 1,000 readers more.
        while metric(server, "realizehit_blocked_total") < STALLED:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        while (slow := metric(server, SLOW)) < STALLED:
            assert time.monotonic() < deadline, f"{slow} were closed"
            others.begin()
            readers.begin()
            time.sleep(1.0)
            without.append(others.p99)
            beside.append(readers.p99)
            most = max(most, rss(server.pid))
        codes = [one.close_code() for one in stalled]
        assert metric(server, SLOW) == STALLED
        assert [metric(server, name) for name in OTHERWISE] == [0, 0]
        assert metric(server, "realizehit_connections") == HEALTHY
        assert metric(others.server, SLOW) == 0
    note("Clients: p99 of 100 readers, 10,000 deliveries a second", statistics.median(without) * 1000, "ms")
    note("Clients: the same while 1,000 others stall", statistics.median(beside) * 1000, "ms")
    note("Clients: growth of the server by 1,000 that stall", (most - before) / (1 << 20), "MiB")
    assert len(beside) >= 5
    assert statistics.median(b / a for a, b in zip(without, beside, strict=True)) <= 2, (without, beside)
    assert most - before < COST
    # Who is not read within the five seconds that a close frame is given ends without one, and none with another code.
    assert set(codes) <= {4002, None}
    assert 4002 in codes


def test_stalled_readers_with_tls_cost_what_their_queues_may_hold(valkey: Valkey, tmp_path: Path) -> None:
    count, queue, payload = 40, 1 << 20, b'"' + b"x" * 50_000 + b'"'
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(chain)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    words = ("--tls-cert", str(chain), "--tls-key", str(key), "--max-queue-bytes", str(queue), "--slow-grace", "0")
    with serving("--redis", valkey.url, *words) as server, redis.Redis.from_url(valkey.url) as broker:
        parts = urlsplit(server.ws)
        patterns = [Pattern(unique("stalled-tls")) for _ in range(count)]  # each has messages of its own
        stalled = [Stalled((parts.hostname or "", parts.port or 0), pattern, tls) for pattern in patterns]
        before = most = rss(server.pid)
        listening = count
        deadline = time.monotonic() + 60
        while listening:
            assert time.monotonic() < deadline, f"{listening} were not closed"
            listening = sum(broker.publish(pattern.channel, payload) for pattern in patterns)
            most = max(most, rss(server.pid))
        for one in stalled:
            one.sock.close()
    note("Clients: growth of the server by 40 with TLS that stall", (most - before) / (1 << 20), "MiB")
    assert count * queue / 2 < most - before < 1.25 * count * queue


_namespaces = itertools.count()


@contextmanager
def namespace() -> Iterator[tuple[str, str]]:
    """A network namespace with a link to it: its name, and this side's address."""
    number = next(_namespaces)  # the system takes a moment to forget the one before
    name = f"rh{os.getpid()}-{number}"
    link = f"rh{os.getpid() % 100000}a{number}"
    net = f"10.{200 + os.getpid() % 50}.{(os.getpid() // 50 + number) % 250}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no right to make a network namespace")
    try:
        try:
            ip("link", "add", link, "type", "veth", "peer", "name", "inside", "netns", name)
        except subprocess.CalledProcessError:
            pytest.skip("this system has no veth")
        ip("addr", "add", f"{net}.1/24", "dev", link)
        ip("link", "set", link, "up")
        ip("-n", name, "addr", "add", f"{net}.2/24", "dev", "inside")
        ip("-n", name, "link", "set", "inside", "up")
        yield name, f"{net}.1"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


VANISHING = """
import socket, sys, time
host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
socks = []
for _ in range(count):
    sock = socket.create_connection((host, port), 10)
    sock.sendall(REQUEST)
    answer = b""
    while END not in answer:
        answer += sock.recv(4096)
    socks.append(sock)
print("ready", flush=True)
time.sleep(60)
"""


EVENTS = b"GET /sse?pat=vanish=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("what", "request_head", "end"),
    [("peers", HANDSHAKE, b"\r\n\r\n"), ("readers of event streams", EVENTS, b"event: subscribed")],
)
def test_peers_that_vanish_are_gone_after_the_heartbeat(
    valkey: Valkey, what: str, request_head: bytes, end: bytes
) -> None:
    interval, timeout, count = 1.0, 1.5, 50
    with namespace() as (name, host):
        words = ("--host", host, "--heartbeat-interval", str(interval), "--heartbeat-timeout", str(timeout))
        with serving("--redis", valkey.url, *words) as server:
            script = f"REQUEST, END = {request_head!r}, {end!r}\n{VANISHING}"
            port = str(urlsplit(server.ws).port)
            command = ["ip", "netns", "exec", name, sys.executable, "-c", script, host, port, str(count)]
            before = open_files(server.pid)
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as peers:
                try:
                    assert peers.stdout is not None
                    assert peers.stdout.readline() == b"ready\n"
                    assert metric(server, "realizehit_connections") == count
                    subprocess.run(["ip", "-n", name, "link", "set", "inside", "down"], check=True)
                    began = time.monotonic()
                    while open_files(server.pid) > before:
                        assert time.monotonic() - began < 30
                        time.sleep(0.05)
                    took = time.monotonic() - began
                finally:
                    peers.kill()
            assert metric(server, "realizehit_connections") == 0
            missed = metric(server, 'realizehit_disconnects_total{reason="heartbeat_missed"}')
            assert missed == (count if request_head == HANDSHAKE else 0)  # an event stream has no answers to miss
            note(
                f"Clients: half-open {what}, with a heartbeat of {interval:g} + {timeout:g} s, are gone after",
                took,
                "s",
            )
            # The heartbeat, its coarse tick, and 5 seconds for a close frame that nobody answers.
            assert took < interval + timeout + 5 + 3


async def test_everybody_comes_back_at_once_after_a_restart(valkey: Valkey) -> None:
    count = 5000
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < count + 500:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    patterns = [Pattern(unique("storm")) for _ in range(100)]
    port = str(free_port())
    pairs = [(pattern.channel.encode(), json.dumps(dict(pattern)).encode()) for pattern in patterns]
    options = ("--redis", valkey.url, "--port", port, "--drain-seconds", "0.1")
    fleet = _load.Fleet(("127.0.0.1", int(port)), pairs, [[n % 100] for n in range(count)])
    with serving(*options) as server:
        fleet.connect()
        assert await asyncio.to_thread(fleet.run, 60, _load.READY), fleet.counts()
        server.signal(9)  # type: ignore[arg-type]  # SIGKILL: nobody is told when to come back
        await asyncio.to_thread(server.wait)
    fleet.disconnect()
    fleet.run(0)
    with serving(*options):
        began = time.monotonic()
        fleet.connect()
        assert await asyncio.to_thread(fleet.run, 60, _load.READY), (fleet.counts(), fleet.notes())
        took = time.monotonic() - began
        note("Clients: 5,000 come back at once after a restart, until all are subscribed", took, "s")
        assert took < 5
        with socket.socket(socket.AF_UNIX) as broker:
            broker.connect(str(valkey.socket))
            fleet.publish_over(broker.detach())
        fleet.schedule(rate=200, messages=200)
        assert await asyncio.to_thread(fleet.run, 30, _load.DELIVERED), (fleet.counts(), fleet.notes())
        counts = fleet.counts()
        fleet.close()
    assert (counts["deliveries"], counts["lost"], counts["duplicates"], counts["refused"]) == (200 * 50, 0, 0, 0)
