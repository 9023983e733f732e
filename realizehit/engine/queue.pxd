# A connection's queue: a ring of pointers to shared frames. Inline functions for `_fanout.pyx`.

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from realizehit.engine.conn cimport Conn
from realizehit.engine.frames cimport Frame, frame_release
from realizehit.engine.memory cimport Pool, pool_give, pool_take

cdef enum:
    QUEUE_MAX = 1 << 20         # messages


cdef inline Frame* queue_at(const Conn* c, uint32_t i) noexcept nogil:
    return c.ring[(c.head + i) & (c.room - 1)]


cdef inline bint queue_append(Pool* pool, Conn* c, Frame* f) noexcept nogil:
    """Hold a frame at the end; false when there is no memory."""
    cdef Frame** ring
    cdef uint32_t room, first
    if c.count == c.room:
        if c.room == 0:
            ring = &c.single
            room = 1
        else:
            room = 2 * c.room if c.room > 1 else 4
            ring = <Frame**> pool_take(pool, room * sizeof(Frame*))
            if ring == NULL:
                return False
            first = c.room - c.head
            memcpy(ring, c.ring + c.head, first * sizeof(Frame*))
            memcpy(ring + first, c.ring, c.head * sizeof(Frame*))
            if c.room > 1:
                pool_give(pool, c.ring, c.room * sizeof(Frame*))
            pool.waiting += (room - c.room) * sizeof(Frame*)
        c.ring = ring
        c.room = room
        c.head = 0
    c.ring[(c.head + c.count) & (c.room - 1)] = f
    c.count += 1
    c.queued += f.size
    f.refs += 1
    return True


cdef inline void queue_emptied(Pool* pool, Conn* c) noexcept nogil:
    # The ring goes back at once: the next connection to need one finds it warm, and an idle one keeps none.
    if c.count == 0 and c.room:
        if c.room > 1:
            pool_give(pool, c.ring, c.room * sizeof(Frame*))
            pool.waiting -= (c.room - 1) * sizeof(Frame*)   # the first entry is a part of the connection
        c.ring = NULL
        c.room = 0
        c.head = 0
        c.offset = 0


cdef inline void queue_move(Conn* to, Conn* source) noexcept nogil:
    """Give a connection whose queue is empty the queue of another one."""
    to.ring, to.single, to.room, to.head = source.ring, source.single, source.room, source.head
    to.count, to.offset, to.queued = source.count, source.offset, source.queued
    if to.room == 1:
        to.ring = &to.single
    source.ring = NULL
    source.room = source.head = source.count = source.offset = source.queued = 0


cdef inline void queue_written(Pool* pool, Conn* c, size_t size) noexcept nogil:
    """Let go of `size` bytes from the front."""
    cdef Frame* f
    size += c.offset
    while c.count:
        f = c.ring[c.head]
        if size < f.size:
            break
        size -= f.size
        c.queued -= f.size
        c.head = (c.head + 1) & (c.room - 1)
        c.count -= 1
        frame_release(pool, f)
    c.offset = <uint32_t> size
    queue_emptied(pool, c)


cdef inline void queue_drop(Pool* pool, Conn* c, uint32_t keep) noexcept nogil:
    """Let go of all frames but the first `keep`."""
    cdef Frame* f
    while c.count > keep:
        c.count -= 1
        f = queue_at(c, c.count)
        c.queued -= f.size
        frame_release(pool, f)
    queue_emptied(pool, c)
