# Messages as Engine.IO packets: in WebSocket frames, and in the payloads of its long-polling.
# Inline functions for `_fanout.pyx`.
#
# A message is a packet of type 4. The JavaScript realizehit client cuts a payload at its second "?", so there is none
# in the payload's JSON but as an escape. In polling payloads of revision 3 each packet has its length before it,
# counted by some clients in UTF-16 units of the text, by others in bytes of its UTF-8; in ASCII the two are the same.
#
# Source: the Engine.IO protocol, revisions 3 and 4.

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from realizehit.engine.frames cimport OP_TEXT, Frame, frame_bytes, frame_new, websocket_header
from realizehit.engine.memory cimport Pool
from realizehit.engine.text cimport decimal, escape, escaped_size

cdef enum:
    MESSAGE = c'4'
    SEPARATOR = 0x1E            # ends each packet of a polling payload of revision 4; the sender cuts off the last


cdef inline size_t write_packet(char* out, const char* id, const char* text, size_t size,
                                bint ascii_only) noexcept nogil:
    out[0] = MESSAGE
    if id == NULL:
        if ascii_only:
            return 1 + escape(out + 1, text, size, True)
        memcpy(out + 1, text, size)
        return 1 + size
    memcpy(out + 1, id, 8)
    out[9] = c'?'
    return 10 + escape(out + 10, text, size, ascii_only)


cdef inline size_t packet_size(const char* id, const char* text, size_t size, bint ascii_only) noexcept nogil:
    if id == NULL:
        return 1 + (escaped_size(text, size, True) if ascii_only else size)
    return 10 + escaped_size(text, size, ascii_only)


cdef inline Frame* engineio_frame(Pool* pool, const char* id, const char* text, size_t size) noexcept nogil:
    """Build a message in a WebSocket frame; `id` is NULL for a reply."""
    cdef uint8_t header[10]
    cdef size_t length = packet_size(id, text, size, False)
    cdef int n = websocket_header(header, OP_TEXT, length)
    cdef Frame* f = frame_new(pool, n + length)
    if f != NULL:
        memcpy(frame_bytes(f), header, n)
        write_packet(frame_bytes(f) + n, id, text, size, False)
    return f


cdef inline Frame* polling_4_frame(Pool* pool, const char* id, const char* text, size_t size) noexcept nogil:
    """Build a message of a polling payload, revision 4, the separator behind it."""
    cdef size_t length = packet_size(id, text, size, False)
    cdef Frame* f = frame_new(pool, length + 1)
    if f != NULL:
        write_packet(frame_bytes(f), id, text, size, False)
        frame_bytes(f)[length] = SEPARATOR
    return f


cdef inline Frame* polling_3_frame(Pool* pool, const char* id, const char* text, size_t size) noexcept nogil:
    """Build a message of a polling payload, revision 3, its length before it."""
    cdef char header[21]
    cdef size_t length = packet_size(id, text, size, True)
    cdef int n = decimal(header, length)
    cdef Frame* f
    header[n] = c':'
    n += 1
    f = frame_new(pool, n + length)
    if f != NULL:
        memcpy(frame_bytes(f), header, n)
        write_packet(frame_bytes(f) + n, id, text, size, True)
    return f
