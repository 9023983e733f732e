"""``realizehit-server --workers N``: who serves, who is restarted, and who ends with whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realizehit.access.keys import generate
from realizehit.process import worker
from realizehit.process.supervisor import _Parent
from realizehit.settings import Settings
from tests.integration.test_command_server import request
from tests.support.ports import free_port
from tests.support.processes import Server, embedded_pids, is_alive, private_tmp, running, serving, wait_gone
from tests.support.valkey import Valkey
from tests.support.wire import RawClient, unique


def worker_pids(server: Server, count: int = 2) -> list[int]:
    """The workers that said that they serve, in the order of their start."""
    return [int(match[1]) for match in server.find(r"worker (\d+) serves", count)]


async def publish(server: Server, pattern: Mapping[str, object], payload: object) -> None:
    body = json.dumps({"pattern": pattern, "payload": payload})
    status, _ = await asyncio.to_thread(request, server.api, body, {"Content-Type": "application/json"})
    assert status == 200


async def subscribed(server: Server, pattern: Mapping[str, object], count: int) -> list[RawClient]:
    clients = [await RawClient.connect(server.ws) for _ in range(count)]
    for one in clients:
        one.act(id="s", act="sub", pat=pattern)
    for one in clients:
        await one.wait_for(1)
    return clients


async def test_a_killed_worker_is_replaced_and_the_others_are_unharmed() -> None:
    with private_tmp() as tmp, serving("--workers", "2", "--drain-seconds", "0.2", env=tmp) as server:
        first, _ = worker_pids(server)
        assert len(embedded_pids(tmp)) == 1  # one for all
        pattern = unique("workers")
        clients = await subscribed(server, pattern, 40)
        await publish(server, pattern, 1)
        for one in clients:
            await one.wait_for(2)

        os.kill(first, signal.SIGKILL)
        *_, third = await asyncio.to_thread(worker_pids, server, 3)
        lost = [one for one in clients if one.closed.is_set()]
        kept = [one for one in clients if not one.closed.is_set()]
        assert lost  # both served: with 20 to 40 clients on one there would be none of one kind
        assert kept
        assert is_alive(third)
        (line,) = server.find(r"worker \d+ ended")
        assert line.string.endswith(f"worker {first} ended with signal 9")

        new = await subscribed(server, pattern, 20)
        await publish(server, pattern, 2)
        for one in kept:
            await one.wait_for(3)
        for one in new:
            await one.wait_for(2)

        server.signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await asyncio.gather(*(one.closed.wait() for one in [*kept, *new]))
        assert {one.close_code for one in [*kept, *new]} == {4001}
        assert await asyncio.to_thread(server.wait) == 0
        assert embedded_pids(tmp) == []


async def test_workers_behind_a_relay_share_one_subscription(valkey: Valkey) -> None:
    words = ("--redis", valkey.url, "--workers", "2", "--relay", "on", "--drain-seconds", "0.2")
    with serving(*words) as server:
        first, _ = worker_pids(server)
        pattern = {"kind": "relayed"}
        clients = await subscribed(server, pattern, 40)
        assert valkey.command("PUBSUB", "NUMSUB", "kind:relayed") == [b"kind:relayed", 1]
        await publish(server, pattern, 1)
        for one in clients:
            await one.wait_for(2)

        os.kill(first, signal.SIGKILL)
        await asyncio.to_thread(worker_pids, server, 3)
        kept = [one for one in clients if not one.closed.is_set()]
        assert 0 < len(kept) < len(clients)
        new = await subscribed(server, pattern, 20)
        await publish(server, pattern, 2)
        for one in kept:
            await one.wait_for(3)

        for one in (*kept, *new):
            one.transport.abort()
        async with asyncio.timeout(10):
            while valkey.command("PUBSUB", "NUMSUB", "kind:relayed") != [b"kind:relayed", 0]:
                await asyncio.sleep(0.02)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0


@pytest.mark.slow
async def test_killing_the_parent_ends_all_processes_and_frees_the_port() -> None:
    with private_tmp() as tmp, tempfile.TemporaryDirectory(prefix="rh-") as sockets:
        # A drain as long as this would hold the next server up.
        words = ["--port", str(free_port()), "--workers", "2", "--drain-seconds", "30", "--relay", "on"]
        words += ["--unix-socket", f"{sockets}/s"]
        with serving(*words, env=tmp) as server:
            workers = worker_pids(server)
            (valkey,) = embedded_pids(tmp)
            clients = await subscribed(server, unique("orphans"), 10)
            server.signal(signal.SIGKILL)
            await asyncio.to_thread(server.wait)
            with serving(*words, env=tmp) as again:
                assert again.ws == server.ws
                new = await subscribed(again, unique("orphans"), 10)
                assert not any(one.closed.is_set() for one in new)
                async with asyncio.timeout(20):
                    await asyncio.gather(*(one.closed.wait() for one in clients))
                assert {one.close_code for one in clients} == {4001}
                await asyncio.to_thread(wait_gone, *workers, valkey)
                assert len(embedded_pids(tmp)) == 1
                for one in new:
                    one.transport.abort()
                assert await asyncio.to_thread(again.stop) == 0


@pytest.mark.slow
@pytest.mark.parametrize("relay", ["on", "off"])
async def test_a_long_temporary_directory_works(relay: str, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    words = ("--workers", "2", "--relay", relay, "--drain-seconds", "0.2")
    with serving(*words, env={"TMPDIR": str(long)}) as server:
        pattern = unique("long")
        clients = await subscribed(server, pattern, 4)
        await publish(server, pattern, 1)
        for one in clients:
            await one.wait_for(2)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0


@pytest.fixture
def hanging_on_signal(tmp_path: Path) -> dict[str, str]:
    """Variables for a server whose workers never return to their event loop after SIGUSR1."""
    tmp_path.joinpath("sitecustomize.py").write_text(
        "import signal, sys\n"
        "if 'realizehit.worker' in sys.orig_argv:\n"
        "    def hang(number, frame):\n"
        "        while True: pass\n"
        "    signal.signal(signal.SIGUSR1, hang)\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}


@pytest.mark.slow
@pytest.mark.parametrize("state", ["stopped", "busy"])
async def test_a_worker_that_hangs_leaves_with_a_killed_parent(
    state: str, shared_valkey: Valkey, hanging_on_signal: dict[str, str]
) -> None:
    words = ("--redis", shared_valkey.url, "--port", str(free_port()), "--workers", "2")
    with serving(*words, env=hanging_on_signal) as server:
        workers = worker_pids(server)
        os.kill(workers[0], signal.SIGSTOP if state == "stopped" else signal.SIGUSR1)
        server.signal(signal.SIGKILL)
        await asyncio.to_thread(wait_gone, *workers)  # whose output the server's own end does not close
        with serving(*words) as again:
            worker_pids(again)


@pytest.mark.slow
@pytest.mark.parametrize("state", ["stopped", "busy"])
async def test_a_worker_that_hangs_is_killed_and_replaced(
    state: str,
    shared_valkey: Valkey,
    hanging_on_signal: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(worker, "SILENCE", 1.5)
    monkeypatch.setattr(sys, "path", hanging_on_signal["PYTHONPATH"].split(os.pathsep))
    serves = asyncio.Event()
    parent = _Parent(
        Settings(port=free_port(), workers=2), shared_valkey.url, None, lambda ws, api: serves.set(), tmp_path
    )
    running = asyncio.create_task(parent.run())
    await asyncio.wait_for(serves.wait(), 60)
    victim, other = sorted(each.process.pid for each in parent._serving)
    os.kill(victim, signal.SIGSTOP if state == "stopped" else signal.SIGUSR1)
    async with asyncio.timeout(60):
        while len(parent._serving) < 2 or victim in {each.process.pid for each in parent._serving}:
            await asyncio.sleep(0.02)
    assert other in {each.process.pid for each in parent._serving}  # which gave its signs of life all the time
    assert not is_alive(victim)
    (line,) = [record.getMessage() for record in caplog.records if " hangs" in record.getMessage()]
    assert line.startswith(f"worker {victim} hangs: it has given no sign of life for ")
    parent._stop.set()
    await asyncio.wait_for(running, 60)


class NoProcess:
    """Stands for the process of a worker that the test plays."""

    pid = 0


@asynccontextmanager
async def played_worker() -> AsyncIterator[tuple[worker.Worker, socket.socket]]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    with theirs:
        yield worker.Worker(NoProcess(), reader, writer, {}), theirs  # type: ignore[arg-type]
        writer.close()


@pytest.mark.slow
async def test_time_in_which_the_parent_was_stopped_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "SILENCE", 1.0)
    monkeypatch.setattr(worker, "BEAT", 0.2)
    async with played_worker() as (one, line):
        silence = asyncio.create_task(one.silence())
        for _ in range(2):
            await asyncio.sleep(0.05)  # it waits for a beat
            time.sleep(1.5)  # noqa: ASYNC251 - the whole process is held up, and the worker with it
            await asyncio.sleep(0.2)  # time in which the worker has its next beat
            assert not silence.done()
            line.send(b"\n")
        assert 1.2 <= await asyncio.wait_for(silence, 20) < 2.0  # and then the worker hangs


@pytest.mark.slow
async def test_a_worker_that_let_go_of_its_line_does_not_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SILENCE", 0.0)
    monkeypatch.setattr(worker, "BEAT", 0.01)
    async with played_worker() as (one, line):
        line.send(b"\n\n")
        line.close()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.silence(), 0.2)


@pytest.mark.slow
def test_it_gives_up_when_workers_die_at_their_start_again_and_again(shared_valkey: Valkey, tmp_path: Path) -> None:
    # An interpreter that ends at once where it is to be a worker: as with a broken installation or no memory.
    tmp_path.joinpath("sitecustomize.py").write_text(
        "import os, sys\nif 'realizehit.worker' in sys.orig_argv: os._exit(7)\n"
    )
    words = ("--port", "0", "--workers", "2", "--redis", shared_valkey.url)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with running("realizehit-server", *words, env={"PYTHONPATH": path}) as process:
        assert process.wait() == 1
    assert process.err[-1] == "Error: workers die again and again right after their start"
    assert len([line for line in process.err if line.endswith("ended with status 7")]) == 8
    assert process.out == []


@pytest.mark.slow
async def test_the_rate_of_a_key_and_the_most_connections_hold_for_all_workers(
    shared_valkey: Valkey, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    text, lines = generate("app")
    keys.write_text(f"{lines}rate = 5\n")
    words = ("--workers", "4", "--drain-seconds", "0.1", "--redis", shared_valkey.url)
    with serving(*words, "--keys", str(keys), "--max-connections", "6") as server:
        worker_pids(server, 4)
        body = json.dumps({"pattern": unique("rate"), "payload": 1})
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {text}"}
        began = time.monotonic()
        answers = [await asyncio.to_thread(request, server.api, body, headers) for _ in range(40)]
        allowed = [status for status, _ in answers].count(200)
        assert 5 <= allowed <= 6 + 5 * (time.monotonic() - began)  # one more, and a moment without a lock
        async with contextlib.AsyncExitStack() as stack:
            statuses: list[int] = []
            for _ in range(23):
                try:
                    await stack.enter_async_context(websockets.connect(server.ws))
                except InvalidStatus as error:
                    statuses.append(error.response.status_code)
            # Each of the other workers may not have told its last client yet.
            assert 6 <= 23 - len(statuses) <= 9
            assert set(statuses) == {503}


@pytest.mark.slow
async def test_the_most_connections_of_an_address_hold_for_all_workers(shared_valkey: Valkey) -> None:
    words = ("--workers", "2", "--drain-seconds", "0.1", "--max-per-address", "6", "--redis", shared_valkey.url)
    with serving(*words) as server:
        pids = worker_pids(server, 2)
        clients: list[websockets.ClientConnection] = []
        while len(clients) < 6:
            clients.append(await websockets.connect(server.ws))
        for _ in range(8):  # at either worker
            with pytest.raises(InvalidStatus) as refused:
                await websockets.connect(server.ws)
            assert refused.value.response.status_code == 503
        # What a killed worker had counts no more.
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.to_thread(worker_pids, server, 3)
        async with asyncio.timeout(15):
            lost = [client for client in clients if await is_closed(client)]
        clients += [await websockets.connect(server.ws) for _ in lost]
        with pytest.raises(InvalidStatus):
            await websockets.connect(server.ws)
        for client in clients:
            await client.close()


async def is_closed(client: websockets.ClientConnection) -> bool:
    """Whether the worker of a client is gone."""
    try:
        await (await client.ping())
    except ConnectionClosed:
        return True
    return False
