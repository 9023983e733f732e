"""The scripts that the broker runs for history: one publishes and writes logs, the other reads a log.

The log of a channel is one key, ``realizehit:log:{<channel>}``, a list. Its elements are the payloads that are kept,
the oldest first, and at the end one element of text, the head: ``<epoch> <last offset> <run id> <registration>`` and
then, each behind a blank, the positions at which earlier epochs of the same log ended, the newest first. So a log
cannot lose a part of its state alone: it is there as a whole, or it has expired or was evicted and begins anew with
another epoch.

The offset of a payload follows from its place. A list takes two thirds of the memory of a stream, which stores an
id for each entry, and about the same time.

The run id is that of the broker's process. If another process has the log now, a restart or a failover has happened,
and the end of the log may be lost. Therefore the scripts begin a new epoch: the offsets go on, the messages stay, and
the head remembers where the old epoch ended. A position of the old epoch beyond that was lost.

The registration is that of the shape of a wildcard, ``-`` for other channels. What is published while a shape is not
registered does not come into the logs of its wildcards. Therefore such a log begins anew, without messages and earlier
epochs, if its shape was registered anew since the log began. `realizehit.broker.shapes.registry` writes in the hash
`SHAPES_KEY` when each shape was registered.

A payload may have the label of its trace, ``@t=<traceparent>``, whose size is fixed. The script publishes it between
position and channel, and does not write it into the log: a message that is read later belongs to no trace.

The callers choose the epochs, since scripts should do the same on each call with the same arguments.
"""

from __future__ import annotations

from typing import Final

from realizehit.broker.names import CLOSING_BRACE, CLUSTER, SINGLE, key_of_channel

PREFIX: Final = "realizehit:log:"
"""What the names of the logs' keys at the broker begin with."""

SHAPES_KEY: Final = SINGLE.registrations
"""A hash: since when each shape of wildcards is registered without interruption, in milliseconds of the broker."""

MOST_BEFORE: Final = 8
"""Earlier epochs that a log remembers."""

RIGHTS: Final = (
    "history needs the rights to EVAL, EVALSHA, LINDEX, LSET, RPUSH, RPOP, LTRIM, LLEN, LRANGE, PEXPIRE, PTTL and DEL "
    f"with the keys {PREFIX}*; that of wildcards also HGET, TIME and ZSCORE, and the key realizehit:shapes"
)

NO_RUN_ID: Final = b"-"
"""Stands for the run id of a broker that does not tell it."""

# Functions for both scripts. `pcall` keeps the broker's own error codes, which an error inside of a script has lost in
# Redis 6.2. The offset is a decimal text of up to 16 digits; Lua's numbers are exact up to 2^53.
_HEAD: Final = f"""
local function failed(reply) return type(reply) == 'table' and reply.err end
local function head_of(text)
    local epoch, last, run, shape, before = string.match(text, '^(%w+) (%d+) (%S+) (%S+)(.*)$')
    return epoch, tonumber(last), run, shape, before
end
local function head(epoch, last, run, shape, before)
    return string.format('%s %d %s %s', epoch, last, run, shape) .. before
end
local function renewed(epoch, last, before)
    local count = 0
    return string.gsub(' ' .. epoch .. string.format('.%d', last) .. before, ' %S+', function(position)
        count = count + 1
        if count > {MOST_BEFORE} then return '' end
    end)
end
local function newer(given, known) return (tonumber(known) or -1) > tonumber(given) and known or given end
local function untraced(text)
    if string.sub(text, 1, 3) ~= '@t=' then return '', text end
    local rest = string.sub(text, 59)
    return string.sub(text, 2, 58), string.sub(rest, 1, 1) == '&' and '@' .. string.sub(rest, 2) or string.sub(rest, 2)
end
local function behind(label, text)
    if label == '' then return text end
    return '@' .. label .. (string.sub(text, 1, 1) == '@' and '&' .. string.sub(text, 2) or '?' .. text)
end
local function is_other(run, known) return run ~= '-' and known ~= '-' and run ~= known end
"""

