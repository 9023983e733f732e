"""Writes the rules of history of a server's file to the broker, and logs when the broker has others.

All servers, publishers and API servers use the rules at the broker. A server writes those of its file at start and on
SIGHUP. If another server writes different ones later, they stay, and this server logs the difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from realizehit.broker.history.rules import Rules
from realizehit.broker.history.rules_file import read_rules
from realizehit.broker.open import open_bus
from realizehit.common.seldom import REMINDER, Seldom, more
from realizehit.common.upkeep import keep_up
from realizehit.errors import BrokerError, BrokerRefused, BrokerUnavailable, SettingsError

logger: Final = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 10.0  # seconds between two looks at the rules of the broker
RETRY_INTERVAL: Final = 1.0  # seconds between two attempts to write rules
MOST_SHOWN: Final = 5  # rules in one log line


class RulesWriter:
    """Keeps the rules of a file at the broker, through a connection of its own.

    Args:
        broker_url: the broker.
        path: the file.
        look_interval: seconds between two looks at the rules of the broker.
    """

    def __init__(self, broker_url: str, path: str, *, look_interval: float = LOOK_INTERVAL) -> None:
        self._bus = open_bus(broker_url, project=False, client_name="realizehit-rules")
        self._path = path
        self._interval = look_interval
        self._rules = Rules()
        self._to_write = True
        self._known_version = ""  # of the rules at the broker, as they were logged
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._seldom = Seldom(REMINDER)

    async def start(self) -> None:
        """Read the file and write its rules to the broker; if the broker is away, write them when it is back.

        Raises:
            SettingsError: the file cannot be used.
            BrokerRefused: the broker does not allow it.
        """
        self._rules = read_rules(self._path)
        self._bus.on_rules = lambda _: self._wake.set()
        await self._bus.start(None)
        try:
            await self._write()
        except BrokerUnavailable as error:
            logger.warning("the rules of history of %s will be written when the broker is back: %s", self._path, error)
        except BrokerRefused as error:
            await self._bus.close()
            raise BrokerRefused(f"the rules of history of {self._path} cannot be written: {error}") from None
        self._task = asyncio.create_task(keep_up("keeping the rules of history", self._keep), name="realizehit rules")

    def reload(self) -> None:
        """Read the file again and write its rules to the broker; a file that cannot be used is logged."""
        try:
            self._rules = read_rules(self._path)
        except SettingsError as error:
            logger.error("the rules of history are unchanged: %s", error)  # noqa: TRY400 - the error's text names the cause
            return
        self._to_write = True
        self._wake.set()

    async def close(self) -> None:
        """Leave the broker, whose rules stay; calling it again does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
        await self._bus.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _keep(self) -> None:
        while True:
            try:
                async with asyncio.timeout(RETRY_INTERVAL if self._to_write else self._interval):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await (self._write() if self._to_write else self._look())
            except BrokerError as error:
                left_out = self._seldom.passes("failed")
                if left_out is not None:
                    logger.warning("the rules of history at the broker cannot be kept: %s%s", error, more(left_out))

    async def _write(self) -> None:
        rules = self._rules
        before = await self._bus.write_rules(rules)
        self._to_write = rules is not self._rules  # a reload may have come meanwhile
        self._known_version = rules.version
        if before is None:
            logger.info("wrote %d rules of history of %s to the broker", len(rules.rules), self._path)
        elif before.version != rules.version:
            text = "the rules of history of %s replace other ones at the broker: %s"
            logger.warning(text, self._path, differences(before, rules))
            await self._remove_logs(rules)

    async def _remove_logs(self, rules: Rules) -> None:
        try:
            removed = await self._bus.remove_logs(rules)
        except BrokerError as error:
            logger.warning("logs of rules that were removed may stay until their time is up: %s", error)
        else:
            if removed:
                logger.info("removed %d logs that are under no rule of history any more", removed)

    async def _look(self) -> None:
        """Write the rules again if the broker has lost them, and log it if it has others."""
        found = await self._bus.write_rules(self._rules, only_if_missing=True)
        if found is None:
            self._known_version = self._rules.version
            logger.warning("the broker had lost the rules of history; those of %s are written again", self._path)
        elif found.version != self._known_version:
            self._known_version = found.version
            if found.version == self._rules.version:
                logger.info("the broker has the rules of history of %s again", self._path)
            else:
                text = (
                    "the rules of history at the broker differ from %s and stay until this server reloads that file: %s"
                )
                logger.warning(text, self._path, differences(self._rules, found))


def differences(before: Rules, now: Rules) -> str:
    """Return what changed from one list of rules to another, in one line of bounded length."""
    old, new = ([rule.describe() for rule in rules.rules] for rules in (before, now))
    added, removed = [text for text in new if text not in old], [text for text in old if text not in new]
    parts = [_listed(texts, what) for texts, what in ((added, "added"), (removed, "removed")) if texts]
    return "; ".join(parts) or "their order changed"


def _listed(texts: Sequence[str], what: str) -> str:
    shown = " | ".join(text[:200] for text in texts[:MOST_SHOWN])
    rest = len(texts) - MOST_SHOWN
    return f"{what}: {shown}" + (f" and {rest} more" if rest > 0 else "")
