"""The examples of docs/clients.md run as they stand, against a real node and a real Valkey."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import re
import types
from inspect import CO_COROUTINE
from pathlib import Path
from typing import Any

import pytest

from realizehit import APIClient
from realizehit.server import Node
from tests.support import Valkey

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 11


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_example(number: int, node: Node, shared_valkey: Valkey) -> None:
    source = EXAMPLES[number]
    for old, new in (
        ("ws://127.0.0.1:8080/ws", node.ws_url),
        ("http://127.0.0.1:8080/", node.api_url),
        ("redis://localhost:6379", shared_valkey.url),
    ):
        source = source.replace(old, new)
    printed: list[str] = []
    names = {"print": lambda *values: printed.append(" ".join(map(str, values)))}
    code = compile(source, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running: asyncio.Future[Any]
    if code.co_flags & CO_COROUTINE:
        running = asyncio.ensure_future(types.FunctionType(code, names)())
    else:
        running = asyncio.ensure_future(asyncio.to_thread(exec, code, names))
    async with asyncio.timeout(20), APIClient(node.api_url, trust_env=False) as api:
        while not printed and not running.done():
            await api.publish({"kind": "news", "channel": "CNN"}, {"title": "hello"})
            await asyncio.sleep(0.01)
    if "async for" in source or "wait_closed" in source:  # these go on for ever
        running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert printed
