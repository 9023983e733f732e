"""Accounts for every publication: it arrived once and in order, or a gap includes it."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from realizehit.broker.base import Bus
from realizehit.broker.publication import Publication
from realizehit.errors import BrokerError
from realizehit.pattern import Pattern
from tests.support.engines import TEXT, client_frame
from tests.support.wire import HANDSHAKE, RawClient

SLACK = 0.05  # seconds of rounding, and of a loop's clock that is read before an event is handled


@dataclass
class Entry:
    """One message: when it was sent to the broker, when the answer came, and whether the broker took it."""

    began: float
    ended: float = 0.0
    taken: bool | None = None  # None if unknown


@dataclass
class Source:
    """Publishes numbers to channels, one at a time each, and records their outcomes."""

    bus: Bus
    sent: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    refused: int = 0

    async def publish(self, pattern: Pattern) -> bool:
        """Publish the next number of a channel; return whether the broker took it."""
        publications = self.sent[pattern.id]
        entry = Entry(time.monotonic())
        number = len(publications)
        publications.append(entry)
        try:
            await self.bus.publish(Publication(pattern.channel.encode(), b"%d" % number))
            entry.taken = True
        except BrokerError:
            self.refused += 1
        entry.ended = time.monotonic()
        return entry.taken is True

    async def run(self, patterns: Iterable[Pattern], pause: float = 0.002) -> None:
        """Publish to all patterns in turn until cancelled."""
        patterns = list(patterns)
        while True:
            for pattern in patterns:
                await self.publish(pattern)
            await asyncio.sleep(pause)


class Seen:
    """The messages that a client received, in the form of a plain WebSocket, with their times."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, bytes]] = []

    @property
    def gaps(self) -> list[tuple[float, dict[str, Any]]]:
        """The gap events with their times."""
        return [(when, orjson.loads(text)) for when, text in self.seen if text.startswith(b'{"evt":"gap"')]

    def check(
        self, source: Source, pattern: Pattern, since: float, until: float, *, unclear_late: bool = False
    ) -> tuple[int, int]:
        """Compare the messages received for one pattern with the publications while it was in force.

        Args:
            source: what published.
            pattern: the one.
            since: when its `sub` was answered.
            until: when it was left, or the time of the look.
            unclear_late: whether a publication with an unknown outcome may come after later ones: a broker that was
                stopped carries it out when it goes on.

        Returns:
            How many numbers came, and how many did not and are covered by a gap.
        """
        label = pattern.id.encode() + b"?"
        came = [int(text[len(label) :]) for when, text in self.seen if text.startswith(label) and when >= since]
        clear = [number for number in came if not unclear_late or source.sent[pattern.id][number].taken]
        assert clear == sorted(clear), f"out of order: {came}"
        assert len(set(came)) == len(came), f"twice: {came}"
        told = [(when - event["seconds"], when) for when, event in self.gaps if pattern.id in event["ids"]]
        have = set(came)
        missing = [
            number
            for number, one in enumerate(source.sent[pattern.id])
            if one.taken and one.began >= since and one.ended and one.ended <= until and number not in have
        ]
        for number in missing:
            one = source.sent[pattern.id][number]
            covered = any(start - SLACK <= one.ended and one.began <= end + SLACK for start, end in told)
            assert covered, f"{number}, published at {one.began:.3f}, is missing and no gap of {told} covers it"
        return len(came), len(missing)


class Witness(Seen, RawClient):
    """A WebSocket client that records the time of each message."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        now = time.monotonic()
        self.seen += [(now, text) for text in map(self.unwrap, self.texts) if text is not None]
        self.count = getattr(self, "count", 0) + len(self.texts)
        self.texts.clear()

    def unwrap(self, text: bytes) -> bytes | None:
        """Return the message in a frame's text, if there is one."""
        return text

    async def ask(self, act: str, pattern: Pattern, seconds: float = 30) -> dict[str, Any]:
        """Send one action, and return the reply to it."""
        label = f"{act}-{pattern.id}-{len(self.seen)}"
        start = len(self.seen)
        self.act(id=label, act=act, pat=dict(pattern))
        async with asyncio.timeout(seconds):
            while True:
                for _, text in self.seen[start:]:
                    if text.startswith(b'{"id"'):
                        reply: dict[str, Any] = orjson.loads(text)
                        if reply["id"] == label:
                            return reply
                start = len(self.seen)
                self._arrived.clear()
                await self._arrived.wait()


class EngineIOWitness(Witness):
    """The same over Engine.IO, revision 4, on its WebSocket transport."""

    handshake = HANDSHAKE.replace(b"GET /ws ", b"GET /ws/?EIO=4&transport=websocket ")

    def act(self, **action: Any) -> None:
        self.transport.write(client_frame(TEXT, b"4" + orjson.dumps(action)))

    def unwrap(self, text: bytes) -> bytes | None:
        if text == b"2":  # a ping
            self.transport.write(client_frame(TEXT, b"3"))
        return text[1:] if text[:1] == b"4" else None


class StreamWitness(Seen, asyncio.Protocol):
    """A reader of Server-Sent Events that records the time of each.

    Attributes:
        status: of the response.
        since: when all patterns were in force.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        super().__init__()
        self.status = 0
        self.since = 0.0
        self.closed = asyncio.Event()
        self._answered = asyncio.Event()
        self._buffer = b""

    @classmethod
    async def connect(cls, url: str, patterns: Iterable[Pattern]) -> StreamWitness:
        """Subscribe to patterns, and wait until they are in force or refused."""
        parts = urlsplit(url)
        query = "&".join("pat=" + quote(orjson.dumps(dict(pattern))) for pattern in patterns)
        loop = asyncio.get_running_loop()
        transport, one = await loop.create_connection(cls, parts.hostname or "", parts.port or 80)
        one.transport = transport
        transport.write(f"GET /sse?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        async with asyncio.timeout(30):
            await one._answered.wait()
        return one

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._buffer += data
        if not self.status:
            head, blank, rest = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                return
            self.status, self._buffer = int(head.split(b" ", 2)[1]), rest
        if self.status != 200:
            self._answered.set()
            return
        *events, self._buffer = self._buffer.split(b"\n\n")
        for event in events:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
            if fields.get(b"event") == b"subscribed":
                self.since = now
                self._answered.set()
            elif b"event" in fields:
                self.seen.append((now, b'{"evt":"%b",' % fields[b"event"] + fields[b"data"][1:]))
            elif b"id" in fields:
                self.seen.append((now, fields[b"id"] + b"?" + fields[b"data"]))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()
        self._answered.set()
