"""What goes wrong in the soak: brokers, failovers, connections, servers, workers and networks."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, Protocol

import redis

from realizehit.broker.history.scripts import log_key
from realizehit.common.position import Position
from tests.support.account import Account
from tests.support.ports import free_port
from tests.support.processes import Server, is_alive
from tests.support.proxy import Proxy
from tests.support.sentinels import Server as SentinelServer
from tests.support.sentinels import Watched
from tests.support.valkey import Valkey

Fault = Callable[[], Awaitable[None]]

DOWN_AFTER = 1500  # milliseconds of silence after which the sentinels consider a server dead
RESTORED = 60.0  # seconds until what was broken must be whole again


class Broker(Protocol):
    """The broker of a soak, and how it breaks.

    Attributes:
        faults: what can happen to it, by name.
    """

    faults: dict[str, Fault]

    async def note_logs(self) -> None:
        """Enter into the account what the heads of the logs say now."""


def _note_logs(account: Account, command: Callable[..., Any]) -> None:
    for channel in {entry.channel for entry in account.entries}:
        note_log(account, channel, command)


def note_log(account: Account, channel: str, command: Callable[..., Any]) -> None:
    """Enter what the head of a log says; ``command`` sends a command to the machine that has it."""
    head = command("LINDEX", log_key(channel.encode()).decode(), "-1")
    if head:
        epoch, _, _, _, *before = (head if isinstance(head, str) else head.decode()).split()
        account.lineages[channel].note(epoch, [at for text in before if (at := Position.parse(text))])


class SingleBroker:
    """One Valkey, which keeps its data, with a proxy before it for one of the servers."""

    def __init__(self, valkey: Valkey, proxy: Proxy, account: Account, random: Random) -> None:
        self.faults: dict[str, Fault] = {
            "broker killed": self.kill,
            "connections killed": self.kill_connections,
            "network cut": self.cut,
            "network half open": self.half_open,
            "connections forgotten": self.forget,
        }
        self._valkey = valkey
        self._proxy = proxy
        self._account = account
        self._random = random
        self._busy = asyncio.Lock()

    async def note_logs(self) -> None:
        await asyncio.to_thread(_note_logs, self._account, self._valkey.command)

    async def kill(self) -> None:
        async with self._busy:
            with self._account.outage():
                self._valkey.kill()
                await asyncio.sleep(self._random.uniform(0.0, 1.5))
                await asyncio.to_thread(self._valkey.start)

    async def kill_connections(self) -> None:
        """End the connections of nodes or of publishers."""
        async with self._busy:
            kind = self._random.choice(["pubsub", "normal"])
            with self._account.outage():
                await asyncio.to_thread(self._valkey.command, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def cut(self) -> None:
        with self._account.outage():
            await self._proxy.cut()

    async def half_open(self) -> None:
        with self._account.outage():
            self._proxy.swallow = True
            await asyncio.sleep(self._random.uniform(0.5, 3.0))
            self._proxy.swallow = False
            await self._proxy.cut()

    async def forget(self) -> None:
        with self._account.outage():
            self._proxy.forget()


class SentinelBroker:
    """A master and a replica with three sentinels."""

    def __init__(self, watched: Watched, account: Account, random: Random) -> None:
        self.faults: dict[str, Fault] = {
            "failover": self.fail_over,
            "failover with lost writes": self.fail_over_with_losses,
            "connections killed": self.kill_connections,
        }
        self._watched = watched
        self._account = account
        self._random = random
        self._busy = asyncio.Lock()

    async def note_logs(self) -> None:
        await asyncio.to_thread(_note_logs, self._account, self._of_port(self._watched.master).command)

    def _of_port(self, port: int) -> SentinelServer:
        return next(each for each in self._watched.servers if each.port == port)

    async def kill_connections(self) -> None:
        """End the connections of nodes or of publishers."""
        async with self._busy:
            kind = self._random.choice(["pubsub", "normal"])
            with self._account.outage():
                master = self._of_port(self._watched.master)
                await asyncio.to_thread(master.command, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def fail_over(self) -> None:
        await self._fail_over(cut_off=False)

    async def fail_over_with_losses(self) -> None:
        await self._fail_over(cut_off=True)

    async def _fail_over(self, *, cut_off: bool) -> None:
        async with self._busy:
            began = time.monotonic()
            old = self._of_port(await asyncio.to_thread(lambda: self._watched.master))
            new = next(each for each in self._watched.servers if each is not old)
            if cut_off:  # the replica cannot log in any more, so that it misses what comes
                await asyncio.to_thread(new.command, "CONFIG", "SET", "masterauth", "wrong")
                await asyncio.to_thread(old.command, "CLIENT", "KILL", "TYPE", "replica")
                await asyncio.sleep(self._random.uniform(0.2, 1.0))
            with self._account.outage():
                old.kill()
                await self._until(lambda: self._watched.master == new.port)
            if cut_off:
                await asyncio.to_thread(new.command, "CONFIG", "SET", "masterauth", "")
                await asyncio.to_thread(new.command, "CONFIG", "REWRITE")  # the promotion has written the other
            await asyncio.to_thread(old.start)
            # The sentinels would do the same, after 8 s.
            await asyncio.to_thread(old.command, "REPLICAOF", "127.0.0.1", str(new.port))
            await self._until(self._watched.ready)
            # Replication is asynchronous: what had not come to the replica is lost, although it was answered. Until
            # the replica follows, the sentinels may also make a master of it that lacks everything.
            self._account.lossy.append((began - 0.5, time.monotonic() + 0.5))
            await self.note_logs()

    async def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + RESTORED
        while True:
            with suppress(redis.RedisError, IndexError, KeyError):
                if await asyncio.to_thread(condition):
                    return
            assert time.monotonic() < deadline, "the sentinels did not come to that in time"
            await asyncio.sleep(0.1)


class Servers:
    """The servers of a soak: they are drained, their workers are killed, and they come back at the same port.

    Attributes:
        drained: how often one was.
    """

    def __init__(self, random: Random, *commands: tuple[str, ...]) -> None:
        self.faults: dict[str, Fault] = {"drain": self.drain, "worker killed": self.kill_worker}
        self._random = random
        self._commands = [("--port", str(free_port()), *words) for words in commands]
        self._servers: list[Server] = []
        self._ended: list[Server] = []
        self._busy = [asyncio.Lock() for _ in commands]

    async def start(self) -> None:
        for command in self._commands:
            self._servers.append(await asyncio.to_thread(Server, *command))

    async def stop(self) -> None:
        for server in self._servers:
            await asyncio.to_thread(server.stop)

    @property
    def ports(self) -> list[int]:
        return [int(command[1]) for command in self._commands]

    def ws(self, index: int) -> str:
        return f"ws://127.0.0.1:{self.ports[index]}/ws"

    def api(self, index: int) -> str:
        return f"http://127.0.0.1:{self.ports[index]}/"

    @property
    def output(self) -> str:
        return "\n".join(server.output for server in (*self._ended, *self._servers))

    async def drain(self) -> None:
        index = self._random.randrange(len(self._servers))
        async with self._busy[index]:
            server = self._servers[index]
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0, server.output
            self._ended.append(server)
            self._servers[index] = await asyncio.to_thread(Server, *self._commands[index])

    async def kill_worker(self) -> None:
        index = self._random.randrange(len(self._servers))
        async with self._busy[index]:
            output = self._servers[index].output
            pids = [pid for pid in map(int, re.findall(r"worker (\d+) serves", output)) if is_alive(pid)]
            if pids:
                os.kill(self._random.choice(pids), signal.SIGKILL)


async def break_things(
    faults: dict[str, Fault], random: Random, until: float, pause: float, account: Account, happened: Counter[str]
) -> None:
    """Let one fault after the other happen, at random times; several callers let them overlap."""
    while True:
        await asyncio.sleep(random.uniform(0.3, 1.7) * pause)
        if time.monotonic() >= until:
            return
        name = random.choice(list(faults))
        began = time.monotonic()
        await faults[name]()
        happened[name] += 1
        account.faults.append((began, time.monotonic(), name))


def rules_file(directory: Path, text: str) -> Path:
    """Write a file of rules and return its path."""
    file = directory / "history.toml"
    file.write_text(text)
    return file
