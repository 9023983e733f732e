"""The publishers of the soak: each enters what became of its messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from realizehit.broker.base import Bus
from realizehit.broker.publication import Publication
from realizehit.client.api import APIClient
from realizehit.common.position import Position
from realizehit.errors import ClientError, PublishUnclear, RealizehitError
from realizehit.pattern import Pattern
from tests.soak.world import PUBLISHED, SETTLED, World
from tests.support.account_records import Entry, Filters

Send = Callable[[Entry, Any], Awaitable[str | None]]
"""Publishes one message and returns its position, if it has one."""


class Publishing:
    """A publisher: one message after the other.

    Args:
        world: in which it is.
        name: in the account.
        send: publishes.
        keyed: whether `send` uses an idempotency key: what is unclear is then sent again.
    """

    def __init__(self, world: World, name: str, send: Send, *, keyed: bool) -> None:
        self._world = world
        self._name = name
        self._send = send
        self._keyed = keyed

    async def publish(self, filters: Filters, filling: str = "") -> Entry:
        """Publish the next message, and enter what became of it."""
        entry = self._world.account.enter(self._name, filters, time.monotonic())
        deadline = time.monotonic() + SETTLED
        while True:
            entry.attempts += 1
            try:
                at = await self._send(entry, [entry.serial, filling])
            except PublishUnclear:
                unclear = True
            except ClientError:
                unclear = True  # it has tried several times, and one of them may have been taken
            except RealizehitError:
                unclear = entry.attempts > 1
                if not unclear:
                    entry.taken = False
            else:
                entry.taken, entry.at = True, Position.parse(at)
                break
            if not (unclear and self._keyed and time.monotonic() < deadline):
                break
            await asyncio.sleep(0.05)
        entry.ended = time.monotonic()
        return entry

    async def run(self, pause: float) -> None:
        """Publish at random until the world ends."""
        while not self._world.over:
            entry = await self.publish(self._world.random.choice(PUBLISHED))
            await asyncio.sleep(self._world.random.uniform(0.0, 2 * pause) if entry.taken else 0.1)


def through_api(world: World, api: APIClient) -> Send:
    async def send(entry: Entry, payload: Any) -> str | None:
        result = await api.publish(entry.filters, payload, idempotency_key=f"{world.until}-{entry.serial}")
        return result.at

    return send


def to_broker(bus: Bus, *, keyed: bool) -> Send:
    async def send(entry: Entry, payload: Any) -> str | None:
        key = b"direct-%d" % entry.serial if keyed else b""
        channel = Pattern(dict(entry.filters)).channel.encode()
        return (await bus.publish(Publication(channel, orjson.dumps(payload), key))).at

    return send
