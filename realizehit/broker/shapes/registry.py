"""The registry of shapes at the broker: where it is and what its scripts do.

The registry is a sorted set in database 0. Its members are shapes; their scores are the times at which they lapse, in
milliseconds of the broker's own clock. A node registers a shape for `LEASE` and renews it. What is not renewed lapses;
the script of the next registration removes it. A script that adds a shape, or one that had lapsed, also publishes it
on `CONTROL`.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

from realizehit.errors import PatternError
from realizehit.pattern import channel_of, shape_of

KEY: Final = "realizehit:shapes"
CONTROL: Final = b"realizehit:control"

LEASE: Final = 60.0  # seconds that a registration holds
RENEW_INTERVAL: Final = 10.0  # seconds between two renewals
READ_INTERVAL: Final = 30.0  # seconds between two reads of the whole registry by a publisher
MAX_SHAPES: Final = 64  # that a registry holds
MOST_SHAPES: Final = 1024
"""Shapes that one publisher follows. A registry is far smaller: what comes beyond was not written by a node."""

RENEWED: Final = 0
ADDED: Final = 1
FULL: Final = 2

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Arguments: the channel that new shapes are published on, the lease in milliseconds, how many shapes there may be, the
# shapes. What has lapsed makes room first, so that a member is always one that is in force.
_REGISTER: Final = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local lapses = string.format('%d', now + ARGV[2])
local outcomes = {}
for i = 4, #ARGV do
    local shape = ARGV[i]
    local outcome = 0
    if not redis.call('ZSCORE', KEYS[1], shape) then
        outcome = redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[3]) and 1 or 2
    end
    if outcome < 2 then
        redis.call('ZADD', KEYS[1], 'GT', lapses, shape)
    end
    if outcome == 1 then
        redis.call('PUBLISH', ARGV[1], shape)
    end
    outcomes[#outcomes + 1] = outcome
end
return outcomes
"""
)

_READ: Final = (
    _NOW
    + """
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%d', now), '+inf')
"""
)


def register(shapes: list[bytes], lease: float, most: int) -> tuple[bytes | str, ...]:
    """Return the command that registers shapes or renews them; its reply has an outcome for each, such as `ADDED`.

    Args:
        shapes: at least one.
        lease: seconds.
        most: how many shapes the registry may hold.
    """
    return ("EVAL", _REGISTER, "1", KEY, CONTROL, str(round(lease * 1000)), str(most), *shapes)


def read() -> tuple[bytes | str, ...]:
    """Return the command that reads the shapes that are in force; its reply is a list of them."""
    return ("EVAL", _READ, "1", KEY)


def is_shape(text: Any) -> bool:
    """Whether a member of the registry is the shape of a wildcard subscription; anybody may have written there."""
    if not isinstance(text, bytes):
        return False
    try:
        parts = [filter_.partition(":") for filter_ in text.decode("ascii").split("|")]
        filters = {key if key == "*" else unquote(key, errors="strict"): value for key, _, value in parts}
        return "*" in filters.values() and shape_of(channel_of(filters, wildcards=True)) == text
    except (UnicodeError, PatternError):
        return False