# The common case before the functions are made: a publication without a key and without projections, to a log that is
# there and was last written by this process of the broker. Everything else is left to the code below, which takes a
# third more time. `_PUBLISH` explains the order of the steps.
_COMMON_CASE: Final = """
if ARGV[1] == '0' and ARGV[6] == '-' and #ARGV == 8 and #KEYS == 1 then
    local call, key, text, trace = redis.pcall, KEYS[1], ARGV[3], ''
    if string.sub(text, 1, 3) == '@t=' then
        trace, text = '&' .. string.sub(text, 2, 58), string.sub(text, 59)
        text = string.sub(text, 1, 1) == '&' and '@' .. string.sub(text, 2) or string.sub(text, 2)
    end
    local old = call('LINDEX', key, -1)
    local epoch, last, run, others
    if type(old) == 'string' then epoch, last, run, others = string.match(old, '^(%w+) (%d+) (%S+)(.*)$') end
    if epoch and run == ARGV[5] then
        local position = epoch .. string.format('.%d', last + 1)
        local replaced = call('LSET', key, -1, text)
        if replaced.err then return replaced end
        local count = call('RPUSH', key, epoch .. string.format(' %d ', last + 1) .. run .. others)
        if type(count) == 'table' then
            call('LSET', key, -1, old)
            return count
        end
        local refusal = call('PEXPIRE', key, ARGV[8])
        local reached = refusal
        if type(refusal) ~= 'table' then
            local rest = string.sub(text, 1, 1) == '@' and '&' .. string.sub(text, 2) or '?' .. text
            reached = call('PUBLISH', ARGV[2], '@o=' .. position .. trace .. rest)
        end
        if type(reached) == 'table' then
            call('RPOP', key)
            call('LSET', key, -1, old)
            return reached
        end
        if count - 1 > tonumber(ARGV[7]) then call('LTRIM', key, -1 - ARGV[7], -1) end
        return {reached, position}
    end
end
"""

