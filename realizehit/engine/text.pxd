# Bytes in, bytes out: percent-encoding, UTF-8, MD5, decimals, JSON escapes and ECMAScript's number format.
# Inline functions for `_fanout.pyx`; no state, no Python objects, nothing that can raise.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* RFC 3986's unreserved characters (section 2.3): "-" "." "0-9" "A-Z" "_" "a-z" "~". */
    static const uint8_t rh_unreserved[256] = {
        [0x2D] = 1, [0x2E] = 1, [0x5F] = 1, [0x7E] = 1,
        [0x30] = 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        [0x41] = 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
        [0x61] = 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    """
    const uint8_t* rh_unreserved


cdef inline int percent_encode(char* out, int room, const char* text, Py_ssize_t size) noexcept nogil:
    """Write `text` percent-encoded to `out`; return its length, or -1 when it takes more than `room` bytes."""
    cdef Py_ssize_t i = 0
    cdef int n
    cdef uint8_t c
    cdef const char* hexits = b"0123456789ABCDEF"
    if size > room:
        return -1
    while i < size and rh_unreserved[<uint8_t> text[i]]:    # mostly all of it, and within the room
        out[i] = text[i]
        i += 1
    n = <int> i
    while i < size:
        c = <uint8_t> text[i]
        i += 1
        if rh_unreserved[c]:
            if n >= room:
                return -1
            out[n] = <char> c
            n += 1
        else:
            if n + 3 > room:
                return -1
            out[n] = c'%'
            out[n + 1] = hexits[c >> 4]
            out[n + 2] = hexits[c & 15]
            n += 3
    return n


cdef inline bint is_utf8(const uint8_t* p, size_t size) noexcept nogil:
    """Whether `size` bytes at `p` are well-formed UTF-8 (Unicode 15, table 3-7: no surrogates, nothing overlong)."""
    cdef const uint8_t* end = p + size
    cdef uint64_t word
    cdef uint8_t c
    while p < end:
        # Payloads are mostly ASCII: eight bytes at a time while no high bit is set.
        while end - p >= 8:
            memcpy(&word, p, 8)
            if word & <uint64_t> 0x8080808080808080:
                break
            p += 8
        if p == end:
            break
        c = p[0]
        if c < 0x80:
            p += 1
        elif c < 0xC2:
            return False
        elif c < 0xE0:
            if end - p < 2 or (p[1] & 0xC0) != 0x80:
                return False
            p += 2
        elif c < 0xF0:
            if end - p < 3 or (p[1] & 0xC0) != 0x80 or (p[2] & 0xC0) != 0x80:
                return False
            if (c == 0xE0 and p[1] < 0xA0) or (c == 0xED and p[1] > 0x9F):
                return False
            p += 3
        elif c < 0xF5:
            if end - p < 4 or (p[1] & 0xC0) != 0x80 or (p[2] & 0xC0) != 0x80 or (p[3] & 0xC0) != 0x80:
                return False
            if (c == 0xF0 and p[1] < 0x90) or (c == 0xF4 and p[1] > 0x8F):
                return False
            p += 4
        else:
            return False
    return True


cdef inline size_t utf8_complete(const uint8_t* p, size_t size) noexcept nogil:
    """How many of `size` bytes stand before a character that is not whole; all of them where none is."""
    cdef size_t back = 1
    cdef uint8_t c
    while back <= 3 and back <= size:
        c = p[size - back]
        if c >= 0xC0:
            return size - back if back < <size_t> (4 if c >= 0xF0 else 3 if c >= 0xE0 else 2) else size
        if c < 0x80:
            break
        back += 1
    return size


cdef inline bint is_utf8_start(const uint8_t* p, size_t size) noexcept nogil:
    """Whether up to three bytes, a first one and continuations, can begin a character that has more."""
    cdef uint8_t whole[4]
    cdef size_t i, length
    if size == 0:
        return True
    length = 4 if p[0] >= 0xF0 else 3 if p[0] >= 0xE0 else 2
    for i in range(4):
        whole[i] = p[i] if i < size else 0x80
    if size == 1 and (p[0] == 0xE0 or p[0] == 0xF0):
        whole[1] = 0xA0     # 0x80 would be overlong here
    return is_utf8(whole, length)


cdef inline int number_to_text(char* out, const char* shortest) noexcept nogil:
    """Rewrite the shortest decimal of a finite double, as Python's repr gives it, in ECMAScript's form.

    Source: ECMA-262, Number::toString. `out` takes at most 32 bytes; returns the length.
    """
    cdef char digits[24]
    cdef int k = 0          # digits, without leading and trailing zeros
    cdef int point = 0      # where the decimal point stands, counted from before the first digit
    cdef int exponent = 0
    cdef int n = 0
    cdef int i, _i
    cdef bint negative = False, seen_point = False, exponent_negative = False
    cdef const char* p = shortest
    if p[0] == c'-':
        negative = True
        p += 1
    while p[0] != 0 and p[0] != c'e':
        if p[0] == c'.':
            seen_point = True
        else:
            if k > 0 or p[0] != c'0':
                digits[k] = p[0]
                k += 1
                if not seen_point:
                    point += 1
            elif seen_point:
                point -= 1
        p += 1
    if p[0] == c'e':
        p += 1
        exponent_negative = p[0] == c'-'
        if p[0] == c'-' or p[0] == c'+':
            p += 1
        while p[0] != 0:
            exponent = exponent * 10 + (p[0] - c'0')
            p += 1
        point += -exponent if exponent_negative else exponent
    while k > 0 and digits[k - 1] == c'0':
        k -= 1
    if k == 0:  # 0 and -0
        out[0] = c'0'
        return 1
    if negative:
        out[n] = c'-'
        n += 1
    if k <= point <= 21:
        for i in range(point):
            out[n] = digits[i] if i < k else c'0'
            n += 1
    elif 0 < point <= 21:
        for i in range(k):
            if i == point:
                out[n] = c'.'
                n += 1
            out[n] = digits[i]
            n += 1
    elif -6 < point <= 0:
        out[n] = c'0'
        out[n + 1] = c'.'
        n += 2
        for _i in range(-point):
            out[n] = c'0'
            n += 1
        for i in range(k):
            out[n] = digits[i]
            n += 1
    else:
        out[n] = digits[0]
        n += 1
        if k > 1:
            out[n] = c'.'
            n += 1
            for i in range(1, k):
                out[n] = digits[i]
                n += 1
        exponent = point - 1
        out[n] = c'e'
        out[n + 1] = c'-' if exponent < 0 else c'+'
        n += 2
        if exponent < 0:
            exponent = -exponent
        if exponent >= 100:
            out[n] = <char> (c'0' + exponent // 100)
            n += 1
        if exponent >= 10:
            out[n] = <char> (c'0' + exponent // 10 % 10)
            n += 1
        out[n] = <char> (c'0' + exponent % 10)
        n += 1
    return n


cdef inline int decimal(char* out, size_t value) noexcept nogil:
    """Write a number in decimal; return its length, at most 20."""
    cdef char digits[20]
    cdef int n = 0, i
    while True:
        digits[n] = <char> (c'0' + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef inline size_t escaped_size(const char* text, size_t size, bint ascii_only) noexcept nogil:
    """How many bytes `escape` writes."""
    cdef size_t i, n = 0
    cdef uint8_t c
    for i in range(size):
        c = <uint8_t> text[i]
        if c == c'?' or c == 0x1E:
            n += 6
        elif c < 0x80 or not ascii_only:
            n += 1
        elif c >= 0xF0:
            n += 12     # a surrogate pair
        elif c >= 0xC0:
            n += 6
    return n


cdef inline size_t hex_escape(char* out, uint32_t unit) noexcept nogil:
    cdef const char* hexits = b"0123456789abcdef"
    out[0] = c'\\'
    out[1] = c'u'
    out[2] = hexits[unit >> 12]
    out[3] = hexits[(unit >> 8) & 15]
    out[4] = hexits[(unit >> 4) & 15]
    out[5] = hexits[unit & 15]
    return 6


cdef inline size_t escape(char* out, const char* text, size_t size, bint ascii_only) noexcept nogil:
    """Write JSON text, which must be valid UTF-8, with every ``?`` as ``\\u003f``; return the length.

    So is a raw 0x1E, which no JSON has: between the packets of a payload it would make two of one.

    Args:
        ascii_only: escape what is not ASCII too. Outside of strings JSON has neither.
    """
    cdef size_t i = 0, n = 0
    cdef uint8_t c
    cdef uint32_t code
    while i < size:
        c = <uint8_t> text[i]
        if c == c'?' or c == 0x1E:
            n += hex_escape(out + n, c)
            i += 1
        elif c < 0x80 or not ascii_only:
            out[n] = <char> c
            n += 1
            i += 1
        elif c < 0xE0:
            n += hex_escape(out + n, ((c & 0x1F) << 6) | (text[i + 1] & 0x3F))
            i += 2
        elif c < 0xF0:
            n += hex_escape(out + n, ((c & 0x0F) << 12) | ((text[i + 1] & 0x3F) << 6) | (text[i + 2] & 0x3F))
            i += 3
        else:
            code = (((c & 0x07) << 18) | ((text[i + 1] & 0x3F) << 12) | ((text[i + 2] & 0x3F) << 6)
                    | (text[i + 3] & 0x3F)) - 0x10000
            n += hex_escape(out + n, 0xD800 + (code >> 10))
            n += hex_escape(out + n, 0xDC00 + (code & 0x3FF))
            i += 4
    return n


# MD5 (RFC 1321) written out, because setting up OpenSSL's digest object costs more than digesting a channel does,
# and because the id is a label that must exist on machines whose policy forbids MD5 as a digest.
cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static const uint32_t rh_md5_k[64] = {
        0xd76aa478,0xe8c7b756,0x242070db,0xc1bdceee,0xf57c0faf,0x4787c62a,0xa8304613,0xfd469501,
        0x698098d8,0x8b44f7af,0xffff5bb1,0x895cd7be,0x6b901122,0xfd987193,0xa679438e,0x49b40821,
        0xf61e2562,0xc040b340,0x265e5a51,0xe9b6c7aa,0xd62f105d,0x02441453,0xd8a1e681,0xe7d3fbc8,
        0x21e1cde6,0xc33707d6,0xf4d50d87,0x455a14ed,0xa9e3e905,0xfcefa3f8,0x676f02d9,0x8d2a4c8a,
        0xfffa3942,0x8771f681,0x6d9d6122,0xfde5380c,0xa4beea44,0x4bdecfa9,0xf6bb4b60,0xbebfbc70,
        0x289b7ec6,0xeaa127fa,0xd4ef3085,0x04881d05,0xd9d4d039,0xe6db99e5,0x1fa27cf8,0xc4ac5665,
        0xf4292244,0x432aff97,0xab9423a7,0xfc93a039,0x655b59c3,0x8f0ccc92,0xffeff47d,0x85845dd1,
        0x6fa87e4f,0xfe2ce6e0,0xa3014314,0x4e0811a1,0xf7537e82,0xbd3af235,0x2ad7d2bb,0xeb86d391};
    #define RH_ROL(x, n) (((x) << (n)) | ((x) >> (32 - (n))))
    /* What depends on the step before, `b`, comes last: each step waits for the one before it. */
    #define RH_STEP(f, a, b, c, d, g, i, s) \\
        (a) += w[g] + rh_md5_k[i]; (a) += (f); (a) = RH_ROL((a), (s)) + (b);
    #define RH_F(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
    #define RH_G(b, c, d) ((~(d) & (c)) + ((d) & (b)))
    #define RH_H(b, c, d) ((b) ^ (c) ^ (d))
    #define RH_I(b, c, d) ((c) ^ ((b) | ~(d)))
    #define RH_FOUR(F, i, g0, g1, g2, g3, s0, s1, s2, s3) \\
        RH_STEP(F(b,c,d), a,b,c,d, g0, i,   s0) RH_STEP(F(a,b,c), d,a,b,c, g1, i+1, s1) \\
        RH_STEP(F(d,a,b), c,d,a,b, g2, i+2, s2) RH_STEP(F(c,d,a), b,c,d,a, g3, i+3, s3)
    static void rh_md5_block(uint32_t state[4], const uint8_t *p) {
        uint32_t w[16], a = state[0], b = state[1], c = state[2], d = state[3];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)p[4*i] | (uint32_t)p[4*i+1] << 8 | (uint32_t)p[4*i+2] << 16 | (uint32_t)p[4*i+3] << 24;
        RH_FOUR(RH_F, 0, 0,1,2,3, 7,12,17,22)     RH_FOUR(RH_F, 4, 4,5,6,7, 7,12,17,22)
        RH_FOUR(RH_F, 8, 8,9,10,11, 7,12,17,22)   RH_FOUR(RH_F, 12, 12,13,14,15, 7,12,17,22)
        RH_FOUR(RH_G, 16, 1,6,11,0, 5,9,14,20)    RH_FOUR(RH_G, 20, 5,10,15,4, 5,9,14,20)
        RH_FOUR(RH_G, 24, 9,14,3,8, 5,9,14,20)    RH_FOUR(RH_G, 28, 13,2,7,12, 5,9,14,20)
        RH_FOUR(RH_H, 32, 5,8,11,14, 4,11,16,23)  RH_FOUR(RH_H, 36, 1,4,7,10, 4,11,16,23)
        RH_FOUR(RH_H, 40, 13,0,3,6, 4,11,16,23)   RH_FOUR(RH_H, 44, 9,12,15,2, 4,11,16,23)
        RH_FOUR(RH_I, 48, 0,7,14,5, 6,10,15,21)   RH_FOUR(RH_I, 52, 12,3,10,1, 6,10,15,21)
        RH_FOUR(RH_I, 56, 8,15,6,13, 6,10,15,21)  RH_FOUR(RH_I, 60, 4,11,2,9, 6,10,15,21)
        state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    }
    static void rh_id(char out[8], const uint8_t *p, size_t size) {
        uint32_t state[4] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
        uint8_t tail[128];
        uint64_t bits = (uint64_t)size * 8;
        size_t left = size;
        for (; left >= 64; left -= 64, p += 64) rh_md5_block(state, p);
        size_t padded = left < 56 ? 64 : 128;
        memset(tail, 0, padded);
        memcpy(tail, p, left);
        tail[left] = 0x80;
        for (int i = 0; i < 8; i++) tail[padded - 8 + i] = (uint8_t)(bits >> (8 * i));
        rh_md5_block(state, tail);
        if (padded == 128) rh_md5_block(state, tail + 64);
        for (int i = 0; i < 4; i++) {
            uint8_t byte = (uint8_t)(state[0] >> (8 * i));
            out[2*i] = "0123456789abcdef"[byte >> 4];
            out[2*i+1] = "0123456789abcdef"[byte & 15];
        }
    }
    """
    # The first 8 hex digits of the MD5 of `size` bytes at `p`, not terminated.
    void rh_id(char* out, const uint8_t* p, size_t size) noexcept nogil
