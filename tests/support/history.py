"""History for tests of nodes: rules at a broker, and clients that ask for positions."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import httpx2
import orjson

from realizehit.broker.history.rules import KEY, NO_RULES, Rule, Rules
from realizehit.broker.shapes.registry import CONTROL
from realizehit.pattern import Pattern
from tests.support.valkey import Valkey
from tests.support.wire import RawClient

SECONDS = 30
numbering = itertools.count()


def room() -> dict[str, Any]:
    """A pattern with history that no other test uses."""
    return {"kept": "chat", "room": next(numbering)}


CHAT = Rule({"kept": ("chat",)}, 1000, 300.0)
SHORT = Rule({"kept": ("short",)}, 10, 300.0)


def set_rules(broker: Valkey, *rules: Rule) -> None:
    broker.command("SET", KEY, Rules(rules).to_json() if rules else NO_RULES.to_json())
    broker.command("PUBLISH", CONTROL, "history")


async def publish(api: httpx2.AsyncClient, pattern: Any, payload: Any) -> str:
    """Publish, and return the position."""
    answer = await api.post("", json={"pattern": pattern, "payload": payload})
    assert answer.status_code == 200, answer.text
    return str(answer.json().get("at", ""))


class Client(RawClient):
    """A client that keeps what came for each of its subscriptions."""

    async def ask(self, pattern: Any, **keys: Any) -> dict[str, Any]:
        """Subscribe, and return the reply; what came before it stays in `texts`."""
        before = len(self.texts)
        self.act(id="ask", act="sub", pat=pattern, **keys)
        async with asyncio.timeout(SECONDS):
            while True:
                await self.wait_for(before + 1, SECONDS)
                for index in range(before, len(self.texts)):
                    if self.texts[index].startswith(b'{"id":"ask"'):
                        reply: dict[str, Any] = orjson.loads(self.texts.pop(index))
                        return reply
                before = len(self.texts)

    async def take(self, count: int) -> list[bytes]:
        await self.wait_for(count, SECONDS)
        taken, self.texts = self.texts[:count], self.texts[count:]
        return taken

    async def settled(self) -> list[bytes]:
        """Everything that was on its way; a reply comes behind it."""
        self.act(id="p", act="ping")
        async with asyncio.timeout(SECONDS):
            while not self.texts or self.texts[-1] != b'{"id":"p","ret":"pong"}':
                await self.wait_for(len(self.texts) + 1, SECONDS)
        taken, self.texts = self.texts[:-1], []
        return taken


def label(pattern: Any) -> str:
    return Pattern(pattern).id


def numbers(texts: list[bytes], pattern: Any, *, positions: bool) -> list[int]:
    """The payloads, which are numbers; anything else is an error."""
    found = []
    for text in texts:
        head, mark, payload = text.decode().partition("?")
        name, _, offset = head.partition("@o=")
        assert mark, text
        assert name == label(pattern), text
        assert bool(offset) == positions, text
        if positions:
            assert int(offset.rpartition(".")[2]) == int(payload) + 1
        found.append(int(payload))
    return found


def kill_link(broker: Valkey) -> None:
    """Have the broker end the subscribing connections of nodes, and no others."""
    for connection in broker.clients():
        if connection["name"] == "realizehit":
            broker.command("CLIENT", "KILL", "ID", connection["id"])
