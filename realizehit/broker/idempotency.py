"""Idempotency keys at the broker: publications with one are published once within a window, see `publish_script`."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from realizehit.broker.names import CLOSING_BRACE, CLUSTER, SINGLE, key_of_channel
from realizehit.broker.publication import Publication

WINDOW: Final = 120.0
"""Seconds for which a key is remembered by default."""

PREFIX: Final = "realizehit:once:"
"""What the names of the script's keys at the broker begin with."""

REGISTRY: Final = SINGLE.shapes
"""The sorted set of shapes; `realizehit.broker.shapes.registry` defines it."""

RIGHTS: Final = (
    "publishing with an idempotency key needs the rights to EVAL, EVALSHA, GET, SET and DEL with the keys "
    f"{PREFIX}*, and with wildcards to ZSCORE with the key {REGISTRY}"
)

# For a publication without a log; `realizehit.broker.history.scripts` has the script for those with one.
#
# Keys: that of the publication; the registry, if projections are published here. Arguments: the window in milliseconds,
# the channel, the payload, the channels of projections. The value of the key is the number of nodes and the channels of
# the projections that were published, with a blank before and after each.
#
# The key is written before anything is published. So nothing is published if the memory is full or this is a replica.
# `pcall` keeps the broker's own error codes, which an error inside of a script has lost in Redis 6.2.
SCRIPT: Final = b"""
local function failed(reply) return type(reply) == 'table' and reply.err end
local seen = redis.pcall('GET', KEYS[1])
if failed(seen) then return seen end
local nodes, done = 0, ' '
if seen then
    nodes, done = string.match(seen, '^(%d+)(.*)$')
    nodes = tonumber(nodes)
elseif KEYS[2] then
    local bridged = redis.pcall('ZSCORE', KEYS[2], 'bridge')
    if failed(bridged) then return bridged end
    if bridged then done = ' bridge ' end
end
local bridged = seen and string.find(done, ' bridge ', 1, true)
local left = {}
for i = 4, #ARGV do
    if not bridged and not string.find(done, ' ' .. ARGV[i] .. ' ', 1, true) then left[#left + 1] = ARGV[i] end
end
if seen and #left == 0 then return -1 - nodes end
local kept
if seen then
    kept = redis.pcall('SET', KEYS[1], seen, 'KEEPTTL')
else
    kept = redis.pcall('SET', KEYS[1], '0' .. done, 'PX', ARGV[1])
end
if failed(kept) then return kept end
local refusal
local function publish(channel, payload)
    local reply = redis.pcall('PUBLISH', channel, payload)
    if failed(reply) then
        refusal = refusal or reply
        return false
    end
    nodes = nodes + reply
    return true
end
if not seen and not publish(ARGV[2], ARGV[3]) then
    redis.call('DEL', KEYS[1])
    return refusal
end
if #left > 0 then
    local labelled = '@c=' .. ARGV[2] .. '?' .. ARGV[3]
    if string.sub(ARGV[3], 1, 3) == '@t=' then
        labelled = string.sub(ARGV[3], 1, 58) .. '&c=' .. ARGV[2] .. string.sub(ARGV[3], 59)
    end
    for _, channel in ipairs(left) do
        if publish(channel, labelled) then done = done .. channel .. ' ' end
    end
end
redis.call('SET', KEYS[1], string.format('%d', nodes) .. done, 'KEEPTTL')
if refusal then return refusal end
return seen and -1 - nodes or nodes
"""

SCRIPT_SHARDED: Final = CLUSTER.script(SCRIPT.decode()).encode()
"""The same for a cluster."""

_key_of: Final = attrgetter("key")


def has_keys(publications: Iterable[Publication]) -> bool:
    """Whether one of some publications has an idempotency key.

    Cost: 25 ns for each publication without one.
    """
    return any(map(_key_of, publications))


def key_name(publication: Publication) -> bytes:
    """Return the name of a publication's key at the broker, which has the slot of its channel."""
    channel = publication.channel
    if CLOSING_BRACE in channel:
        return key_of_channel(b"realizehit:once:", channel, b":%b" % publication.key)
    return b"realizehit:once:{%b}:%b" % (channel, publication.key)
