# Labels: what stands before the payload in a publication to a wildcard's channel, "@c=<concrete channel>?".
#
# Called by dispatch for channels that are wildcards, and by no others. Anybody can publish anything at a broker, so
# that the form is checked in full; whether the concrete channel matches the wildcard was the publisher's decision.
# Nothing here allocates or raises.

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from realizehit.engine.filters cimport C_MAX_FILTERS
from realizehit.engine.text cimport rh_unreserved

cdef enum:
    LABEL_START = 3             # bytes of "@c="
    LABEL_MAX = 1027            # with the longest channel


cdef inline bint is_hexit(char c) noexcept nogil:
    return c'0' <= c <= c'9' or c'A' <= c <= c'F'


cdef inline size_t label_of(const char* text, size_t size) noexcept nogil:
    """How many bytes of a publication stand before its "?"; 0 where it does not begin with "@c=", a channel and "?".

    The channel has filters in canonical form and no star. That they are sorted is not checked.
    """
    cdef size_t i = LABEL_START, start = LABEL_START
    cdef size_t end = size if size < LABEL_MAX + 1 else LABEL_MAX + 1
    cdef int filters = 0
    cdef bint in_key = True
    if size < LABEL_START or memcmp(text, b"@c=", LABEL_START) != 0:
        return 0
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
