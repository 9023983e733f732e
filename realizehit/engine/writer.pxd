# Queues to sockets: how what waits for a connection becomes one system call. Inline functions for `_fanout.pyx`.
#
# A send on loopback costs 6 to 9 us, nearly all of it in the kernel and hardly any per byte: sixteen messages in one
# send cost what one does. So small frames are joined, which for sixteen is cheaper than a vectored send (5.7 against
# 7.9 us); connections whose queues hold the same frames share the join, which is most of them after a burst on one
# channel; large frames are sent from where they lie.

from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy

from realizehit.engine.conn cimport Conn
from realizehit.engine.frames cimport Frame, frame_bytes
from realizehit.engine.queue cimport queue_at
from realizehit.engine.sockets cimport iovec, rh_send, rh_send_vector

cdef enum:
    SCRATCH = 262144            # bytes of small frames that go out in one send
    COPY_MAX = 4096             # bytes; larger frames are not copied
    JOIN_MAX = 16384            # frames that are joined
    VECTOR = 64                 # frames in one vectored send

cdef extern from *:
    """
    #ifdef REALIZEHIT_NO_COALESCE
    #define RH_COALESCE 0
    #else
    #define RH_COALESCE 1
    #endif
    """
    const bint RH_COALESCE      # false in a build that shows that the benchmarks' guard notices

cdef struct Writer:
    char* scratch
    Frame** joined              # the frames that `scratch` holds
    uint32_t joined_count
    uint32_t joined_size        # bytes


cdef inline bint writer_init(Writer* w) noexcept nogil:
    w.scratch = <char*> malloc(SCRATCH)
    w.joined = <Frame**> malloc(JOIN_MAX * sizeof(Frame*))
    w.joined_count = 0
    return w.scratch != NULL and w.joined != NULL


cdef inline void writer_clear(Writer* w) noexcept nogil:
    free(w.scratch)
    free(w.joined)


cdef inline void writer_forget(Writer* w) noexcept nogil:
    """Give up the join. Due before frames can be freed and their addresses used again."""
    w.joined_count = 0


cdef inline Py_ssize_t write_joined(Writer* w, const Conn* c, size_t* offered) noexcept nogil:
    cdef uint32_t i = 0
    cdef size_t size = 0
    cdef Frame* f
    if not (w.joined_count and c.offset == 0 and c.count >= w.joined_count and c.head + w.joined_count <= c.room
            and memcmp(c.ring + c.head, w.joined, w.joined_count * sizeof(Frame*)) == 0):
        f = c.ring[c.head]
        while True:
            memcpy(w.scratch + size, frame_bytes(f), f.size)
            w.joined[i] = f
            size += f.size
            i += 1
            if i == c.count or i == JOIN_MAX:
                break
            f = queue_at(c, i)
            if f.size > COPY_MAX or size + f.size > SCRATCH:
                break
        w.joined_count = i
        w.joined_size = <uint32_t> size
    offered[0] = w.joined_size - c.offset
    return rh_send(c.fd, w.scratch + c.offset, offered[0])


cdef inline Py_ssize_t write_vector(const Conn* c, size_t* offered) noexcept nogil:
    cdef iovec parts[VECTOR]
    cdef uint32_t i, count = c.count if c.count < VECTOR else VECTOR
    cdef Frame* f
    offered[0] = 0
    for i in range(count):
        f = queue_at(c, i)
        parts[i].iov_base = frame_bytes(f)
        parts[i].iov_len = f.size
        offered[0] += f.size
    parts[0].iov_base = <char*> parts[0].iov_base + c.offset
    parts[0].iov_len -= c.offset
    offered[0] -= c.offset
    return rh_send_vector(c.fd, parts, count)


cdef inline Py_ssize_t write_some(Writer* w, const Conn* c, size_t* offered) noexcept nogil:
    """Offer the socket as much of a queue, which must not be empty, as one call takes.

    Returns what `send` returned, and in `offered` how many bytes it was given.
    """
    cdef Frame* f = c.ring[c.head]
    if c.count > 1 and RH_COALESCE:
        return write_joined(w, c, offered) if f.size <= COPY_MAX else write_vector(c, offered)
    offered[0] = f.size - c.offset
    return rh_send(c.fd, frame_bytes(f) + c.offset, offered[0])
