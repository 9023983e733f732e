# Shapes of wildcard subscriptions, and what publications project to. Inline functions for `_fanout.pyx`.
#
# They read canonical text, whose filters are sorted by key, and no other; of anything else they make nothing worse than
# a wrong answer. Nothing here allocates or raises.

from libc.string cimport memchr, memcmp, memcpy

from realizehit.engine.filters cimport C_MAX_CHANNEL, C_MAX_FILTERS

cdef extern from *:
    """
    static const char rh_reserved[] = "realizehit";
    """
    const char* rh_reserved

cdef enum:
    RESERVED_SIZE = 10


cdef struct Split:
    # Where the filters of a channel are: each from its key to its colon to its end.
    int count
    const char* key[C_MAX_FILTERS]
    const char* value[C_MAX_FILTERS]
    int key_size[C_MAX_FILTERS]
    int value_size[C_MAX_FILTERS]


cdef inline bint split_channel(Split* s, const char* text, Py_ssize_t size) noexcept nogil:
    """Find the filters; false where one has no colon, or there are too many."""
    cdef const char* end = text + size
    cdef const char* colon
    cdef const char* bar
    s.count = 0
    if size > C_MAX_CHANNEL:
        return False
    while s.count < C_MAX_FILTERS:
        bar = <const char*> memchr(text, c'|', end - text)
        if bar == NULL:
            bar = end
        colon = <const char*> memchr(text, c':', bar - text)
        if colon == NULL:
            return False
        s.key[s.count] = text
        s.key_size[s.count] = <int> (colon - text)
        s.value[s.count] = colon + 1
        s.value_size[s.count] = <int> (bar - colon - 1)
        s.count += 1
        if bar == end:
            return True
        text = bar + 1
    return False


cdef inline bint is_one(const char* text, int size, char c) noexcept nogil:
    return size == 1 and text[0] == c


cdef inline int compare_texts(const char* a, int a_size, const char* b, int b_size) noexcept nogil:
    cdef int order = memcmp(a, b, a_size if a_size < b_size else b_size)
    return order if order != 0 else a_size - b_size


cdef inline bint has_reserved(const Split* s) noexcept nogil:
    cdef int i
    for i in range(s.count):
        if s.key_size[i] == RESERVED_SIZE and memcmp(s.key[i], rh_reserved, RESERVED_SIZE) == 0:
            return True
    return False


cdef inline int put_filter(
        char* out, int n, const char* key, int key_size, const char* value, int value_size) noexcept nogil:
    """Add a filter to `n` bytes; return the new length, or -1 when the channel would be too long."""
    if n + key_size + value_size + (2 if n else 1) > C_MAX_CHANNEL:
        return -1
    if n:
        out[n] = c'|'
        n += 1
    memcpy(out + n, key, key_size)
    n += key_size
    out[n] = c':'
    n += 1
    memcpy(out + n, value, value_size)
    return n + value_size


cdef inline int write_shape(char* out, const Split* channel) noexcept nogil:
    """Write a subscription's shape to `out`, of `C_MAX_CHANNEL` bytes; return its length."""
    cdef int i, n = 0
    cdef bint any
    for i in range(channel.count):
        any = is_one(channel.value[i], channel.value_size[i], c'*')
        n = put_filter(out, n, channel.key[i], channel.key_size[i], b"*" if any else b"=", 1)
        if n < 0:
            return -1
    return n


cdef inline int write_projection(char* out, const Split* channel, const Split* shape) noexcept nogil:
    """Write what a publication projects to by a shape; return its length, or -1 when it projects to nothing.

    A projection longer than the limit of a channel cannot have a subscription, so it is left out too.
    """
    cdef int i, n = 0, at = 0, order
    cdef bint is_open = False, further = False, any
    for i in range(shape.count):
        any = is_one(shape.value[i], shape.value_size[i], c'*')
        if any and is_one(shape.key[i], shape.key_size[i], c'*'):
            is_open = True
            n = put_filter(out, n, b"*", 1, b"*", 1)
            if n < 0:
                return -1
            continue
        while True:
            if at == channel.count:
                return -1
            order = compare_texts(channel.key[at], channel.key_size[at], shape.key[i], shape.key_size[i])
            if order >= 0:
                break
            further = True
            at += 1
        if order > 0:
            return -1
        if any:
            n = put_filter(out, n, shape.key[i], shape.key_size[i], b"*", 1)
        else:
            n = put_filter(out, n, shape.key[i], shape.key_size[i], channel.value[at], channel.value_size[at])
        if n < 0:
            return -1
        at += 1
    if (further or at < channel.count) and not is_open:
        return -1
    return n
