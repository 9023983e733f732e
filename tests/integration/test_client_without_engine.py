"""Publishers without the compiled engine: real messages through a real broker, for exact patterns and for wildcards."""

from __future__ import annotations

import asyncio
import sys

import pytest

from realizehit.process.server import Node
from tests.integration.test_client_ws import connect
from tests.integration.test_wildcards_end_to_end import told
from tests.support.valkey import Valkey

HEAD = """
import asyncio, sys
sys.modules["realizehit._fanout"] = None  # as if it had not been built: importing it fails
import realizehit, realizehit.pattern_text
from realizehit import sync

url = sys.argv[1]
pattern = {"kind": "stock", "symbol": "R&D*", "price": 1e21}
assert realizehit.Pattern(pattern).channel == "kind:stock|price:1e%2B21|symbol:R%26D%2A"
"""

SYNC = """
with sync.Publisher(url) as publisher:
    assert publisher.publish(pattern, 0).nodes == 2
    assert [result.nodes for result in publisher.publish_many([(pattern, n) for n in range(1, 20)])] == [2] * 19
"""

ASYNC = """
async def main():
    async with realizehit.Publisher(url) as publisher:
        assert (await publisher.publish(pattern, 0)).nodes == 2
        results = await publisher.publish_many([(pattern, n) for n in range(1, 20)])
        assert [result.nodes for result in results] == [2] * 19

asyncio.run(main())
"""


@pytest.mark.parametrize("code", [SYNC, ASYNC], ids=["sync", "async"])
async def test_publications_reach_exact_and_wildcard_subscriptions(
    node: Node, shared_valkey: Valkey, code: str
) -> None:
    pattern = {"kind": "stock", "symbol": "R&D*", "price": "1e+21"}
    async with connect(node.ws_url) as client:
        exact, wildcard = await client.subscribe(pattern), await client.subscribe({"kind": "stock", "*": "*"})
        publisher = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-c",
            HEAD + code,
            shared_valkey.url,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        printed, _ = await publisher.communicate()
        assert publisher.returncode == 0, printed.decode()
        expected = [(pattern, n) for n in range(20)]
        assert await told(exact, 20) == expected
        assert await told(wildcard, 20) == expected
