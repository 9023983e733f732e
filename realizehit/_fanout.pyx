# The compiled core: patterns become channels and ids, publications become frames, frames reach connections.
#
# Imports nothing of the package. Sections, in the order a message takes them:
#   1. patterns        canonical channel and id

from cpython.dict cimport PyDict_Next
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.bool cimport PyBool_Check
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsDouble, PyLong_Check
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check, PyUnicode_FromStringAndSize

from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

from realizehit._text cimport number_to_text, percent_encode, rh_id

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    char* PyOS_double_to_string(double value, char code, int precision, int flags, int* kind) except NULL
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object value) except? 0xFFFFFFFFFFFFFFFF


# --- 1. Patterns ------------------------------------------------------------------------------------------------------
# In: a dict of filters. Out: the canonical channel, as bytes, and its id. Each rule that a pattern can break has a
# text of its own, which names the filter; nothing else is ever raised.

# The bounds of a pattern; `realizehit.pattern` gives them their public names.
cdef enum:
    C_MAX_FILTERS = 16
    C_MAX_KEY = 64          # encoded bytes
    C_MAX_VALUE = 256       # encoded bytes
    C_MAX_CHANNEL = 1024    # bytes

MAX_FILTERS = C_MAX_FILTERS
MAX_KEY = C_MAX_KEY
MAX_VALUE = C_MAX_VALUE
MAX_CHANNEL = C_MAX_CHANNEL


class InvalidPattern(ValueError):
    """A pattern breaks a rule; `wildcard` is true when the rule is that ``*`` is not served here."""

    wildcard = False


class InvalidWildcard(InvalidPattern):
    wildcard = True


cdef struct Filter:
    char key[C_MAX_KEY]
    char value[C_MAX_VALUE]
    int key_size
    int value_size


cdef inline int compare_keys(const Filter* a, const Filter* b) noexcept nogil:
    cdef int order = memcmp(a.key, b.key, a.key_size if a.key_size < b.key_size else b.key_size)
    return order if order != 0 else a.key_size - b.key_size


cdef str shown(object key):
    """A key as an error text shows it: short, and printable whatever it holds."""
    cdef str text = ascii(key)
    return text if len(text) <= 80 else text[:77] + "..."


cdef int encode_text(char* out, int room, str text, object key, bint is_key) except -1:
    cdef Py_ssize_t size
    cdef const char* utf8
    cdef int n
    try:
        utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    except UnicodeEncodeError:
        raise InvalidPattern(f"{'the key' if is_key else 'the value of'} {shown(key)} holds a lone surrogate") from None
    if size == 0:
        raise InvalidPattern("a key is empty" if is_key else f"the value of {shown(key)} is empty")
    n = percent_encode(out, room, utf8, size)
    if n < 0:
        raise InvalidPattern(f"{'the key' if is_key else 'the value of'} {shown(key)} is longer than {room} bytes "
                             "when percent-encoded")
    return n


cdef int encode_double(char* out, double value, object key) except -1:
    cdef char text[32]
    cdef char* shortest
    cdef int n
    if not isfinite(value):
        raise InvalidPattern(f"the value of {shown(key)} is not a finite number")
    shortest = PyOS_double_to_string(value, b'r', 0, 0, NULL)
    n = number_to_text(text, shortest)
    PyMem_Free(shortest)
    return percent_encode(out, C_MAX_VALUE, text, n)


cdef int encode_integer(char* out, object value, object key) except -1:
    # Outside 64 bits an integer is taken as the nearest double, as a JSON reader would have done.
    cdef int overflow = 0
    cdef long long small = PyLong_AsLongLongAndOverflow(value, &overflow)
    cdef double large
    if overflow == 0:
        return snprintf(out, C_MAX_VALUE, b"%lld", small)
    if overflow > 0:
        try:
            return snprintf(out, C_MAX_VALUE, b"%llu", PyLong_AsUnsignedLongLong(value))
        except OverflowError:
            pass
    try:
        large = PyLong_AsDouble(value)
    except OverflowError:
        raise InvalidPattern(f"the value of {shown(key)} is not a finite number") from None
    return encode_double(out, large, key)


