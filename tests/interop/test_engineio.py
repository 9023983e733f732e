"""The published engine.io-client packages, from the version that the JavaScript realizehit client is built on."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.interop.npm import install
from tests.support.ports import free_port
from tests.support.processes import serving
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique

pytestmark = pytest.mark.slow

VERSIONS = {"1.6": "1.6.9", "1.8": "1.8.6", "3": "3.5.6", "4": "4.1.4", "5": "5.2.0", "6": "6.6.8"}
SCRIPT = Path(__file__).with_name("engineio.js")
TOTAL = 10_000
TEXT = "é?😀\u2028"
SECONDS = 60


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all versions, each under a name of its own, and the script that uses them."""
    specs = [f"eio{name}@npm:engine.io-client@{version}" for name, version in VERSIONS.items()]
    return install(tmp_path_factory.mktemp("engineio"), SCRIPT, *specs)


class Client:
    """The script."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    async def answer(self, key: str) -> dict[str, Any]:
        """The next thing of that kind that the script says; what else it says meanwhile is left out."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while line := await self._process.stdout.readline():
                value: dict[str, Any] = json.loads(line)
                if key in value:
                    return value
        raise AssertionError("node.js ended")


@asynccontextmanager
async def node_js(packages: Path, *arguments: str) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        "node", "--no-deprecation", "engineio.js", *arguments, cwd=packages, stdin=PIPE, stdout=PIPE, limit=1 << 20
    )
    try:
        yield Client(process)
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("transports", ["websocket", "polling", "polling,websocket"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client(packages: Path, shared_valkey: Valkey, version: str, transports: str) -> None:
    pattern = unique("é?" + version)
    settings = Settings(
        port=free_port(), redis=shared_valkey.url, max_queue_messages=65_535, max_queue_bytes=1 << 28, drain_seconds=0.1
    )
    expected = "websocket" if transports.endswith("websocket") else "polling"
    label = {"sub": Pattern(pattern).id}

    async def publish(first: int, count: int) -> None:
        pipeline = broker.pipeline(transaction=False)
        for number in range(first, first + count):
            text = json.dumps({"n": number, "text": TEXT}, ensure_ascii=number % 2 == 0)
            pipeline.publish(str(Pattern(pattern)), text)
            if len(pipeline) == 100:
                await pipeline.execute()
        await pipeline.execute()

    async with (
        publisher(shared_valkey) as broker,
        node_js(packages, f"eio{version}", str(settings.port), transports, json.dumps(pattern)) as client,
    ):
        async with serve(settings) as server:
            subscribed = await client.answer("sub")
            assert subscribed.items() >= label.items()
            await publish(0, TOTAL)
            client.tell(f"count {TOTAL}")
            assert await client.answer("count") == {"count": TOTAL, "wrong": [], "transport": expected}
            client.tell("unsub")
            assert (await client.answer("unsub"))["unsub"] == Pattern(pattern).id
            await publish(0, 10)
            assert await until_idle(server)
            await server.drain()
        async with serve(settings) as server:
            assert (await client.answer("sub")).items() >= label.items()
            await publish(0, 10)
            client.tell(f"count {TOTAL + 10}")
            assert (await client.answer("count")).items() >= {"count": TOTAL + 10, "wrong": []}.items()
            async with asyncio.timeout(SECONDS):
                while server.engine.stats()["connections"] > 1:  # while a WebSocket takes over from polling
                    await asyncio.sleep(0.01)
            assert server.engine.stats()["connections"] == 1


@asynccontextmanager
async def slow_for_websockets(port: int, released: asyncio.Event) -> AsyncIterator[int]:
    """A proxy that holds WebSocket handshakes back until they are released; yields its port."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if b"websocket" in head.lower().partition(b"upgrade:")[2]:
                await released.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            far_writer.write(head)
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        writer.close()

    proxy = await asyncio.start_server(serve_one, "127.0.0.1", 0)
    try:
        yield proxy.sockets[0].getsockname()[1]
    finally:
        proxy.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_upgrade_in_the_middle_loses_and_doubles_nothing(
    packages: Path, shared_valkey: Valkey, version: str
) -> None:
    pattern = unique("upgrade" + version)
    settings = Settings(port=0, redis=shared_valkey.url, max_queue_messages=65_535, max_queue_bytes=1 << 28)
    released, upgraded = asyncio.Event(), asyncio.Event()

    async def publish() -> int:
        """Publish without an end, until the upgrade has taken place and as much again has been published."""
        total, still = 0, 20
        while still:
            pipeline = broker.pipeline(transaction=False)
            for number in range(total, total + 50):
                pipeline.publish(str(Pattern(pattern)), json.dumps({"n": number, "text": TEXT}))
            await pipeline.execute()
            total += 50
            still -= upgraded.is_set()
            await asyncio.sleep(0.005)  # no more than a client can read
        return total

    async with publisher(shared_valkey) as broker, serve(settings) as server:
        port = int(server.ws_url.removesuffix("/ws").rpartition(":")[2])
        async with (
            slow_for_websockets(port, released) as proxy,
            node_js(packages, f"eio{version}", str(proxy), "polling,websocket", json.dumps(pattern)) as client,
        ):
            assert (await client.answer("sub"))["transport"] == "polling"
            publishing = asyncio.create_task(publish())
            client.tell("count 500")
            assert (await client.answer("count"))["transport"] == "polling"
            released.set()
            change = await client.answer("upgraded")
            upgraded.set()
            total = await publishing
            assert change["upgraded"] == "websocket"
            assert 500 <= change["after"] < total
            client.tell(f"count {total}")
            assert await client.answer("count") == {"count": total, "wrong": [], "transport": "websocket"}


@pytest.mark.parametrize("version", ["3", "6"])  # of both revisions of the protocol
async def test_clients_upgrade_with_several_workers(packages: Path, shared_valkey: Valkey, version: str) -> None:
    pattern = unique("workers" + version)
    words = ("--workers", "4", "--redis", shared_valkey.url, "--drain-seconds", "0.1")
    with serving(*words) as server:
        server.find(r"worker \d+ serves", 4)
        port = server.ws.removesuffix("/ws").rpartition(":")[2]
        arguments = (f"eio{version}", port, "polling,websocket", json.dumps(pattern))
        async with AsyncExitStack() as stack, publisher(shared_valkey) as broker:
            clients = [await stack.enter_async_context(node_js(packages, *arguments)) for _ in range(4)]
            for client in clients:  # all at the worker of their session: once in 256 runs
                assert (await client.answer("upgraded"))["upgraded"] == "websocket"
            for number in range(10):
                await broker.publish(str(Pattern(pattern)), json.dumps({"n": number, "text": TEXT}))
            for client in clients:
                client.tell("count 10")
                assert await client.answer("count") == {"count": 10, "wrong": [], "transport": "websocket"}


async def until_idle(server: Node) -> bool:
    """Wait until nothing is subscribed to; tell whether the client is still there."""
    async with asyncio.timeout(SECONDS):
        while server.engine.stats()["subscriptions"]:
            await asyncio.sleep(0.01)
    return server.engine.stats()["connections"] == 1
