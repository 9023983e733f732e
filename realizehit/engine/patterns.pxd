# Patterns as channels: the bodies of the module's functions for patterns.
#
# Called with what a pattern's author wrote, or with channels and shapes that may be anything. Texts are built in arrays
# on the stack, so that a call allocates its result only. ValueError is all that is raised, MemoryError aside.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject

from realizehit.engine.filters cimport C_MAX_CHANNEL, C_MAX_FILTERS, Filter, compare_keys, encode_filter
from realizehit.engine.shapes cimport Split, has_reserved, put_filter, split_channel, write_projection, write_shape


cdef inline int encode_channel(char* channel, dict filters, bint wildcards, PyObject** wildcard) except -1:
    """Write the channel of some filters to `channel`, of `C_MAX_CHANNEL` bytes; return its length.

    Returns 0 for a wildcard that is not allowed, with its key, borrowed from `filters`, in `wildcard`.
    """
    cdef Filter parts[C_MAX_FILTERS]
    cdef int order[C_MAX_FILTERS]
    cdef PyObject* key
    cdef PyObject* value
    cdef Py_ssize_t position = 0
    cdef int count = 0, size = 0, i, j
    cdef Filter* f
    if len(filters) == 0:
        raise ValueError("a pattern needs at least one filter")
    if len(filters) > C_MAX_FILTERS:
        raise ValueError(f"a pattern has at most {C_MAX_FILTERS} filters, not {len(filters)}")
    while PyDict_Next(filters, &position, &key, &value):
        if encode_filter(&parts[count], <object> key, <object> value, wildcards):
            wildcard[0] = key
            return 0
        i = count
        while i > 0 and compare_keys(&parts[count], &parts[order[i - 1]]) < 0:
            order[i] = order[i - 1]
            i -= 1
        order[i] = count
        count += 1
    for j in range(count):
        f = &parts[order[j]]
        size = put_filter(channel, size, f.key, f.key_size, f.value, f.value_size)
        if size < 0:
            raise ValueError(f"the pattern is longer than {C_MAX_CHANNEL} bytes as a channel")
    return size


cdef inline bytes shape_text(bytes channel):
    """Return a subscription's shape; ValueError for text that is not a channel."""
    cdef Split split
    cdef char out[C_MAX_CHANNEL]
    cdef int size = -1
    if split_channel(&split, PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)):
        size = write_shape(out, &split)
    if size < 0:
        raise ValueError(f"{channel[:80]!r} is not a channel")
    return PyBytes_FromStringAndSize(out, size)


cdef inline bint split_publication(Split* out, bytes channel) noexcept:
    """Find the filters of what is published to; false where it projects to nothing by any shape."""
    return (split_channel(out, PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)) and not has_reserved(out))


cdef inline int write_projection_by(char* out, const Split* channel, bytes shape) noexcept:
    """Write what a publication projects to by a shape to `out`, of `C_MAX_CHANNEL` bytes; return its length, or -1."""
    cdef Split of_shape
    if not split_channel(&of_shape, PyBytes_AS_STRING(shape), PyBytes_GET_SIZE(shape)):
        return -1
    return write_projection(out, channel, &of_shape)