# Keys: that of the publication, if it has an idempotency key; the registry of shapes, if it has one and projections are
# published here; the logs, in the order of their channels; `SHAPES_KEY`, if a projection has a log. Arguments: the
# window of the idempotency key in milliseconds, 0 for none; the channel; the payload; an epoch for logs that begin; the
# run id; what to do: `r` if the registry is among the keys, `l` if only the projections are published, else `-`. In a
# cluster, where a projection is a publication of its own and the registry has another slot, the caller gives the
# registration of its shape instead. Then come the size of the log of the channel, 0 for none, and its time to live in
# milliseconds, and for each projection its channel and the same two.
#
# The value of the key of the publication is the number of nodes, and then each with a blank before and after: the
# position behind `@`, `bridge` if a bridge publishes the projections, and the channels of projections that were
# published.
#
# Everything is written before anything is published. So nothing is published if the memory is full or this is a
# replica. The log is trimmed last, so that what the broker refuses to publish can be taken out again.
_PUBLISH: Final = """
local window, origin, epoch, run, mode = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local trace, payload = untraced(ARGV[3])
local nodes, done, seen, at, next_key = 0, ' ', false, false, 1
if window ~= '0' then
    next_key = mode == 'r' and 3 or 2
    seen = redis.pcall('GET', KEYS[1])
    if failed(seen) then return seen end
    if seen then
        nodes, done = string.match(seen, '^(%d+)(.*)$')
        nodes = tonumber(nodes)
        at = string.match(done, ' @(%S+) ')
    elseif mode == 'r' then
        local bridged = redis.pcall('ZSCORE', KEYS[2], 'bridge')
        if failed(bridged) then return bridged end
        if bridged then done = ' bridge ' end
    end
end
local function reply()
    local count = seen and -1 - nodes or nodes
    if at then return {count, at} end
    return count
end
local bridged = seen and string.find(done, ' bridge ', 1, true)
local left = {}
if not seen and mode ~= 'l' then left[1] = {origin, tonumber(ARGV[7]), ARGV[8], payload} end
if ARGV[7] ~= '0' and mode ~= 'l' then
    if left[1] then left[1][5] = KEYS[next_key] end
    next_key = next_key + 1
end
if #ARGV > 8 then
    local labelled = '@c=' .. origin .. '?' .. payload
    for i = 9, #ARGV, 3 do
        local key
        if ARGV[i + 1] ~= '0' then
            key = KEYS[next_key]
            next_key = next_key + 1
        end
        if not bridged and not string.find(done, ' ' .. ARGV[i] .. ' ', 1, true) then
            left[#left + 1] = {ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], labelled, key}
        end
    end
end
if seen and #left == 0 then return reply() end
if window ~= '0' then
    local kept
    if seen then
        kept = redis.pcall('SET', KEYS[1], seen, 'KEEPTTL')
    else
        kept = redis.pcall('SET', KEYS[1], '0' .. done, 'PX', window)
    end
    if failed(kept) then return kept end
end
local refusal
local function take_out(item)
    if item[5] and item.old then
        redis.call('RPOP', item[5])
        redis.call('LSET', item[5], -1, item.old)
    elseif item[5] then
        redis.call('DEL', item[5])
    end
end
local function registration_of(channel)
    local shape = string.gsub(channel, ':([^|]*)', function(value) return value ~= '*' and ':=' or nil end)
    return redis.pcall('HGET', KEYS[#KEYS], shape)
end
local function append(item)
    local key, text, shape = item[5], item[4], '-'
    if item[1] ~= origin then
        shape = registration_of(item[1])
        if failed(shape) then return shape end
        shape = shape or '-'
    end
    local old = redis.pcall('LINDEX', key, -1)
    if failed(old) then return old end
    local current, last, known, of_shape, before
    if old then current, last, known, of_shape, before = head_of(old) end
    if tonumber(mode) then shape = newer(mode, of_shape) end
    if not current or of_shape ~= shape then
        if old then redis.pcall('DEL', key) end
        old, current, last, known, before = false, epoch, 0, run, ''
    elseif is_other(run, known) then
        before = renewed(current, last, before)
        current, known = epoch, run
    elseif known == '-' then
        known = run
    end
    last = last + 1
    local count
    if old then
        count = redis.pcall('LSET', key, -1, text)
        if failed(count) then return count end
        count = redis.pcall('RPUSH', key, head(current, last, known, shape, before))
    else
        count = redis.pcall('RPUSH', key, text, head(current, last, known, shape, before))
    end
    if failed(count) then
        if old then redis.pcall('LSET', key, -1, old) end
        return count
    end
    item.old = old
    local expires = redis.pcall('PEXPIRE', key, item[3])
    if failed(expires) then
        take_out(item)
        return expires
    end
    local position = string.format('%s.%d', current, last)
    if item[1] == origin then at = position end
    item.trim = count - 1 > item[2]
    item[4] = behind('o=' .. position .. (trace ~= '' and '&' .. trace or ''), text)
end
local function forget(error)
    if window ~= '0' then redis.call('DEL', KEYS[1]) end
    return error
end
for i, item in ipairs(left) do
    local error = item[5] and append(item)
    if error and item[1] == origin then return forget(error) end
    if error then
        refusal, item.failed = refusal or error, true
    end
end
if at and not seen then done = done .. '@' .. at .. ' ' end
for i, item in ipairs(left) do
    if not item[5] then item[4] = behind(trace, item[4]) end
    local reached = not item.failed and redis.pcall('PUBLISH', item[1], item[4])
    if failed(reached) then
        take_out(item)
        if item[1] == origin then
            for j = i + 1, #left do
                if not left[j].failed then take_out(left[j]) end
            end
            return forget(reached)
        end
        refusal = refusal or reached
    elseif reached then
        nodes = nodes + reached
        if item[1] ~= origin then done = done .. item[1] .. ' ' end
        if item.trim then redis.call('LTRIM', item[5], -1 - item[2], -1) end
    end
end
if window ~= '0' then redis.call('SET', KEYS[1], string.format('%d', nodes) .. done, 'KEEPTTL') end
if refusal then return refusal end
return reply()
"""

