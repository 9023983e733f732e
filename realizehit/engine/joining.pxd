# Clients that join a channel without Python: which channels they can join, and from which positions.
#
# Called for each plain `sub`. It says yes only where Python would begin the subscription at once, and only in the usual
# case: the log is followed without a hole, and the ring holds all that came after the position, or nothing did. All
# other cases go to Python, as they did before. `tests/property/test_plain_subs.py` holds both ways equal. Nothing here
# changes anything.

from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from realizehit.engine.conn cimport CHANNEL_HELD, CHANNEL_OPEN, CHANNEL_WATCHED, CHANNEL_WILDCARD, Channel
from realizehit.engine.labels cimport EPOCH_SIZE
from realizehit.engine.ring cimport LOG_LIVE, Log, ring_first
from realizehit.engine.state cimport State

cdef enum:
    FRESH_MARGIN = 5            # seconds before its end from which on a log may have expired: `now` is of the last tick


cdef inline bint is_fresh(const State* s, const Log* log) noexcept nogil:
    """Whether the log is certainly kept at the broker."""
    return s.now + FRESH_MARGIN < max(log.expires, log.touched + log.ttl)


cdef inline bint can_join(const State* s, const Channel* channel) noexcept nogil:
    """Whether a client can join a channel, without positions."""
    return (channel.flags & (CHANNEL_OPEN | CHANNEL_HELD | CHANNEL_WATCHED | CHANNEL_WILDCARD) == CHANNEL_OPEN
            and (channel.log == NULL or channel.log.state == LOG_LIVE))


cdef inline bint can_resume(const State* s, const Channel* channel, const char* epoch, uint64_t after) noexcept nogil:
    """Whether a client can join a channel that `can_join`, and get all that came after a position from the ring."""
    cdef const Log* log = channel.log
    return (log != NULL and memcmp(log.epoch, epoch, EPOCH_SIZE) == 0 and after <= log.last
            and after + 1 >= max(ring_first(log), log.kept_first) and is_fresh(s, log))
