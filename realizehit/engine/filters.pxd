# A pattern's filters as canonical text. Inline functions for `_fanout.pyx`.
#
# Each rule that a filter can break is a ValueError with a text of its own, which names the filter.

from cpython.bool cimport PyBool_Check
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsDouble, PyLong_Check
from cpython.mem cimport PyMem_Free
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport isfinite
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy

from realizehit.engine.text cimport number_to_text, percent_encode

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size)    # NULL with an error set
    void PyErr_Clear()
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    Py_UCS4 PyUnicode_READ_CHAR(object text, Py_ssize_t index)
    bint PyErr_ExceptionMatches(object kind)
    char* PyOS_double_to_string(double value, char code, int precision, int flags, int* kind) except NULL
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1
    unsigned long long PyLong_AsUnsignedLongLong(object value) except? 0xFFFFFFFFFFFFFFFF

cdef enum:
    C_MAX_FILTERS = 16
    C_MAX_KEY = 64          # encoded bytes
    C_MAX_VALUE = 256       # encoded bytes
    C_MAX_CHANNEL = 1024    # bytes


cdef struct Filter:
    char key[C_MAX_KEY]
    char value[C_MAX_VALUE]
    int key_size
    int value_size


cdef inline int compare_keys(const Filter* a, const Filter* b) noexcept nogil:
    cdef int order = a.key[0] - b.key[0]    # mostly decides; what is encoded is ASCII
    if order == 0:
        order = memcmp(a.key, b.key, a.key_size if a.key_size < b.key_size else b.key_size)
    return order if order != 0 else a.key_size - b.key_size


cdef inline bint is_star(object text):
    return PyUnicode_GET_LENGTH(text) == 1 and PyUnicode_READ_CHAR(text, 0) == c'*'


cdef inline str shown(object key):
    """A key as an error text shows it: short, and printable whatever it holds."""
    cdef str text = ascii(key)
    return text if len(text) <= 80 else text[:77] + "..."


cdef inline int encode_text(char* out, int room, object text, object key, bint is_key) except -1:
    cdef Py_ssize_t size
    cdef const char* utf8
    cdef int n
    # No `try` here nor in the loop that calls this: each would save and restore the state of exceptions.
    utf8 = PyUnicode_AsUTF8AndSize(text, &size)
    if utf8 == NULL:
        if not PyErr_ExceptionMatches(UnicodeEncodeError):
            return -1   # no memory; the error is set
        PyErr_Clear()
        raise ValueError(f"{'the key' if is_key else 'the value of'} {shown(key)} holds a lone surrogate")
    if size == 0:
        raise ValueError("a key is empty" if is_key else f"the value of {shown(key)} is empty")
    n = percent_encode(out, room, utf8, size)
    if n < 0:
        raise ValueError(f"{'the key' if is_key else 'the value of'} {shown(key)} is longer than {room} bytes "
                         "when percent-encoded")
    return n


cdef inline int encode_double(char* out, double value, object key) except -1:
    cdef char text[32]
    cdef char* shortest
    cdef int n
    if not isfinite(value):
        raise ValueError(f"the value of {shown(key)} is not a finite number")
    shortest = PyOS_double_to_string(value, b'r', 0, 0, NULL)
    n = number_to_text(text, shortest)
    PyMem_Free(shortest)
    return percent_encode(out, C_MAX_VALUE, text, n)


cdef inline int encode_integer(char* out, object value, object key) except -1:
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
        raise ValueError(f"the value of {shown(key)} is not a finite number") from None
    return encode_double(out, large, key)


# Returns 1 for a wildcard that is not allowed, 0 otherwise.
cdef inline int encode_filter(Filter* f, object key, object value, bint wildcards) except -1:
    cdef bint star_key
    if not PyUnicode_Check(key):
        raise ValueError(f"the key {shown(key)} is not a string")
    star_key = is_star(key)
    if PyUnicode_Check(value):
        if is_star(value):
            if not wildcards:
                return 1
            f.key_size = 1 if star_key else encode_text(f.key, C_MAX_KEY, key, key, True)
            if star_key:
                f.key[0] = c'*'
            f.value[0] = c'*'
            f.value_size = 1
            return 0
        if star_key:
            raise ValueError("the key '*' takes only the value '*'")
        f.value_size = encode_text(f.value, C_MAX_VALUE, value, key, False)
    elif star_key:
        raise ValueError("the key '*' takes only the value '*'")
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
        raise ValueError(f"the value of {shown(key)} is {kind}; use a string, a number, true or false")
    f.key_size = encode_text(f.key, C_MAX_KEY, key, key, True)
    return 0
