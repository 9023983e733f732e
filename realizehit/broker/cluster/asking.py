"""Questions to the machines of a cluster: each goes to the primary that owns the slot it is about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

from realizehit.broker.cluster.address import ClusterAddress, Place
from realizehit.broker.cluster.shard import NotCarriedOut, Shard
from realizehit.broker.cluster.shards import Shards
from realizehit.broker.cluster.slots import slot_of
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.publish_errors import PublishErrors
from realizehit.common.backoff import Backoff
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, BrokerUnclear

REDIRECTS: Final = 3  # that a question follows without a pause

_T = TypeVar("_T")


class ClusterQuestions:
    """Asks the machines of a cluster.

    Args:
        address: the cluster.
        shards: the connections.
        watch: knows the owners of slots.
        timeout: seconds for an answer.
    """

    def __init__(self, address: ClusterAddress, shards: Shards, watch: TopologyWatch, timeout: float) -> None:
        self._address = address
        self._shards = shards
        self._watch = watch
        self._timeout = timeout
        self._errors = PublishErrors(address, timeout)

    def late(self, trouble: BrokerError | None) -> BrokerUnavailable:
        """Return the error for something that was not carried out in time.

        Args:
            trouble: why it was not, as far as that is known.
        """
        if trouble is not None:
            return BrokerUnavailable(f"{trouble}; tried again for {self._timeout:g} seconds")
        if self._watch.current is None and self._watch.trouble is not None:
            return self._errors.unavailable(str(self._watch.trouble))
        return self._errors.late()

    async def ask_at(self, key: bytes | str, *command: bytes | str) -> Any:
        """Send a command to the machine that owns the slot of a key or a channel, and return the reply.

        Raises:
            BrokerUnavailable: it did not answer in time; as `BrokerUnclear` where it may have carried out the command.
            BrokerRefused: it answered with an error.
        """
        return await self.at(key, lambda shard, asking: (shard.ask_asking if asking else shard.ask)(*command))

    async def ask_once(self, key: bytes | str, *command: bytes | str) -> Any:
        """Ask as `ask_at` does, but only once, so that it is known when the question was sent."""
        shard = self._shards.owner_of(_slot(key))
        if shard is None:
            self._watch.refresh_soon()
            raise self.late(None)
        try:
            return await shard.ask(*command)
        except BrokerUnavailable as error:
            self._watch.refresh_soon(_named_by(error))
            raise

    async def at(self, key: bytes | str, call: Callable[[Shard, bool], Awaitable[_T]]) -> _T:
        """Call what asks the machine that owns the slot of a key; again while nothing was carried out.

        Raises:
            BrokerUnavailable: as `ask_at`.
            BrokerRefused: the machine answered with an error.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        backoff = Backoff(0.02, 0.25, jitter=False)
        trouble: BrokerUnavailable | None = None
        shard = self._shards.owner_of(_slot(key))
        asking = False
        redirects = 0
        while True:
            redirect = None
            if shard is not None:
                try:
                    async with asyncio.timeout_at(deadline):
                        return await call(shard, asking)
                except TimeoutError:
                    if shard.is_connected:
                        raise BrokerUnclear(f"{self._errors.late()}; it may have carried out the command") from None
                    break  # nothing was sent: what a lost connection had sent has failed before
                except BrokerUnclear:
                    raise
                except BrokerUnavailable as error:
                    trouble = error
                    redirect = error.redirect if isinstance(error, NotCarriedOut) else None
            self._watch.refresh_soon(None if redirect is None else redirect.place)
            if loop.time() >= deadline:
                break
            if redirect is not None and redirects < REDIRECTS:
                redirects += 1
                shard, asking = self._shards.at(redirect.place), redirect.asking
                continue
            asking, redirects = False, 0
            changed = self._shards.changed
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + backoff.next())):
                    await changed.wait()
            except TimeoutError:
                pass
            shard = self._shards.owner_of(_slot(key))
        raise self.late(trouble)

    async def ping(self) -> None:
        """Check that all primaries answer.

        Raises:
            BrokerUnavailable: one of them does not, or nobody knows which there are.
            BrokerRefused: one refuses the login.
        """
        topology = self._watch.current
        if topology is None:
            self._watch.refresh_soon()
            changed = self._shards.changed
            try:
                async with asyncio.timeout(self._timeout):
                    await changed.wait()
            except TimeoutError:
                raise self.late(None) from None
            topology = self._watch.current
        assert topology is not None
        await asyncio.gather(*(self._shards.at(place).ping() for place in topology.primaries))

    async def nodes(self, channels: Sequence[bytes]) -> list[int]:
        """Return for each channel how many nodes are subscribed to it. See `Bus.nodes`."""
        by_shard: dict[Shard | None, list[int]] = {}
        for index, channel in enumerate(channels):
            by_shard.setdefault(self._shards.owner_of(slot_of(channel)), []).append(index)
        counts = [0] * len(channels)

        async def ask(places: list[int]) -> None:
            asked = [channels[place] for place in places]
            reply = await self.ask_at(asked[0], "PUBSUB", "SHARDNUMSUB", *asked)
            found = reply[1::2] if isinstance(reply, list) else []
            if len(found) != len(asked) or not all(type(count) is int for count in found):
                raise BrokerRefused(f"broker {self._address}: PUBSUB SHARDNUMSUB answered {str(reply)[:100]}")
            for place, count in zip(places, found, strict=True):
                counts[place] = count

        await asyncio.gather(*(ask(places) for places in by_shard.values()))
        return counts


def _slot(key: bytes | str) -> int:
    return slot_of(key.encode() if isinstance(key, str) else key)


def _named_by(error: BrokerUnavailable) -> Place | None:
    """Return the machine that an error says to ask; None if it names none."""
    return error.redirect.place if isinstance(error, NotCarriedOut) and error.redirect is not None else None
