# The connections of publishers: bytes to send, and answers.
# Inline functions for `_load.pyx`; no Python objects, nothing that can raise.

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport realloc
from libc.string cimport memchr, memcmp, memmove, strlen

from realizehit.loadtest._load_ledger cimport Ledger, remark
from realizehit.loadtest._load_net cimport rl_close, rl_find, rl_now

cdef enum:                      # how messages are published
    C_REDIS
    C_API
    C_BATCH

cdef enum:
    OUT_ROOM = 1 << 20          # most bytes that wait for a publisher's socket

cdef struct Publisher:
    int fd
    int kind
    bint opening                # it is connecting
    bint armed
    bint busy                   # HTTP: a request is in flight
    uint32_t batch              # BATCH: messages collected for the next request
    uint32_t in_flight          # messages without an answer
    int64_t used
    char* out
    size_t room
    size_t start
    size_t end
    char* answers
    size_t answers_size
    size_t answers_room


cdef inline size_t number_at(const char* p, const char* end) noexcept nogil:
    """The number whose digits begin at `p` and end before `end` at the latest."""
    cdef size_t value = 0
    while p < end and c'0' <= p[0] <= c'9' and value < <size_t> 1 << 40:
        value = value * 10 + <size_t> (p[0] - c'0')
        p += 1
    return value


cdef inline bint publisher_room(Publisher* publisher, size_t size) noexcept nogil:
    cdef char* moved
    if publisher.end + size <= publisher.room:
        return True
    if publisher.start and publisher.kind != C_BATCH:
        memmove(publisher.out, publisher.out + publisher.start, publisher.end - publisher.start)
        publisher.end -= publisher.start
        publisher.start = 0
    if publisher.end + size > publisher.room:
        moved = <char*> realloc(publisher.out, publisher.end + size + OUT_ROOM)
        if moved == NULL:
            return False
        publisher.out = moved
        publisher.room = publisher.end + size + OUT_ROOM
    return True


cdef inline uint32_t sent_in_request(Publisher* publisher) noexcept nogil:
    """The number of messages in the request in flight."""
    return publisher.in_flight - publisher.batch


cdef inline void publisher_end(Publisher* publisher) noexcept nogil:
    if publisher.fd >= 0:
        rl_close(publisher.fd)
    publisher.fd = -1
    publisher.opening = publisher.armed = False
    publisher.answers_size = 0


cdef inline void redis_answers(Publisher* publisher, Ledger* ledger) noexcept nogil:
    """Read lines such as `:3`, the number of receivers of a message, or `-ERR …`."""
    cdef char* p = publisher.answers
    cdef char* end = p + publisher.answers_size
    cdef char* line_end
    while p < end:
        line_end = <char*> memchr(p, c'\n', end - p)
        if line_end == NULL:
            break
        if p[0] == c':':
            ledger.n.heard += <int64_t> number_at(p + 1, line_end)
            ledger.n.acknowledged += 1
        else:
            ledger.n.publish_errors += 1
            remark(ledger, b"publish", p, max(<int64_t> 0, line_end - p - 1))
        if publisher.in_flight:     # a server may send more replies than there were commands
            publisher.in_flight -= 1
        p = line_end + 1
    publisher.answers_size = end - p
    memmove(publisher.answers, p, publisher.answers_size)


cdef inline const char* http_answer(Publisher* publisher, Ledger* ledger) noexcept nogil:
    """Read the answer to the request in flight once it is whole. Return NULL, or why it is malformed."""
    cdef char* p = publisher.answers
    cdef size_t size = publisher.answers_size
    cdef const char* end = rl_find(p, min(size, <size_t> 16384), b"\r\n\r\n")
    cdef const char* field
    cdef size_t length = 0
    cdef uint32_t bad = 0
    if end == NULL:
        if size > 16384:
            return b"the answer is no HTTP"
        return NULL
    field = rl_find(p, end - p, b"content-length: ")
    if field == NULL:
        field = rl_find(p, end - p, b"Content-Length: ")
    if field == NULL or memcmp(p, b"HTTP/1.1 ", 9) != 0:
        return b"the answer has no Content-Length"
    length = number_at(field + 16, end)
    end += 4
    if size - (end - p) < length:
        return NULL
    if memcmp(p + 9, b"200", 3) != 0:
        bad = sent_in_request(publisher)
        remark(ledger, b"publish", p + 9, min(size - 9, <size_t> 3))
        remark(ledger, b"publish", end, length)
    elif publisher.kind == C_BATCH:
        # {"results":[…],"queued":N,"failed":M}
        field = rl_find(end + max(<int64_t> 0, <int64_t> length - 40), min(length, <size_t> 40), b'"failed":')
        if field != NULL and number_at(field + 9, end + length):
            bad = <uint32_t> min(<size_t> sent_in_request(publisher), number_at(field + 9, end + length))
            remark(ledger, b"publish", end, length)
    else:
        field = rl_find(end, length, b'"nodes":')
        if field != NULL:
            ledger.n.heard += number_at(field + 8, end + length)
    ledger.n.publish_errors += bad
    ledger.n.acknowledged += sent_in_request(publisher) - bad
    publisher.in_flight -= sent_in_request(publisher)
    publisher.busy = False
    publisher.answers_size = 0
    publisher.used = rl_now()
    if rl_find(p, end - p, b"onnection: close") != NULL:
        publisher_end(publisher)
    return NULL


cdef inline void request_failed(Publisher* publisher, Ledger* ledger, const char* why) noexcept nogil:
    """Count the messages of a request without an answer. It is not repeated, as it may have been published."""
    cdef uint32_t count = sent_in_request(publisher)
    remark(ledger, b"publish", why, strlen(why))
    ledger.n.publish_errors += count
    publisher.in_flight -= count
    publisher.busy = False
    if not publisher.batch:
        publisher.start = publisher.end = 0
