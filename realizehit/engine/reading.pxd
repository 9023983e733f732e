# What clients send: frames become callbacks, pongs and close frames.
#
# Called with bytes that were just received, for an open connection. Clients send little: actions, pongs, a close frame.
# Whole messages are read here, also in fragments and in parts. Everything unusual goes, bytes and all, to a parser in
# Python, until that one holds no part of a message any more. What a client sends becomes callbacks that wait; nothing
# here calls Python code. MemoryError is all that is raised: a part of the input is lost then, and the caller marks the
# connection closed.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from realizehit.engine.actions cimport PlainSub, read_plain_sub
from realizehit.engine.allowance cimport pay_or_end
from realizehit.engine.backpressure cimport mark_closed, send_frame
from realizehit.engine.callbacks cimport end_after_callbacks, fail_protocol, tell
from realizehit.engine.conn cimport CONN_OPEN, DISCARD_INPUT, PEER_DONE, SEEN, SLOW_PARSER, Conn, Input, slot_find
from realizehit.engine.frames cimport (
    FRAMING_SSE, OP_BINARY, OP_CLOSE, OP_CONTINUATION, OP_PING, OP_PONG, OP_TEXT, PARSED_PART, PARSED_WHOLE,
    PARTIAL_MAX, Incoming, Parsed, frame_build, is_close_code, parse_incoming, websocket_header,
)
from realizehit.engine.input cimport input_bytes, input_drop, input_extend, input_keep, input_take
from realizehit.engine.sockets cimport rh_recv, rh_would_block
from realizehit.engine.state cimport JOINERS, State
from realizehit.engine.text cimport is_utf8, is_utf8_start, utf8_complete

cdef enum:
    INBOX = 65536               # bytes read from a socket at once
    DISCARDED = 1 << 20         # bytes that a connection may send while it is closing


cdef inline int answer_ping(State* s, uint64_t handle, bytes data) except -1:
    cdef Conn* c = slot_find(&s.slots, handle)
    if c != NULL and c.state == CONN_OPEN:
        send_frame(s, c, frame_build(&s.pool, OP_PONG, PyBytes_AS_STRING(data), len(data), b"", 0))
    return 0


cdef inline bint has_answered(State* s, Conn* c, uint8_t* data, size_t size) noexcept:
    # Whether the peer's close frame is in what came after ours; what cannot be parsed here counts as one.
    cdef Incoming frame
    if c.flags & SLOW_PARSER or c.input != NULL:
        return True
    while size:
        if (parse_incoming(&frame, data, size, s.max_message, False, 0) != PARSED_WHOLE
                or frame.opcode == OP_CLOSE):
            return True
        data += frame.consumed
        size -= frame.consumed
    return False


cdef inline int receive_close(State* s, Conn* c, const uint8_t* data, size_t size) except -1:
    # RFC 6455, sections 5.5.1 and 7.4: the answer repeats the code, unless the frame itself is wrong.
    cdef int code = 1005
    if size:
        code = (data[0] << 8) | data[1] if size >= 2 else 0
        if size > 2 and not is_utf8(data + 2, size - 2):
            return fail_protocol(s, c, 1007, "the close reason is not UTF-8")
        if size < 2 or not is_close_code(code):
            return fail_protocol(s, c, 1002, "invalid close frame")
    c.flags |= PEER_DONE
    return end_after_callbacks(s, c, code, "")


cdef inline int receive_text(State* s, Conn* c, const char* text, size_t size) except -1:
    cdef PlainSub sub
    cdef int i
    for i in range(JOINERS):
        if s.joiners[i] == c.handler and read_plain_sub(&sub, text, size):
            return tell(s, "on_sub", c, (
                PyBytes_FromStringAndSize(sub.id, sub.id_size),
                PyBytes_FromStringAndSize(sub.channel, sub.channel_size),
                None if sub.since == NULL else PyBytes_FromStringAndSize(sub.since, sub.since_size)))
    return tell(s, "on_text", c, PyBytes_FromStringAndSize(text, size))


