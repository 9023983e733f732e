# Conflation: a subscriber that asked for it receives at most one message in a time, its window, and always the newest.
#
# Called by dispatch for subscribers with FEATURE_CONFLATING, by the registry when they leave, and by the owner's timer.
# The first message opens the window and goes at once. Of those that follow within the window a pointer to the newest
# frame is held; it goes when the window ends, and opens the next one. A window that ends without a message is closed.
# Windows end in ticks of `WINDOW_TICK_MS`; no clock is read for a message, so that the time of a window counts from the
# tick after its first message, however late that tick is. Other subscribers pay nothing for this.
# Nothing here calls Python code; MemoryError, for a new window, is all that is raised, and then nothing has changed.

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from realizehit.engine.backpressure cimport URGENT_MAX, enqueue
from realizehit.engine.conn cimport (
    CHANNEL_LOGGED, CONN_OPEN, FEATURE_BITS, FEATURE_CONFLATING, HAS_WINDOW, Channel, Conn,
)
from realizehit.engine.frames cimport Frame, frame_release
from realizehit.engine.state cimport WINDOW_BUCKETS, WINDOW_FRESH, State, Window

cdef enum:
    WINDOW_TICK_MS = 10


cdef inline uint32_t* bucket_of(State* s, uint64_t due) noexcept nogil:
    return &s.windows.buckets[WINDOW_BUCKETS if due == WINDOW_FRESH else due % WINDOW_BUCKETS]


cdef inline void window_close(State* s, uint32_t number) noexcept nogil:
    """Take a window out of its bucket, if it is open."""
    cdef Window* w = &s.windows.items[number]
    if w.due == 0:
        return
    if w.before:
        s.windows.items[w.before].behind = w.behind
    else:
        bucket_of(s, w.due)[0] = w.behind
    if w.behind:
        s.windows.items[w.behind].before = w.before
    w.due = 0
    s.windows.open -= 1


cdef inline void window_open(State* s, uint32_t number, uint64_t due) noexcept nogil:
    """Let a window that is closed end at a tick, which is not over yet, or be fresh."""
    cdef Window* w = &s.windows.items[number]
    cdef uint32_t* bucket = bucket_of(s, due)
    w.due = due
    w.before = 0
    w.behind = bucket[0]
    if bucket[0]:
        s.windows.items[bucket[0]].before = number
    bucket[0] = number
    s.windows.open += 1


cdef inline void forget_newest(State* s, Window* w) noexcept nogil:
    cdef Frame* f = w.newest
    if f != NULL:
        w.newest = NULL
        w.conn.newest -= f.size
        frame_release(&s.pool, f)


cdef inline bint send_newest(State* s, Window* w) noexcept nogil:
    """Queue the message that a window holds, if its connection takes messages; return whether it was queued."""
    cdef Frame* f = w.newest
    cdef bint sent = False
    if f == NULL:
        return False
    if w.conn.state == CONN_OPEN:
        sent = enqueue(s, w.conn, f, w.channel.count <= URGENT_MAX)
        s.n.deliveries += sent
    forget_newest(s, w)
    return sent


cdef inline void conflate(State* s, uint32_t number, Frame* f) noexcept nogil:
    """Give a message to a subscriber whose connection is open: now, or when its window ends."""
    cdef Window* w = &s.windows.items[number]
    cdef Conn* c = w.conn
    cdef bint full
    if w.newest != NULL:
        s.n.conflated += 1
        forget_newest(s, w)
    # What is held has the bounds of a queue: past it, the memory counts more than the rate.
    full = <uint64_t> c.newest + f.size > s.max_queue_bytes and c.newest
    f.refs += 1
    c.newest += f.size
    w.newest = f
    if w.due == 0 or full:
        send_newest(s, w)
        window_close(s, number)
        window_open(s, number, WINDOW_FRESH)


cdef inline void window_free(State* s, uint32_t number) noexcept nogil:
    cdef Window* w = &s.windows.items[number]
    forget_newest(s, w)
    window_close(s, number)
    w.conn = NULL
    w.channel = NULL
    w.behind = s.windows.unused
    s.windows.unused = number
    s.windows.count -= 1


cdef inline uint32_t window_new(State* s, Conn* c, Channel* channel, uint32_t ticks) except 0:
    """Make a window, which is closed; return its number."""
    cdef Window* items
    cdef uint32_t number, room = 2 * s.windows.room if s.windows.room else 64
    if s.windows.unused == 0:
        items = <Window*> realloc(s.windows.items, room * sizeof(Window))
        if items == NULL:
            raise MemoryError()
        s.windows.items = items
        memset(items + s.windows.room, 0, (room - s.windows.room) * sizeof(Window))
        number = room - 1
        while number >= s.windows.room and number:
            items[number].behind = s.windows.unused
            s.windows.unused = number
            number -= 1
        s.windows.room = room
    number = s.windows.unused
    s.windows.unused = s.windows.items[number].behind
    memset(&s.windows.items[number], 0, sizeof(Window))
    s.windows.items[number].conn = c
    s.windows.items[number].channel = channel
    s.windows.items[number].ticks = ticks
    s.windows.count += 1
    c.flags |= HAS_WINDOW
    return number


cdef inline void window_resize(State* s, uint32_t number, uint32_t ticks) noexcept nogil:
    """Change the length of a window; one that is open ends as if it had had this length from the start."""
    cdef Window* w = &s.windows.items[number]
    cdef uint64_t due = w.due
    if due and due != WINDOW_FRESH:
        window_close(s, number)
        due = due - w.ticks + ticks
        window_open(s, number, due if due > s.windows.now else s.windows.now + 1)
    w.ticks = ticks


cdef inline void windows_of(State* s, Conn* c, bint send) noexcept nogil:
    """Send what the windows of a connection hold and let them begin anew, or forget what they hold."""
    cdef uint32_t i, features, number
    cdef Channel* channel
    cdef bint found = False
    if not c.flags & HAS_WINDOW:
        return
    for i in range(c.sub_count):
        channel = c.subs[i].channel
        if not channel.flags & CHANNEL_LOGGED:
            continue
        features = channel.subs[c.subs[i].position].features
        if not features & FEATURE_CONFLATING:
            continue
        found = True
        number = features >> FEATURE_BITS
        if not send:
            forget_newest(s, &s.windows.items[number])
        elif send_newest(s, &s.windows.items[number]):
            window_close(s, number)
            window_open(s, number, WINDOW_FRESH)
    if not found:
        c.flags &= ~HAS_WINDOW


cdef inline void windows_advance(State* s, uint64_t target) noexcept nogil:
    """Let the time go on to a tick: windows that are over send what they hold, and only then begin anew."""
    cdef uint64_t tick = s.windows.now, steps
    cdef uint32_t number, behind
    cdef Window* w
    if target < tick:
        return
    steps = target - tick
    if steps > WINDOW_BUCKETS:      # the process was held up; each bucket is looked at once
        steps = WINDOW_BUCKETS
    s.windows.now = target          # from here on the next windows count, whatever was late
    number = s.windows.buckets[WINDOW_BUCKETS]
    while number:
        w = &s.windows.items[number]
        behind = w.behind
        window_close(s, number)
        window_open(s, number, target + w.ticks)
        number = behind
    while steps:
        steps -= 1
        tick += 1
        number = s.windows.buckets[tick % WINDOW_BUCKETS]
        while number:
            w = &s.windows.items[number]
            behind = w.behind
            if w.due <= target:
                window_close(s, number)
                if send_newest(s, w):
                    window_open(s, number, target + w.ticks)
            number = behind
