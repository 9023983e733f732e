"""The published JavaScript packages and ours share one Valkey: same channels, same ids, messages in both directions."""

from __future__ import annotations

import asyncio
import json
import random
import string
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from realizehit.broker.history.rules import Rule
from realizehit.pattern import Pattern
from realizehit.process.server import serve
from realizehit.settings import Settings
from tests.interop.npm import install
from tests.support.history import Client, publish, set_rules
from tests.support.ports import free_port
from tests.support.valkey import Valkey
from tests.support.vectors import VECTORS
from tests.support.wire import RawClient

pytestmark = pytest.mark.slow

PACKAGES = ("realizehit-publisher@0.0.2", "realizehit-pattern-to-id@1.0.3", "realizehit-subscription@0.1.9")
SCRIPT = Path(__file__).with_name("npm.js")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the npm packages and the script that uses them."""
    return install(tmp_path_factory.mktemp("npm"), SCRIPT, *PACKAGES)


class Node:
    """The script in one of its modes."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def tell(self, value: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            line = await self._process.stdout.readline()
        assert line, "node.js ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def node_js(packages: Path, *arguments: str) -> AsyncIterator[Node]:
    process = await asyncio.create_subprocess_exec(
        "node", "npm.js", *arguments, cwd=packages, stdin=PIPE, stdout=PIPE, limit=1 << 20
    )
    try:
        yield Node(process)
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def arbitrary_patterns(count: int) -> list[dict[str, Any]]:
    """Patterns that both sides accept: letters and digits, numbers that a double holds, true."""
    chance = random.Random(1_0_3)

    def text(most: int) -> str:
        return "".join(chance.choices(string.ascii_letters + string.digits, k=chance.randint(1, most)))

    def value() -> Any:
        return chance.choice([text(30), text(3), chance.randint(1, 2**53), float(chance.randint(1, 1000)), True])

    return [{text(12): value() for _ in range(chance.randint(1, 8))} for _ in range(count)]


async def test_channels_and_ids_are_the_same(packages: Path) -> None:
    from_npm = [row for row in VECTORS["valid"] if row.get("origin") == "npm"]
    patterns = [row["in"] for row in from_npm] + arbitrary_patterns(2_000)
    assert len(from_npm) >= 5
    async with node_js(packages, "ids") as node:
        for pattern in patterns:
            node.tell(pattern)
        for pattern in patterns:
            ours = Pattern(pattern)
            assert await node.answer() == {"channel": str(ours), "id": ours.id, "subscription": ours.id}, pattern


async def test_patterns_that_the_packages_refuse_raise_there(packages: Path) -> None:
    """Ours accepts more; what it accepts beyond must not be something else there."""
    patterns = [row["in"] for row in VECTORS["valid"] if row.get("origin") != "npm"]
    assert patterns
    async with node_js(packages, "ids") as node:
        for pattern in patterns:
            node.tell(pattern)
        for pattern in patterns:
            answer = await node.answer()
            assert "error" in answer or answer["channel"] == str(Pattern(pattern)), pattern


PAYLOADS = [{"title": "hello"}, "text", 0, False, None, [1, 2.5, {"a": []}], {"question": "é?\u2028"}, "x" * 70_000]


async def test_the_publisher_package_reaches_our_clients(packages: Path, tmp_path: Path) -> None:
    with Valkey(tmp_path, port=free_port()) as valkey:
        async with (
            serve(Settings(port=0, redis=valkey.tcp_url)) as server,
            node_js(packages, "publish", valkey.tcp_url) as node,
        ):
            pattern = {"kind": "news", "channel": "CNN"}
            ws = await RawClient.connect(server.ws_url)
            ws.act(id="s", act="sub", pat=pattern)
            await ws.wait_for(1, 20)
            ws.texts.clear()
            for payload in PAYLOADS:
                node.tell({"pattern": pattern, "payload": payload})
            node.tell({"pattern": {"kind": "other"}, "payload": 1})
            assert [(await node.answer())["reached"] for _ in PAYLOADS] == [1] * len(PAYLOADS)
            assert (await node.answer())["reached"] == 0
            await ws.wait_for(len(PAYLOADS), 20)
            label = f"{Pattern(pattern).id}?".encode()
            assert all(text.startswith(label) for text in ws.texts)
            assert [json.loads(text.removeprefix(label)) for text in ws.texts] == PAYLOADS
            ws.transport.close()
            await ws.closed.wait()


async def test_the_publisher_package_under_a_rule_of_history(packages: Path, tmp_path: Path) -> None:
    """It knows nothing of logs: its messages come to all, without a position, and are counted."""
    with Valkey(tmp_path, port=free_port()) as valkey:
        set_rules(valkey, Rule({"kind": ("news",)}, 100, 300.0))
        async with (
            serve(Settings(port=0, redis=valkey.tcp_url)) as server,
            httpx2.AsyncClient(base_url=server.api_url) as api,
            node_js(packages, "publish", valkey.tcp_url) as node,
        ):
            pattern = {"kind": "news", "channel": "CNN"}
            plain, placed = await Client.connect(server.ws_url), await Client.connect(server.ws_url)
            await plain.ask(pattern)
            reply = await placed.ask(pattern, offsets=True)
            assert reply["at"].endswith(".0")
            for payload in PAYLOADS:
                node.tell({"pattern": pattern, "payload": payload})
            assert [(await node.answer())["reached"] for _ in PAYLOADS] == [1] * len(PAYLOADS)
            label = f"{Pattern(pattern).id}?".encode()
            for each in (plain, placed):
                texts = await each.take(len(PAYLOADS))
                assert all(text.startswith(label) for text in texts)
                assert [json.loads(text.removeprefix(label)) for text in texts] == PAYLOADS
            assert server.engine.stats()["unpositioned"] == len(PAYLOADS)
            assert f"unpositioned_total {float(len(PAYLOADS))}" in (await api.get("metrics")).text
            at = await publish(api, pattern, "kept")
            assert at == reply["at"].replace(".0", ".1")
            assert await plain.take(1) == [label + b'"kept"']
            assert await placed.take(1) == [label[:-1] + b'@o=1?"kept"']


async def test_our_api_reaches_subscribers_as_the_packages_do(packages: Path, tmp_path: Path) -> None:
    with Valkey(tmp_path, port=free_port()) as valkey:
        async with (
            serve(Settings(port=0, redis=valkey.tcp_url, role="api")) as server,
            httpx2.AsyncClient(base_url=server.api_url) as api,
            node_js(packages, "listen", valkey.tcp_url) as node,
        ):
            pattern = {"kind": "news", "channel": "CNN"}
            node.tell(pattern)
            assert await node.answer() == {"subscribed": 1}
            for payload in PAYLOADS:
                body = orjson.dumps({"pattern": pattern, "payload": payload})
                response = await api.post("", content=body, headers={"Content-Type": "application/json"})
                assert response.json()["nodes"] == 1
            for payload in PAYLOADS:
                answer = await node.answer()
                assert answer["channel"] == "channel:CNN|kind:news"
                assert json.loads(answer["message"]) == payload
