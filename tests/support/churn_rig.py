"""Servers for clients that come and go and publishers that publish: a whole deployment around one broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.support import model_pattern
from tests.support.churn import Filters, HttpPublisher, Ledger, Member, publications, wildcard
from tests.support.processes import Server
from tests.support.proxy import Proxy

MEMBERS = 30
SHAPES = 56  # fewer than a registry holds
DELAY = 0.02  # seconds that a far server hears later of what the broker did
KEYS = ["kind", "channel", "user", "lang"]


class Deployment:
    """Two servers that publish, three that serve WebSockets, and what clients do with them.

    Args:
        url: the broker of all of them.
        far: its socket, if the first server of each kind is to be far from it.
        seed: of all random choices.
        total: how many messages are published.
    """

    def __init__(self, url: str, seed: int, total: int, far: Path | None = None) -> None:
        self.url = self.far = url
        self._far = far
        self.random = Random(seed)
        self.total = total
        self.ledger = Ledger()
        self.publications = publications(self.random, KEYS, 150)
        self.wildcards: dict[str, list[Filters]] = {}  # by shape
        while len(self.wildcards) < SHAPES:
            self._add_wildcard()
        for _ in range(200):
            self._add_wildcard()
        self.members: list[Member] = []
        self.apis: list[Server] = []
        self.nodes: list[Server] = []
        self.pause = 0.0  # seconds between two requests of a publisher

    def _add_wildcard(self) -> None:
        filters = wildcard(self.random, self.random.choice(self.publications))
        shape = model_pattern.shape(filters)
        if shape in self.wildcards or len(self.wildcards) < SHAPES:
            self.wildcards.setdefault(shape, []).append(filters)

    async def start_api(self, number: int, port: int = 0) -> Server:
        """Start a server of the publish API, on a free port unless one is named."""
        url = self.url if number else self.far
        return await asyncio.to_thread(Server, "--role", "api", "--redis", url, "--api-port", str(port))

    @asynccontextmanager
    async def servers(self) -> AsyncIterator[None]:
        """Run the servers; the first of each kind is far from the broker."""
        async with AsyncExitStack() as stack:
            if self._far is not None:
                proxy = await stack.enter_async_context(Proxy(self._far))
                proxy.delay = DELAY
                self.far = proxy.url
            stack.push_async_callback(self.stop)
            for number in range(3):
                url = self.far if not number else self.url
                words = "--role", "ws", "--redis", url, "--max-actions", "0"
                self.nodes.append(await asyncio.to_thread(Server, *words))
            for number in range(2):
                self.apis.append(await self.start_api(number))
            yield

    async def stop(self) -> None:
        """Stop the servers."""
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in (*self.nodes, *self.apis)))

    # ---- what clients do

    def _pattern(self) -> Filters:
        """Return a pattern to subscribe to; shapes come into use one after the other."""
        if self.random.random() < 0.5:
            return self.random.choice(self.publications)
        in_use = 3 + (SHAPES - 3) * self.ledger.total // self.total
        return self.random.choice(self.wildcards[self.random.choice(list(self.wildcards)[:in_use])])

    async def come_and_go(self, stay: bool) -> None:
        """Connect to servers, subscribe, wait, leave, until all is published; keep the last connection.

        Args:
            stay: whether to keep all subscriptions of the first connection.
        """
        while True:
            member = await Member.join(self.random.choice(self.nodes).ws, self.ledger)
            for _ in range(1000 if stay else self.random.randrange(1, 5)):
                await self._subscribe(member)
                await self.ledger.until(
                    min(self.total, self.ledger.total + self.random.randrange(20, 3000 if stay else 1500))
                )
                assert not member.closed.is_set(), "the server closed the connection"
                if self.ledger.total >= self.total:
                    self.members.append(member)
                    return
                if not stay:
                    await self._unsubscribe(member)
            member.leave()
            assert member.unexpected == []

    async def _subscribe(self, member: Member) -> None:
        patterns: dict[str, Filters] = {}
        for _ in range(self.random.randrange(1, 7)):
            filters = self._pattern()
            if not member.has(filters):
                patterns[model_pattern.channel(filters, wildcards=True)] = filters
        await asyncio.gather(*map(member.subscribe, patterns.values()))

    async def _unsubscribe(self, member: Member) -> None:
        leaving = [one for one in member.current.values() if self.random.random() < 0.5]
        patient = [one for one in leaving if not self.ledger.lossy and self.random.random() < 0.5]
        await asyncio.gather(*map(member.received_all, patient))
        await asyncio.gather(*map(member.unsubscribe, leaving))

    async def publish(self, publisher: HttpPublisher) -> None:
        """Publish single messages and batches until there have been enough."""
        while self.ledger.total < self.total:
            size = self.random.choice([1, 1, 1, self.random.randrange(2, 100)])
            if not await publisher.publish(self.random.choices(self.publications, k=size)):
                assert self.ledger.lossy, "a publication was refused"
                await asyncio.sleep(0.05)
            if self.pause:
                await asyncio.sleep(self.pause)

    async def run(self, disturb: Coroutine[Any, Any, None] | None = None, *, told: bool = False) -> dict[str, int]:
        """Let clients and publishers work, disturb them, and check the account.

        Args:
            disturb: runs meanwhile.
            told: whether to wait until a gap was told.
        """
        self.ledger.lossy = disturb is not None
        publishers = [HttpPublisher(self.ledger, number, self.apis[number % 2].api) for number in range(4)]
        async with asyncio.TaskGroup() as group:
            for number in range(MEMBERS):
                group.create_task(self.come_and_go(stay=self.ledger.lossy and number % 2 == 0))
            for publisher in publishers:
                group.create_task(self.publish(publisher))
            if disturb is not None:
                group.create_task(disturb)
        await self.ledger.settle(told=told)
        counts = self.ledger.check()
        for member in self.members:
            assert member.unexpected == []
            member.leave()
        for publisher in publishers:
            publisher.close()
        if not self.ledger.lossy:
            assert self.ledger.refused == []
        return counts
