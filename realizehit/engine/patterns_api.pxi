# What Python sees of patterns: channels, ids, shapes and projections. Included by `_fanout.pyx`, and so a part of that
# module.
#
# Each rule that a pattern can break has a text of its own, which names the filter; nothing else is ever raised.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from realizehit.engine.filters cimport C_MAX_CHANNEL, C_MAX_FILTERS, C_MAX_KEY, C_MAX_VALUE, shown
from realizehit.engine.patterns cimport encode_channel, shape_text, split_publication, write_projection_by
from realizehit.engine.shapes cimport Split
from realizehit.engine.text cimport rh_id

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void* PyUnicode_1BYTE_DATA(str text)

MAX_FILTERS = C_MAX_FILTERS
MAX_KEY = C_MAX_KEY
MAX_VALUE = C_MAX_VALUE
MAX_CHANNEL = C_MAX_CHANNEL


class InvalidPattern(ValueError):
    """A pattern breaks a rule; `wildcard` is true when the rule is that ``*`` is not allowed here."""

    wildcard = False


class InvalidWildcard(InvalidPattern):
    wildcard = True


def canonical(dict filters not None, bint wildcards=False):
    """Turn filters into their channel.

    Args:
        filters: keys and values as the pattern's author wrote them; at most `MAX_FILTERS`.
        wildcards: whether the value ``*`` is allowed, as in a subscription.

    Returns:
        The channel: ``key:value`` pairs joined by ``|``, percent-encoded, sorted by encoded key. ASCII only.

    Raises:
        InvalidPattern: a rule is broken; the text names the filter.

    Cost:
        One pass over the text, an insertion sort of the filters, one allocation.
    """
    cdef char channel[C_MAX_CHANNEL]
    cdef PyObject* wildcard = NULL
    cdef int size
    try:
        size = encode_channel(channel, filters, wildcards, &wildcard)
    except ValueError as error:
        raise InvalidPattern(str(error)) from None
    if size == 0:
        raise InvalidWildcard(f"the value of {shown(<object> wildcard)} is the wildcard '*'")
    return channel[:size]


def channel_id(bytes channel not None):
    """Return the id of a channel: the first 8 hex digits of its MD5, a label and never a key."""
    cdef str label = PyUnicode_New(8, 127)
    rh_id(<char*> PyUnicode_1BYTE_DATA(label), <const uint8_t*> PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel))
    return label


def shape_of(bytes channel not None):
    """Return a subscription's shape: its channel with ``=`` in the place of each value that is fixed.

    Args:
        channel: canonical text, e.g. ``b"channel:*|kind:news"``.

    Returns:
        E.g. ``b"channel:*|kind:="``.

    Raises:
        ValueError: it is not a channel.
    """
    return shape_text(channel)


def project(bytes channel not None, bytes shape not None):
    """Return the channel of the one wildcard subscription of a shape that a publication matches.

    Args:
        channel: what is published to, in canonical text and without a star.
        shape: what `shape_of` returned.

    Returns:
        The channel, or None: a key of the shape is missing, the shape is closed and there are further keys, the
        publication is of the server's own, or no channel can be that long.

    Cost:
        One pass over both texts, one allocation where it exists.
    """
    cdef Split split
    cdef char out[C_MAX_CHANNEL]
    cdef int size = write_projection_by(out, &split, shape) if split_publication(&split, channel) else -1
    return out[:size] if size >= 0 else None


def projections(bytes channel not None, tuple shapes not None):
    """Return what `project` returns for each of some shapes, without those for which there is nothing.

    Cost:
        One pass over the channel, one over each shape, and over the channel again for each that might apply.
    """
    cdef Split split
    cdef char out[C_MAX_CHANNEL]
    cdef int size
    cdef bytes shape
    cdef list found = []
    if split_publication(&split, channel):
        for shape in shapes:
            size = -1 if shape is None else write_projection_by(out, &split, shape)
            if size >= 0:
                found.append(out[:size])
    return found
