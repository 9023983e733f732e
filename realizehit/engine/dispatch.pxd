# A publication to its subscribers: one frame for each framing and set of features among them, and a pointer to it in
# each queue.
#
# Called with a channel of the registry and a payload that was checked. Neither Python code nor a system call runs
# between two subscribers, and no subscription changes meanwhile. MemoryError, for a frame, is all that is raised: the
# subscribers before it have the message then.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from realizehit.engine.backpressure cimport enqueue
from realizehit.engine.conn cimport CHANNEL_HELD, CHANNEL_WILDCARD, CONN_OPEN, Channel, Conn, Subscriber, rh_prefetch
from realizehit.engine.frames cimport FRAME_KEYS, Frame, Message, frame_release, key_framing
from realizehit.engine.framings cimport build_message
from realizehit.engine.labels cimport label_of
from realizehit.engine.state cimport State
from realizehit.engine.text cimport is_utf8

cdef enum:
    AHEAD = 8                   # connections that are fetched into the cache ahead of their turn
    URGENT_MAX = 64             # subscribers; a channel with more is a broadcast, which waits behind the others


cdef inline uint32_t deliver(State* s, const Channel* channel, uint32_t i, Frame** frames) noexcept nogil:
    """Queue frames for the subscribers from `i` on; return the first one whose frame is not built yet, or the count."""
    cdef const Subscriber* subs = channel.subs
    cdef uint32_t count = channel.count
    cdef bint urgent = count <= URGENT_MAX
    cdef Conn* c
    cdef Frame* f
    while i < count:
        if i + AHEAD < count:
            rh_prefetch(subs[i + AHEAD].conn)
        c = subs[i].conn
        f = frames[c.frame_key]
        if f == NULL:
            break
        if c.state == CONN_OPEN:
            s.n.deliveries += enqueue(s, c, f, urgent)
        i += 1
    return i


cdef inline int fan_out(State* s, const Channel* channel, const Message* m) except -1:
    cdef Frame* frames[FRAME_KEYS]
    cdef uint8_t built[FRAME_KEYS]      # the keys of those that there are
    cdef int built_count = 0, key
    cdef uint32_t i = 0
    memset(frames, 0, sizeof(frames))
    try:
        while i < channel.count:
            key = channel.subs[i].conn.frame_key
            frames[key] = build_message(s, key_framing(key), m)
            built[built_count] = <uint8_t> key
            built_count += 1
            s.n.frames_built += 1
            i = deliver(s, channel, i, frames)
    finally:
        while built_count:
            built_count -= 1
            frame_release(&s.pool, frames[built[built_count]])
    return 0


cdef inline int publish(State* s, Channel* channel, const char* payload, size_t size) except -1:
    """Deliver what came from the broker, unless it is withheld, malformed or not UTF-8; such ones are counted."""
    cdef Message m
    if s.check_utf8 and not is_utf8(<const uint8_t*> payload, size):
        s.n.dropped_invalid_utf8 += 1
        return 0
    m.id = channel.id
    m.channel = PyBytes_AS_STRING(<bytes> channel.name)
    m.channel_size = PyBytes_GET_SIZE(<bytes> channel.name)
    m.label = m.text = m.whole = payload
    m.size = m.whole_size = size
    m.label_size = 0
    if channel.flags & (CHANNEL_HELD | CHANNEL_WILDCARD):
        if channel.flags & CHANNEL_HELD:
            s.n.dropped_unclaimed += 1
            return 0
        m.label_size = label_of(payload, size)
        if m.label_size == 0:
            s.n.malformed += 1
            return 0
        m.text += m.label_size + 1
        m.size -= m.label_size + 1
    channel.recent += 1
    return fan_out(s, channel, &m)
