"""Shows the rules of history at a broker, and how much is kept by each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import click

from realizehit.broker.cluster.address import SCHEMES as CLUSTER_SCHEMES
from realizehit.broker.cluster.address import ClusterAddress
from realizehit.broker.cluster.publisher import ClusterPublisher
from realizehit.broker.cluster.watch import TopologyWatch
from realizehit.broker.history.rules import NO_RULES, Rule, Rules
from realizehit.broker.history.rules_commands import channel_in
from realizehit.broker.history.scripts import PREFIX
from realizehit.broker.names import CLUSTER, SINGLE
from realizehit.broker.publisher import Pipeline
from realizehit.broker.sentinel import SCHEMES, SentinelAddress
from realizehit.broker.url import Address
from realizehit.cli.text import counted
from realizehit.errors import BrokerRefused

MOST_KEYS: Final = 200_000  # keys of the broker that are looked through
MOST_LOGS: Final = 20_000  # logs that are measured
_SCAN: Final = 1000  # keys of one step
_NAME: Final = "realizehit-history"

Ask = Callable[..., Awaitable[Any]]


class Kept:
    """How much is kept by one rule.

    Attributes:
        logs: patterns that have a log.
        messages: in these logs.
        size: bytes of the broker's memory; ``None`` if the broker does not tell.
    """

    def __init__(self) -> None:
        self.logs = 0
        self.messages = 0
        self.size: int | None = 0

    def add(self, messages: int, size: int | None) -> None:
        """Add a log."""
        self.logs += 1
        self.messages += messages
        self.size = None if self.size is None or size is None else self.size + size


class _Found(NamedTuple):
    """The broker: its name for people, its rules, and what sends a command to each machine."""

    name: str
    rules: Rules
    asks: Sequence[Ask]


@asynccontextmanager
async def _broker(url: str, patience: float) -> AsyncIterator[_Found]:
    address = SentinelAddress(url) if url.partition("://")[0] in SCHEMES else Address(url)
    pipeline = Pipeline(address, timeout=patience, name=_NAME)
    try:
        yield _Found(str(address), Rules.from_json(await pipeline.ask("GET", SINGLE.rules)), [pipeline.ask])
    finally:
        await pipeline.close()
        if isinstance(address, SentinelAddress):
            await address.close()


@asynccontextmanager
async def _cluster(url: str, patience: float) -> AsyncIterator[_Found]:
    address = ClusterAddress(url)
    watch = TopologyWatch(address)
    await watch.start()
    publisher = ClusterPublisher(address, watch, project=False, timeout=patience, name=_NAME)
    try:
        rules = Rules.from_json(await publisher.ask_at(CLUSTER.rules, "GET", CLUSTER.rules))
        yield _Found(str(address), rules, publisher.machines())
    finally:
        await publisher.close()
        await watch.close()


async def show_rules(url: str, patience: float, *, as_json: bool) -> int:
    """Print a broker's rules and what is kept by each.

    Args:
        url: the broker.
        patience: seconds for each answer.
        as_json: print one JSON object for each rule.

    Raises:
        SettingsError: the URL cannot be used.
        BrokerError: the broker cannot be reached, or does not allow this.
    """
    async with (
        _cluster(url, patience) if url.partition("://")[0] in CLUSTER_SCHEMES else _broker(url, patience) as found
    ):
        rules = found.rules
        kept: dict[int | None, Kept] = {}
        complete = all([await _survey(ask, rules, kept) for ask in found.asks])
    places: list[Rule | None] = [*rules.rules]
    if None in kept:
        places.append(None)  # logs of rules that there were before
    if as_json:
        for rule in places:
            click.echo(json.dumps(_object(rule, kept.get(rule_key(rules, rule), Kept()))))
    elif not rules:
        click.echo(f"no rules of history at {found.name}")
    else:
        _print_table(rules, places, kept)
    if not complete:
        click.echo("the broker has more keys than were looked at; there may be more logs", err=True)
    return 0


def rule_key(rules: Rules, rule: Rule | None) -> int | None:
    """Return the index of a rule; ``None`` for no rule."""
    return None if rule is None else next(index for index, other in enumerate(rules.rules) if other is rule)


async def _survey(ask: Ask, rules: Rules, kept: dict[int | None, Kept]) -> bool:
    """Measure the logs at one machine.

    Args:
        ask: sends it a command.
        rules: those of history.
        kept: gets what is kept by the index of its rule, ``None`` for no rule.

    Returns:
        Whether all logs were looked at.
    """
    if rules is NO_RULES:
        return True
    looked = measured = 0
    cursor: Any = b"0"
    while True:
        cursor, keys = await ask("SCAN", cursor, "MATCH", f"{PREFIX}{{*}}", "COUNT", str(_SCAN))
        looked += _SCAN
        async for key, messages, size in _measure(ask, keys):
            rule = rule_key(rules, rules.rule_of(channel_in(key)))
            kept.setdefault(rule, Kept()).add(messages, size)
            measured += 1
        if cursor == b"0":
            return True
        if looked >= MOST_KEYS or measured >= MOST_LOGS:
            return False


async def _measure(ask: Ask, keys: list[bytes]) -> AsyncIterator[tuple[bytes, int, int | None]]:
    """Yield each log with its number of messages and its bytes."""
    questions = [ask("LLEN", key) for key in keys] + [ask("MEMORY", "USAGE", key) for key in keys]
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for key, length, size in zip(keys, answers[: len(keys)], answers[len(keys) :], strict=True):
        if isinstance(length, BaseException):
            raise length
        if isinstance(size, BaseException) and not isinstance(size, BrokerRefused):
            raise size
        # The last element is the head of the log. A log that has expired meanwhile has length 0.
        yield key, max(0, int(length) - 1), size if isinstance(size, int) else None


def _object(rule: Rule | None, kept: Kept) -> dict[str, Any]:
    rule_parts: dict[str, Any] = {"pattern": None} if rule is None else rule.to_dict()
    return {**rule_parts, "logs": kept.logs, "messages": kept.messages, "bytes": kept.size}


def _print_table(rules: Rules, places: list[Rule | None], kept: dict[int | None, Kept]) -> None:
    rows = [("pattern", "size", "ttl", "logs", "messages", "bytes")]
    for rule in places:
        own = kept.get(rule_key(rules, rule), Kept())
        size = "-" if own.size is None else f"{own.size:,}"
        counts = (f"{own.logs:,}", f"{own.messages:,}", size)
        rows.append(("(no rule any more)", "", "", *counts) if rule is None else (*_describe(rule), *counts))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *rest = row
        numbers = (f"{text:>{width}}" for text, width in zip(rest, widths[1:], strict=True))
        click.echo(f"{first:<{widths[0]}}  {'  '.join(numbers)}")
    total = sum(own.logs for own in kept.values())
    click.echo(f"{counted(len(rules.rules), 'rule')}, {counted(total, 'log')}")


def _describe(rule: Rule) -> tuple[str, str, str]:
    pattern, _, _ = rule.describe().rpartition(": ")
    return pattern, f"{rule.size:,}", f"{rule.ttl:g} s"