cdef int encode_filter(Filter* f, object key, object value, bint wildcards) except -1:
    cdef bint star_key
    if not PyUnicode_Check(key):
        raise InvalidPattern(f"the key {shown(key)} is not a string")
    star_key = key == "*"
    if PyUnicode_Check(value):
        if value == "*":
            if not wildcards:
                raise InvalidWildcard(f"the value of {shown(key)} is the wildcard '*', which is not allowed here")
            f.key_size = 1 if star_key else encode_text(f.key, C_MAX_KEY, key, key, True)
            if star_key:
                f.key[0] = c'*'
            f.value[0] = c'*'
            f.value_size = 1
            return 0
        if star_key:
            raise InvalidPattern("the key '*' takes only the value '*'")
        f.value_size = encode_text(f.value, C_MAX_VALUE, value, key, False)
    elif star_key:
        raise InvalidPattern("the key '*' takes only the value '*'")
    elif PyBool_Check(value):
        f.value_size = 4 if value else 5
        memcpy(f.value, b"true" if value else b"false", f.value_size)
    elif PyLong_Check(value):
        f.value_size = encode_integer(f.value, value, key)
    elif PyFloat_Check(value):
        f.value_size = encode_double(f.value, PyFloat_AS_DOUBLE(value), key)
    else:
        kind = {"NoneType": "null", "list": "a list", "tuple": "a list", "dict": "an object"}.get(
            type(value).__name__, f"a {type(value).__name__}")
        raise InvalidPattern(f"the value of {shown(key)} is {kind}; use a string, a number, true or false")
    f.key_size = encode_text(f.key, C_MAX_KEY, key, key, True)
    return 0


def canonical(dict filters not None, bint wildcards=False):
    """Turn filters into their channel.

    Args:
        filters: keys and values as the pattern's author wrote them; at most `MAX_FILTERS`.
        wildcards: whether ``*`` may stand in it, as in a subscription.

    Returns:
        The channel: ``key:value`` pairs joined by ``|``, percent-encoded, sorted by encoded key. ASCII only.

    Raises:
        InvalidPattern: a rule is broken; the text names the filter.

    Cost:
        One pass over the text, an insertion sort of the filters, one allocation.
    """
    cdef Filter parts[C_MAX_FILTERS]
    cdef int order[C_MAX_FILTERS]
    cdef char channel[C_MAX_CHANNEL]
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0
    cdef int count = 0, size = 0, i, j
    cdef Filter* f
    if len(filters) == 0:
        raise InvalidPattern("a pattern needs at least one filter")
    if len(filters) > C_MAX_FILTERS:
        raise InvalidPattern(f"a pattern has at most {C_MAX_FILTERS} filters, not {len(filters)}")
    while PyDict_Next(filters, &position, &key, &value):
        encode_filter(&parts[count], <object> key, <object> value, wildcards)
        i = count
        while i > 0 and compare_keys(&parts[count], &parts[order[i - 1]]) < 0:
            order[i] = order[i - 1]
            i -= 1
        order[i] = count
        count += 1
    for j in range(count):
        f = &parts[order[j]]
        if size + f.key_size + f.value_size + (2 if j else 1) > C_MAX_CHANNEL:
            raise InvalidPattern(f"the pattern is longer than {C_MAX_CHANNEL} bytes as a channel")
        if j:
            channel[size] = c'|'
            size += 1
        memcpy(channel + size, f.key, f.key_size)
        size += f.key_size
        channel[size] = c':'
        size += 1
        memcpy(channel + size, f.value, f.value_size)
        size += f.value_size
    return PyBytes_FromStringAndSize(channel, size)


def channel_id(bytes channel not None):
    """Return the id of a channel: the first 8 hex digits of its MD5, a label and never a key."""
    cdef char out[8]
    rh_id(out, <const uint8_t*> PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel))
    return PyUnicode_FromStringAndSize(out, 8)
