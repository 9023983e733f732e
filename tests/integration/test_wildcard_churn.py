"""Wildcard and exact subscriptions that come and go on nodes in this process, in an order that Hypothesis makes up.

`tests/faults/test_wildcards.py` has the same on whole servers, with far more messages.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from realizehit.broker.shapes.registry import KEY
from realizehit.process.server import Node, serve
from realizehit.settings import Settings
from tests.support import model_pattern
from tests.support.churn import Filters, HttpPublisher, Ledger, Member
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey

DELAY = 0.003  # seconds that one publisher and one node hear later of what the broker did

_examples = itertools.count()


@asynccontextmanager
async def servers(valkey: Valkey) -> AsyncIterator[tuple[list[Node], list[Node]]]:
    """Run two servers that publish, then two nodes; the first of each is far from the broker."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(valkey.socket))
        proxy.delay = DELAY
        started = [
            await stack.enter_async_context(serve(Settings(port=0, redis=url, role=role, max_shapes=10_000)))
            for role in ("api", "ws")
            for url in (proxy.url, valkey.url)
        ]
        yield started[:2], started[2:]


def keys(example: int) -> list[str]:
    """Keys that no other example has, so that all shapes are new."""
    return [f"{name}{example}" for name in "abc"]


VALUES = st.integers(0, 1)
PUBLICATION = st.lists(st.none() | VALUES, min_size=3, max_size=3).filter(lambda one: one != [None] * 3)
SUBSCRIPTION = st.tuples(
    st.lists(st.none() | VALUES | st.just("*"), min_size=3, max_size=3).filter(lambda one: one != [None] * 3),
    st.booleans(),
)
STEP = st.one_of(
    st.tuples(st.just("sub"), st.integers(0, 3), SUBSCRIPTION),
    st.tuples(st.just("unsub"), st.integers(0, 3), st.integers(0, 9)),
    st.tuples(st.just("publish"), st.integers(0, 1), st.lists(PUBLICATION, min_size=1, max_size=20)),
    st.tuples(st.just("lapse"), st.just(0), st.none()),
    st.tuples(st.just("wait"), st.integers(0, 5), st.none()),
)


def filters_of(values: list[Any], names: list[str], *, open_: bool = False) -> Filters:
    """Return the pattern with these values; those that are nothing are left out."""
    filters: Filters = {name: value for name, value in zip(names, values, strict=True) if value is not None}
    return {**filters, "*": "*"} if open_ else filters


class Example:
    """One order of events. Actions of a client, and publications of a publisher, follow one another."""

    def __init__(self, valkey: Valkey, apis: list[Node], nodes: list[Node]) -> None:
        self.valkey = valkey
        self.names = keys(next(_examples))
        self.ledger = Ledger()
        self.publishers = [HttpPublisher(self.ledger, number, api.api_url) for number, api in enumerate(apis)]
        self.nodes = nodes
        self.queues: dict[tuple[str, int], asyncio.Task[None]] = {}
        self.members: list[Member] = []

    async def run(self, steps: list[tuple[str, int, Any]]) -> None:
        self.members = [await Member.join(self.nodes[number % 2].ws_url, self.ledger) for number in range(4)]
        for kind, number, detail in steps:
            if kind == "wait":
                await asyncio.sleep(number / 1000)  # no event to await: any moment is as good as another
            elif kind == "lapse":
                await self.lapse()
            else:
                self.queue("publisher" if kind == "publish" else "member", number, self.act(kind, number, detail))
        await asyncio.gather(*self.queues.values())
        await self.ledger.settle()
        self.ledger.check()
        for member in self.members:
            assert member.unexpected == []
            member.leave()
        for publisher in self.publishers:
            publisher.close()

    def queue(self, kind: str, number: int, action: Any) -> None:
        before = self.queues.get((kind, number))

        async def follow() -> None:
            if before is not None:
                await before
            await action

        self.queues[kind, number] = asyncio.create_task(follow())

    async def act(self, kind: str, number: int, detail: Any) -> None:
        if kind == "publish":
            assert await self.publishers[number].publish([filters_of(one, self.names) for one in detail])
            return
        member = self.members[number]
        current = list(member.current.values())
        if kind == "sub":
            filters = filters_of(detail[0], self.names, open_=detail[1])
            if not member.has(filters):
                assert await member.subscribe(filters) is not None
        elif current:
            subscription = current[detail % len(current)]
            if detail % 2:
                await member.received_all(subscription)
            await member.unsubscribe(subscription)

    async def lapse(self) -> None:
        """Take a shape out of the registry that nobody has, as if its time had come."""
        await asyncio.gather(*self.queues.values())
        held = {model_pattern.shape(one.filters) for member in self.members for one in member.current.values()}
        for shape in self.valkey.command("ZRANGE", KEY, "0", "-1"):
            if shape.decode() not in held and self.names[0][1:] in shape.decode():
                self.valkey.command("ZREM", KEY, shape)
                return


def test_each_subscription_receives_exactly_what_it_matches(valkey: Valkey) -> None:
    with asyncio.Runner() as runner:
        running = servers(valkey)
        apis, nodes = runner.run(running.__aenter__())

        @settings(max_examples=25)
        @given(st.lists(STEP, min_size=10, max_size=60))
        def check(steps: list[tuple[str, int, Any]]) -> None:
            runner.run(Example(valkey, apis, nodes).run(steps))

        try:
            check()
        finally:
            runner.run(running.__aexit__(None, None, None))
