"""EventSources of others, which come back to a stream that ended and never to an answer other than 200."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from realizehit.pattern import Pattern
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.interop.npm import install
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.wire import publisher, unique

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SCRIPT = Path(__file__).with_name("eventsource.mjs")
COUNT = 8
SECONDS = 60


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the package and the script that uses it."""
    return install(tmp_path_factory.mktemp("eventsource"), SCRIPT, "eventsource@4.1.1")


@asynccontextmanager
async def event_sources(packages: Path, url: str) -> AsyncIterator[Callable[[dict[str, Any]], Any]]:
    """Run the script; what is given waits until it says something."""
    process: Process = await asyncio.create_subprocess_exec(
        "node", SCRIPT.name, url, str(COUNT), cwd=packages, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    lines = process.stdout

    async def said(what: dict[str, Any]) -> None:
        async with asyncio.timeout(SECONDS):
            while line := await lines.readline():
                value = json.loads(line)
                assert "dead" not in value, value
                if value == what:
                    return
        raise AssertionError("node.js ended")

    try:
        yield said
    finally:
        process.stdin.close()
        await process.wait()


def address(node: Node, pattern: dict[str, Any]) -> str:
    return f"{node.api_url}sse?" + urlencode({"pat": json.dumps(pattern)})


async def all_have(said: Callable[[dict[str, Any]], Any], valkey: Valkey, pattern: dict[str, Any]) -> None:
    async with publisher(valkey) as broker:
        assert await broker.publish(str(Pattern(pattern)), '"after"') == 1
    await said({"payload": '"after"', "at": COUNT})


async def test_they_come_back_after_a_restart(packages: Path, valkey: Valkey) -> None:
    """Some of them while the server that goes away is still there, so that it answers them once more."""
    pattern = unique("es-restart")
    settings = Settings(port=free_port(), redis=valkey.url, drain_seconds=1.0)
    async with serve(settings) as node, event_sources(packages, address(node, pattern)) as said:
        await said({"subscribed": COUNT})
        await node.drain()
        await node.close()
        async with serve(settings):
            await said({"subscribed": 2 * COUNT})
            await all_have(said, valkey, pattern)


async def test_they_reconnect_to_a_draining_server_and_without_a_broker(packages: Path, valkey: Valkey) -> None:
    pattern = unique("es-away")
    settings = Settings(port=free_port(), redis=valkey.url, subscribe_timeout=0.2)
    async with serve(settings) as node:
        node.draining = True
        async with event_sources(packages, address(node, pattern)) as said:
            await said({"ended": COUNT})
            valkey.kill()
            node.draining = False
            await said({"ended": 2 * COUNT})
            valkey.start()
            await said({"subscribed": COUNT})
            await all_have(said, valkey, pattern)
