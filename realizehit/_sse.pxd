# Messages as Server-Sent Events. Inline functions for `_fanout.pyx`.
#
# An event has the subscription's id in its field of that name, and the payload in its data. A line end in the payload,
# which JSON has only between its tokens, begins a further data line. The standard knows three, CR LF, LF and CR.
# Readers that know one know LF, so that all are written as that. A reader that joins the lines has LF then too.
#
# Source: the HTML standard, section 9.2.6.

from libc.string cimport memcpy

from realizehit._frames cimport Frame, frame_bytes, frame_new
from realizehit._memory cimport Pool


cdef inline bint is_half_of_end(const char* text, size_t size, size_t i) noexcept nogil:
    """Whether the byte at `i` is a CR that an LF follows."""
    return text[i] == c'\r' and i + 1 < size and text[i + 1] == c'\n'


cdef inline Frame* sse_frame(Pool* pool, const char* id, const char* text, size_t size) noexcept nogil:
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
    f = frame_new(pool, length)
    if f == NULL:
        return NULL
    out = frame_bytes(f)
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