# Keys: the log; for that of a wildcard also the registry of shapes and `SHAPES_KEY`. Arguments: what to do: `after` an
# offset, the `last` so many, or `renew` the epoch if the log has that of a position, but not its offset; a number, the
# offset or how many; how many messages at most; an epoch, the run id; the time to live in milliseconds of a log that
# begins; the epoch of the position; the shape of a wildcard, or in a cluster its registration. The reply: epoch, last
# offset, offset of the oldest message, positions at which earlier epochs ended, offset of the first message of the
# reply, messages, milliseconds until the log expires.
#
# Where the shape of a wildcard is not registered now, the log begins anew: it may lack messages.
_READ: Final = """
local key, mode, number, most, epoch, run = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local shape = '-'
if KEYS[2] then
    local lapses = redis.pcall('ZSCORE', KEYS[2], ARGV[8])
    if failed(lapses) then return lapses end
    local time = redis.call('TIME')
    if lapses and tonumber(lapses) > time[1] * 1000 + math.floor(time[2] / 1000) then
        shape = redis.pcall('HGET', KEYS[3], ARGV[8])
        if failed(shape) then return shape end
        shape = shape or '-'
    end
end
local old = redis.pcall('LINDEX', key, -1)
if failed(old) then return old end
local current, last, known, of_shape, before
if old then current, last, known, of_shape, before = head_of(old) end
if tonumber(ARGV[8]) then shape = newer(ARGV[8], of_shape) end
local written
if not current or of_shape ~= shape then
    if old then redis.pcall('DEL', key) end
    current, last, before = epoch, 0, ''
    written = redis.pcall('RPUSH', key, head(current, last, run, shape, before))
    if failed(written) then return written end
    written = redis.pcall('PEXPIRE', key, ARGV[6])
elseif is_other(run, known) or (mode == 'renew' and current == ARGV[7] and last < number) then
    before = renewed(current, last, before)
    current = epoch
    written = redis.pcall('LSET', key, -1, head(current, last, run ~= '-' and run or known, shape, before))
elseif known == '-' and run ~= '-' then
    written = redis.pcall('LSET', key, -1, head(current, last, run, shape, before))
end
if failed(written) then return written end
local length = redis.pcall('LLEN', key)
if failed(length) then return length end
local first = last - length + 2
local from, to = last + 1, last
if mode == 'after' then
    from = math.max(number + 1, first)
    to = math.min(last, from + most - 1)
elseif mode == 'last' then
    from = math.max(last - math.min(number, most) + 1, first)
end
local messages = {}
if from <= to then
    messages = redis.pcall('LRANGE', key, from - last - 2, to - last - 2)
    if failed(messages) then return messages end
end
local left = redis.pcall('PTTL', key)
if failed(left) then return left end
return {current, last, first, before, from, messages, left}
"""

_WHOLE: Final = _COMMON_CASE + _HEAD + _PUBLISH
PUBLISH: Final = _WHOLE.encode()
PUBLISH_SHARDED: Final = CLUSTER.script(_WHOLE).encode()
"""The same for a cluster."""

READ: Final = (_HEAD + _READ).encode()


def log_key(channel: bytes) -> bytes:
    """Return the name of a channel's log at the broker, which has the slot of the channel."""
    if CLOSING_BRACE in channel:
        return key_of_channel(b"realizehit:log:", channel)
    return b"realizehit:log:{%b}" % channel


def without_position(payload: bytes) -> bytes:
    """Return what was published without its position: ``@c=<channel>?…`` on a wildcard's channel, else the payload."""
    if payload[:3] != b"@o=":
        return payload
    label, found, rest = payload.partition(b"?")
    if not found:
        return payload
    _, more, channel = label.partition(b"&")
    return b"@%b?%b" % (channel, rest) if more else rest
