"""The script that keeps the rules of history at a Redis or Valkey."""

from __future__ import annotations

from typing import Final

from realizehit.broker.history.rules import CHANGED, KEY, Rules

# Arguments: the channel of announcements, what is announced, the rules, and 1 if rules that are there stay.
# The answer is what was there before.
_SCRIPT: Final = b"""
local before = redis.call('GET', KEYS[1])
if before == ARGV[3] or (before and ARGV[4] == '1') then
    return before
end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])
return before
"""


def write_rules(rules: Rules, control: bytes, *, only_if_missing: bool) -> tuple[bytes | str, ...]:
    """Return the command that has the broker keep some rules, and announces them if they differ from those before.

    Args:
        rules: to be kept.
        control: the channel of announcements.
        only_if_missing: leave rules that the broker has.
    """
    return ("EVAL", _SCRIPT, "1", KEY, control, CHANGED, rules.to_json(), "1" if only_if_missing else "0")
