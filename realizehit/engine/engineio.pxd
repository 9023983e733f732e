# Messages as Engine.IO packets: in WebSocket frames, and in the payloads of its long-polling.
# Called by `framings.pxd`. The caller holds one reference to each frame; NULL means out of memory.
#
# A message is a packet of type 4. The JavaScript realizehit client cuts a payload at its second "?", so there is none
# in the payload's JSON but as an escape; a label has none. In polling payloads of revision 3 each packet has its length
# before it, counted by some clients in UTF-16 units of the text, by others in bytes of its UTF-8; in ASCII the two are
# the same.
#
# Source: the Engine.IO protocol, revisions 3 and 4.

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from realizehit.engine.frames cimport OP_TEXT, Frame, Message, frame_bytes, frame_new, websocket_header
from realizehit.engine.memory cimport Pool
from realizehit.engine.text cimport decimal, escape, escaped_size

cdef enum:
    MESSAGE = c'4'
    SEPARATOR = 0x1E            # ends each packet of a polling payload of revision 4; the sender cuts off the last


cdef inline size_t write_packet(char* out, const Message* m, bint ascii_only) noexcept nogil:
    out[0] = MESSAGE
    if m.id == NULL:
        if ascii_only:
            return 1 + escape(out + 1, m.text, m.size, True)
        memcpy(out + 1, m.text, m.size)
        return 1 + m.size
    memcpy(out + 1, m.id, 8)
    out += 9
    memcpy(out, m.lead, m.lead_size)
    out += m.lead_size
    memcpy(out, m.label, m.label_size)
    out += m.label_size
    out[0] = c'?'
    return 10 + m.lead_size + m.label_size + escape(out + 1, m.text, m.size, ascii_only)


cdef inline size_t packet_size(const Message* m, bint ascii_only) noexcept nogil:
    if m.id == NULL:
        return 1 + (escaped_size(m.text, m.size, True) if ascii_only else m.size)
    return 10 + m.lead_size + m.label_size + escaped_size(m.text, m.size, ascii_only)


cdef inline Frame* engineio_frame(Pool* pool, const Message* m) noexcept nogil:
    """Build a message in a WebSocket frame."""
    cdef uint8_t header[10]
    cdef size_t length = packet_size(m, False)
    cdef int n = websocket_header(header, OP_TEXT, length)
    cdef Frame* f = frame_new(pool, n + length)
    if f != NULL:
        memcpy(frame_bytes(f), header, n)
        write_packet(frame_bytes(f) + n, m, False)
    return f


cdef inline Frame* polling_4_frame(Pool* pool, const Message* m) noexcept nogil:
    """Build a message of a polling payload, revision 4, the separator behind it."""
    cdef size_t length = packet_size(m, False)
    cdef Frame* f = frame_new(pool, length + 1)
    if f != NULL:
        write_packet(frame_bytes(f), m, False)
        frame_bytes(f)[length] = SEPARATOR
    return f


cdef inline Frame* polling_3_frame(Pool* pool, const Message* m) noexcept nogil:
    """Build a message of a polling payload, revision 3, its length before it."""
    cdef char header[21]
    cdef size_t length = packet_size(m, True)
    cdef int n = decimal(header, length)
    cdef Frame* f
    header[n] = c':'
    n += 1
    f = frame_new(pool, n + length)
    if f != NULL:
        memcpy(frame_bytes(f), header, n)
        write_packet(frame_bytes(f) + n, m, True)
    return f
