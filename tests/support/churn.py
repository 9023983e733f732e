"""Clients that come and go while publishers publish, and an account of what each subscription had to receive.

Everything runs in one thread. A counter is read before each request is sent and after each answer has come, so that of
two events the one with the lower number came first. The account judges with the naive matcher of `model_pattern`.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.support import model_pattern
from tests.support.wire import RawClient

Filters = dict[str, Any]

LATE = 0.5  # seconds until a busy client has read what it was told, from which moment it reckons back
SECONDS = 30.0  # until anything that has to come is there, also on a busy machine

_clock = itertools.count()


@dataclass(slots=True)
class Sent:
    """A publication.

    Attributes:
        asked, answered: by the counter; no answer where the request failed.
        began, ended: by the clock of `time.monotonic`.
        taken: whether the broker took it; ``None`` where nobody knows.
    """

    publisher: int
    number: int
    filters: Filters
    channel: str
    asked: int
    began: float
    answered: int | None = None
    ended: float = 0.0
    taken: bool | None = None


@dataclass(slots=True, eq=False)
class Subscription:
    """One time that a client was subscribed to a pattern.

    Where the node had the channel already, a subscription may also receive what was answered before its `sub` was sent
    and came to the node later: the node cannot tell it from what the subscription has to receive.

    Attributes:
        asked, replied, left: when `sub` was sent and answered, and when `unsub` was sent or the connection ended.
        complete: what was answered before this moment had to come. Later the client may have left before it came.
        passed: for each publisher the last message that the node had passed on to others before `sub` was sent.
        came: what arrived: publisher, number, and the channel in the label.
        gaps: the times between which something may be missing, as the client was told.
    """

    filters: Filters
    asked: int
    passed: dict[int, int]
    replied: int | None = None
    left: int | None = None
    complete: int | None = None
    came: list[tuple[int, int, str | None]] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)


class Ledger:
    """All that was published and subscribed to."""

    def __init__(self) -> None:
        self.sent: dict[int, list[Sent]] = defaultdict(list)
        self.subscriptions: list[Subscription] = []
        self.refused: list[dict[str, Any]] = []
        self.total = 0
        self.lossy = False  # whether something may be lost; who left then may have done so before being told
        self.passed: dict[tuple[str, bytes], dict[int, int]] = defaultdict(dict)  # by node and id: see `Subscription`
        self._awaiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap by the total that is awaited
        self._matching: dict[tuple[str, str], bool] = {}
        self._matching_sent: dict[tuple[str, int], tuple[list[Sent], int]] = {}

    def published(self, count: int) -> None:
        """Count publications, and wake those who wait for so many."""
        self.total += count
        while self._awaiting and self._awaiting[0][0] <= self.total:
            future = heapq.heappop(self._awaiting)[2]
            if not future.done():
                future.set_result(None)

    async def until(self, total: int) -> None:
        """Wait until so many publications have been answered."""
        if self.total < total:
            future = asyncio.get_running_loop().create_future()
            heapq.heappush(self._awaiting, (total, next(_clock), future))
            await future

    def matching(self, subscription: Subscription, publisher: int) -> list[Sent]:
        """Return what one publisher sent that matches, in order."""
        channel = model_pattern.channel(subscription.filters, wildcards=True)
        found, looked = self._matching_sent.get((channel, publisher), ([], 0))
        for one in self.sent[publisher][looked:]:
            key = channel, one.channel
            if key not in self._matching:
                self._matching[key] = model_pattern.matches(subscription.filters, one.filters)
            if self._matching[key]:
                found.append(one)
        self._matching_sent[channel, publisher] = found, len(self.sent[publisher])
        return found

    def owed(self, subscription: Subscription, publisher: int) -> Iterator[Sent]:
        """Yield what has to have come, unless a gap includes it."""
        if subscription.replied is None:
            return
        for one in self.matching(subscription, publisher):
            if one.taken and one.asked > subscription.replied and one.answered is not None:
                if subscription.complete is not None and one.answered > subscription.complete:
                    return
                yield one

    def missing(self, subscription: Subscription) -> list[Sent]:
        """Return what has to have come and has not, and what was left out between two that came."""
        missing: list[Sent] = []
        if self.lossy and subscription.left is not None:
            return missing
        for publisher in list(self.sent):
            came = {number for by, number, _ in subscription.came if by == publisher}
            last = max(came, default=-1)
            first = min(came, default=0)
            owed = {one.number for one in self.owed(subscription, publisher)}
            missing += [
                one
                for one in self.matching(subscription, publisher)
                if one.taken and one.number not in came and (one.number in owed or first < one.number < last)
            ]
        return [one for one in missing if not _is_told(one, subscription.gaps)]

    def check(self) -> dict[str, int]:
        """Assert that each subscription received exactly what it matched, in order, once; return counts."""
        counts = {"subscriptions": len(self.subscriptions), "delivered": 0, "told": 0, "wildcards": 0}
        for one in self.subscriptions:
            wild = "*" in one.filters.values()
            counts["wildcards"] += wild
            counts["delivered"] += len(one.came)
            counts["told"] += len(one.gaps)
            assert one.replied is not None or not one.came, f"{one.filters} received before the reply to its sub"
            missing = self.missing(one)
            text = f"{one.filters} ({one.asked}, {one.replied}, {one.left}, told {one.gaps})"
            assert not missing, f"{text} misses {len(missing)}, such as {missing[0]}"
            for publisher in {by for by, _, _ in one.came}:
                numbers = [number for by, number, _ in one.came if by == publisher]
                assert numbers == sorted(set(numbers)), f"{one.filters}: out of order or twice: {numbers}"
            for by, number, label in one.came:
                message = self.sent[by][number]
                assert model_pattern.matches(one.filters, message.filters), f"{one.filters} received {message}"
                assert label == (message.channel if wild else None)
                assert number > one.passed.get(by, -1), f"{one.filters}, asked at {one.asked}, received {message}"
        return counts

    async def settle(self, *, told: bool = False) -> None:
        """Wait until all that has to come is there, and if `told` a gap was told too; or for `SECONDS`."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if not any(self.missing(one) for one in self.subscriptions) and (
                not told or any(one.gaps for one in self.subscriptions)
            ):
                return
            await asyncio.sleep(0.05)


