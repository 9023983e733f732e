"""The scripts that the broker runs for presence, and the names of its keys.

All keys of a channel have the slot of the channel that its joins and leaves are published to, in braces in their names
(``KEYS`` of the scripts of a channel, in this order):

- ``members``, a sorted set of all members, all with the score 0, so that it is read in the order of their bytes.
- ``counts``, a hash: on how many nodes each member is.
- ``anonymous``, a hash: how many connections without an identity each node has.
- ``nodes``, a set of the nodes that have members or such connections.
- ``at:<node>``, a set of the members of one node.

Two kinds of keys have one slot, which is that of ``nodes`` in braces: ``realizehit:presence:{nodes}:leases``, a sorted
set of nodes by the time at which their lease runs out, in milliseconds of the broker's clock, and
``realizehit:presence:{nodes}:of:<node>``, a set of the channels that a node has announced.

All keys expire after `KEPT` without a use, so nothing stays of a deployment that does not exist any more.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from realizehit.broker.names import Names, key_of_channel

PREFIX: Final = "realizehit:presence:"
"""What the names of all keys begin with."""

KEPT: Final = 86_400.0
"""Seconds without a use after which a key expires. Nodes use the keys of all their channels more often than that."""

CHANNELS: Final = 100
"""Channels of a node without a lease that are looked up at once."""

LEASES: Final = b"realizehit:presence:{nodes}:leases"
CLAIM: Final = b"realizehit:presence:{nodes}:reaper"

RIGHTS: Final = (
    "presence needs the rights to EVAL, EVALSHA, TIME, ZADD, ZCARD, ZREM, ZSCORE, ZMSCORE, ZRANGEBYLEX, ZRANGEBYSCORE, "
    "SADD, SREM, SPOP, SCARD, SMEMBERS, SRANDMEMBER, HGET, HSET, HDEL, HLEN, HINCRBY, HVALS, GET, SET, UNLINK and "
    f"PEXPIRE with the keys {PREFIX}*, and to PUBLISH to the channels of joins and leaves"
)

# ---- channels

_TELL: Final = """
local function tell(event, member)
    local count = string.format('%d', redis.call('ZCARD', KEYS[1]))
    redis.call('PUBLISH', ARGV[1], '{"event":"' .. event .. '","member":' .. member .. ',"count":' .. count .. '}')
end
local left = 0
local function leave(member)
    if redis.call('HINCRBY', KEYS[2], member, -1) > 0 then
        return
    end
    redis.call('HDEL', KEYS[2], member)
    if redis.call('ZREM', KEYS[1], member) == 1 then
        left = left + 1
        tell('leave', member)
    end
end
"""

_KEEP: Final = """
for i = 1, #KEYS do
    redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
"""

# Arguments: the channel to publish to, the node, milliseconds until the keys expire, connections without an identity,
# the number of members that join, these members, and those that leave.
_CHANGE: Final = (
    _TELL
    + """
local joined, anonymous, last = 0, ARGV[4], 5 + tonumber(ARGV[5])
for i = 6, last do
    if redis.call('SADD', KEYS[5], ARGV[i]) == 1 then
        redis.call('HINCRBY', KEYS[2], ARGV[i], 1)
        if redis.call('ZADD', KEYS[1], 'NX', 0, ARGV[i]) == 1 then
            joined = joined + 1
            tell('join', ARGV[i])
        end
    end
end
for i = last + 1, #ARGV do
    if redis.call('SREM', KEYS[5], ARGV[i]) == 1 then
        leave(ARGV[i])
    end
end
if anonymous == '0' then
    redis.call('HDEL', KEYS[3], ARGV[2])
else
    redis.call('HSET', KEYS[3], ARGV[2], anonymous)
end
local here = redis.call('SCARD', KEYS[5])
redis.call(here == 0 and anonymous == '0' and 'SREM' or 'SADD', KEYS[4], ARGV[2])
"""
    + _KEEP
    + """
return {joined, left, here}
"""
)

# Arguments: the channel to publish to, the node, and how many members are removed at most.
_REMOVE: Final = (
    _TELL
    + """
for _, member in ipairs(redis.call('SPOP', KEYS[5], ARGV[3])) do
    leave(member)
