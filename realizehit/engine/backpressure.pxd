# Bounded queues: what may wait for a connection, and what happens past that.
#
# Called by dispatch, replies, heartbeats and timers, with a connection that is open. A frame that is queued makes its
# connection dirty, so that a flush writes it. A connection whose queue is full becomes CONN_SLOW, and one for which
# there is no memory is marked closed; both are dealt with when the engine call returns. Nothing here writes to a
# socket, closes one or frees a connection, so that a dispatch can run over subscribers while it queues.

from libc.stdint cimport uint32_t, uint64_t

from realizehit.engine.conn cimport (
    BLOCKED, CONN_ARRIVED, CONN_DEAD, CONN_FREE, CONN_OPEN, CONN_SLOW, ON_BULK, ON_OVER, ON_SLOW, ON_URGENT,
    RELEASE_PENDING, Conn, list_pop, list_push, rh_rare, slot_at, slot_release,
)
from realizehit.engine.frames cimport Frame, frame_release
from realizehit.engine.queue cimport queue_append
from realizehit.engine.sockets cimport rh_unsent
from realizehit.engine.state cimport BULK, DOOMED, OVER, SLOW, URGENT, State

cdef enum:
    URGENT_MAX = 64             # subscribers; a channel with more is a broadcast, which waits behind the others


cdef inline uint64_t bytes_waiting(const Conn* c) noexcept nogil:
    return <uint64_t> c.queued - c.offset + (c.outside if c.flags & BLOCKED else 0)


cdef inline void put_outside(State* s, Conn* c, uint32_t size) noexcept nogil:
    s.pool.waiting += size
    s.pool.waiting -= c.outside
    c.outside = size


cdef inline void mark_closed(State* s, Conn* c) noexcept nogil:
    if c.state == CONN_DEAD or c.state == CONN_FREE:
        return
    if c.state == CONN_OPEN or c.state == CONN_SLOW:
        s.open_count -= 1
    elif c.state == CONN_ARRIVED:
        s.arrived_count -= 1
    c.state = CONN_DEAD
    list_push(&s.lists[DOOMED], c)


cdef inline void make_dirty(State* s, Conn* c, bint urgent) noexcept nogil:
    if c.flags & ON_URGENT:
        return
    if urgent:
        c.flags |= ON_URGENT
        list_push(&s.lists[URGENT], c)
    elif not c.flags & ON_BULK:
        c.flags |= ON_BULK
        list_push(&s.lists[BULK], c)


cdef inline void send_away(State* s, Conn* c) noexcept nogil:
    c.state = CONN_SLOW
    c.flags |= ON_SLOW
    list_push(&s.lists[SLOW], c)


cdef inline bint is_over(State* s, Conn* c, size_t size) noexcept nogil:
    return (c.count >= s.max_queue_messages
            or (c.count != 0 and bytes_waiting(c) + size > s.max_queue_bytes))


cdef inline void look_at(State* s, Conn* c) noexcept nogil:
    # The system accepts large pieces at once; the bytes that the peer has not acknowledged show whether it reads.
    cdef uint32_t unsent
    if c.fd >= 0:
        unsent = rh_unsent(c.fd)
        if unsent < c.unsent:
            c.moved = s.wheel.now
        c.unsent = unsent


cdef inline bint tolerates(State* s, Conn* c, size_t size) noexcept nogil:
    # One batch of publications may pass the limits of a queue, even where the peer reads as fast as its line allows.
    # So a peer that acknowledges bytes gets time, within further limits. To know that, a connection is watched from
    # half its limits on.
    if s.grace_ticks == 0:
        return False    # nobody is watched, so this is the limit
    if not c.flags & ON_OVER:
        if not c.flags & BLOCKED:
            c.moved = s.wheel.now    # all that it was sent before is on its way
        look_at(s, c)
        c.over = s.wheel.now
        c.flags |= ON_OVER
        list_push(&s.lists[OVER], c)
    return not is_over(s, c, size) or (
        c.count < s.burst_messages and bytes_waiting(c) + size <= s.burst_bytes
        and s.pool.waiting <= s.burst_total and s.wheel.now - c.moved < s.stall_ticks)


cdef inline void judge(State* s) noexcept nogil:
    # Once a tick: closes a connection that is over the limits and takes nothing, or is over them for too long.
    cdef uint32_t left = s.lists[OVER].end - s.lists[OVER].start
    cdef Conn* c
    while left:
        left -= 1
        c = list_pop(&s.lists[OVER])
        c.flags &= ~ON_OVER
        if c.flags & RELEASE_PENDING:
            slot_release(&s.slots, c)
        elif c.state == CONN_OPEN and (c.count >= s.watch_messages or bytes_waiting(c) >= s.watch_bytes):
            look_at(s, c)
            if c.count <= s.max_queue_messages and (c.count <= 1 or bytes_waiting(c) <= s.max_queue_bytes):
                c.over = s.wheel.now
            elif (s.wheel.now - c.moved >= s.stall_ticks or s.wheel.now - c.over >= s.grace_ticks):
                send_away(s, c)
                continue
            c.flags |= ON_OVER
            list_push(&s.lists[OVER], c)


cdef inline bint enqueue(State* s, Conn* c, Frame* f, bint urgent) noexcept nogil:
    if rh_rare(c.count >= s.watch_messages or (c.count and bytes_waiting(c) + f.size > s.watch_bytes)):
        if not tolerates(s, c, f.size):
            send_away(s, c)
            return False
    if rh_rare(not queue_append(&s.pool, c, f)):
        mark_closed(s, c)
        return False
    if not c.flags & BLOCKED:
        make_dirty(s, c, urgent)
    return True


cdef inline int send_frame(State* s, Conn* c, Frame* f) except -1:
    if f == NULL:
        raise MemoryError()
    enqueue(s, c, f, True)
    frame_release(&s.pool, f)
    return 0


cdef struct QueueTotals:
    uint64_t messages           # in all queues
    uint64_t bytes
    uint32_t most_messages      # in the queue that holds the most bytes
    uint32_t most_bytes


cdef inline QueueTotals queue_totals(State* s) noexcept nogil:
    """Add up what waits for connections now, with a look at each slot."""
    cdef QueueTotals t
    cdef Conn* c
    cdef uint32_t i, size
    t.messages = t.bytes = 0
    t.most_messages = t.most_bytes = 0
    for i in range(s.slots.count):
        c = slot_at(&s.slots, i)
        if c.count == 0 and c.outside == 0:
            continue
        size = <uint32_t> bytes_waiting(c)
        t.messages += c.count
        t.bytes += size
        if size > t.most_bytes:
            t.most_bytes = size
            t.most_messages = c.count
    return t
