"""A process that is killed, has no descriptors or no disk left, or is drained under load; and a clock that jumps."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import pytest

from realizehit.broker.open import open_bus
from realizehit.pattern import Pattern
from realizehit.process.worker import SILENCE
from realizehit.transports.fd_reserve import RESERVE
from tests.integration.test_command_server import request
from tests.integration.test_command_workers import worker_pids
from tests.support.figures import note
from tests.support.ledger import Source, Witness
from tests.support.ports import free_port
from tests.support.processes import (
    SCRIPTS,
    Server,
    embedded_pids,
    embedded_url,
    is_alive,
    private_tmp,
    running,
    serving,
    wait_gone,
)
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, unique

REPOSITORY = Path(__file__).parents[2]

WITHIN = 2.0  # seconds until another worker serves in the place of one that died
SLACK = 2.0  # seconds more: starting an interpreter is processor time, 0.6 s alone and 1.4 s with five others to a core


def ticks(pid: int) -> int:
    """Processor time of a process so far, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def witnesses(server: Server, count: int, patterns: list[Pattern]) -> list[Witness]:
    """So many clients, each subscribed to all patterns."""
    clients: list[Witness] = [await Witness.connect(server.ws) for _ in range(count)]
    for one in clients:
        for pattern in patterns:
            assert "ret" in await one.ask("sub", pattern)
    return clients


async def come(clients: list[Witness], count: int, pattern: Pattern | None = None) -> None:
    """Wait until so many publications of a pattern, or so many more of any, have come to each client."""
    label = (pattern.id if pattern else "").encode()

    def have(one: Witness) -> int:
        return sum(b"?" in text and text.startswith(label) for _, text in one.seen)

    before = [have(one) if pattern is None else 0 for one in clients]
    async with asyncio.timeout(30):
        while not all(have(one) >= start + count for one, start in zip(clients, before, strict=True)):
            await asyncio.sleep(0.02)


async def told(server: Server, pattern: str, count: int = 1) -> list[re.Match[str]]:
    return await asyncio.to_thread(server.find, pattern, count)


@pytest.mark.slow
async def test_a_worker_killed_under_load_is_replaced_without_loss_elsewhere(valkey: Valkey) -> None:
    with serving("--redis", valkey.url, "--workers", "2", "--drain-seconds", "0.2") as server:
        first, _ = worker_pids(server)
        patterns = [Pattern(unique("killed")) for _ in range(10)]
        clients = await witnesses(server, 40, patterns)
        since = time.monotonic()
        bus = open_bus(valkey.url)
        await bus.start(None)
        source = Source(bus)
        flow = asyncio.create_task(source.run(patterns, 0.005))
        await come(clients, 20)
        began = time.monotonic()
        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(worker_pids, server, 3)
        took = time.monotonic() - began
        note("Process: a worker killed under load, until another one serves in its place", took, "s")
        assert took < WITHIN + SLACK
        kept = [one for one in clients if not one.closed.is_set()]
        assert 0 < len(kept) < len(clients)
        await come(kept, 20)
        flow.cancel()
        with suppress(asyncio.CancelledError):
            await flow
        end = Pattern(unique("end"))
        for one in kept:
            assert "ret" in await one.ask("sub", end)
        await source.publish(end)  # behind all the others, on each of the connections
        await come(kept, 1, end)
        for one in kept:
            assert one.gaps == []
            for pattern in patterns:
                came, missing = one.check(source, pattern, since, time.monotonic())
                sent = source.sent[pattern.id]
                # Nobody knows of the one that was under way when its publishing was cancelled.
                assert len(sent) - 1 <= sum(one.taken is True for one in sent) <= came <= len(sent)
                assert missing == 0
        await bus.close()
        for one in clients:
            one.transport.abort()


