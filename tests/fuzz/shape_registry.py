"""What others write into the registry of shapes and to its channel: any bytes, while messages are published.

Invariant: whatever is no shape is counted and ignored; each publication is taken once, and projected once by each shape
that came before its reply; both ways to read the registry take the same members for shapes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import hiredis

from realizehit.broker.history.rules import CHANGED
from realizehit.broker.projections import labelled
from realizehit.broker.publication import Publication, Published
from realizehit.broker.shapes.following import FollowingPipeline
from realizehit.broker.shapes.registry import CONTROL
from realizehit.broker.shapes.view import RegistryView
from realizehit.pattern import project, shape_of
from tests.fuzz.command import main

CHANNELS = (b"a:1|b:2", b"b:2", b"a:1|b:2|c:3", b"realizehit:stats")


class Broker(asyncio.Transport):
    """A broker that carries out commands in their order, and says between two replies what the case says.

    Args:
        members: what its registry holds.
        news: what is published on the channel of new shapes, one after each reply to a PUBLISH.
    """

    def __init__(self, members: list[bytes], news: list[bytes]) -> None:
        super().__init__()
        self._members = members
        self._news = news
        self._parser = hiredis.Reader()
        self._protocol: asyncio.Protocol | None = None
        self.published: list[tuple[bytes, bytes, int]] = []  # and how much of the news had been said before its reply

    def __str__(self) -> str:
        return "fuzz"

    def login(self) -> list[str]:
        return []

    async def connect(self, factory: Callable[[], asyncio.Protocol]) -> str:
        self._protocol = factory()
        self._protocol.connection_made(self)
        return ""

    def scrub(self, text: str) -> str:
        return text

    def abort(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            asyncio.get_running_loop().call_soon(protocol.connection_lost, None)

    def write(self, data: Any) -> None:
        asyncio.get_running_loop().call_soon(self._carry_out, data)

    def _carry_out(self, data: bytes) -> None:
        self._parser.feed(data)
        answer = b""
        while (command := self._parser.gets()) is not False:
            answer += self._reply(command)
        if answer and self._protocol is not None:
            self._protocol.data_received(answer)

    def _reply(self, command: list[bytes]) -> bytes:
        if command[0] == b"EVAL":
            return b"*%d\r\n" % len(self._members) + b"".join(map(bulk, self._members))
        if command[0] == b"SUBSCRIBE":
            return b">3\r\n+subscribe\r\n" + bulk(CONTROL) + b":1\r\n"
        if command[0] == b"GET":
            return b"$-1\r\n"  # no rules of history
        if command[0] != b"PUBLISH":
            return b"+OK\r\n"
        said = len(self.published)
        self.published.append((command[1], command[2], min(said, len(self._news))))
        news = b">3\r\n+message\r\n" + bulk(CONTROL) + bulk(self._news[said]) if said < len(self._news) else b""
        return b":1\r\n" + news


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def one(data: bytes) -> None:
    """Take a case as lines: those before the first empty one are the registry's members, the others are news."""
    if b"bridge" in data:
        return  # the news of a bridge has other rules
    before, _, after = data[:4096].partition(b"\n\n")
    members = list(dict.fromkeys(line for line in before.split(b"\n") if line))
    news = after.split(b"\n") if after else []
    asyncio.run(held(members, news))


async def held(members: list[bytes], news: list[bytes]) -> None:
    broker = Broker(members, news)
    pipeline = FollowingPipeline(broker, timeout=60.0)
    messages = [Publication(CHANNELS[n % len(CHANNELS)], b"%d" % n) for n in range(12)]
    outcomes = await asyncio.wait_for(pipeline.publish_many(messages), 10)
    await pipeline.ping()
    for _ in range(4):
        await asyncio.sleep(0)
    said = news[: len(broker.published)]
    shapes = pipeline.shapes
    known = [text for text in members if text in shapes]
    for shape in shapes:
        assert b"*" in shape
        assert shape_of(shape.replace(b"=", b"v")) == shape, f"{shape!r} is followed and is no shape"
    assert set(shapes) <= {*members, *said}
    news_of_shapes = [text for text in said if text != CHANGED.encode()]  # the other news is that of rules of history
    malformed = [text for text in [*members, *news_of_shapes] if text not in shapes]
    assert pipeline.projected.malformed == len(malformed), f"{malformed} are no shapes"
    view = RegistryView()
    assert set(view.take([item for member in members for item in (member, b"1")])) == set(known)
    own = [(channel, payload) for channel, payload, _ in broker.published if not payload.startswith(b"@c=")]
    assert own == [(message.channel, message.payload) for message in messages]
    projected = Counter((channel, payload) for channel, payload, _ in broker.published if payload.startswith(b"@c="))
    total = Counter(payload for _, payload in projected.elements())
    at = {payload: before for _, payload, before in broker.published if not payload.startswith(b"@c=")}
    for message, outcome in zip(messages, outcomes, strict=True):
        owed = {*known, *(text for text in said[: at[message.payload]] if text in shapes)}
        for shape in shapes:
            channel = project(message.channel, shape)
            if channel is not None and shape in owed:
                assert projected[channel, labelled(message)] == 1, f"{message} by {shape!r}"
        assert outcome == Published(1 + total[labelled(message)])
    assert max(projected.values(), default=1) == 1
    await pipeline.close()


if __name__ == "__main__":
    main(__spec__.name)
