# What a message, a close frame and a heartbeat look like in each framing: the one place that knows all framings.
#
# Called by dispatch, replies and closing. A frame that is returned is held once, by the caller. Python code that runs
# here is zlib's alone. MemoryError is all that is raised: no memory, or a frame that would be larger than `FRAME_MAX`.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy

from realizehit.engine.engineio cimport engineio_frame, polling_3_frame, polling_4_frame
from realizehit.engine.frames cimport (
    FRAMING_DEFLATE, FRAMING_ENGINEIO_3, FRAMING_ENGINEIO_4, FRAMING_POLLING_3, FRAMING_POLLING_4, FRAMING_SSE,
    FRAMING_SSE_CHUNKED, FRAMING_WEBSOCKET, FRAMINGS, LEAD_MAX, OP_CLOSE, OP_TEXT, RSV1, Frame, Message, frame_build,
    frame_bytes, frame_new, frame_release, is_event_stream,
)
from realizehit.engine.memory cimport RH_DEBUG, Pool, alive
from realizehit.engine.resp cimport resp_message
from realizehit.engine.sse cimport sse_frame
from realizehit.engine.state cimport State

cdef enum:
    DEFLATE_MIN = 64            # bytes; a shorter message goes uncompressed, which the extension allows
    Z_SYNC_FLUSH = 2            # as in zlib.h


cdef inline Frame* frame_of(Pool* pool, bytes data) except NULL:
    """The bytes as a frame."""
    cdef Frame* f = frame_new(pool, len(data))
    if f == NULL:
        raise MemoryError()
    memcpy(frame_bytes(f), PyBytes_AS_STRING(data), len(data))
    return f


cdef inline Frame* build_deflated(State* s, const char* head, size_t head_size, const char* text,
                                  size_t size) except NULL:
    # RFC 7692, sections 7.2.1 and 8: a flushed raw stream without its last four bytes. Without context takeover
    # each message stands for itself, so that this frame too is the same for everyone.
    compressor = (<object> s.compressobj)(wbits=-15)
    cdef bytes data = compressor.compress(PyBytes_FromStringAndSize(head, head_size))
    data += compressor.compress(PyBytes_FromStringAndSize(text, size)) + compressor.flush(Z_SYNC_FLUSH)
    cdef Frame* f = frame_build(&s.pool, OP_TEXT | RSV1, PyBytes_AS_STRING(data), len(data) - 4, b"", 0)
    if f == NULL:
        raise MemoryError()
    return f


cdef inline Frame* build_message(State* s, int framing, const Message* m) except NULL:
    cdef Frame* f
    cdef char head[8 + LEAD_MAX + 1]
    cdef size_t head_size = 0
    if framing == FRAMING_WEBSOCKET or framing == FRAMING_DEFLATE:
        if m.id != NULL:
            memcpy(head, m.id, 8)
            memcpy(head + 8, m.lead, m.lead_size)
            head[8 + m.lead_size] = c'?'
            head_size = 8 + m.lead_size + (0 if m.label_size else 1)
        if framing == FRAMING_DEFLATE and head_size + m.whole_size >= DEFLATE_MIN:
            return build_deflated(s, head, head_size, m.whole, m.whole_size)
        f = frame_build(&s.pool, OP_TEXT, head, head_size, m.whole, m.whole_size)
    elif framing == FRAMING_ENGINEIO_4 or framing == FRAMING_ENGINEIO_3:
        f = engineio_frame(&s.pool, m)
    elif framing == FRAMING_POLLING_4:
        f = polling_4_frame(&s.pool, m)
    elif framing == FRAMING_POLLING_3:
        f = polling_3_frame(&s.pool, m)
    elif is_event_stream(framing):
        f = sse_frame(&s.pool, m, framing == FRAMING_SSE_CHUNKED)
    else:
        f = resp_message(&s.pool, m.channel, m.channel_size, m.raw, m.raw_size)
    if f == NULL:
        raise MemoryError()
    return f


cdef inline Frame* build_close_frame(State* s, int framing, int code, bytes reason) except? NULL:
    cdef char body[125]
    cdef size_t size = 0
    if framing == FRAMING_SSE:
        return NULL
    if framing == FRAMING_SSE_CHUNKED:
        return frame_of(&s.pool, b"0\r\n\r\n")
    if framing == FRAMING_POLLING_4:
        return frame_of(&s.pool, b"1\x1e")
    if framing == FRAMING_POLLING_3:
        return frame_of(&s.pool, b"1:1")
    if code != 1005:
        body[0] = <char> (code >> 8)
        body[1] = <char> code
        memcpy(body + 2, PyBytes_AS_STRING(reason), len(reason))
        size = 2 + len(reason)
    cdef Frame* f = frame_build(&s.pool, OP_CLOSE, body, size, b"", 0)
    if f == NULL:
        raise MemoryError()
    return f


cdef inline int pings_build(State* s) except -1:
    """Build the heartbeats, once for each engine."""
    cdef int i
    try:
        s.pings[FRAMING_WEBSOCKET] = frame_of(&s.pool, b"\x89\0")
        s.pings[FRAMING_DEFLATE] = frame_of(&s.pool, b"\x89\0")
        s.pings[FRAMING_ENGINEIO_4] = frame_of(&s.pool, b"\x81\x012")
        s.pings[FRAMING_POLLING_4] = frame_of(&s.pool, b"2\x1e")
        s.pings[FRAMING_SSE] = frame_of(&s.pool, b":\n\n")
        s.pings[FRAMING_SSE_CHUNKED] = frame_of(&s.pool, b"3\r\n:\n\n\r\n")
    finally:
        for i in range(FRAMINGS):
            if RH_DEBUG and s.pings[i] != NULL:
                alive.frames -= 1   # what an engine has for as long as it exists does not count as alive
    return 0


cdef inline void pings_release(State* s) noexcept:
    cdef int i
    for i in range(FRAMINGS):
        if s.pings[i] != NULL:
            if RH_DEBUG:
                alive.frames += 1
            frame_release(&s.pool, s.pings[i])