@pytest.mark.slow
async def test_without_descriptors_connections_are_refused_until_some_are_free() -> None:
    with serving("--redis", "memory://") as server:
        used = open_files(server.pid)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (used + RESERVE + 8, used + RESERVE + 8))
        host, port = server.ws.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
        held = [await asyncio.open_connection(host, int(port)) for _ in range(used + RESERVE + 60)]
        # Those that there is no room for are told or closed at once; the log says why, once.
        answers = await asyncio.gather(*(ended(reader) for reader, _ in held))
        refused = [answer for answer in answers if answer is not None]
        assert len(refused) > 40
        assert {answer[:13] for answer in refused} <= {b"HTTP/1.1 503 ", b""}
        assert any(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
        (line,) = await told(server, "refused: Too many open files")
        assert "raise the limit" in line.string
        before = ticks(server.pid)
        await asyncio.sleep(1.0)
        assert ticks(server.pid) - before < 0.3 * os.sysconf("SC_CLK_TCK")  # no busy loop
        for _, writer in held:
            writer.transport.abort()
        async with asyncio.timeout(20):
            # The event loop keeps one from its first connection on, for when there are no others.
            while open_files(server.pid) > used + 1:
                await asyncio.sleep(0.02)
        ws = await asyncio.wait_for(RawClient.connect(server.ws), 20)
        ws.act(id="p", act="ping")
        await ws.wait_for(1)
        assert len([one for one in server.err if "refused" in one]) <= 2
        ws.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes | None:
    """What a connection was told before it was closed; ``None`` where it stays open."""
    try:
        return await asyncio.wait_for(reader.read(), 1.0)
    except TimeoutError:
        return None
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("words", [(), ("--workers", "2"), ("--workers", "2", "--relay", "on")])
async def test_a_killed_embedded_broker_restarts_and_clients_get_a_gap(words: tuple[str, ...]) -> None:
    with private_tmp() as tmp, serving(*words, "--drain-seconds", "0.1", env=tmp) as server:
        (pid,) = embedded_pids(tmp)
        patterns = [Pattern(unique("embedded")) for _ in range(5)]
        clients = await witnesses(server, 10, patterns)
        since = time.monotonic()
        bus = open_bus(embedded_url(tmp), publish_timeout=0.5)
        await bus.start(None)
        source = Source(bus)
        flow = asyncio.create_task(source.run(patterns))
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            while not all(one.gaps for one in clients):
                await asyncio.sleep(0.01)
        took = max(one.gaps[0][0] for one in clients) - began
        note(f"Process: embedded broker killed, {' '.join(words) or 'one process'}, until all is told", took, "s")
        labels = [pattern.id.encode() + b"?" for pattern in patterns]
        async with asyncio.timeout(20):
            while not all(any(text.startswith(label) for _, text in one.seen) for one in clients for label in labels):
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.6)  # what is looked at below is at least half a second old
        flow.cancel()
        with suppress(asyncio.CancelledError):
            await flow
        (again,) = embedded_pids(tmp)
        assert again != pid
        status, _ = await asyncio.to_thread(request, server.api.rstrip("/") + "/readyz")
        assert status == 200
        for one in clients:
            assert "ret" in await one.ask("ping", patterns[0])
            assert not one.closed.is_set()
            assert [sorted(event["ids"]) for _, event in one.gaps] == [sorted(pattern.id for pattern in patterns)]
            for pattern in patterns:
                came, _ = one.check(source, pattern, since, time.monotonic() - 0.5)
                assert came
            one.transport.abort()
        await bus.close()
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0
        await asyncio.to_thread(wait_gone, again)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["the parent", "all"])
async def test_workers_survive_a_time_in_which_their_parent_was_stopped(valkey: Valkey, who: str) -> None:
    with serving("--redis", valkey.url, "--workers", "2", "--drain-seconds", "0.2") as server:
        workers = worker_pids(server)
        stopped = [server.pid] if who == "the parent" else [server.pid, *workers]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(SILENCE + 5)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(SILENCE + 2)  # time in which it would find that they hang
        assert all(map(is_alive, workers))
        assert not [line for line in server.err if "hangs" in line]
        ws = await RawClient.connect(server.ws)
        ws.transport.abort()


MANY = 100_000
EACH = 500  # channels of a client

BACK = 2.0  # seconds after the broker's return within which all is in force, with as many channels as that
BUSY = 4.0  # seconds more, where other tests have most of the machine


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--workers", "4", "--relay", "off"), ("--workers", "4", "--relay", "on")])
async def test_many_channels_are_back_soon_after_the_broker(valkey: Valkey, words: tuple[str, ...]) -> None:
    with serving("--redis", valkey.url, "--drain-seconds", "0", *words) as server:
        clients = [await RawClient.connect(server.ws) for _ in range(MANY // EACH)]
        for first, one in enumerate(clients):
            for number in range(EACH):
                one.act(id=number, act="sub", pat={"many": first * EACH + number})
            await one.wait_for(EACH)  # one after the other: no answer takes as long as --subscribe-timeout
        valkey.kill()
        await asyncio.sleep(1.0)  # away for as long as it takes to try again and again
        valkey.start()
        began = time.monotonic()
        for one in clients:
            await one.wait_for(EACH + 1)
        took = time.monotonic() - began
        await asyncio.to_thread(
            note, f"Process: {MANY} channels, {' '.join(words) or 'one process'}, all told", took, "s"
        )
        told = [orjson.loads(one.texts[-1]) for one in clients]
        assert {(event["evt"], len(event["ids"])) for event in told} == {("gap", EACH)}
        assert sum(1 for channel in valkey.command("PUBSUB", "CHANNELS") if channel.startswith(b"many:")) == MANY
        assert took < BACK + BUSY
        for one in clients:
            one.transport.abort()


@pytest.mark.slow
async def test_a_drain_under_load_ends_every_connection_with_4001(valkey: Valkey) -> None:
    with serving("--redis", valkey.url, "--workers", "2", "--drain-seconds", "2") as server:
        worker_pids(server)
        pattern = Pattern(unique("drain"))
        clients: list[Witness] = [await Witness.connect(server.ws) for _ in range(200)]
        for one in clients:
            one.act(id="s", act="sub", pat=dict(pattern))
        async with asyncio.timeout(30):
            while not all(one.seen for one in clients):
                await asyncio.sleep(0.01)
        since = time.monotonic()
        bus = open_bus(valkey.url)
        await bus.start(None)
        source = Source(bus)
        flow = asyncio.create_task(source.run([pattern], 0.002))
        await come(clients, 20)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await asyncio.gather(*(one.closed.wait() for one in clients))
        note(
            "Process: SIGTERM with 200 clients under load and --drain-seconds 2, until all are gone",
            time.monotonic() - began,
            "s",
        )
        flow.cancel()
        with suppress(asyncio.CancelledError):
            await flow
        assert {one.close_code for one in clients} == {4001}
        for one in clients:
            one.check(source, pattern, since, one.seen[-1][0] - 0.5)  # whole, in order and once until its close frame
        assert await asyncio.to_thread(server.wait) == 0
        await bus.close()


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)


@contextmanager
def tiny_disk(directory: Path, kib: int) -> Iterator[Path]:
    """A file system with next to no room; needs the right to mount."""
    disk = directory / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_full_disk_under_the_embedded_broker_disturbs_no_client() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rh-") as short,
        tiny_disk(Path(short), 512) as disk,
        serving("--drain-seconds", "0.1", env={"TMPDIR": str(disk)}) as server,
    ):
        fill(disk)
        assert os.statvfs(disk).f_bavail == 0
        pattern = Pattern(unique("disk"))
        ws: Witness = await Witness.connect(server.ws)
        assert "ret" in await ws.ask("sub", pattern)
        words = [f"{key}={value}" for key, value in pattern.items()]
        with running("realizehit", "publish", "--url", server.api, *words, '"full"') as publishing:
            assert await asyncio.to_thread(publishing.wait) == 0, publishing.output
        async with asyncio.timeout(20):
            while not ws.seen[-1][1].endswith(b'?"full"'):
                await asyncio.sleep(0.01)
        ws.transport.abort()
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0