cdef inline int receive_fragment(State* s, Conn* c, Incoming* frame) except -1:
    cdef Input* held
    cdef size_t checked, complete
    if not input_extend(&s.pool, c, frame.payload, <uint32_t> frame.size):
        raise MemoryError()
    held = c.input
    # Each fragment is checked when it comes, each byte once: wrong text fails at once, not at its end.
    checked = held.checked
    complete = checked + utf8_complete(input_bytes(held) + checked, held.message - checked)
    if not (is_utf8(input_bytes(held) + checked, complete - checked)
            and is_utf8_start(input_bytes(held) + complete, held.message - complete)
            and (complete == held.message or not frame.last)):
        return fail_protocol(s, c, 1007, "the text is not UTF-8")
    held.checked = <uint32_t> complete
    if not frame.last:
        pay_or_end(s, c)
        return 0
    tell(s, "on_text", c, PyBytes_FromStringAndSize(<char*> input_bytes(held), held.message))
    held.message = held.checked = 0
    held.begun = False
    return 0


cdef inline int leave_to_python(State* s, Conn* c, const uint8_t* data, size_t size) except -1:
    cdef Input* held = c.input
    cdef uint8_t header[14]
    cdef int n
    if c.framing == FRAMING_SSE:    # nothing useful comes after the request, and many reads of it are a flood
        pay_or_end(s, c)
        return 0
    c.flags |= SLOW_PARSER
    if held != NULL and held.begun:
        # The parser learns of the message so far as of one fragment, masked with zeros.
        n = websocket_header(header, OP_TEXT, held.message)
        header[0] = OP_TEXT
        header[1] |= 0x80
        memset(header + n, 0, 4)
        tell(s, "on_bytes", c,
             PyBytes_FromStringAndSize(<char*> header, n + 4)
             + PyBytes_FromStringAndSize(<char*> input_bytes(held), held.message)
             + PyBytes_FromStringAndSize(<char*> data, size))
    else:
        tell(s, "on_bytes", c, PyBytes_FromStringAndSize(<char*> data, size))
    input_drop(&s.pool, c)
    return 0


cdef inline int consume(State* s, Conn* c, uint8_t* data, size_t size) except -1:
    # `data` has PARTIAL_MAX bytes of room before it, for the start of its first frame.
    cdef Incoming frame
    cdef Parsed parsed
    cdef uint32_t kept = input_take(c, data)
    data -= kept
    size += kept
    while size and c.state == CONN_OPEN and not c.flags & (PEER_DONE | DISCARD_INPUT):
        if c.flags & SLOW_PARSER:
            return leave_to_python(s, c, data, size)
        if c.input == NULL:
            parsed = parse_incoming(&frame, data, size, s.max_message, False, 0)
        else:
            parsed = parse_incoming(&frame, data, size, s.max_message, c.input.begun, c.input.message)
        if parsed == PARSED_PART:
            if not input_keep(&s.pool, c, data, <uint32_t> size):
                raise MemoryError()
            return 0
        if parsed != PARSED_WHOLE:
            return leave_to_python(s, c, data, size)
        data += frame.consumed
        size -= frame.consumed
        if frame.opcode == OP_TEXT and frame.last:
            if not is_utf8(frame.payload, frame.size):
                return fail_protocol(s, c, 1007, "the text is not UTF-8")
            receive_text(s, c, <char*> frame.payload, frame.size)
        elif frame.opcode == OP_TEXT or frame.opcode == OP_CONTINUATION:
            receive_fragment(s, c, &frame)
        elif frame.opcode == OP_BINARY:
            tell(s, "on_binary", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
        elif frame.opcode == OP_CLOSE:
            return receive_close(s, c, frame.payload, frame.size)
        elif pay_or_end(s, c) and frame.opcode == OP_PING:
            if <list> s.pending:    # the answers to what came before it go out first
                tell(s, "pong", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
            else:
                send_frame(s, c, frame_build(&s.pool, OP_PONG, <char*> frame.payload, frame.size, b"", 0))
    if c.input != NULL and not c.input.begun:
        input_drop(&s.pool, c)
    return 0


cdef inline int receive(State* s, Conn* c) except -1:
    cdef Py_ssize_t n = rh_recv(c.fd, s.inbox + PARTIAL_MAX, INBOX)
    if n > 0:
        c.flags |= SEEN
        if c.state == CONN_OPEN:
            try:
                consume(s, c, s.inbox + PARTIAL_MAX, n)
            except BaseException:
                mark_closed(s, c)    # a part of what it sent is lost
                raise
        else:
            c.discarded += <uint32_t> n
            if c.discarded > DISCARDED:
                mark_closed(s, c)    # it does not listen
    elif n == 0 or not rh_would_block():
        mark_closed(s, c)
    return 0
