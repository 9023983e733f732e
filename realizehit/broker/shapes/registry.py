"""The registry of shapes at the broker: where it is and what its scripts do.

The registry is a sorted set in database 0. Its members are shapes; their scores are the times at which they lapse, in
milliseconds of the broker's own clock. A node registers a shape for `LEASE` and renews it. What is not renewed lapses;
the script of the next registration removes it. A script that adds a shape, or one that had lapsed, also publishes it
on `CONTROL`.

While a bridge runs (`realizehit.broker.shapes.bridge`), the registry has the member `BRIDGE`, whose score is renewed as
those of shapes are. `BRIDGE_BEGINS` and `BRIDGE_ENDS` on `CONTROL` tell publishers to leave projections to it, and to
publish them again, which they do once `BRIDGE_DONE` says that its last ones are published: so the order is kept. A
bridge that lapsed without an end (`BRIDGE_LAPSED`) had a gap, and so had one that ended but did not tell within
`BRIDGE_LEASE` that it was done. The hash `BRIDGE_KEY` counts the gaps and has the time since which the last one may
have lost publications: the bridge tells with each command up to when it has projected everything. The set `BRIDGED` has
the shapes that the bridge listens for.

The hash `SHAPES_KEY` has for each shape the time since which it is registered without interruption, and no bridge had a
gap. Logs of wildcards that are older lack messages, and begin anew: `realizehit.broker.history.scripts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote

from realizehit.broker.history.scripts import SHAPES_KEY
from realizehit.broker.names import SINGLE, Names
from realizehit.errors import PatternError
from realizehit.pattern import channel_of, shape_of

KEY: Final = SINGLE.shapes
CONTROL: Final = SINGLE.control

BRIDGE: Final = b"bridge"
BRIDGE_KEY: Final = SINGLE.bridge
BRIDGED: Final = SINGLE.bridged
BRIDGE_BEGINS: Final = b"bridge begins"
BRIDGE_ENDS: Final = b"bridge ends"
BRIDGE_DONE: Final = b"bridge done"
BRIDGE_LAPSED: Final = b"bridge lapsed"
BRIDGE_LEASE: Final = 5.0  # seconds without a renewal after which a bridge counts as dead
BRIDGE_INTERVAL: Final = 1.5  # seconds between two renewals, and between two attempts to become the bridge
BRIDGE_GAP_EARLIER: Final = 3 * BRIDGE_LEASE + 1.0  # seconds by which a gap can begin before the registry counts it

LEASE: Final = 60.0  # seconds that a registration holds
RENEW_INTERVAL: Final = 10.0  # seconds between two renewals
READ_INTERVAL: Final = 30.0  # seconds between two reads of the whole registry by a publisher
VIEW_AGE: Final = 1.0  # seconds: a publisher to a cluster knows the registry as it was at most so long ago
VIEW_READ_INTERVAL: Final = 0.4  # seconds between two reads of it by a publisher to a cluster, while it publishes
VIEW_SETTLE: Final = 1.1  # seconds after a registration at which no publisher to a cluster has an older view
MAX_SHAPES: Final = 64  # that a registry holds
MOST_SHAPES: Final = 1024
"""Shapes that one publisher follows. A registry is far smaller: what comes beyond was not written by a node."""

RENEWED: Final = 0
ADDED: Final = 1
FULL: Final = 2
RENEWED_NOT_BRIDGED: Final = 3  # and the bridge does not listen for it yet
ADDED_NOT_BRIDGED: Final = 4

RUNS: Final = 0  # answers to `hold`: this bridge holds the lease
TAKEN: Final = 1  # it holds it from now on
ANOTHER: Final = 2  # another one holds it
UNHEARD: Final = 3  # nobody holds it, but this bridge does not listen for all shapes

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Each call gives another number, also for calls within one millisecond.
_BEGIN: Final = """
local function begin(shape)
    local began = math.max(now, tonumber(redis.call('HGET', KEYS[4], shape) or 0) + 1)
    redis.call('HSET', KEYS[4], shape, string.format('%d', began))
end
local function begin_all()
    for _, shape in ipairs(redis.call('HKEYS', KEYS[4])) do
        begin(shape)
    end
end
"""

# Argument: the time since which publications may be missing, in milliseconds.
_COUNT_GAP: Final = (
    _BEGIN
    + """
local function count_gap(since)
    redis.call('HINCRBY', KEYS[2], 'gaps', 1)
    redis.call('HSET', KEYS[2], 'since', since)
    begin_all()
end
"""
)

# A bridge that lapsed has ended, with a gap since the time that it told with its last renewal. For publishers that know
# nothing of shapes the gap lasts until another bridge begins, and so does that between a bridge that ended by itself
# and the next one: "without" says since when there has been none.
_END_LAPSED_BRIDGE: Final = (
    _COUNT_GAP
    + f"""
