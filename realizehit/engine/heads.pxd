# The head of an opening handshake, read in one pass: whether it is one of the usual kind, its key, and its signature.
#
# Called with what a connection sent first. The signature is what a decision about the handshake can depend on: the
# request line and the headers that count, each once, without the key. Clients of one kind send the same signature over
# and over, so that Python decides about it once. It is the text of a request head itself, which Python parses to
# decide: so a decision cannot depend on anything else.
#
# Where a setting asks for a look at each client, a decision also depends on further headers and on the query, which
# differ between clients of one kind. They are not in the signature: Python asks for them by name (`watched_headers`).
#
# Anything unusual is not taken, and takes the way of all other requests: other requests, repeated headers, a body, a
# wrong key, a head that is not whole. What is taken, `realizehit.transports` would accept or refuse by the same text;
# `tests/fuzz/opening_heads.py` holds both equal. Reading a head allocates nothing and raises nothing.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from realizehit.engine.accept_key cimport KEY_SIZE

cdef enum:
    SIGNATURE_MAX = 1024        # bytes
    HEADERS_MAX = 48            # headers of a head that is taken
    NAME_MAX = 25               # bytes of the longest name that counts

cdef enum:  # what a header is here
    NAME_IGNORED = 0
    NAME_COUNTS = 1             # a part of the signature
    NAME_KEY = 2
    NAME_UPGRADE = 3            # a part of it, and must be there
    NAME_OF_BODY = 4            # the request has a body

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    /* RFC 9110, section 5.6.2: the characters of a token, each as it is in lower case; 0 for all others. */
    static const uint8_t rh_token[256] = {
        [0x21] = 0x21, [0x23] = 0x23, 0x24, 0x25, 0x26, 0x27, [0x2A] = 0x2A, 0x2B, [0x2D] = 0x2D, 0x2E,
        [0x30] = 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39,
        [0x41] = 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x6B, 0x6C, 0x6D,
        0x6E, 0x6F, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A,
        [0x5E] = 0x5E, 0x5F, 0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6A, 0x6B, 0x6C, 0x6D,
        0x6E, 0x6F, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, [0x7C] = 0x7C, [0x7E] = 0x7E};
    /* What a field value may hold, see `transports/heads.py`: a tab, or anything printable. */
    static int rh_in_value(uint8_t c) { return c >= 0x20 ? c != 0x7F : c == 0x09; }
    static int rh_in_key(uint8_t c) {
        return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
    }
    /* What a header of this name, in lower case, is to an opening handshake. */
    static int rh_name_kind(const char *name, size_t size) {
        #define RH_IS(text) (size == sizeof(text) - 1 && memcmp(name, text, sizeof(text) - 1) == 0)
        switch (size) {
        case 4: return RH_IS("host");
        case 6: return RH_IS("origin");
        case 7: return RH_IS("upgrade") ? 3 : 0;
        case 10: return RH_IS("connection");
        case 14: return RH_IS("sec-fetch-site") ? 1 : RH_IS("content-length") ? 4 : 0;
        case 17: return RH_IS("sec-websocket-key") ? 2 : RH_IS("transfer-encoding") ? 4 : 0;
        case 21: return RH_IS("sec-websocket-version");
        case 24: return RH_IS("sec-websocket-extensions");
        }
        return 0;
        #undef RH_IS
    }
    """
    const uint8_t* rh_token
    bint rh_in_value(uint8_t c) noexcept nogil
    bint rh_in_key(uint8_t c) noexcept nogil
    int rh_name_kind(const char* name, size_t size) noexcept nogil


cdef struct Name:
    const uint8_t* text
    uint32_t size
    uint32_t hash


cdef struct Header:
    Name name
    const uint8_t* value        # without spaces around it
    uint32_t value_size


cdef struct OpeningHead:
    # All pointers are into the text that was read.
    size_t size                 # bytes of the head, the blank line included
    const uint8_t* key          # KEY_SIZE bytes
    const uint8_t* query        # what stands behind the question mark; NULL without one
    uint32_t query_size
    uint32_t count              # of headers
    uint32_t signature_size
    Header headers[HEADERS_MAX]
    char signature[SIGNATURE_MAX]


cdef inline uint32_t hash_on(uint32_t hash, uint8_t c) noexcept nogil:
    return hash * 31 + c


cdef inline Name name_of(const uint8_t* text, uint32_t size) noexcept nogil:
    """A name to compare with those of a head."""
    cdef Name name
    cdef uint32_t i
    name.text, name.size, name.hash = text, size, 0
    for i in range(size):
        name.hash = hash_on(name.hash, rh_token[text[i]])
    return name


cdef inline bint same_name(const Name* a, const Name* b) noexcept nogil:
    cdef uint32_t i
    if a.hash != b.hash or a.size != b.size:
        return False
    for i in range(a.size):
        if rh_token[a.text[i]] != rh_token[b.text[i]]:
            return False
    return True


cdef inline bint sign(OpeningHead* out, const void* text, size_t size) noexcept nogil:
    """Add a text to the signature; false where there is no room."""
    if out.signature_size + size > SIGNATURE_MAX:
        return False
    memcpy(out.signature + out.signature_size, text, size)
    out.signature_size += <uint32_t> size
    return True


cdef inline bint is_key(const uint8_t* text, size_t size) noexcept nogil:
    cdef size_t i
    if size != KEY_SIZE or text[KEY_SIZE - 1] != c'=' or text[KEY_SIZE - 2] != c'=':
        return False
    for i in range(<size_t> KEY_SIZE - 2):
        if not rh_in_key(text[i]):
            return False
    return True


cdef inline const uint8_t* read_line(OpeningHead* out, const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Read the request line, whose target must be a path; return where the next line begins, or NULL."""
    cdef const uint8_t* start = p
    cdef const uint8_t* query = NULL
    if end - p < 5 or memcmp(p, b"GET /", 5) != 0:
        return NULL
    p += 5
    while p < end and 0x21 <= p[0] <= 0x7E:
        if p[0] == c'?' and query == NULL:
            query = p
        elif query != NULL and p[0] == c'=' and p - query >= 4 and memcmp(p - 3, b"EIO", 3) == 0:
            return NULL     # for Engine.IO
        p += 1
    if end - p < 11 or memcmp(p, b" HTTP/1.1\r\n", 11) != 0:
        return NULL
    # Nothing but Engine.IO and tokens depends on the query, and tokens are looked at for each client.
    if not sign(out, start, (p if query == NULL else query) - start) or not sign(out, p, 9):
        return NULL
    if query != NULL:
        out.query = query + 1
        out.query_size = <uint32_t> (p - out.query)
    return p + 11


