"""Removes the members of nodes whose lease has run out, whichever process of the deployment notices it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Final

from realizehit.broker.presence.store import PresenceStore
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.errors import BrokerError
from realizehit.node.presence_registrar import Counts, Times

logger: Final = logging.getLogger(__name__)

CLAIM: Final = 5.0  # seconds for which one process removes, and the others wait


class Reaper:
    """Looks for nodes whose lease has run out.

    Args:
        store: the broker.
        counts: counts what is published.
        times: see there.
    """

    def __init__(self, store: PresenceStore, counts: Counts, times: Times) -> None:
        self._store = store
        self._counts = counts
        self._times = times
        self._name = secrets.token_hex(8).encode()
        self._seldom = Seldom(REMINDER)

    async def run(self) -> None:
        """Look until this is cancelled."""
        while True:
            try:
                for node in await self._store.lapsed(self._name, CLAIM):
                    await self._remove(node)
            except BrokerError as error:
                if (left_out := self._seldom.passes("failed")) is not None:
                    logger.warning("presence: members of lost nodes stay for now: %s%s", error, more(left_out))
            await asyncio.sleep(self._times.look)

    async def _remove(self, node: bytes) -> None:
        gone = 0
        while channels := await self._store.channels(node):
            for channel in channels:
                is_more = True
                while is_more:
                    left, is_more = await self._store.remove(channel, node)
                    gone += left
            await self._store.retire(node, channels)
            await self._store.lapsed(self._name, CLAIM)  # claims it for longer
        await self._store.forget(node)
        self._counts.leaves += gone
        if gone:
            logger.info("presence: a node is gone, and with it %d members", gone)
