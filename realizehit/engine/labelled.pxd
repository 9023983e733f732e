# Publications with labels, and the forms that their subscribers get.
#
# Called by `logs.pxd`, by dispatch for the few publications that have a position on a channel without a log, and by
# `pumping.pxd` for messages of the ring. Frames are held once by the caller. MemoryError is all that is raised.
#
# | subscriber    | gets of "@o=<epoch>.<offset>[&t=<traceparent>][&c=<channel>]?<payload>"              |
# |---------------|--------------------------------------------------------------------------------------|
# | plain         | `<id>[@c=<channel>]?<payload>`, as without a log                                     |
# | with positions| `<id>@o=<offset>[&c=<channel>]?<payload>`; the epoch too where it is news, and in SSE |
# | with traces   | the same as without, with t=<traceparent> before the channel                         |
# | conflating    | as plain, at its time                                                                |
# | a worker      | all as it came                                                                       |

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memset

from realizehit.engine.backpressure cimport URGENT_MAX, enqueue
from realizehit.engine.conflation cimport conflate
from realizehit.engine.conn cimport (
    CONN_OPEN, FEATURE_BITS, FEATURE_CONFLATING, FEATURE_MUTED, FEATURE_POSITIONS, FEATURE_REPLAYING, FEATURE_TRACE,
    Channel, Conn, Subscriber, rh_prefetch, rh_rare,
)
from realizehit.engine.frames cimport (
    FORM_POSITION, FORM_TRACE, FRAME_KEYS, FRAMINGS, Frame, Message, frame_bytes, frame_release,
    is_event_stream,
)
from realizehit.engine.framings cimport build_message
from realizehit.engine.labels cimport TRACE_SIZE, Label, is_sampled, write_position
from realizehit.engine.state cimport State, clock_ns

cdef enum:
    LABELLED = 9                # the key of the frame that the ring holds: FRAMINGS * FORM_POSITION + FRAMING_WEBSOCKET
    AHEAD = 8                   # connections that are fetched into the cache ahead of their turn

cdef enum:  # which subscribers a publication is for
    TO_ALL = 0                  # those that are live, each in its form
    TO_POSITIONS = 1            # of these only those with positions
    TO_PLAIN = 2                # of these only those without
    UNPOSITIONED = 3            # all that are not muted, in the plain form


cdef struct Publication:
    const char* raw             # as it came from the broker; owned by the caller
    size_t size
    Label label                 # all fields empty if there is none
    const char* epoch           # for the labels of those with positions
    bint dotted                 # the epoch is news to them


cdef inline Frame* build_form(State* s, int key, Channel* channel, const Publication* p) except NULL:
    cdef Message m
    cdef int framing = key % FRAMINGS
    cdef size_t start = p.label.size + 1 if p.label.size else 0
    m.id = channel.id
    m.channel = PyBytes_AS_STRING(<bytes> channel.name)
    m.channel_size = PyBytes_GET_SIZE(<bytes> channel.name)
    m.raw = p.raw
    m.raw_size = p.size
    m.text = m.label = m.whole = p.raw + start
    m.size = m.whole_size = p.size - start
    m.label_size = m.lead_size = 0
    cdef size_t rest = p.label.trace if key // FRAMINGS & FORM_TRACE and p.label.trace else p.label.channel
    if rest:
        m.label = m.whole = p.raw + rest
        m.label_size = p.label.size - rest
        m.whole_size = p.size - rest
    if key // FRAMINGS & FORM_POSITION:
        m.lead_size = write_position(m.lead, p.epoch if p.dotted or is_event_stream(framing) else NULL,
                                     p.label.offset, m.label_size != 0)
    elif m.label_size:
        m.lead[0] = c'@'
        m.lead_size = 1
    s.n.frames_built += 1
    return build_message(s, framing, &m)


