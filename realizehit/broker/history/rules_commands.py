"""What a server does at a Redis or Valkey when the rules of history change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from realizehit.broker.history.rules import CHANGED, Rules
from realizehit.broker.history.scripts import PREFIX
from realizehit.broker.names import SINGLE, Names

_SCANNED: Final = "1000"  # keys of one step of a search

# Arguments: the channel of announcements, what is announced, the rules, and 1 if rules that are there stay.
# The answer is what was there before.
_SCRIPT: Final = """
local before = redis.call('GET', KEYS[1])
if before == ARGV[3] or (before and ARGV[4] == '1') then
    return before
end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return before
"""


def write_rules(rules: Rules, names: Names = SINGLE, *, only_if_missing: bool) -> tuple[bytes | str, ...]:
    """Return the command that has the broker keep some rules, and announces them if they differ from those before.

    Args:
        rules: to be kept.
        names: those of the broker.
        only_if_missing: leave rules that the broker has.
    """
    given = (names.control, CHANGED, rules.to_json(), "1" if only_if_missing else "0")
    return ("EVAL", names.script(_SCRIPT), "1", names.rules, *given)


async def remove_logs(ask: Callable[..., Awaitable[Any]], rules: Rules) -> int:
    """Remove the logs of all channels that are under none of the rules.

    Args:
        ask: sends a command to the broker and returns the reply.
        rules: which are in force.

    Returns:
        How many logs were removed.

    Cost: looks at all keys of the database, 1,000 in each command.
    """
    removed = 0
    async for keys in ended_logs(ask, rules):
        removed += await ask("UNLINK", *keys)
    return removed


async def ended_logs(ask: Callable[..., Awaitable[Any]], rules: Rules) -> AsyncIterator[list[bytes]]:
    """Find the logs of channels that are under none of the rules.

    Args:
        ask: as for `remove_logs`.
        rules: which are in force.

    Yields:
        The keys of some of them, at least one.
    """
    cursor: Any = b"0"
    while True:
        cursor, keys = await ask("SCAN", cursor, "MATCH", f"{PREFIX}{{*}}", "COUNT", _SCANNED)
        ended = [key for key in keys if rules.rule_of(channel_in(key)) is None]
        if ended:
            yield ended
        if cursor == b"0":
            return


def channel_in(key: bytes) -> bytes:
    """Return the channel of a log from the name of its key."""
    return key[len(PREFIX) + 1 : -1]
