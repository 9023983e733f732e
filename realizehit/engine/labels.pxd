# Labels: what stands before the payload in a publication: "@o=<epoch>.<offset>?", "@t=<traceparent>?",
# "@c=<concrete channel>?", or several of them in this order: "@o=<epoch>.<offset>&t=<traceparent>&c=<channel>?".
#
# Called by dispatch for publications of wildcards, and for others that begin with "@", which JSON never does. Anybody
# can publish anything at a broker, so that the form is checked in full; whether the concrete channel matches the
# wildcard was the publisher's decision. Nothing here allocates or raises.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from realizehit.engine.filters cimport C_MAX_CHANNEL, C_MAX_FILTERS
from realizehit.engine.text cimport decimal, rh_unreserved

cdef enum:
    LABEL_START = 3             # bytes of "@c=" and "@o="
    EPOCH_SIZE = 8
    OFFSET_DIGITS = 16
    TRACE_SIZE = 57             # bytes of "t=" and a traceparent of W3C Trace Context, level 1

cdef extern from *:
    """
    #define RH_OFFSET_MAX ((1ULL << 53) - 1)
    """
    const uint64_t OFFSET_MAX "RH_OFFSET_MAX"   # every language's JSON library reads it exactly


cdef struct Label:
    size_t size                 # bytes before the "?"; 0 for no label
    const char* epoch           # `EPOCH_SIZE` bytes; NULL if there is no position
    uint64_t offset
    size_t trace                # where "t=<traceparent>" begins; 0 if there is none
    size_t channel              # where "c=<channel>" begins, which goes on to the "?"; 0 if there is none


cdef inline bint is_hexit(char c) noexcept nogil:
    return c'0' <= c <= c'9' or c'A' <= c <= c'F'


cdef inline size_t channel_end(const char* text, size_t start, size_t size) noexcept nogil:
    """Where the channel that begins at `start` ends in a "?"; 0 if it is malformed or does not end so.

    The channel has filters in canonical form and no star. That they are sorted is not checked.
    """
    cdef size_t i = start
    cdef size_t end = min(size, start + C_MAX_CHANNEL + 1)
    cdef int filters = 0
    cdef bint in_key = True
    while i < end:
        if rh_unreserved[<uint8_t> text[i]]:
            i += 1
            continue
        if text[i] == c'%':
            if i + 2 >= end or not is_hexit(text[i + 1]) or not is_hexit(text[i + 2]):
                return 0
            i += 3
            continue
        if i == start:      # an empty key or value
            return 0
        if in_key:
            if text[i] != c':':
                return 0
        else:
            filters += 1
            if text[i] == c'?':
                return i
            if text[i] != c'|' or filters == C_MAX_FILTERS:
                return 0
        in_key = not in_key
        i += 1
        start = i
    return 0


cdef inline bint is_epoch(const char* text) noexcept nogil:
    cdef int i
    for i in range(EPOCH_SIZE):
        if not (c'a' <= text[i] <= c'z' or c'0' <= text[i] <= c'9'):
            return False
    return True


cdef inline size_t position_end(const char* text, size_t size, uint64_t* offset) noexcept nogil:
    """Where the position behind "@o=" ends; 0 if it is malformed. An offset is 1 or more, without leading zeros."""
    cdef size_t start = LABEL_START + EPOCH_SIZE + 1
    cdef size_t i = start
    if size < start + 2 or not is_epoch(text + LABEL_START) or text[start - 1] != c'.' or text[start] == c'0':
        return 0
    offset[0] = 0
    while i < size and c'0' <= text[i] <= c'9' and i < start + OFFSET_DIGITS:
        offset[0] = offset[0] * 10 + <uint64_t> (text[i] - c'0')
        i += 1
    return 0 if i == start or i == size or offset[0] > OFFSET_MAX else i


cdef inline bint has_id(const char* text, int size) noexcept nogil:
    """Whether `size` characters are lower-case hex digits, not all of them zero."""
    cdef int i
    cdef bint any = False
    for i in range(size):
        if not (c'0' <= text[i] <= c'9' or c'a' <= text[i] <= c'f'):
            return False
        any = any or text[i] != c'0'
    return any


cdef inline bint is_traceparent(const char* text) noexcept nogil:
    """Whether 55 characters are a traceparent of version 00."""
    return (memcmp(text, b"00-", 3) == 0 and has_id(text + 3, 32) and text[35] == c'-' and has_id(text + 36, 16)
            and text[52] == c'-' and (memcmp(text + 53, b"00", 2) == 0 or has_id(text + 53, 2)))


cdef inline bint read_label(Label* label, const char* text, size_t size) noexcept nogil:
    """Read the label that a publication begins with; false, and all fields empty, if there is none or it is malformed.

    Its pairs have the order o, t, c.
    """
    cdef size_t i = 0, trace = 0, channel = 0       # `i` is where the character before a pair stands
    cdef uint64_t offset = 0
    label.size = label.trace = label.channel = 0
    label.epoch = NULL
    label.offset = 0
    if size < LABEL_START or text[0] != c'@' or text[2] != c'=':
        return False
    if text[1] == c'o':
        i = position_end(text, size, &offset)
        if i == 0:
            return False
    if (i == 0 or text[i] == c'&') and i + 1 + TRACE_SIZE < size and text[i + 1] == c't' and text[i + 2] == c'=':
        if not is_traceparent(text + i + LABEL_START):
            return False
        trace = i + 1
        i += 1 + TRACE_SIZE
    if text[i] != c'?':
        if (i and text[i] != c'&') or i + LABEL_START > size or memcmp(text + i + 1, b"c=", 2) != 0:
            return False
        channel = i + 1
        i = channel_end(text, i + LABEL_START, size)
        if i == 0:
            return False
    label.size = i
    label.trace = trace
    label.channel = channel
    if offset:
        label.epoch = text + LABEL_START
        label.offset = offset
    return True


cdef inline bint is_sampled(const Label* label, const char* text) noexcept nogil:
    """Whether the traceparent of a label, which it has, says that its trace is recorded."""
    cdef char flags = text[label.trace + TRACE_SIZE - 1]
    return ((flags - c'0') if flags <= c'9' else (flags - c'a' + 10)) & 1


cdef inline bint read_position(const char** epoch, uint64_t* offset, const char* text, size_t size) noexcept nogil:
    """Read "<epoch>.<offset>", as a client writes it; false for anything else. The offset may be 0."""
    cdef size_t i = EPOCH_SIZE + 1, start = EPOCH_SIZE + 1
    if size <= start or size > start + OFFSET_DIGITS or not is_epoch(text) or text[EPOCH_SIZE] != c'.':
        return False
    offset[0] = 0
    while i < size:
        if not c'0' <= text[i] <= c'9':
            return False
        offset[0] = offset[0] * 10 + <uint64_t> (text[i] - c'0')
        i += 1
    if offset[0] > OFFSET_MAX or (text[start] == c'0' and size > start + 1):
        return False
    epoch[0] = text
    return True


cdef inline size_t write_position(char* out, const char* epoch, uint64_t offset, bint and_more) noexcept nogil:
    """Write "@o=", the epoch and a "." unless it is NULL, the offset, and "&" if more follows; return the size."""
    cdef size_t n = LABEL_START
    memcpy(out, b"@o=", LABEL_START)
    if epoch != NULL:
        memcpy(out + n, epoch, EPOCH_SIZE)
        out[n + EPOCH_SIZE] = c'.'
        n += EPOCH_SIZE + 1
    n += decimal(out + n, offset)
    if and_more:
        out[n] = c'&'
        n += 1
    return n