def _is_told(message: Sent, gaps: Sequence[tuple[float, float]]) -> bool:
    return any(start - LATE <= message.ended and message.began <= end for start, end in gaps)


class Member(RawClient):
    """A WebSocket client with subscriptions that the ledger knows."""

    ledger: Ledger
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.current: dict[bytes, Subscription] = {}  # by id
        self.unexpected: list[bytes] = []  # messages without a subscription that has been answered, and other events
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._ending: dict[str, bytes] = {}  # ids by the label of their `unsub`
        self._starting: dict[str, Subscription] = {}
        self._labels = itertools.count()

    @classmethod
    async def join(cls, url: str, ledger: Ledger) -> Member:
        one: Member = await cls.connect(url)
        one.ledger = ledger
        one.url = url
        return one

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        texts, self.texts = self.texts, []
        for text in texts:
            if text.startswith(b"{"):
                self._take(orjson.loads(text))
                continue
            head, _, payload = text.partition(b"?")
            own, _, label = head.partition(b"@c=")
            subscription = self.current.get(own)
            if subscription is None or subscription.replied is None:
                self.unexpected.append(text)
            else:
                by, number = orjson.loads(payload)
                subscription.came.append((by, number, label.decode() if label else None))
                passed = self.ledger.passed[self.url, own]
                passed[by] = max(number, passed.get(by, -1))

    def _take(self, message: dict[str, Any]) -> None:
        if "evt" in message:
            now = time.monotonic()
            if message["evt"] != "gap":
                self.unexpected.append(orjson.dumps(message))
                return
            for own in message["ids"]:
                subscription = self.current.get(own.encode())
                if subscription is not None:
                    subscription.gaps.append((now - message["seconds"], now))
            return
        label = message["id"]
        if label in self._starting and "ret" in message:
            self._starting.pop(label).replied = next(_clock)
        if label in self._ending:
            del self.current[self._ending.pop(label)]
        self._replies.pop(label).set_result(message)

    def _ask(self, act: str, filters: Filters) -> tuple[str, asyncio.Future[dict[str, Any]]]:
        label = f"{act}{next(self._labels)}"
        reply = self._replies[label] = asyncio.get_running_loop().create_future()
        self.act(id=label, act=act, pat=filters)
        return label, reply

    def _id(self, filters: Filters) -> bytes:
        return model_pattern.pattern_id(model_pattern.channel(filters, wildcards=True)).encode()

    def has(self, filters: Filters) -> bool:
        """Whether it is subscribed, or a subscription has the same id."""
        return self._id(filters) in self.current

    async def subscribe(self, filters: Filters) -> Subscription | None:
        """Subscribe; return nothing where the server refused that."""
        own = self._id(filters)
        subscription = Subscription(filters, next(_clock), dict(self.ledger.passed[self.url, own]))
        assert own not in self.current
        self.current[own] = subscription
        self.ledger.subscriptions.append(subscription)
        label, reply = self._ask("sub", filters)
        self._starting[label] = subscription
        answer = await self._wait(reply)
        if "err" in answer:
            self.ledger.refused.append(answer)
            del self.current[own], self._starting[label]
            self.ledger.subscriptions.remove(subscription)
            return None
        assert answer["ret"] == own.decode()
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Leave at once; what was published and has not come yet will not come."""
        subscription.left = next(_clock)
        if subscription.complete is None:
            subscription.complete = subscription.replied
        label, reply = self._ask("unsub", subscription.filters)
        self._ending[label] = self._id(subscription.filters)
        assert "ret" in await self._wait(reply)

    async def received_all(self, subscription: Subscription) -> None:
        """Wait until all has come that has been answered by now."""
        subscription.complete = next(_clock)
        deadline = time.monotonic() + SECONDS
        while self.ledger.missing(subscription):
            assert not self.closed.is_set(), "the server closed the connection"
            assert time.monotonic() < deadline, f"{subscription.filters} misses {self.ledger.missing(subscription)[:3]}"
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), 0.5)
            await asyncio.sleep(0.02)  # the look costs more than a message

    def leave(self) -> None:
        """Break the connection off."""
        for subscription in self.current.values():
            subscription.left = next(_clock)
            subscription.complete = subscription.replied
        self.transport.abort()

    async def _wait(self, reply: asyncio.Future[dict[str, Any]]) -> dict[str, Any]:
        return await asyncio.wait_for(reply, SECONDS)


class HttpPublisher:
    """Publishes over one HTTP connection, one request after the other; it connects again where that was lost.

    Args:
        ledger: what is published is written there.
        publisher: its number.
        url: of the API; it may be changed at any time.
    """

    def __init__(self, ledger: Ledger, publisher: int, url: str) -> None:
        self.url = url
        self.failed = 0
        self._ledger = ledger
        self._publisher = publisher
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def publish(self, patterns: Sequence[Filters], *, batch: bool | None = None) -> bool:
        """Publish the next numbers to these patterns; return whether the broker took all of them.

        Args:
            patterns: where to.
            batch: whether to send a batch; where it is not said, for more than one.
        """
        messages = []
        for filters in patterns:
            own = self._ledger.sent[self._publisher]
            message = Sent(
                self._publisher, len(own), filters, model_pattern.channel(filters), next(_clock), time.monotonic()
            )
            own.append(message)
            messages.append(message)
        bodies = [{"pattern": one.filters, "payload": [one.publisher, one.number]} for one in messages]
        single = not batch if batch is not None else len(messages) == 1
        try:
            answer = await self._post("/" if single else "/batch", bodies[0] if single else {"messages": bodies})
        except (OSError, EOFError):
            answer = None
            self.close()
        results = [] if answer is None else [answer] if single else answer.get("results", [])
        tick, ended = next(_clock), time.monotonic()
        for message, result in itertools.zip_longest(messages, results):
            message.ended = ended
            if result is not None and result.get("status") == "queued":
                message.answered, message.taken = tick, True
            else:
                self.failed += 1
        self._ledger.published(len(messages))
        return all(one.taken for one in messages)

    async def _post(self, path: str, body: Any) -> Any:
        parts = urlsplit(self.url)
        if self._stream is None:
            self._stream = await asyncio.open_connection(parts.hostname, parts.port)
        reader, writer = self._stream
        data = orjson.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        async with asyncio.timeout(SECONDS):
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            sizes = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
            return orjson.loads(await reader.readexactly(sizes[0]))

    def close(self) -> None:
        if self._stream is not None:
            self._stream[1].transport.abort()
            self._stream = None


def publications(random: Random, keys: Sequence[str], count: int, values: int = 4) -> list[Filters]:
    """Return different patterns to publish to: each has at least the first key."""
    found: dict[str, Filters] = {}
    while len(found) < count:
        chosen = [keys[0], *[key for key in keys[1:] if random.random() < 0.6]]
        filters: Filters = {key: random.randrange(values) for key in chosen}
        found[model_pattern.channel(filters)] = filters
    return list(found.values())


def wildcard(random: Random, publication: Filters) -> Filters:
    """Return a wildcard that matches a publication."""
    stars = [key for key in publication if random.random() < 0.5]
    filters: Filters = {key: "*" if key in stars else value for key, value in publication.items()}
    if not stars or random.random() < 0.5:
        for key in [key for key in publication if random.random() < 0.3]:
            del filters[key]
        filters["*"] = "*"
    return filters