local ending = redis.call('HMGET', KEYS[2], 'ending until', 'ending since')
if ending[1] and tonumber(ending[1]) <= now then
    redis.call('HDEL', KEYS[2], 'ending', 'ending until', 'ending since')
    count_gap(ending[2])
end
local bridge = tonumber(redis.call('ZSCORE', KEYS[1], 'bridge') or 0)
if bridge > 0 and bridge <= now then
    redis.call('ZREM', KEYS[1], 'bridge')
    redis.call('DEL', KEYS[3])
    local since = redis.call('HGET', KEYS[2], 'projected')
        or string.format('%d', bridge - {round(BRIDGE_LEASE * 1000)})
    redis.call('HDEL', KEYS[2], 'projected')
    redis.call('HSET', KEYS[2], 'without', since)
    count_gap(since)
    redis.call('PUBLISH', ARGV[1], '{BRIDGE_LAPSED.decode()}')
    bridge = 0
end
"""
)

# Arguments: the channel that new shapes are published on, the lease in milliseconds, how many shapes there may be, the
# shapes. What has lapsed makes room first, so that a member is always one that is in force. The reply begins with how
# many gaps bridges have had, and how many milliseconds ago the last one began; then come the outcomes, and then the
# times since which the shapes are registered, and the time.
_REGISTER: Final = (
    _NOW
    + _END_LAPSED_BRIDGE
    + """
if redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now) > 0 then
    for _, shape in ipairs(redis.call('HKEYS', KEYS[4])) do
        if not redis.call('ZSCORE', KEYS[1], shape) then
            redis.call('HDEL', KEYS[4], shape)
        end
    end