end
local more = redis.call('SCARD', KEYS[5])
if more == 0 then
    redis.call('HDEL', KEYS[3], ARGV[2])
    redis.call('SREM', KEYS[4], ARGV[2])
end
return {left, more}
"""
)

# Arguments: nothing, the node, milliseconds until the keys expire. If the broker has lost some of the keys and not all,
# it forgets the others too: then each node sees that its members are missing, and registers them again.
_AUDIT: Final = (
    _KEEP
    + """
local members, here = redis.call('ZCARD', KEYS[1]), redis.call('SCARD', KEYS[5])
local known = redis.call('SMEMBERS', KEYS[4])
if members ~= redis.call('HLEN', KEYS[2]) or members < here then
    local prefix = string.sub(KEYS[4], 1, -6) .. 'at:'
    for _, node in ipairs(known) do
        redis.call('UNLINK', prefix .. node)
    end
    redis.call('UNLINK', unpack(KEYS))
    return {0, 0, {}}
end
return {here, tonumber(redis.call('HGET', KEYS[3], ARGV[2]) or 0), known}
"""
)

# Arguments: where to begin, and how many members.
_READ: Final = """
local anonymous = 0
for _, count in ipairs(redis.call('HVALS', KEYS[3])) do
    anonymous = anonymous + tonumber(count)
end
local members = {}
if ARGV[2] ~= '0' then
    members = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
end
return {redis.call('ZCARD', KEYS[1]), anonymous, members}
"""

# ---- nodes

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Keys: the leases, the channels of the node. Arguments: the node, its lease in milliseconds, 1 for a new node,
# milliseconds until the keys expire.
_RENEW: Final = (
    _NOW
    + """
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if ARGV[3] ~= '1' and score <= now then
    return 0
end
redis.call('ZADD', KEYS[1], string.format('%d', now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
"""
)

# Keys: as above. Arguments: the node, milliseconds until the keys expire, the channels. A node that is not known any
# more, since it slept for long, gets a lease that has run out: so another process removes what it registers late.
_ANNOUNCE: Final = """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
    redis.call('ZADD', KEYS[1], 0, ARGV[1])
end
for i = 3, #ARGV do
    redis.call('SADD', KEYS[2], ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
"""

# Keys: the leases, the claim. Arguments: who asks, and for how many milliseconds nobody else may remove nodes.
_LAPSED: Final = (
    _NOW
    + """
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%d', now), 'LIMIT', 0, 10)
if #lapsed == 0 then
    return lapsed
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
    return {}
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return lapsed
"""
)

# Keys: the leases, the channels of the node. Argument: the node.
_FORGET: Final = (
    _NOW
    + """
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if score <= now and redis.call('SCARD', KEYS[2]) == 0 then
    redis.call('ZREM', KEYS[1], ARGV[1])
end
return 1
"""
)


class Script:
    """A script and its digest, as ``EVAL`` and ``EVALSHA`` need them.

    Args:
        text: the script, for a single broker.
        names: those of the broker.
    """

    def __init__(self, text: str, names: Names) -> None:
        self.text: Final = names.script(text).encode()
        self.digest: Final = sha1(self.text, usedforsecurity=False).hexdigest()


class Scripts:
    """All scripts, for one kind of broker.

    Args:
        names: those of the broker.
    """

    def __init__(self, names: Names) -> None:
        self.change = Script(_CHANGE, names)
        self.remove = Script(_REMOVE, names)
        self.audit = Script(_AUDIT, names)
        self.read = Script(_READ, names)
        self.renew = Script(_RENEW, names)
        self.announce = Script(_ANNOUNCE, names)
        self.lapsed = Script(_LAPSED, names)
        self.forget = Script(_FORGET, names)


def channel_keys(derived: bytes, node: bytes) -> tuple[bytes, ...]:
    """Return the keys of a channel and a node, in the order of the scripts.

    Args:
        derived: the channel of joins and leaves.
        node: the node.
    """
    prefix = PREFIX.encode()
    rests = (b":members", b":counts", b":anonymous", b":nodes", b":at:" + node)
    return tuple(key_of_channel(prefix, derived, rest) for rest in rests)


def channels_key(node: bytes) -> bytes:
    """Return the key of the channels that a node has announced."""
    return b"realizehit:presence:{nodes}:of:%b" % node
