# Messages as Server-Sent Events.
#
# Called by `framings.pxd`. The caller holds one reference to each frame; NULL means out of memory.
#
# An event has the subscription's id in its field of that name, the label behind it (`id: 3bf1d979@c=channel:CNN`), and
# the payload in its data. A label has no line ends. A line end in the payload, which JSON has only between its tokens,
# begins a further data line. The standard knows three line ends, CR LF, LF and CR. All readers know LF, so that each is
# written as LF; a reader that joins the lines uses LF too.
#
# In a response of HTTP/1.1 each event is a chunk of its own, so that a reader of chunks has it at once.
#
# Source: the HTML standard, section 9.2.6; RFC 9112, section 7.1.

from libc.string cimport memcpy

from realizehit.engine.frames cimport Frame, Message, frame_bytes, frame_new
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


cdef inline Frame* sse_frame(Pool* pool, const Message* m, bint chunked) noexcept nogil:
    """Build an event; a reply becomes one without an id, which belongs to no subscription."""
    cdef const char* text = m.text
    cdef size_t i, size = m.size, length = 6 + size + 2
    cdef Frame* f
    cdef char* out
    if m.id != NULL:
        length += 4 + 8 + m.lead_size + m.label_size + 1
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
    if m.id != NULL:
        memcpy(out, b"id: ", 4)
        memcpy(out + 4, m.id, 8)
        out += 12
        memcpy(out, m.lead, m.lead_size)
        out += m.lead_size
        memcpy(out, m.label, m.label_size)
        out += m.label_size
        out[0] = c'\n'
        out += 1
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