end
local gaps = redis.call('HMGET', KEYS[2], 'gaps', 'since')
local most = tonumber(ARGV[3]) + (bridge > 0 and 1 or 0)
local lapses = string.format('%d', now + ARGV[2])
local outcomes = {tonumber(gaps[1] or 0), now - tonumber(gaps[2] or now)}
for i = 4, #ARGV do
    local shape = ARGV[i]
    local outcome = 0
    if not redis.call('ZSCORE', KEYS[1], shape) then
        outcome = redis.call('ZCARD', KEYS[1]) < most and 1 or 2
    end
    if outcome < 2 then
        redis.call('ZADD', KEYS[1], 'GT', lapses, shape)
    end
    if outcome == 1 or (outcome == 0 and not redis.call('HGET', KEYS[4], shape)) then
        begin(shape)
    end
    if outcome == 1 then
        redis.call('PUBLISH', ARGV[1], shape)
    end
    if outcome < 2 and bridge > 0 and redis.call('SISMEMBER', KEYS[3], shape) == 0 then
        outcome = outcome + 3
    end
    outcomes[#outcomes + 1] = outcome
end
for i = 4, #ARGV do
    outcomes[#outcomes + 1] = tonumber(redis.call('HGET', KEYS[4], ARGV[i]) or 0)
end
outcomes[#outcomes + 1] = now
return outcomes
"""
)

_READ: Final = (
    _NOW
    + """
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%d', now), '+inf')
"""
)


# Shapes that are in force, and behind each since when it is registered.
_READ_REGISTRATIONS: Final = (
    _NOW
    + """
local found = {}
for _, shape in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%d', now), '+inf')) do
    found[#found + 1] = shape
    found[#found + 1] = redis.call('HGET', KEYS[2], shape) or '0'
end
return found
"""
)

# Arguments: the channel of announcements, the lease in milliseconds, which bridge it is, the time up to which it has
# projected everything, the shapes it listens for. The reply is the answer and the time.
_HOLD: Final = (
    _NOW
    + """
local own = redis.call('HGET', KEYS[2], 'id') == ARGV[3]
local score = tonumber(redis.call('ZSCORE', KEYS[1], 'bridge') or 0)
local lapses = string.format('%d', now + ARGV[2])
local function listens()
    redis.call('DEL', KEYS[3])
    if #ARGV > 4 then
        redis.call('SADD', KEYS[3], unpack(ARGV, 5))
    end
end
if score > now then
    if own then
        redis.call('ZADD', KEYS[1], lapses, 'bridge')
        redis.call('HSET', KEYS[2], 'projected', ARGV[4])
        listens()
        return {0, now}
    end
    return {2, now}
end
local listened = {}
for i = 5, #ARGV do
    listened[ARGV[i]] = true
end
for _, shape in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%d', now), '+inf')) do
    if not listened[shape] then
        return {3, now}
    end
end
"""
    + _END_LAPSED_BRIDGE
    + f"""
redis.call('ZADD', KEYS[1], lapses, 'bridge')
local without = redis.call('HGET', KEYS[2], 'without')
if without then
    if score == 0 then
        count_gap(without)
    end
    redis.call('HDEL', KEYS[2], 'without')
end
redis.call('HSET', KEYS[2], 'id', ARGV[3], 'projected', string.format('%d', now))
listens()
redis.call('PUBLISH', ARGV[1], '{BRIDGE_BEGINS.decode()}')
return {{1, now}}
"""
)

# Arguments: the channel of announcements, which bridge it is, the time up to which it has projected everything, how
# many milliseconds it has for the rest. One that ended before and is not done yet has a gap.
_END: Final = (
    _NOW
    + _COUNT_GAP
    + f"""
if redis.call('HGET', KEYS[2], 'id') ~= ARGV[2] or redis.call('ZREM', KEYS[1], 'bridge') == 0 then
    return 0
end
local since = redis.call('HGET', KEYS[2], 'ending since')
if since then
    count_gap(since)
end
local until_ = string.format('%d', now + ARGV[4])
redis.call('DEL', KEYS[3])
redis.call('HDEL', KEYS[2], 'projected')
redis.call('HSET', KEYS[2], 'ending', ARGV[2], 'ending until', until_, 'ending since', ARGV[3])
redis.call('HSET', KEYS[2], 'without', string.format('%d', now))
redis.call('PUBLISH', ARGV[1], '{BRIDGE_ENDS.decode()}')
return 1
"""
)

# Arguments: the channel of announcements, which bridge it is.
_DONE: Final = f"""
if redis.call('HGET', KEYS[1], 'ending') ~= ARGV[2] then
    return 0
end
redis.call('HDEL', KEYS[1], 'ending', 'ending until', 'ending since')
redis.call('PUBLISH', ARGV[1], '{BRIDGE_DONE.decode()}')
return 1
"""

# Arguments: which bridge it is, shapes.
_BRIDGE: Final = """
if redis.call('HGET', KEYS[1], 'id') ~= ARGV[1] then
    return 0
end
return redis.call('SADD', KEYS[2], unpack(ARGV, 2))
"""


def register(shapes: list[bytes], lease: float, most: int, names: Names = SINGLE) -> tuple[bytes | str, ...]:
    """Return the command that registers shapes or renews them.

    Its reply has two numbers, how many gaps bridges have had so far and how many milliseconds ago the last one began,
    then an outcome for each shape, such as `ADDED`, and then for each shape since when it is registered without
    interruption, a number of milliseconds that another registration does not have, and last the broker's time.

    Args:
        shapes: at least one.
        lease: seconds.
        most: how many shapes the registry may hold.
        names: those of the broker.
    """
    keys = ("4", names.shapes, names.bridge, names.bridged, names.registrations)
    return ("EVAL", names.script(_REGISTER), *keys, names.control, str(round(lease * 1000)), str(most), *shapes)


def read() -> tuple[bytes | str, ...]:
    """Return the command that reads the shapes that are in force; its reply is a list of them."""
    return ("EVAL", _READ, "1", KEY)


def read_registrations(names: Names) -> tuple[bytes | str, ...]:
    """Return the command that reads the shapes that are in force, and behind each the number of its registration."""
    return ("EVAL", _READ_REGISTRATIONS, "2", names.shapes, names.registrations)


def hold(bridge: str, projected: int, shapes: Sequence[bytes], lease: float = BRIDGE_LEASE) -> tuple[bytes | str, ...]:
    """Return the command that makes a bridge the one that runs, or renews it.

    Its reply has two numbers: `RUNS` or another answer, and the broker's time in milliseconds.

    Args:
        bridge: which one it is.
        projected: the broker's time in milliseconds up to which the bridge has projected everything, if it runs.
        shapes: those that it listens for: all that are in the registry, or it is `UNHEARD`.
        lease: seconds.
    """
    keys = ("4", KEY, BRIDGE_KEY, BRIDGED, SHAPES_KEY)
    return ("EVAL", _HOLD, *keys, CONTROL, str(round(lease * 1000)), bridge, str(projected), *shapes)


def end(bridge: str, projected: int, lease: float = BRIDGE_LEASE) -> tuple[bytes | str, ...]:
    """Return the command that ends a bridge: publishers project again what they publish after it.

    Args:
        bridge: which one it is.
        projected: as for `hold`.
        lease: seconds within which `done` must follow; else the bridge had a gap since `projected`.
    """
    keys = ("4", KEY, BRIDGE_KEY, BRIDGED, SHAPES_KEY)
    return ("EVAL", _END, *keys, CONTROL, bridge, str(projected), str(round(lease * 1000)))


def done(bridge: str) -> tuple[bytes | str, ...]:
    """Return the command by which a bridge that ended says that it has projected everything: it had no gap."""
    return ("EVAL", _DONE, "1", BRIDGE_KEY, CONTROL, bridge)


def listens(bridge: str, shapes: Sequence[bytes]) -> tuple[bytes | str, ...]:
    """Return the command by which a bridge says that it listens for shapes, of which there is at least one."""
    return ("EVAL", _BRIDGE, "2", BRIDGE_KEY, BRIDGED, bridge, *shapes)


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
