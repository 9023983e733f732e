"""Presence for tests of nodes: rules in a file, clients with identities, and what watchers receive."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson

from realizehit.node.presence_registrar import Times
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support.wire import HANDSHAKE, RawClient

SECONDS = 30
QUICK = Times(lease=30.0, renew=0.2, look=0.1, farewell=0.5)  # a busy machine may hold a node up for seconds
IDENTITY = {"identify": ("user=X-User", "device=X-Device"), "trusted_proxies": ("127.0.0.1",)}
RULES = """
[[presence]]
pattern = {kind = "quick", room = "*"}
leave-after = 0.2
[[presence]]
pattern = {kind = "chat", room = "*"}
"""
numbering = itertools.count()


def room(kind: str = "chat") -> dict[str, Any]:
    """A pattern with presence that no other test uses."""
    return {"kind": kind, "room": next(numbering)}


class User(RawClient):
    """A client with an identity, or without one."""

    def __init__(self, **headers: str) -> None:
        super().__init__()
        lines = "".join(f"X-{name.title()}: {value}\r\n" for name, value in headers.items()).encode()
        self.handshake = HANDSHAKE[:-2] + lines + b"\r\n"

    @classmethod
    async def at(cls, node: Node | str, *patterns: Any, **headers: str) -> User:
        """Connect and subscribe."""
        url = node if isinstance(node, str) else node.ws_url
        host, port = url.removeprefix("ws://").removesuffix("/ws").rsplit(":", 1)
        user = cls(**headers)
        user.transport, _ = await asyncio.get_running_loop().create_connection(lambda: user, host, int(port))
        user.transport.write(user.handshake)
        await user._opened.wait()
        for pattern in patterns:
            assert "ret" in await user.ask("sub", pattern)
        return user

    async def ask(self, act: str, pattern: Any = None, **more: Any) -> dict[str, Any]:
        """Do one action, and return the reply; messages that come before it stay in `texts`."""
        self.act(id="ask", act=act, **({} if pattern is None else {"pat": pattern}), **more)
        async with asyncio.timeout(SECONDS):
            while True:
                for index, text in enumerate(self.texts):
                    if text.startswith(b'{"id":"ask"'):
                        reply: dict[str, Any] = orjson.loads(self.texts.pop(index))
                        return reply
                await self.wait_for(len(self.texts) + 1, SECONDS)

    @property
    def events(self) -> list[tuple[str, dict[str, str], int]]:
        """The joins and leaves that came so far."""
        found = [orjson.loads(text.partition(b"?")[2]) for text in self.texts if b"?" in text]
        return [(event["event"], event["member"], event["count"]) for event in found]

    async def joins_and_leaves(self, count: int) -> list[tuple[str, dict[str, str], int]]:
        """Wait for a number of joins and leaves, and return all of them."""
        await until(lambda: len(self.events) >= count)
        return self.events

    async def leave(self) -> None:
        self.transport.abort()
        await self.closed.wait()


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def rules_file(directory: Path, text: str = RULES) -> str:
    path = directory / "presence.toml"
    path.write_text(text)
    return str(path)


@asynccontextmanager
async def node_at(redis: str, rules: str, **settings: Any) -> AsyncIterator[Node]:
    options = {"port": 0, "redis": redis, "presence": rules, "drain_seconds": 0.0, **IDENTITY, **settings}
    async with serve(Settings(**options)) as node:
        yield node


async def read(node: Node | str, pattern: Any, **query: object) -> dict[str, Any]:
    """Ask who is there."""
    url = node if isinstance(node, str) else node.api_url
    text = {"pat": orjson.dumps(pattern).decode(), **{name: str(value) for name, value in query.items()}}
    async with httpx2.AsyncClient(base_url=url, timeout=SECONDS) as http:
        answer = await http.get("presence", params=text)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    found: dict[str, Any] = answer.json()
    return found


async def has_members(node: Node | str, pattern: Any, *members: dict[str, str], anonymous: int = 0) -> None:
    """Wait until these members are there, and no others."""
    answer: Any = None
    try:
        async with asyncio.timeout(SECONDS):
            while True:
                answer = await read(node, pattern)
                if answer["members"] == list(members) and answer["anonymous"] == anonymous:
                    assert answer["count"] == len(members)
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{answer} instead of {members}") from None


def events_of(pattern: dict[str, Any]) -> dict[str, Any]:
    """The pattern of joins and leaves."""
    return {**pattern, "realizehit": "presence"}