cdef inline Frame* build_replayed(State* s, int framing, Channel* channel, Frame* f, const char* epoch,
                                  uint64_t offset) except NULL:
    """Build another framing of what the ring holds, which is a labelled WebSocket frame."""
    cdef Message m
    cdef const char* text = frame_bytes(f)
    cdef const char* more
    cdef uint8_t length = <uint8_t> text[1]
    cdef size_t header = (2 if length < 126 else 4 if length == 126 else 10) + 8    # and the id
    cdef size_t size = f.size - header
    text += header
    m.id = channel.id
    m.channel = PyBytes_AS_STRING(<bytes> channel.name)
    m.channel_size = PyBytes_GET_SIZE(<bytes> channel.name)
    m.label = m.whole = m.raw = text
    m.whole_size = m.raw_size = size
    m.label_size = <const char*> memchr(text, c'?', size) - text
    m.text = text + m.label_size + 1
    m.size = size - m.label_size - 1
    m.lead_size = 0
    if is_event_stream(framing):
        more = <const char*> memchr(text, c'&', m.label_size)
        m.lead_size = write_position(m.lead, epoch, offset, more != NULL)
        m.label_size = m.label_size - (more + 1 - text) if more != NULL else 0
        m.label = more + 1 if more != NULL else text
    s.n.frames_built += 1
    return build_message(s, framing, &m)


cdef inline uint32_t deliver_forms(State* s, const Channel* channel, uint32_t i, Frame** frames, int to,
                                   bint traced, int* wanted) noexcept nogil:
    """Queue frames for the subscribers from `i` on; return the first one whose frame, `wanted`, is yet to be built."""
    cdef const Subscriber* subs = channel.subs
    cdef uint32_t count = channel.count, features
    # Skipped are subscribers with a feature in `skipped`; where it is in `needed` too, those without it.
    # Those that conflate are looked at among the skipped, so that the others pay nothing for them.
    cdef uint32_t skipped = FEATURE_MUTED | FEATURE_CONFLATING
    cdef uint32_t needed = 0
    cdef uint32_t told = FEATURE_TRACE if traced else 0
    cdef bint urgent = count <= URGENT_MAX
    cdef Conn* c
    cdef Frame* f
    cdef int key
    if to != UNPOSITIONED:
        told |= FEATURE_POSITIONS
        skipped |= FEATURE_REPLAYING
        if to != TO_ALL:
            skipped |= FEATURE_POSITIONS
        if to == TO_POSITIONS:
            needed = FEATURE_POSITIONS
    while i < count:
        if i + AHEAD < count:
            rh_prefetch(subs[i + AHEAD].conn)
        c = subs[i].conn
        features = subs[i].features
        i += 1
        if (features ^ needed) & skipped:
            if rh_rare((features ^ needed) & skipped == FEATURE_CONFLATING):
                key = c.frame_key + FRAMINGS * <int> (features & told)
                f = frames[key]
                if f == NULL:
                    wanted[0] = key
                    return i - 1
                if c.state == CONN_OPEN:
                    conflate(s, features >> FEATURE_BITS, f)
            continue
        key = c.frame_key + FRAMINGS * <int> (features & told)     # they are the bits of the form
        f = frames[key]
        if f == NULL:
            wanted[0] = key
            return i - 1
        if c.state == CONN_OPEN:
            s.n.deliveries += enqueue(s, c, f, urgent)
    return i


cdef inline int fan_out_forms(State* s, Channel* channel, const Publication* p, Frame* labelled,
                              int to) except -1:
    """Deliver a publication in the form of each subscriber; `labelled` is its frame for the ring, or NULL."""
    cdef int64_t began = 0
    cdef uint64_t before = s.n.deliveries
    cdef Frame* frames[FRAME_KEYS]
    cdef uint8_t built[FRAME_KEYS]      # the keys of those that there are
    cdef int built_count = 0, key = 0
    cdef uint32_t i = 0
    memset(frames, 0, sizeof(frames))
    frames[LABELLED] = labelled
    if s.follow_traces and p.label.trace and is_sampled(&p.label, p.raw):
        began = clock_ns()
    try:
        while True:
            i = deliver_forms(s, channel, i, frames, to, p.label.trace != 0, &key)
            if i >= channel.count:
                break
            frames[key] = build_form(s, key, channel, p)
            built[built_count] = <uint8_t> key
            built_count += 1
    finally:
        while built_count:
            built_count -= 1
            frame_release(&s.pool, frames[built[built_count]])
    if began and s.n.deliveries != before:
        (<list> s.pending).append(("traced", None, 0, (
            <object> channel.name, p.raw[p.label.trace + 2:p.label.trace + TRACE_SIZE],
            s.n.deliveries - before, began)))
    return 0
