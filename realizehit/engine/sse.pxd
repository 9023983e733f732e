# Messages as Server-Sent Events. Inline functions for `_fanout.pyx`.
#
# An event has the subscription's id in its field of that name, and the payload in its data. A line end in the payload,
# which JSON has only between its tokens, begins a further data line. The standard knows three, CR LF, LF and CR.
# Readers that know one know LF, so that all are written as that. A reader that joins the lines has LF then too.
#
# In a response of HTTP/1.1 each event is a chunk of its own, so that who reads chunks has it at once.
#
# Source: the HTML standard, section 9.2.6; RFC 9112, section 7.1.

from libc.string cimport memcpy

from realizehit.engine.frames cimport Frame, frame_bytes, frame_new
from realizehit.engine.memory cimport Pool


cdef inline bint is_half_of_end(const char* text, size_t size, size_t i) noexcept nogil:
    """Whether the byte at `i` is a CR that an LF follows."""
    return text[i] == c'\r' and i + 1 < size and text[i + 1] == c'\n'


cdef inline int hex_digits(size_t number) noexcept nogil:
    """How many hexadecimal digits a number above 0 has."""
    cdef int n = 0
    while number:
        n += 1
        number >>= 4
    return n


cdef inline Frame* chunk_frame(Pool* pool, size_t size, char** out) noexcept nogil:
    """Make a frame that is a chunk of `size` bytes, above 0, which are yet to be written to `out`."""
    cdef int i, n = hex_digits(size)
    cdef Frame* f = frame_new(pool, n + 2 + size + 2)
    cdef char* p
    if f == NULL:
        return NULL
    p = frame_bytes(f)
    for i in range(n):
        p[i] = (<const char*> b"0123456789abcdef")[(size >> (4 * (n - 1 - i))) & 15]
    memcpy(p + n, b"\r\n", 2)
    out[0] = p + n + 2
    memcpy(out[0] + size, b"\r\n", 2)
    return f


cdef inline Frame* sse_frame(Pool* pool, const char* id, const char* text, size_t size, bint chunked) noexcept nogil:
    """Build an event; `id` is NULL for one that belongs to no subscription."""
    cdef size_t i, length = 6 + size + 2
    cdef Frame* f
    cdef char* out
    if id != NULL:
        length += 4 + 8 + 1
    for i in range(size):
        if is_half_of_end(text, size, i):
            length -= 1
        elif text[i] == c'\n' or text[i] == c'\r':
            length += 6
    if chunked:
        f = chunk_frame(pool, length, &out)
    else:
        f = frame_new(pool, length)
        out = frame_bytes(f)
    if f == NULL:
        return NULL
    if id != NULL:
        memcpy(out, b"id: ", 4)
        memcpy(out + 4, id, 8)
        out[12] = c'\n'
        out += 13
    memcpy(out, b"data: ", 6)
    out += 6
    for i in range(size):
        if is_half_of_end(text, size, i):
            continue
        if text[i] == c'\n' or text[i] == c'\r':
            memcpy(out, b"\ndata: ", 7)
            out += 7
        else:
            out[0] = text[i]
            out += 1
    memcpy(out, b"\n\n", 2)
    return f
