# Formats that the load client reads and writes: stamps, frames, buckets of the histogram.
# Inline functions for `_load.pyx`; no state, no Python objects, nothing that can raise.
#
# A stamped payload is a JSON string of fixed layout, so that no JSON parser is needed for each delivery:
#
#     "ccccccccnnnnnnnnttttttttttttttttmmmmmmmmxxxx…"
#
#     c   channel number                            8 hex digits
#     n   sequence number in its channel, from 1    8 hex digits
#     t   intended time, CLOCK_MONOTONIC, in ns     16 hex digits
#     m   slot of an outstanding message            8 hex digits
#     x   padding

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    ID_SIZE = 8
    STAMP_AT = 10               # after the id, `?` and the quotation mark
    STAMP_SIZE = 40
    STAMP_TEXT = 51             # the shortest text message with a stamp: id, `?`, quotation marks around the stamp
    HDR_HALF = 1024             # values that each further bucket holds: 3 significant figures
    HDR_BUCKETS = 16            # the last one ends at 67 s, counted in microseconds
    HDR_SIZE = (HDR_BUCKETS + 1) * HDR_HALF

cdef extern from *:
    """
    #define RL_MAX_VALUE ((int64_t) 2048 << 15)
    /* The place of a value in an HdrHistogram of unit 1 and 3 significant figures. */
    static inline int rl_hdr_index(int64_t value) {
        if (value < 0) value = 0;
        if (value >= RL_MAX_VALUE) value = RL_MAX_VALUE - 1;
        int bucket = 64 - __builtin_clzll((unsigned long long) value | 2047) - 11;
        return (bucket + 1) * 1024 + (int) (value >> bucket) - 1024;
    }
    /* Eight hex digits, most significant first, all at once; of what is no hex digit the result is any number. */
    static inline uint32_t rl_hex8(const char *p) {
        uint64_t v = 0;
        for (int i = 0; i < 8; i++) v |= (uint64_t) (uint8_t) p[i] << (8 * i);
        v = (v & 0x0F0F0F0F0F0F0F0FULL) + 9 * ((v >> 6) & 0x0101010101010101ULL);
        v = (v << 4 | v >> 8) & 0x00FF00FF00FF00FFULL;
        v = (v << 8 | v >> 16) & 0x0000FFFF0000FFFFULL;
        return (uint32_t) (v << 16 | v >> 32);
    }
    static inline void rl_put_hex8(char *p, uint32_t v) {
        for (int i = 0; i < 8; i++) p[i] = "0123456789abcdef"[(v >> (28 - 4 * i)) & 15];
    }
    static inline int rl_put_decimal(char *p, uint64_t v) {
        char digits[20];
        int n = 0, size;
        do digits[n++] = (char) ('0' + v % 10); while (v /= 10);
        size = n;
        while (n) *p++ = digits[--n];
        return size;
    }
    """
    int rl_hdr_index(int64_t value) noexcept nogil
    uint32_t rl_hex8(const char* p) noexcept nogil
    void rl_put_hex8(char* p, uint32_t value) noexcept nogil
    int rl_put_decimal(char* p, uint64_t value) noexcept nogil


cdef inline void put_stamp(char* p, uint32_t channel, uint32_t number, int64_t when, uint32_t slot) noexcept nogil:
    rl_put_hex8(p, channel)
    rl_put_hex8(p + 8, number)
    rl_put_hex8(p + 16, <uint32_t> (<uint64_t> when >> 32))
    rl_put_hex8(p + 24, <uint32_t> <uint64_t> when)
    rl_put_hex8(p + 32, slot)


cdef inline int64_t stamp_time(const char* p) noexcept nogil:
    return <int64_t> (<uint64_t> rl_hex8(p + 16) << 32 | rl_hex8(p + 24))


cdef inline int frame_head(const uint8_t* p, size_t size, size_t* length) noexcept nogil:
    """Read a server's frame header (RFC 6455, section 5.2).

    Returns its size and the payload's in `length`; 0 where more bytes are needed; -1 for what a server does not send
    here: a masked frame, a fragment, an extension's bits, a length of more than 32 bits.
    """
    cdef int i
    if size < 2:
        return 0
    if (p[0] & 0xF0) != 0x80 or p[1] & 0x80:
        return -1
    if p[1] < 126:
        length[0] = p[1]
        return 2
    if p[1] == 126:
        if size < 4:
            return 0
        length[0] = (<size_t> p[2] << 8) | p[3]
        return 4
    if size < 10:
        return 0
    if p[2] | p[3] | p[4] | p[5]:
        return -1
    length[0] = 0
    for i in range(6, 10):
        length[0] = (length[0] << 8) | p[i]
    return 10


cdef inline size_t client_frame_head(char* p, uint8_t opcode, size_t size) noexcept nogil:
    """Write the header of a client's frame with a mask of zero, which leaves the payload unchanged; return its size.

    A client should mask unpredictably, to protect proxies from scripts of strangers; here is no stranger.
    """
    cdef size_t n = 2
    cdef int i
    p[0] = <char> (0x80 | opcode)
    if size < 126:
        p[1] = <char> (0x80 | size)
    elif size < 65536:
        p[1] = <char> 0xFE
        p[2] = <char> (size >> 8)
        p[3] = <char> (size & 0xFF)
        n = 4
    else:
        p[1] = <char> 0xFF
        for i in range(8):
            p[2 + i] = <char> ((<uint64_t> size >> (56 - 8 * i)) & 0xFF)
        n = 10
    for i in range(4):
        p[n + i] = 0
    return n + 4
