# Messages as a broker sends them to a subscriber (RESP2): a relay's hop to its workers.
#
# Called by `framings.pxd`. The frame is held once by the caller; NULL means that there is no memory for it. The payload
# is what came from the broker, a wildcard's label included.

from libc.string cimport memcpy

from realizehit.engine.frames cimport Frame, frame_bytes, frame_new
from realizehit.engine.memory cimport Pool
from realizehit.engine.text cimport decimal


cdef inline int bulk_header(char* out, size_t size) noexcept nogil:
    """Write the header of a RESP bulk string; return its length, at most 23."""
    cdef int n
    out[0] = c'$'
    n = 1 + decimal(out + 1, size)
    out[n] = c'\r'
    out[n + 1] = c'\n'
    return n + 2


cdef inline Frame* resp_message(Pool* pool, const char* channel, size_t channel_size,
                                const char* payload, size_t size) noexcept nogil:
    """Build what a broker sends a subscriber: ``*3``, ``message``, the channel, the payload."""
    cdef const char* start = b"*3\r\n$7\r\nmessage\r\n"
    cdef char first[23]
    cdef char second[23]
    cdef int m = bulk_header(first, channel_size), n = bulk_header(second, size)
    cdef Frame* f = frame_new(pool, 17 + m + channel_size + 2 + n + size + 2)
    cdef char* out
    if f == NULL:
        return NULL
    out = frame_bytes(f)
    memcpy(out, start, 17)
    out += 17
    memcpy(out, first, m)
    out += m
    memcpy(out, channel, channel_size)
    out += channel_size
    memcpy(out, b"\r\n", 2)
    out += 2
    memcpy(out, second, n)
    out += n
    memcpy(out, payload, size)
    memcpy(out + size, b"\r\n", 2)
    return f
