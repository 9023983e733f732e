"""``realizehit-server --workers N``: who serves, who is restarted, and who ends with whom."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.integration.test_command_server import request
from tests.integration.wire import RawClient, unique
from tests.processes import Server, embedded_pids, is_alive, private_tmp, running, serving, wait_gone
from tests.support import Valkey


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


async def test_workers_with_a_relay_share_one_subscription_and_survive_each_other(valkey: Valkey) -> None:
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


async def test_workers_end_with_a_killed_parent_and_the_valkey_at_the_next_start() -> None:
    with private_tmp() as tmp:
        with serving("--workers", "2", "--drain-seconds", "0.2", env=tmp) as server:
            workers = worker_pids(server)
            (valkey,) = embedded_pids(tmp)
            clients = await subscribed(server, unique("orphans"), 10)
            server.signal(signal.SIGKILL)
            async with asyncio.timeout(20):
                await asyncio.gather(*(one.closed.wait() for one in clients))
            assert {one.close_code for one in clients} == {4001}
            await asyncio.to_thread(wait_gone, *workers)
        assert is_alive(valkey)
        with serving(env=tmp):
            assert not is_alive(valkey)
            assert len(embedded_pids(tmp)) == 1


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
