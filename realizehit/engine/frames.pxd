# Frames: what a message looks like on a connection, per framing, and how an incoming WebSocket frame is taken apart.
# Inline functions; nothing here knows a connection.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from realizehit.engine.memory cimport RH_DEBUG, Pool, alive, pool_give, pool_take

cdef enum Opcode:  # RFC 6455, section 5.2
    OP_CONTINUATION = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10
    RSV1 = 0x40             # compressed (RFC 7692); stands in the same byte as the opcode

cdef enum:  # framings
    # Over WebSocket frames:
    FRAMING_WEBSOCKET = 0
    FRAMING_DEFLATE = 1     # with permessage-deflate
    FRAMING_ENGINEIO_4 = 2  # Engine.IO packets, protocol revision 4
    FRAMING_ENGINEIO_3 = 3  # revision 3: the same messages, another heartbeat
    # Over something else:
    FRAMING_POLLING_4 = 4   # Engine.IO payloads for HTTP long-polling
    FRAMING_POLLING_3 = 5
    FRAMING_SSE = 6         # Server-Sent Events
    FRAMING_RESP = 7        # a broker's own protocol: how one node hands messages on to its workers
    FRAMING_SSE_CHUNKED = 8  # Server-Sent Events, each in a chunk of HTTP/1.1
    FRAMINGS = 9            # how many there are

cdef enum:  # the forms of a publication, by what a subscription asked for
    FORM_PLAIN = 0
    FORM_POSITION = 1       # with the message's offset in its label
    FORM_TRACE = 2          # with its traceparent in its label; may be added to the other
    FORMS = 4               # how many there are
    FRAME_KEYS = 36         # FRAMINGS * FORMS: how many different frames one publication can have
    LEAD_MAX = 32           # bytes: "@o=", an epoch of 8, ".", an offset of up to 16 digits, "&"

cdef enum:
    FRAME_MAX = 0x7FFF0000      # bytes; sums of two sizes, which are 32 bits, do not overflow

cdef struct Frame:
    # Immutable bytes, shared by every connection that waits for them; the bytes follow the struct.
    uint32_t refs
    uint32_t size           # bytes


cdef struct Message:
    # What is sent, before a framing gives it its form. It owns none of its texts.
    const char* id          # 8 bytes, the subscription's id; NULL for a reply, which has neither label nor channel
    char lead[LEAD_MAX]     # written here: the first part of the label, such as "@o=17"
    size_t lead_size        # bytes; 0 for none
    const char* label       # the rest of the label, which ends at "?": "@c=<channel>" for a wildcard's publication
    size_t label_size       # bytes; 0 for none
    const char* text        # the payload or the reply
    size_t size
    const char* whole       # rest of the label, "?" and text, as they stand in memory; the text if there is no rest
    size_t whole_size
    const char* raw         # what the broker sent
    size_t raw_size
    const char* channel     # what was subscribed to
    size_t channel_size


cdef inline void set_reply(Message* m, const char* text, size_t size) noexcept nogil:
    # A returned struct would become a dict when lines are traced (REALIZEHIT_COVERAGE), which fails for NULL texts.
    m.id = NULL
    m.label = m.channel = text  # of no bytes, and not NULL, which memcpy does not allow even then
    m.lead_size = m.label_size = m.channel_size = 0
    m.text = m.whole = m.raw = text
    m.size = m.whole_size = m.raw_size = size


cdef inline bint is_websocket(int framing) noexcept nogil:
    return framing <= FRAMING_ENGINEIO_3


cdef inline bint is_event_stream(int framing) noexcept nogil:
    return framing == FRAMING_SSE or framing == FRAMING_SSE_CHUNKED


cdef inline uint8_t frame_key(int framing) noexcept nogil:
    """The number of the plain frame that connections of this framing share; plus `FRAMINGS`: of the other form."""
    if framing == FRAMING_ENGINEIO_3:
        framing = FRAMING_ENGINEIO_4    # their messages are the same
    return <uint8_t> framing


cdef inline char* frame_bytes(Frame* f) noexcept nogil:
    return <char*> (f + 1)


cdef inline Frame* frame_new(Pool* pool, size_t size) noexcept nogil:
    """Return a frame of `size` bytes yet to be written, held once by the caller.

    NULL when there is no memory, or when it would be larger than `FRAME_MAX`.
    """
    cdef Frame* f = <Frame*> pool_take(pool, sizeof(Frame) + size) if size <= FRAME_MAX else NULL
    if f != NULL:
        f.refs = 1
        f.size = <uint32_t> size
        pool.waiting += size
        if RH_DEBUG:
            alive.frames += 1
    return f


