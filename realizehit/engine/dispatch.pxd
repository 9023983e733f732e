# A publication to its subscribers: one frame for each framing and set of features among them, and a pointer to it in
# each queue.
#
# Called with a channel of the registry and a payload that was checked. Neither Python code nor a system call runs
# between two subscribers, and no subscription changes meanwhile. MemoryError, for a frame, is all that is raised: the
# subscribers before it have the message then.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from realizehit.engine.backpressure cimport enqueue
from realizehit.engine.conn cimport CHANNEL_HELD, CONN_OPEN, Channel, Conn, Subscriber, rh_prefetch
from realizehit.engine.frames cimport FRAME_KEYS, Frame, frame_release, key_framing
from realizehit.engine.framings cimport build_message
from realizehit.engine.state cimport State
from realizehit.engine.text cimport is_utf8

cdef enum:
    AHEAD = 8                   # connections that are fetched into the cache ahead of their turn
    URGENT_MAX = 64             # subscribers; a channel with more is a broadcast, which waits behind the others


cdef inline int fan_out(State* s, Channel* channel, const char* payload, size_t size) except -1:
    cdef Subscriber* subs = channel.subs
    cdef uint32_t count = channel.count
    cdef Frame* frames[FRAME_KEYS]
    cdef uint8_t built[FRAME_KEYS]      # the keys of those that there are
    cdef int built_count = 0, key
    cdef uint32_t i
    cdef Conn* c
    cdef Frame* f
    cdef bint urgent = count <= URGENT_MAX
    memset(frames, 0, sizeof(frames))
    try:
        for i in range(count):
            if i + AHEAD < count:
                rh_prefetch(subs[i + AHEAD].conn)
            c = subs[i].conn
            key = c.frame_key
            f = frames[key]
            if f == NULL:
                f = frames[key] = build_message(s, key_framing(key), channel.id, <bytes> channel.name, payload, size)
                built[built_count] = <uint8_t> key
                built_count += 1
                s.n.frames_built += 1
            if c.state == CONN_OPEN:
                s.n.deliveries += enqueue(s, c, f, urgent)
    finally:
        while built_count:
            built_count -= 1
            frame_release(&s.pool, frames[built[built_count]])
    return 0


cdef inline int publish(State* s, Channel* channel, const char* payload, size_t size) except -1:
    """Deliver a publication, unless it is withheld or is not UTF-8; such ones are counted."""
    if s.check_utf8 and not is_utf8(<const uint8_t*> payload, size):
        s.n.dropped_invalid_utf8 += 1
        return 0
    if channel.flags & CHANNEL_HELD:
        s.n.dropped_unclaimed += 1
        return 0
    channel.recent += 1
    return fan_out(s, channel, payload, size)
