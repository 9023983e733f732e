"""Publications with an idempotency key: the script that publishes each of them once, and how it is called.

The script publishes a message and its projections, and remembers both under one key for the window. When the same
publication comes again within the window, it publishes only the projections that are not remembered. So a publication
may be sent again at any time: after a lost connection, and for a new shape.

While a bridge runs (`realizehit.broker.shapes.bridge`), it publishes the projections. The script remembers that too, so
that a repetition after the end of the bridge does not publish them a second time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import hiredis

from realizehit.broker.projections import ProjectionCounts, projections_of
from realizehit.broker.publication import Publication
from realizehit.broker.resp import code_of, pack

WINDOW: Final = 120.0
"""Seconds for which a key is remembered by default."""

PREFIX: Final = "realizehit:once:"
"""What the names of the script's keys at the broker begin with."""

REGISTRY: Final = "realizehit:shapes"
"""The sorted set of shapes; `realizehit.broker.shapes.registry` defines it."""

RIGHTS: Final = (
    "publishing with an idempotency key needs the rights to EVAL, EVALSHA, GET, SET and DEL with the keys "
    f"{PREFIX}*, and with wildcards to ZSCORE with the key {REGISTRY}"
)

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
    for _, channel in ipairs(left) do
        if publish(channel, labelled) then done = done .. channel .. ' ' end
    end
end
redis.call('SET', KEYS[1], string.format('%d', nodes) .. done, 'KEEPTTL')
if refusal then return refusal end
return seen and -1 - nodes or nodes
"""

_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()

_key_of: Final = attrgetter("key")


def has_keys(publications: Iterable[Publication]) -> bool:
    """Whether one of some publications has an idempotency key.

    Cost: 25 ns for each publication without one.
    """
    return any(map(_key_of, publications))


def is_unknown_script(reply: object) -> bool:
    """Whether a reply says that the broker does not have the script, so that nothing was published."""
    return isinstance(reply, hiredis.ReplyError) and code_of(str(reply)) == "NOSCRIPT"


def combined(first: Any, again: Any) -> Any:
    """Return what two replies of the script for one publication say together: the nodes of the later, and its error.

    A publication is a duplicate if the first reply says so: the later one knows it from that call.
    """
    if type(first) is not int:
        return again if first is None or is_unknown_script(first) else first
    if type(again) is not int:
        return again
    nodes = again if again >= 0 else -1 - again
    return nodes if first >= 0 else -1 - nodes


class KeyedCommands:
    """Packs the calls of the script for one publisher.

    Args:
        window: seconds for which a key is remembered.
        project: whether projections are published here, so that the script has to know of a bridge.

    Attributes:
        loaded: whether the script was sent on this connection; otherwise the next call brings it along.
    """

    def __init__(self, window: float, *, project: bool) -> None:
        self.loaded = False
        self._window = b"%d" % max(1, round(window * 1000))
        self._registry = (REGISTRY.encode(),) if project else ()

    def pack(
        self,
        publications: Sequence[Publication],
        shapes: tuple[bytes, ...] = (),
        counts: ProjectionCounts | None = None,
    ) -> bytes:
        """Return a call for each publication, with its projections by some shapes, which are counted."""
        parts = []
        for publication in publications:
            projections = projections_of(publication, shapes) if shapes else ()
            if projections and counts is not None:
                counts.add(projections)
            parts.append(self._call(publication, projections, bring=not self.loaded))
            self.loaded = True
        return b"".join(parts)

    def pack_again(self, publication: Publication, shapes: tuple[bytes, ...]) -> bytes:
        """Return a call for a publication that was sent, so that it has projections by further shapes.

        Args:
            publication: the message.
            shapes: all, also those of the first call, which the broker may not have carried out for lack of the script.
        """
        return self._call(publication, projections_of(publication, shapes), bring=True)

    def _call(self, publication: Publication, projections: Sequence[Publication], *, bring: bool) -> bytes:
        keys = (key_name(publication), *self._registry)
        script = (b"EVAL", SCRIPT) if bring else (b"EVALSHA", _SHA)
        channels = [projection.channel for projection in projections]
        return pack(
            (*script, b"%d" % len(keys), *keys, self._window, publication.channel, publication.payload, *channels)
        )


def key_name(publication: Publication) -> bytes:
    """Return the name of a publication's key at the broker; the channel is its hash tag."""
    return b"%b{%b}:%b" % (PREFIX.encode(), publication.channel, publication.key)
