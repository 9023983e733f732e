# A publication to its subscribers: one frame for each framing among them, and a pointer to it in each queue. Channels
# with a log, and publications with a position, take the way of `logs.pxd`.
#
# Called with a channel of the registry and a payload. Neither Python code nor a system call runs
# between two subscribers, and no subscription changes meanwhile. MemoryError, for a frame, is all that is raised: the
# subscribers before it have the message then.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from realizehit.engine.backpressure cimport URGENT_MAX, enqueue
from realizehit.engine.conn cimport (
    CHANNEL_HELD, CHANNEL_LOGGED, CHANNEL_WILDCARD, CONN_OPEN, Channel, Conn, Subscriber, rh_prefetch,
)
from realizehit.engine.frames cimport FRAMINGS, Frame, Message, frame_release
from realizehit.engine.framings cimport build_message
from realizehit.engine.labelled cimport AHEAD
from realizehit.engine.labels cimport Label, read_label
from realizehit.engine.logs cimport ARRIVED, publish_labelled
from realizehit.engine.state cimport State
from realizehit.engine.text cimport is_utf8


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
    cdef Frame* frames[FRAMINGS]
    cdef uint8_t built[FRAMINGS]      # the keys of those that there are
    cdef int built_count = 0, key
    cdef uint32_t i = 0
    memset(frames, 0, sizeof(frames))
    try:
        while i < channel.count:
            key = channel.subs[i].conn.frame_key
            frames[key] = build_message(s, key, m)
            built[built_count] = <uint8_t> key
            built_count += 1
            s.n.frames_built += 1
            i = deliver(s, channel, i, frames)
    finally:
        while built_count:
            built_count -= 1
            frame_release(&s.pool, frames[built[built_count]])
    return 0


cdef inline int publish(State* s, Channel* channel, bytes raw) except -1:
    """Deliver what came from the broker, unless it is withheld, malformed or not UTF-8; such ones are counted."""
    cdef Message m
    cdef Label label
    cdef const char* payload = PyBytes_AS_STRING(raw)
    cdef size_t size = PyBytes_GET_SIZE(raw)
    if channel.flags & CHANNEL_LOGGED or (size > 1 and payload[0] == c'@' and payload[1] != c'c'):
        return publish_labelled(s, channel, raw, ARRIVED)
    if s.check_utf8 and not is_utf8(<const uint8_t*> payload, size):
        s.n.dropped_invalid_utf8 += 1
        return 0
    m.id = channel.id
    m.channel = PyBytes_AS_STRING(<bytes> channel.name)
    m.channel_size = PyBytes_GET_SIZE(<bytes> channel.name)
    m.label = m.text = m.whole = m.raw = payload
    m.size = m.whole_size = m.raw_size = size
    m.lead_size = m.label_size = 0
    if channel.flags & (CHANNEL_HELD | CHANNEL_WILDCARD):
        if channel.flags & CHANNEL_HELD:
            s.n.dropped_unclaimed += 1
            return 0
        if not read_label(&label, payload, size):
            s.n.malformed += 1
            return 0
        m.label_size = label.size
        m.text += m.label_size + 1
        m.size -= m.label_size + 1
    channel.recent += 1
    return fan_out(s, channel, &m)
