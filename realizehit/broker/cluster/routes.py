"""Which machine the publications of each slot go to, in their order, also while the slot moves.

The rules of this file. Parts of one slot are carried out in the order in which they were handed over, except that what
was already sent behind a part that a machine refused for a moment may be carried out before it. When one of them was
not carried out, those behind it wait until all that was sent has its answer; then they go on together, in order. When
the topology names another machine for a slot, nothing is sent to it before the machine before has answered for what it
was sent.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final

from realizehit.broker.cluster.address import Place
from realizehit.broker.cluster.deliveries import Part
from realizehit.broker.cluster.shard import Shard
from realizehit.broker.cluster.shards import Shards
from realizehit.broker.cluster.slots import SLOTS
from realizehit.broker.publication import Outcome
from realizehit.errors import BrokerUnavailable

PAUSE_FIRST: Final = 0.02  # seconds until a part is sent again that no other machine was named for
PAUSE_MOST: Final = 0.25  # seconds
AT_ONCE: Final = 2  # attempts at machines that others name, before there are pauses

_GIVEN_UP: Final = BrokerUnavailable("nobody waits for the outcome")
_number_of: Final = attrgetter("number")


class Route:
    """The way of the parts of one slot.

    Attributes:
        shard: where they go; None while nobody knows.
        using: where the parts went that have no outcome yet.
        under_way: how many these are.
        waiting: parts that wait, in order.
        resumes_at: time of the loop before which they are not sent.
        timer: runs until then.
    """

    __slots__ = ("resumes_at", "shard", "timer", "under_way", "using", "waiting")

    def __init__(self, shard: Shard | None) -> None:
        self.shard = shard
        self.using = shard
        self.under_way = 0
        self.waiting: list[Part] = []
        self.resumes_at = 0.0
        self.timer: asyncio.TimerHandle | None = None


class _Sending:
    """Parts that are one chunk of a shard."""

    __slots__ = ("_answered", "_ended", "_parts")

    def __init__(self, parts: Sequence[Part], answered: Callable[[Part, Outcome], None]) -> None:
        self._parts = parts
        self._answered = answered
        self._ended = False

    def done(self) -> bool:
        """Whether nobody waits for the outcomes: the shard does not send them then, and reports nothing."""
        if not self._ended and all(part.delivery.done() for part in self._parts):
            self._ended = True
            asyncio.get_running_loop().call_soon(self._report, [_GIVEN_UP] * len(self._parts))
        return self._ended

    def sending(self) -> None:
        """Note that a machine may carry them out from here on."""
        for part in self._parts:
            part.was_sent = True

    def set_result(self, outcomes: list[Outcome]) -> None:
        """Report the outcomes."""
        self._ended = True
        self._report(outcomes)

    def _report(self, outcomes: Sequence[Outcome]) -> None:
        for part, outcome in zip(self._parts, outcomes, strict=True):
            self._answered(part, outcome)


class Routes:
    """Sends parts on their ways.

    Args:
        shards: the connections to machines.
        answered: told the outcome of each part.
        most: parts that go out as one chunk at most.
    """

    def __init__(self, shards: Shards, answered: Callable[[Part, Outcome], None], most: int) -> None:
        self._shards = shards
        self._told = answered
        self._most = most
        self._routes: list[Route | None] = [None] * SLOTS

    def _route(self, slot: int) -> Route:
        route = self._routes[slot]
        if route is None:
            route = self._routes[slot] = Route(self._shards.owner_of(slot))
        return route

    # ---- sending

    def send(self, part: Part) -> None:
        """Send one part, or have it wait for those before."""
        shard = self._admit(part)
        if shard is not None:
            shard.send((part.publication,), _Sending((part,), self._answered))

    def send_all(self, parts: Iterable[Part]) -> None:
        """Send parts in order; those that go to one machine are written together."""
        batch: dict[Shard, list[Part]] = {}
        for part in parts:
            shard = self._admit(part)
            if shard is not None:
                batch.setdefault(shard, []).append(part)
        for shard, together in batch.items():
            for start in range(0, len(together), self._most):
                sent = together[start : start + self._most]
                shard.send([part.publication for part in sent], _Sending(sent, self._answered))

    def _admit(self, part: Part) -> Shard | None:
        """Return the shard that a part goes to now; None if it waits."""
        route = self._routes[part.slot] or self._route(part.slot)
        shard = route.shard
        if shard is None or route.waiting or (route.under_way and route.using is not shard):
            route.waiting.append(part)
            return None
        route.using = shard
        route.under_way += 1
        return shard

    def _answered(self, part: Part, outcome: Outcome) -> None:
        route = self._route(part.slot)
        route.under_way -= 1
        try:
            self._told(part, outcome)
        finally:
            if route.waiting and not route.under_way:
                self._go_on(route)

    def again(self, part: Part, place: Place | None) -> None:
        """Take a part back that was not carried out, to send it again.

        Args:
            part: it.
            place: the machine that owns its slot now, if one was named.
        """
        route = self._route(part.slot)
        part.attempts += 1
        if place is not None:
            route.shard = self._shards.at(place)
        elif part.attempts > AT_ONCE:  # the machine that was named does not help: back to the owner as it is known
            route.shard = self._shards.owner_of(part.slot)
        if place is None or part.attempts > AT_ONCE:
            pause = min(PAUSE_MOST, PAUSE_FIRST * 2 ** min(part.attempts, 10))
            route.resumes_at = max(route.resumes_at, asyncio.get_running_loop().time() + pause)
        insort(route.waiting, part, key=_number_of)

    def drop(self, parts: Iterable[Part]) -> None:
        """Let go of parts that nobody waits for any more, also where their slot has no owner."""
        for slot in {part.slot for part in parts}:
            route = self._route(slot)
            route.waiting = [part for part in route.waiting if not part.delivery.done()]

    def _go_on(self, route: Route) -> None:
        """Send what waits, unless it has to wait longer."""
        loop = asyncio.get_running_loop()
        if route.timer is not None:
            route.timer.cancel()
            route.timer = None
        route.waiting = [part for part in route.waiting if not part.delivery.done()]
        if route.shard is None or not route.waiting:
            return
        if loop.time() < route.resumes_at:
            route.timer = loop.call_at(route.resumes_at, self._resume, route)
            return
        waiting, route.waiting = route.waiting, []
        self.send_all(waiting)

    def _resume(self, route: Route) -> None:
        route.timer = None
        if not route.under_way:
            self._go_on(route)

    # ---- the topology

    def take_topology(self) -> None:
        """Follow the new topology of the shards."""
        for slot, route in enumerate(self._routes):
            if route is None:
                continue
            owner = self._shards.owner_of(slot)
            if owner is not route.shard:
                route.shard = owner
                route.resumes_at = 0.0
            if route.waiting and not route.under_way:
                self._go_on(route)

    def close(self) -> None:
        """Send nothing any more."""
        for route in self._routes:
            if route is not None:
                route.waiting = []
                if route.timer is not None:
                    route.timer.cancel()