cdef inline void frame_release(Pool* pool, Frame* f) noexcept nogil:
    f.refs -= 1
    if f.refs == 0:
        pool.waiting -= f.size
        if RH_DEBUG:
            alive.frames -= 1
        pool_give(pool, f, sizeof(Frame) + f.size)


cdef inline int websocket_header(uint8_t* out, uint8_t opcode, size_t size) noexcept nogil:
    """Write the header of a whole, unmasked frame (RFC 6455, section 5.2); return its 2, 4 or 10 bytes."""
    cdef int i
    out[0] = 0x80 | opcode
    if size < 126:
        out[1] = <uint8_t> size
        return 2
    if size < 65536:
        out[1] = 126
        out[2] = <uint8_t> (size >> 8)
        out[3] = <uint8_t> size
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <uint8_t> (<uint64_t> size >> (56 - 8 * i))
    return 10


cdef inline Frame* frame_build(Pool* pool, uint8_t opcode, const char* first, size_t first_size,
                               const char* rest, size_t rest_size) noexcept nogil:
    """Build a WebSocket frame whose payload is `first` followed by `rest`."""
    cdef uint8_t header[10]
    cdef int n = websocket_header(header, opcode, first_size + rest_size)
    cdef Frame* f = frame_new(pool, n + first_size + rest_size)
    cdef char* out
    if f == NULL:
        return NULL
    out = frame_bytes(f)
    memcpy(out, header, n)
    memcpy(out + n, first, first_size)
    memcpy(out + n + first_size, rest, rest_size)
    return f


cdef struct Incoming:
    uint8_t opcode
    bint last               # the message ends with it
    uint8_t* payload        # unmasked, in place
    size_t size
    size_t consumed         # bytes of the buffer that the frame took, header included


cdef enum Parsed:
    PARSED_HARD = 0         # left to the library's parser
    PARSED_WHOLE = 1
    PARSED_PART = 2         # the start of a frame; more has to come

cdef enum:
    PARTIAL_MAX = 65536     # bytes; a frame that is larger and not whole is left to the library's parser


cdef inline Parsed parse_incoming(Incoming* out, uint8_t* p, size_t size, size_t max_payload,
                                  bint begun, size_t message) noexcept nogil:
    """Take the first frame off `size` bytes at `p`, and unmask its payload in place.

    Taken are plain, masked frames of known opcodes whose message stays within `max_payload` bytes; `begun` says whether
    fragments of one came before, and `message` how many bytes they had. All others, wrong ones too, are for the
    library's parser to judge; nothing is changed then. Fragments of binary messages, which few clients send, are among
    them.
    """
    cdef size_t length, header = 6, i
    cdef uint8_t mask[8]
    cdef uint64_t mask8, word
    cdef uint8_t opcode
    cdef bint last
    if size < 2:
        return PARSED_PART
    opcode = p[0] & 0x0F
    last = (p[0] & 0x80) != 0
    if p[0] & 0x70 or not (p[1] & 0x80):
        return PARSED_HARD
    length = p[1] & 0x7F
    if opcode >= OP_CLOSE:
        if opcode > OP_PONG or not last or length >= 126:
            return PARSED_HARD
        max_payload = 125
    elif opcode == OP_CONTINUATION:
        if not begun:
            return PARSED_HARD
        max_payload -= message
    elif begun or opcode > OP_BINARY or (opcode == OP_BINARY and not last):
        return PARSED_HARD
    if length >= 126:
        header = 8 if length == 126 else 14
        if size < header - 4:
            return PARSED_PART
        if header == 8:
            length = (<size_t> p[2] << 8) | p[3]
            if length < 126:
                return PARSED_HARD
        else:
            if p[2] & 0x80:
                return PARSED_HARD
            length = 0
            for i in range(8):
                length = (length << 8) | p[2 + i]
            if length < 65536:
                return PARSED_HARD
    if length > max_payload:
        return PARSED_HARD
    if size < header + length:
        return PARSED_PART if header + length <= PARTIAL_MAX else PARSED_HARD
    memcpy(mask, p + header - 4, 4)
    memcpy(mask + 4, mask, 4)
    memcpy(&mask8, mask, 8)
    p += header
    i = 0
    while i + 8 <= length:
        memcpy(&word, p + i, 8)
        word ^= mask8
        memcpy(p + i, &word, 8)
        i += 8
    while i < length:
        p[i] ^= mask[i & 7]
        i += 1
    out.opcode = opcode
    out.last = last
    out.payload = p
    out.size = length
    out.consumed = header + length
    return PARSED_WHOLE


cdef inline bint is_close_code(uint16_t code) noexcept nogil:
    """Whether a peer may send this close code (RFC 6455, section 7.4, and IANA's registry)."""
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