@contextmanager
def full_log(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose log is on a full device."""
    command = [str(SCRIPTS / "realizehit-server"), *words]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=full, process_group=0)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def faketime() -> Path | None:
    return next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


async def test_unwritable_logs_disturb_no_client(valkey: Valkey) -> None:
    port = free_port()
    words = ["--redis", valkey.url, "--port", str(port), "--access-log", "--drain-seconds", "0.1"]
    with full_log(words) as process:
        ws = await connected(port)
        valkey.command("CLIENT", "KILL", "TYPE", "pubsub")  # something to log
        pattern = Pattern(unique("log"))
        async with asyncio.timeout(20):
            while "ret" not in await ws.ask("sub", pattern):
                await asyncio.sleep(0.05)
        valkey.command("PUBLISH", pattern.channel, "1")
        async with asyncio.timeout(20):
            while not ws.seen[-1][1].endswith(b"?1"):
                await asyncio.sleep(0.01)
        ws.transport.abort()
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0


async def connected(port: int) -> Witness:
    async with asyncio.timeout(30):
        while True:
            try:
                return await Witness.connect(f"ws://127.0.0.1:{port}/ws")
            except OSError:
                await asyncio.sleep(0.05)


WALL_CLOCK = re.compile(
    r"\btime\.time\(|\btime_ns\(|datetime\.(now|utcnow|today)\(|CLOCK_REALTIME|gettimeofday|\btime\(NULL"
)

KNOWN = {
    # What people read has a date: the access log, spans, reports of the load test, the console's figures.
    "realizehit/logs/access.py",
    "realizehit/node/deliver_spans.py",
    "realizehit/node/figures.py",
    "realizehit/loadtest/coordinator.py",
    "realizehit/loadtest/report.py",
    # A token expires at a date that its issuer set by a wall clock.
    "realizehit/access/tokens.py",
    "realizehit/access/expiry.py",
}


def test_no_deadline_depends_on_a_clock_that_can_jump() -> None:
    files = [*REPOSITORY.glob("realizehit/**/*.py"), *REPOSITORY.glob("realizehit/*.p[yx][xd]")]
    if not files:
        pytest.skip("the sources are not here")
    found = {
        f"{file.relative_to(REPOSITORY)}"
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if WALL_CLOCK.search(line.partition("#")[0])
    }
    assert found <= KNOWN, found - KNOWN


@pytest.mark.slow
async def test_a_clock_jump_disturbs_no_client(valkey: Valkey, tmp_path: Path) -> None:
    library = faketime()
    if library is None:
        pytest.skip("libfaketime is not installed")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    times = ("--heartbeat-interval", "0.5", "--heartbeat-timeout", "1")
    with serving("--redis", valkey.url, *times, env=env) as server:
        pattern = Pattern(unique("clock"))
        ws: Witness = await Witness.connect(server.ws)
        assert "ret" in await ws.ask("sub", pattern)
        for jump in ("+30d", "-400d", "+0"):
            offset.write_text(jump)
            await asyncio.sleep(1.0)
            assert "ret" in await ws.ask("ping", pattern)
            valkey.command("PUBLISH", pattern.channel, "1")
        async with asyncio.timeout(20):
            while sum(text.endswith(b"?1") for _, text in ws.seen) < 3:
                await asyncio.sleep(0.01)
        assert ws.gaps == []
        assert not ws.closed.is_set()
        ws.transport.abort()
