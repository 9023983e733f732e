# The action `sub` in its plain form: the JSON text that nearly all clients send becomes a channel, without a dict.
#
# Called for each whole text message of a client whose handler takes plain subs. Plain is an object of `id`, `act`,
# `pat` and perhaps `since`, once each and in any order, with spaces at most between its parts: strings without escapes,
# integers of up to 15 digits that are not negative, a position in its only form, and no wildcard. Everything else is
# not judged here: it goes to Python, as all wrong actions do. `tests/fuzz/plain_subs.py` holds both readings equal.
# Nothing here allocates or fails.

from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from realizehit.engine.filters cimport C_MAX_CHANNEL, C_MAX_FILTERS, C_MAX_KEY, C_MAX_VALUE, Filter, compare_keys
from realizehit.engine.labels cimport read_position
from realizehit.engine.shapes cimport put_filter
from realizehit.engine.text cimport percent_encode

cdef enum:
    ID_MAX = 128                # bytes of an id
    DIGITS_MAX = 15             # of an integer, which every JSON reader then reads exactly


cdef struct PlainSub:
    const char* id              # as it stands in the text, with its quotation marks if it is a string
    int id_size
    const char* since           # as it stands in the text, without its quotation marks; NULL if there is none
    int since_size
    char channel[C_MAX_CHANNEL]
    int channel_size


cdef struct Text:
    # What is read, and where.
    const char* p
    const char* end


cdef inline char after_spaces(Text* t) noexcept nogil:
    """The next character that is no space; 0 at the end."""
    while t.p < t.end and t.p[0] == c' ':
        t.p += 1
    return t.p[0] if t.p < t.end else 0


cdef inline bint take(Text* t, char c) noexcept nogil:
    if after_spaces(t) != c:
        return False
    t.p += 1
    return True


cdef inline int take_string(Text* t, const char** found) noexcept nogil:
    """Read a string without escapes; return the bytes between its quotation marks, or -1."""
    if not take(t, c'"'):
        return -1
    found[0] = t.p
    while t.p < t.end and t.p[0] != c'"':
        if t.p[0] == c'\\' or 0 <= t.p[0] < 0x20 or t.p[0] == 0x7F:
            return -1
        t.p += 1
    if t.p == t.end:
        return -1
    t.p += 1
    return <int> (t.p - 1 - found[0])


cdef inline int take_integer(Text* t, const char** found) noexcept nogil:
    """Read an integer; return its digits, or -1."""
    cdef int size
    after_spaces(t)
    found[0] = t.p
    while t.p < t.end and c'0' <= t.p[0] <= c'9':
        t.p += 1
    size = <int> (t.p - found[0])
    return size if 1 <= size <= DIGITS_MAX and (size == 1 or found[0][0] != c'0') else -1


cdef inline bint take_filter(Text* t, Filter* f) noexcept nogil:
    cdef const char* found = NULL
    cdef int size = take_string(t, &found)
    if size < 1 or (size == 1 and found[0] == c'*'):
        return False
    f.key_size = percent_encode(f.key, C_MAX_KEY, found, size)
    if f.key_size < 0 or not take(t, c':'):
        return False
    if after_spaces(t) == c'"':
        size = take_string(t, &found)
        if size == 1 and found[0] == c'*':
            return False
    else:
        size = take_integer(t, &found)
    if size < 1:
        return False
    f.value_size = percent_encode(f.value, C_MAX_VALUE, found, size)
    return f.value_size >= 0


cdef inline bint take_pattern(Text* t, PlainSub* out) noexcept nogil:
    """Read an object of filters, and write its channel."""
    cdef Filter parts[C_MAX_FILTERS]
    cdef int order[C_MAX_FILTERS]
    cdef int count = 0, i, compared
    cdef Filter* f
    if not take(t, c'{'):
        return False
    while True:
        if count == C_MAX_FILTERS or not take_filter(t, &parts[count]):
            return False
        i = count
        while i > 0:
            compared = compare_keys(&parts[count], &parts[order[i - 1]])
            if compared == 0:
                return False    # a key that comes twice
            if compared > 0:
                break
            order[i] = order[i - 1]
            i -= 1
        order[i] = count
        count += 1
        if not take(t, c','):
            break
    if not take(t, c'}'):
        return False
    out.channel_size = 0
    for i in range(count):
        f = &parts[order[i]]
        out.channel_size = put_filter(out.channel, out.channel_size, f.key, f.key_size, f.value, f.value_size)
        if out.channel_size < 0:
            return False
    return True


cdef inline bint take_id(Text* t, PlainSub* out) noexcept nogil:
    cdef const char* found = NULL
    cdef int size
    if after_spaces(t) != c'"':
        out.id_size = take_integer(t, &out.id)
        return out.id_size > 0
    size = take_string(t, &found)
    out.id = found - 1
    out.id_size = size + 2
    return 0 <= size <= ID_MAX


cdef inline bint take_since(Text* t, PlainSub* out) noexcept nogil:
    cdef const char* epoch = NULL
    cdef uint64_t offset = 0
    out.since_size = take_string(t, &out.since)
    return out.since_size > 0 and read_position(&epoch, &offset, out.since, out.since_size)


cdef inline bint read_plain_sub(PlainSub* out, const char* text, size_t size) noexcept nogil:
    """Read an action, which is UTF-8; false where it is not a plain `sub`."""
    cdef Text t
    cdef const char* name = NULL
    cdef int length
    cdef bint acts = False
    t.p = text
    t.end = text + size
    out.id = out.since = NULL
    out.channel_size = 0
    if not take(&t, c'{'):
        return False
    while True:
        length = take_string(&t, &name)
        if length < 2 or not take(&t, c':'):
            return False
        if length == 2 and name[0] == c'i' and name[1] == c'd':
            if out.id != NULL or not take_id(&t, out):
                return False
        elif length == 3 and memcmp(name, b"act", 3) == 0:
            if acts or take_string(&t, &name) != 3 or memcmp(name, b"sub", 3) != 0:
                return False
            acts = True
        elif length == 3 and memcmp(name, b"pat", 3) == 0:
            if out.channel_size or not take_pattern(&t, out):
                return False
        elif length == 5 and memcmp(name, b"since", 5) == 0:
            if out.since != NULL or not take_since(&t, out):
                return False
        else:
            return False
        if not take(&t, c','):
            break
    if not take(&t, c'}'):
        return False
    after_spaces(&t)
    return t.p == t.end and acts and out.id != NULL and out.channel_size != 0
