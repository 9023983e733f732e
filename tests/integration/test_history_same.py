"""The logs of ``memory://`` do what those of a real broker do: the same random calls have the same results."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from realizehit.broker.base import Bus
from realizehit.broker.history.log import LogPart
from realizehit.broker.history.rules import Rule, Rules
from realizehit.broker.memory import MemoryBus
from realizehit.broker.publication import Publication
from realizehit.broker.redis import RedisBus
from realizehit.common.position import Position
from tests.support.valkey import Valkey

RULES = Rules((Rule({"kind": ("chat",)}, 5, 600.0),))
CHANNELS = (b"kind:chat|room:1", b"kind:chat|room:2")


class Log:
    """What a bus says of logs, with its epochs as numbers, in the order in which they were seen."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._epochs: dict[str, int] = {}

    def number(self, epoch: str) -> int:
        return self._epochs.setdefault(epoch, len(self._epochs))

    def epoch(self, number: int) -> str:
        return next((epoch for epoch, own in self._epochs.items() if own == number), "aaaaaaaa")

    def seen(self, part: LogPart) -> Any:
        before = [(self.number(position.epoch), position.offset) for position in part.before]
        return (self.number(part.epoch), part.first, part.last, list(part.messages), before)

    async def publish(self, channel: bytes, payload: bytes, key: bytes) -> Any:
        published = await self._bus.publish(Publication(channel, payload, key))
        at = Position.parse(published.at)
        assert at is not None
        return (self.number(at.epoch), at.offset, published.nodes, published.duplicate)

    async def read(self, channel: bytes, **asked: int) -> Any:
        return self.seen(await self._bus.read_log(channel, **asked))

    async def renew(self, channel: bytes, epoch: int, offset: int) -> Any:
        return self.seen(await self._bus.renew_log(channel, Position(self.epoch(epoch), offset)))


def calls(chance: random.Random, count: int) -> list[tuple[str, tuple[Any, ...], dict[str, int]]]:
    made: list[tuple[str, tuple[Any, ...], dict[str, int]]] = []
    for number in range(count):
        channel = chance.choice(CHANNELS)
        kind = chance.choice(("publish", "publish", "after", "last", "nothing", "renew"))
        if kind == "publish":
            key = b"" if chance.random() < 0.6 else b"k%d" % chance.randrange(20)
            made.append(("publish", (channel, b"%d" % number, key), {}))
        elif kind == "renew":
            made.append(("renew", (channel, chance.randrange(4), chance.randrange(40)), {}))
        else:
            asked = {} if kind == "nothing" else {kind: chance.randrange(1, 40), "most": chance.randrange(1, 8)}
            made.append(("read", (channel,), asked))
    return made


@pytest.mark.parametrize("seed", range(3))
async def test_memory_and_a_real_broker_keep_the_same(valkey: Valkey, seed: int) -> None:
    real, memory = RedisBus(valkey.url), MemoryBus(f"same {seed}")
    for bus in (real, memory):
        await bus.start(None)
        await bus.write_rules(RULES)
    async with asyncio.timeout(20):
        while not real.rules:
            await real.ping()
    logs = Log(real), Log(memory)
    history = []
    for name, arguments, options in calls(random.Random(seed), 300):
        one, other = [await getattr(log, name)(*arguments, **options) for log in logs]
        history.append((name, arguments, options, one))
        assert one == other, history[-10:]
    assert any(result[0] > 3 for *_, result in history)  # epochs were renewed
    await real.close()
    await memory.close()