cdef inline bint read_opening_head(OpeningHead* out, const uint8_t* data, size_t size, size_t most) noexcept nogil:
    """Read a head from the front of `size` bytes; false where it is not a usual opening handshake, or not whole.

    Args:
        most: bytes that a head may have, the blank line not included.
    """
    cdef const uint8_t* end = data + size
    cdef const uint8_t* p
    cdef const uint8_t* value
    cdef const uint8_t* behind
    cdef char lower[NAME_MAX]
    cdef uint32_t i
    cdef uint8_t c
    cdef Name* name
    cdef int kind
    cdef bint upgrades = False
    out.key = out.query = NULL
    out.query_size = out.count = out.signature_size = 0
    p = read_line(out, data, end)
    if p == NULL:
        return False
    while p < end and p[0] != c'\r':
        if out.count == HEADERS_MAX:
            return False
        name = &out.headers[out.count].name
        name.text = p
        name.hash = 0
        while p < end:
            c = rh_token[p[0]]
            if c == 0:
                break
            if p - name.text < NAME_MAX:
                lower[p - name.text] = <char> c
            name.hash = hash_on(name.hash, c)
            p += 1
        if p == end or p == name.text or p[0] != c':':
            return False
        name.size = <uint32_t> (p - name.text)
        for i in range(out.count):
            if same_name(&out.headers[i].name, name):
                return False
        p += 1
        while p < end and (p[0] == c' ' or p[0] == c'\t'):
            p += 1
        value = p
        while p < end and rh_in_value(p[0]):
            p += 1
        if end - p < 2 or p[0] != c'\r' or p[1] != c'\n':
            return False
        behind = p
        while behind > value and (behind[-1] == c' ' or behind[-1] == c'\t'):
            behind -= 1
        p += 2
        out.headers[out.count].value = value
        out.headers[out.count].value_size = <uint32_t> (behind - value)
        out.count += 1
        kind = NAME_IGNORED if name.size > NAME_MAX else rh_name_kind(lower, name.size)
        if kind == NAME_IGNORED:
            continue
        if kind == NAME_OF_BODY:
            return False
        if kind == NAME_KEY:
            if not is_key(value, behind - value):
                return False
            out.key = value
            continue
        upgrades = upgrades or kind == NAME_UPGRADE
        if not (sign(out, b"\r\n", 2) and sign(out, lower, name.size) and sign(out, b":", 1)
                and sign(out, value, behind - value)):
            return False
    if end - p < 2 or p[0] != c'\r' or p[1] != c'\n':
        return False
    out.size = p + 2 - data
    return upgrades and out.key != NULL and out.size - 4 <= most


cdef inline dict watched_headers(const OpeningHead* head, tuple names):
    """The values of those headers of a head that are asked for, by their names in lower case."""
    cdef dict found = {}
    cdef uint32_t i
    cdef Name name
    for each in names:
        name = name_of(<const uint8_t*> PyBytes_AS_STRING(each), <uint32_t> PyBytes_GET_SIZE(each))
        for i in range(head.count):
            if same_name(&head.headers[i].name, &name):
                found[each] = PyBytes_FromStringAndSize(<const char*> head.headers[i].value, head.headers[i].value_size)
    return found


cdef inline bytes query_of(const OpeningHead* head):
    """What stands behind the question mark of the target."""
    return PyBytes_FromStringAndSize(<const char*> head.query, head.query_size)
