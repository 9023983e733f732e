# The compiled core: patterns become channels and ids, publications become frames, frames reach connections.
#
# Imports nothing of the package but its own C parts. Sections, in the order a message takes them:
#   1. patterns       filters -> channel and id
#   2. the engine     what Python sees of it
#   3. registry       channel -> subscribers
#   4. dispatch       publication -> frames in queues
#   5. flush          queues -> sockets
#   6. input          sockets -> callbacks
#   7. timers         heartbeats and deadlines
#   8. connections    their beginning and end

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void* PyUnicode_1BYTE_DATA(str text)

from realizehit.engine.conn cimport (
    BLOCKED, CHUNK, CONN_CLOSING, CONN_DEAD, CONN_FREE, CONN_OPEN, CONN_SLOW, DISCARD_INPUT, HALF_CLOSED,
    IS_TRANSPORT, LAST_FRAME, LISTED, ON_BULK, ON_OVER, ON_PYTHON, ON_SLOW, ON_URGENT, OVERDUE, PEER_DONE, PINGED,
    RELEASE_PENDING, SEEN, SLOW_PARSER, TLS, Conn, Input, Subscriber, Subscription, handle_of, list_filled, list_grow,
    list_pop, list_prefetch, list_push, rh_prefetch, slot_at, slot_find, slot_release, slot_take, slots_clear,
    slots_grow,
)
from realizehit.engine.engineio cimport engineio_frame, polling_3_frame, polling_4_frame
from realizehit.engine.filters cimport (
    C_MAX_CHANNEL, C_MAX_FILTERS, C_MAX_KEY, C_MAX_VALUE, Filter, compare_keys, encode_filter, shown,
)
from realizehit.engine.frames cimport (
    FRAMING_DEFLATE, FRAMING_ENGINEIO_3, FRAMING_ENGINEIO_4, FRAMING_POLLING_3, FRAMING_POLLING_4, FRAMING_RESP,
    FRAMING_SSE, FRAMING_SSE_CHUNKED, FRAMING_WEBSOCKET, FRAMINGS, OP_BINARY, OP_CLOSE, OP_CONTINUATION, OP_PING,
    OP_PONG, OP_TEXT, PARSED_PART, PARSED_WHOLE, PARTIAL_MAX, RSV1, Frame, Incoming, Parsed, frame_build, frame_bytes,
    frame_new, frame_release, is_close_code, is_event_stream, is_websocket, parse_incoming, websocket_header,
)
from realizehit.engine.input cimport input_bytes, input_drop, input_extend, input_keep, input_take
from realizehit.engine.memory cimport RH_DEBUG, Pool, alive, pool_clear, pool_give, pool_take
from realizehit.engine.queue cimport QUEUE_MAX, queue_append, queue_at, queue_drop, queue_move, queue_written
from realizehit.engine.resp cimport resp_message
from realizehit.engine.shapes cimport Split, has_reserved, split_channel, write_projection, write_shape
from realizehit.engine.sockets cimport (
    RH_HAVE_EPOLL, rh_close, rh_epoll_add, rh_epoll_arm, rh_epoll_create, rh_epoll_wait, rh_event, rh_event_in,
    rh_event_out, rh_event_tag, rh_half_close, rh_has_sent, rh_is_quiet, rh_recv, rh_unsent, rh_user_timeout,
    rh_would_block,
)
from realizehit.engine.sse cimport chunk_frame, sse_frame
from realizehit.engine.text cimport is_utf8, is_utf8_start, rh_id, utf8_complete
from realizehit.engine.wheel cimport NIL, WHEEL, wheel_set, wheel_unset
from realizehit.engine.writer cimport write_some, writer_clear, writer_forget, writer_init

import os
import zlib


# --- 1. Patterns ------------------------------------------------------------------------------------------------------
# In: a dict of filters. Out: the canonical channel, as bytes, and its id. Each rule that a pattern can break has a
# text of its own, which names the filter; nothing else is ever raised.

cdef extern from "Python.h":
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 largest)
    void* PyUnicode_1BYTE_DATA(str text)

MAX_FILTERS = C_MAX_FILTERS
MAX_KEY = C_MAX_KEY
MAX_VALUE = C_MAX_VALUE
MAX_CHANNEL = C_MAX_CHANNEL


class InvalidPattern(ValueError):
    """A pattern breaks a rule; `wildcard` is true when the rule is that ``*`` is not served here."""

    wildcard = False


class InvalidWildcard(InvalidPattern):
    wildcard = True


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
    try:
        while PyDict_Next(filters, &position, &key, &value):
            if encode_filter(&parts[count], <object> key, <object> value, wildcards):
                raise InvalidWildcard(
                    f"the value of {shown(<object> key)} is the wildcard '*'; wildcards are not supported yet")
            i = count
            while i > 0 and compare_keys(&parts[count], &parts[order[i - 1]]) < 0:
                order[i] = order[i - 1]
                i -= 1
            order[i] = count
            count += 1
    except InvalidWildcard:
        raise
    except ValueError as error:
        raise InvalidPattern(str(error)) from None
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
        ValueError: it is no channel.
    """
    cdef Split split
    cdef char out[C_MAX_CHANNEL]
    cdef int size = -1
    if split_channel(&split, PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)):
        size = write_shape(out, &split)
    if size < 0:
        raise ValueError(f"{channel[:80]!r} is no channel")
    return PyBytes_FromStringAndSize(out, size)


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
    cdef Split of_channel, of_shape
    cdef char out[C_MAX_CHANNEL]
    cdef int size
    if not split_channel(&of_channel, PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)):
        return None
    if has_reserved(&of_channel) or not split_channel(&of_shape, PyBytes_AS_STRING(shape), PyBytes_GET_SIZE(shape)):
        return None
    size = write_projection(out, &of_channel, &of_shape)
    return PyBytes_FromStringAndSize(out, size) if size >= 0 else None


def projections(bytes channel not None, tuple shapes not None):
    """Return what `project` returns for each of some shapes, without those for which there is nothing.

    Cost:
        One pass over the channel, one over each shape, and over the channel again for each that might apply.
    """
    cdef Split of_channel, of_shape
    cdef char out[C_MAX_CHANNEL]
    cdef int size
    cdef bytes shape
    cdef list found = []
    if not split_channel(&of_channel, PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel)):
        return found
    if has_reserved(&of_channel):
        return found
    for shape in shapes:
        if shape is None or not split_channel(&of_shape, PyBytes_AS_STRING(shape), PyBytes_GET_SIZE(shape)):
            continue
        size = write_projection(out, &of_channel, &of_shape)
        if size >= 0:
            found.append(PyBytes_FromStringAndSize(out, size))
    return found


# --- 2. The engine ----------------------------------------------------------------------------------------------------
# One for each event loop. Python adopts connections into it, subscribes them and dispatches publications; it calls back
# with what clients send. Callbacks run when an entry point is about to return, never inside a dispatch or a flush.

cdef enum:
    INBOX = 65536               # bytes read from a socket at once
    CALLBACKS = 4096            # callbacks that wait; `poll` lets them run before it reads on
    PART = 65536                # bytes that a transport is given at once
    BENEATH = 131072            # bytes beneath a transport that encrypts, while it takes no more: 64 KiB and a part
    TURNS = 4                   # of the loop, in which what was written should have gone
    DISCARDED = 1 << 20         # bytes that a connection may send while it is closing
    EVENTS = 256                # readiness events taken at once; epoll keeps the others
    AHEAD = 8                   # connections that are fetched into the cache ahead of their turn
    URGENT_MAX = 64             # subscribers; a channel with more is a broadcast, which waits behind the others
    LATE_TICKS = 4              # ticks that are made up for; a longer hold-up is left out of all deadlines
    BULK_SHARE = 4              # every fourth write goes to a broadcast even while urgent ones wait
    SLICES = 20                 # after so many in a row a flush gives way in any case
    DEFLATE_MIN = 64            # bytes; a shorter message goes uncompressed, which the extension allows

cdef enum:  # what `Engine.charge` answers
    INPUT_PAID = 0
    INPUT_REFUSED = 1
    INPUT_HOPELESS = 2

HAVE_EPOLL = bool(RH_HAVE_EPOLL)
WEBSOCKET = FRAMING_WEBSOCKET
DEFLATE = FRAMING_DEFLATE
ENGINEIO_4 = FRAMING_ENGINEIO_4
ENGINEIO_3 = FRAMING_ENGINEIO_3
POLLING_4 = FRAMING_POLLING_4
POLLING_3 = FRAMING_POLLING_3
SSE = FRAMING_SSE
SSE_CHUNKED = FRAMING_SSE_CHUNKED
RESP = FRAMING_RESP
MAX_QUEUE_MESSAGES = QUEUE_MAX

# What `Engine.charge` answers.
PAID = INPUT_PAID
REFUSED = INPUT_REFUSED
HOPELESS = INPUT_HOPELESS

# What `Engine.subscribe` answers.
ADDED = 0
ALREADY = 1
COLLISION = 2
FULL = 3
GONE = 4


def debug_counts():
    """Return how many connections, frames, channels and subscriptions exist, or None without REALIZEHIT_DEBUG=1."""
    if not RH_DEBUG:
        return None
    return {"connections": alive.connections, "frames": alive.frames, "channels": alive.channels,
            "subscriptions": alive.subscriptions}


cdef inline int64_t clock_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec


cdef inline uint32_t number_of(const char* hexits) noexcept nogil:
    """The 8 hex digits of an id as a number."""
    cdef uint32_t value = 0
    cdef int i
    for i in range(8):
        value = (value << 4) | <uint32_t> (hexits[i] - c'0' if hexits[i] <= c'9' else hexits[i] - c'a' + 10)
    return value


cdef Frame* frame_of(Pool* pool, bytes data) except NULL:
    """The bytes as a frame, held once."""
    cdef Frame* f = frame_new(pool, len(data))
    if f == NULL:
        raise MemoryError()
    memcpy(frame_bytes(f), PyBytes_AS_STRING(data), len(data))
    return f


cdef void* shrunk(Pool* pool, void* items, size_t room, size_t count, size_t item) noexcept:
    """Move `count` entries to an array of half the room, more than one; the same array when there is no memory."""
    cdef void* moved = pool_take(pool, room // 2 * item)
    if moved == NULL:
        return items
    memcpy(moved, items, count * item)
    pool_give(pool, items, room * item)
    return moved


cdef void* resize(Pool* pool, void* items, void* only, size_t room, size_t wanted, size_t count,
                  size_t item) except NULL:
    """Move `count` entries to an array with `wanted` of them; one entry lives in `only`, inside its owner."""
    cdef void* moved = only if wanted == 1 else pool_take(pool, wanted * item)
    if moved == NULL:
        raise MemoryError()
    if count:
        memcpy(moved, items, count * item)
    if room > 1:
        pool_give(pool, items, room * item)
    return moved


@cython.final
@cython.no_gc
cdef class Channel:
    """A channel that has subscribers: they stand in an array without gaps."""


@cython.final
cdef class Lingering:
    """Ends a TLS connection in one of the loop's next turns, when its last frames have gone; asyncio would wait."""

    def __cinit__(self, Engine engine, uint64_t handle):
        self.engine = engine
        self.handle = handle
        self.turns = TURNS

    def __call__(self):
        self.engine.linger(self)


@cython.final
cdef class Engine:
    """Connections, the channels that they are subscribed to, and the way of a message from the one to the other.

    Args:
        call_soon: the event loop's ``call_soon``; asks for a further slice of a flush.
        on_error: called with an exception that a callback raised.
        max_queue_bytes: bytes that may wait for a connection; one message may pass it while nothing else waits.
        max_queue_messages: messages that may wait for a connection, at most `MAX_QUEUE_MESSAGES`.
        grace: seconds for which a connection may be over these two while it takes what it is sent; 0 for none.
        stall: seconds without a byte taken after which it does not.
        burst_bytes: bytes that may wait for a connection meanwhile.
        burst_messages: messages that may wait for it meanwhile.
        burst_total: bytes that messages and queues of all connections may take meanwhile, each message counted once.
        max_message: bytes of a message that a client may send; longer ones go to the handler's ``on_bytes``.
        input_rate: frames per second that a client may send; 0 for any number. See `charge`.
        input_burst: frames that it may send at once.
        input_strikes: frames refused, less those allowed since, after which it is closed; at most 255.
        heartbeat_interval: seconds between pings of a connection.
        heartbeat_timeout: seconds that a connection may stay silent after a ping.
        close_timeout: seconds that a connection may take to end after its close frame.
        slice_seconds: how long a flush may hold the event loop while somebody else waits for it.
        loop_fd: the descriptor on which the event loop itself waits, to see that; -1 where it is not known, and a flush
            then gives way after every slice.
        check_utf8: whether a payload that is not UTF-8 is dropped; false where the receivers check it themselves.
        epoll: false to do without an epoll set of its own, as on platforms that have none.

    Attributes:
        tick_interval: seconds between the calls of `tick` that the owner makes.
        on_vacant: called with a channel's name after its last subscriber left; set by the owner.

    A connection's handler has ``on_text(handle, data)``, ``on_binary(handle, data)``, ``on_bytes(handle, data)`` for
    input that the engine leaves to Python, and ``on_gone(handle)``.

    Reentrancy: everything here is for the event loop's thread. Callbacks may call any method.
    """

    def __cinit__(self):
        memset(&self.pool, 0, sizeof(self.pool))
        memset(&self.n, 0, sizeof(self.n))
        memset(self.pings, 0, sizeof(self.pings))
        self.epoll = -1

    def __init__(self, call_soon, on_error, *, max_queue_bytes=1 << 20, max_queue_messages=4096,
                 double grace=0.0, double stall=5.0, burst_bytes=0, burst_messages=0, burst_total=1 << 26,
                 max_message=16384,
                 double input_rate=0.0, int input_burst=1, int input_strikes=100,
                 heartbeat_interval=25.0, heartbeat_timeout=20.0, close_timeout=5.0, slice_seconds=0.0005,
                 int loop_fd=-1,
                 check_utf8=True, epoll=True):
        cdef int i
        if not 1 <= max_queue_bytes <= 1 << 30:
            raise ValueError(f"max_queue_bytes must be 1 to {1 << 30}, not {max_queue_bytes}")
        if not 1 <= max_queue_messages <= QUEUE_MAX:
            raise ValueError(f"max_queue_messages must be 1 to {QUEUE_MAX}, not {max_queue_messages}")
        self.call_soon = call_soon
        self.on_error = on_error
        self.on_vacant = None
        self.pending = []
        self.moved = {}
        self.channels = {}
        self.max_queue_bytes = max_queue_bytes
        self.max_queue_messages = max_queue_messages
        self.max_message = max_message
        if not 0 <= input_rate <= 1e9:
            raise ValueError(f"input_rate must be 0 to 1e9, not {input_rate}")
        if input_burst < 1:
            raise ValueError(f"input_burst must be 1 or more, not {input_burst}")
        if not 1 <= input_strikes <= 255:
            raise ValueError(f"input_strikes must be 1 to 255, not {input_strikes}")
        self.input_strikes = <uint8_t> input_strikes
        self.input_step = max(1, <int64_t> (1e9 / input_rate)) if input_rate else 0
        self.input_most = (input_burst - 1) * self.input_step
        self.slice_ns = <int64_t> (slice_seconds * 1e9)
        self.loop_fd = loop_fd
        self.check_utf8 = check_utf8
        self.tick_interval = max(0.01, min(1.0, heartbeat_interval / 8, heartbeat_timeout / 8, close_timeout / 4))
        self.ping_ticks = max(1, round(heartbeat_interval / self.tick_interval))
        self.pong_ticks = max(1, round(heartbeat_timeout / self.tick_interval))
        self.close_ticks = max(1, round(close_timeout / self.tick_interval))
        self.burst_bytes = min(max(burst_bytes, max_queue_bytes), 1 << 30)
        self.burst_messages = min(max(burst_messages, max_queue_messages), QUEUE_MAX)
        self.burst_total = burst_total
        self.watch_bytes = max(1, max_queue_bytes // 2) if grace else max_queue_bytes
        self.watch_messages = max(1, max_queue_messages // 2) if grace else max_queue_messages
        self.user_timeout = <uint32_t> max(1.0, (heartbeat_interval + heartbeat_timeout) * 1000)
        self.grace_ticks = max(1, round(grace / self.tick_interval)) if grace else 0
        self.stall_ticks = max(1, round(min(stall, grace) / self.tick_interval))
        self.started = -1
        for i in range(WHEEL):
            self.wheel.buckets[i] = NIL
        self.inbox = <uint8_t*> malloc(PARTIAL_MAX + INBOX)
        self.events = <rh_event*> malloc(EVENTS * sizeof(rh_event))
        if not (writer_init(&self.writer) and self.inbox and self.events):
            raise MemoryError()
        try:
            self.pings[FRAMING_WEBSOCKET] = frame_of(&self.pool, b"\x89\0")
            self.pings[FRAMING_DEFLATE] = frame_of(&self.pool, b"\x89\0")
            self.pings[FRAMING_ENGINEIO_4] = frame_of(&self.pool, b"\x81\x012")
            self.pings[FRAMING_POLLING_4] = frame_of(&self.pool, b"2\x1e")
            self.pings[FRAMING_SSE] = frame_of(&self.pool, b":\n\n")
            self.pings[FRAMING_SSE_CHUNKED] = frame_of(&self.pool, b"3\r\n:\n\n\r\n")
        finally:
            self.count_pings(-1)
        if epoll and RH_HAVE_EPOLL:
            self.epoll = rh_epoll_create()
            if self.epoll < 0:
                raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        # `close` has ended the connections; an engine that was never closed gives back its memory all the same.
        cdef int i
        slots_clear(&self.slots)
        for i in range(LISTS):
            free(self.lists[i].items)
        self.count_pings(1)
        for i in range(FRAMINGS):
            if self.pings[i] != NULL:
                frame_release(&self.pool, self.pings[i])
        writer_clear(&self.writer)
        free(self.inbox)
        free(self.events)
        pool_clear(&self.pool)
        if self.epoll >= 0:
            rh_close(self.epoll)

    cdef void count_pings(self, int sign) noexcept:
        # What an engine has for as long as it exists does not count as alive.
        cdef int i
        for i in range(FRAMINGS):
            if RH_DEBUG and self.pings[i] != NULL:
                alive.frames += sign

    @property
    def owns_sockets(self):
        """Whether `adopt` can be used; otherwise connections keep their transport and come by `attach`."""
        return self.epoll >= 0

    def fileno(self):
        """Return the descriptor to watch for reading, whereupon `poll` is to be called; -1 without epoll."""
        return self.epoll

    def adopt(self, int fd, handler, bytes head=b"", bytes rest=b"", int framing=WEBSOCKET):
        """Take over a connected socket.

        Args:
            fd: its descriptor, non-blocking; the engine's from here on, also where this raises.
            handler: who is told what the client sends.
            head: bytes to send first, such as the response of the opening handshake.
            rest: bytes that the client sent already.
            framing: how messages look on it.

        Returns:
            The connection's handle, which is never used again for another one.

        Raises:
            OSError: the descriptor cannot be watched.
        """
        cdef Conn* c
        try:
            c = self.create(handler, framing)
        except BaseException:
            rh_close(fd)
            raise
        c.fd = fd
        if framing != FRAMING_RESP:
            rh_user_timeout(fd, self.user_timeout)
        if rh_epoll_add(self.epoll, fd, handle_of(c)) < 0:
            error = errno
            self.mark_closed(c)
            self.later()
            raise OSError(error, os.strerror(error))
        return self.begin(c, head, rest)

    def attach(self, transport, handler, bytes head=b"", bytes rest=b"", int framing=WEBSOCKET, int fd=-1,
               bint tls=False):
        """Take a connection whose bytes go through a Python transport, such as one with TLS.

        The transport's protocol calls `feed`, `pause`, `resume` and `lost`.

        Args:
            transport: has ``write``, ``close`` and ``abort``, as asyncio's have.
            fd: the descriptor of its socket, which stays the transport's; it then has ``get_write_buffer_size`` too,
                and ``write_eof`` unless it encrypts.
            tls: whether it encrypts; it takes no more as soon as something waits in it (``set_write_buffer_limits``).

        Returns:
            The connection's handle.
        """
        cdef Conn* c = self.create(handler, framing)
        c.flags |= IS_TRANSPORT
        if tls:
            c.flags |= TLS
        c.fd = fd
        if fd >= 0:
            rh_user_timeout(fd, self.user_timeout)
        Py_INCREF(transport)
        c.transport = <PyObject*> transport
        return self.begin(c, head, rest)

    cdef object begin(self, Conn* c, bytes head, bytes rest):
        cdef uint64_t handle = handle_of(c)
        try:
            if head:
                self.send_frame(c, frame_of(&self.pool, head))
            if rest:
                self.depth += 1     # no callback before the caller knows the handle
                try:
                    self.feed(handle, rest)
                finally:
                    self.depth -= 1
            self.later()
        except BaseException:
            self.mark_closed(c)    # nobody will ever know its handle
            self.recover_after_raise()
            raise
        return handle

    def feed(self, uint64_t handle, bytes data not None):
        """Take bytes that a client sent, for a connection with a transport."""
        cdef Conn* c = self.find(handle)
        cdef Py_ssize_t done = 0, size = len(data), part
        self.depth += 1
        try:
            # Through the inbox, since frames are unmasked in place and `bytes` must not change.
            while done < size and c != NULL:
                part = min(<Py_ssize_t> INBOX, size - done)
                memcpy(self.inbox + PARTIAL_MAX, PyBytes_AS_STRING(data) + done, part)
                done += part
                c.flags |= SEEN
                if c.state == CONN_OPEN:
                    self.consume(c, self.inbox + PARTIAL_MAX, part)
                elif (c.flags & IS_TRANSPORT and c.flags & LAST_FRAME and c.count == 0
                        and self.has_answered(c, self.inbox + PARTIAL_MAX, part)):
                    # Without a half-close the peer's answer to our close frame is what ends the connection.
                    self.mark_closed(c)
                    break
        except BaseException:
            self.mark_closed(c)    # a part of what it sent is lost
            self.depth -= 1
            self.recover_after_raise()
            raise
        self.depth -= 1
        self.settle()

    def lost(self, uint64_t handle):
        """Learn that a connection's transport is gone."""
        cdef Conn* c = self.find(handle)
        if c != NULL:
            self.mark_closed(c)
            self.settle()

    def pause(self, uint64_t handle):
        """Stop writing to a transport whose buffer is full."""
        cdef Conn* c = self.find(handle)
        if c == NULL or c.flags & BLOCKED or not c.flags & IS_TRANSPORT:
            return
        c.flags |= BLOCKED
        self.n.blocked += 1
        if c.fd >= 0:
            c.unsent = rh_unsent(c.fd)
            size = (<object> c.transport).get_write_buffer_size() + (BENEATH if c.flags & TLS else 0)
            if self.find(handle) == c:
                self.put_outside(c, min(size, 1 << 30))

    def resume(self, uint64_t handle):
        """Write to a transport again."""
        cdef Conn* c = self.find(handle)
        if c != NULL and c.flags & BLOCKED and c.flags & IS_TRANSPORT:
            c.flags &= ~BLOCKED
            c.moved = self.wheel.now
            self.put_outside(c, 0)
            if c.count:
                self.make_dirty(c, True)
                self.later()

    def take(self, uint64_t handle):
        """Take what waits for a connection with a transport, instead of having it written there.

        Returns:
            Whole frames, concatenated; empty where nothing waits or the connection is gone.
        """
        cdef Conn* c = self.find(handle)
        if c == NULL or not c.flags & IS_TRANSPORT or c.count == 0:
            return b""
        return self.concatenated(c, 0)

    def send(self, uint64_t handle, bytes data not None, bint binary=False):
        """Send a message to one connection, such as the reply to an action, in the connection's framing.

        Args:
            data: for a text message valid UTF-8.
            binary: whether it goes out as binary, which only plain WebSockets have.

        Returns:
            False when the connection is gone or going.

        Cost: one frame; it goes out with whatever else waits for the connection.
        """
        cdef Conn* c = self.find(handle)
        if c == NULL or c.state != CONN_OPEN:
            return False
        if binary:
            self.send_frame(c, frame_build(&self.pool, OP_BINARY, PyBytes_AS_STRING(data), len(data), b"", 0))
        else:
            if c.framing == FRAMING_POLLING_3 and not is_utf8(<const uint8_t*> PyBytes_AS_STRING(data), len(data)):
                raise ValueError("the text is not UTF-8")
            self.send_frame(c, self.build(c.framing, NULL, b"", PyBytes_AS_STRING(data), len(data)))
        self.later()
        return True

    def send_bytes(self, uint64_t handle, bytes data not None):
        """Send bytes as they are, such as frames that a parser in Python made; as a chunk where all goes out in chunks.

        Returns:
            False when the connection is gone or going.
        """
        cdef Conn* c = self.find(handle)
        cdef Frame* f
        cdef char* out
        if c == NULL or c.state != CONN_OPEN:
            return False
        if c.framing != FRAMING_SSE_CHUNKED:
            self.send_frame(c, frame_of(&self.pool, data))
        elif len(data):  # an empty chunk would be the last one
            f = chunk_frame(&self.pool, len(data), &out)
            if f != NULL:
                memcpy(out, PyBytes_AS_STRING(data), len(data))
            self.send_frame(c, f)
        self.later()
        return True

    def disconnect(self, uint64_t handle, int code, str reason="", *, bint peer_done=False):
        """Close a connection: it leaves every channel now; the close frame goes out after what waits for it.

        Args:
            code: the close code; 1005 sends a close frame without one.
            reason: at most 123 bytes of UTF-8; what is over is cut.
            peer_done: the client's close frame came already.

        Returns:
            False when the connection is gone or going.
        """
        cdef Conn* c = self.find(handle)
        cdef bytes text
        if c == NULL or c.state != CONN_OPEN:
            return False
        text = reason.encode(errors="replace")[:123].decode(errors="ignore").encode()
        if peer_done:
            c.flags |= PEER_DONE
        self.close_with(c, code, text)
        self.later()
        return True

    def resume_fast_path(self, uint64_t handle):
        """Take a connection's input back from the parser in Python, which holds no part of a message any more."""
        cdef Conn* c = self.find(handle)
        if c != NULL:
            c.flags &= ~SLOW_PARSER

    def charge(self, uint64_t handle):
        """Count a frame of a client's input against its allowance (the generic cell rate algorithm).

        The engine counts what it reads itself, but not a whole text or binary message: whoever takes it calls this, so
        that a refused one can be answered. A ping that is refused is not answered.

        Returns:
            `PAID`; `REFUSED` where it is one too many; `HOPELESS` where so many more were refused than allowed that the
            connection is to be closed.
        """
        cdef Conn* c = self.find(handle)
        return INPUT_PAID if c == NULL else self.pay(c)

    def seen(self, uint64_t handle):
        """Note that a client showed itself where the engine does not read its input, as a polling request does."""
        cdef Conn* c = self.find(handle)
        if c != NULL:
            c.flags |= SEEN

    def splice(self, uint64_t handle, uint64_t other):
        """Let a connection go on over the socket or transport of another one, whose framing and handler it takes.

        The first keeps its handle and its subscriptions. What is queued on it is dropped, so it is emptied before; what
        is queued on the other stays queued. The other must have no subscriptions; its handle is not valid any more, and
        nobody is told of its end.

        Args:
            handle: the connection that goes on, which has a transport of its own; that one is closed.
            other: the connection that ends.

        Raises:
            ValueError: one of them is not open, or not as described.
            OSError: the other one's descriptor cannot be watched.
        """
        cdef Conn* c = self.find(handle)
        cdef Conn* o = self.find(other)
        if c == NULL or o == NULL or c == o or c.state != CONN_OPEN or o.state != CONN_OPEN:
            raise ValueError("both connections must be open")
        if not c.flags & IS_TRANSPORT or o.sub_count:
            raise ValueError("the first must have a transport, and the second no subscriptions")
        self.moved[other] = handle      # what it sent and has not been told yet
        if not o.flags & IS_TRANSPORT and rh_epoll_arm(self.epoll, o.fd, handle, (o.flags & BLOCKED) != 0) < 0:
            del self.moved[other]
            raise OSError(errno, os.strerror(errno))
        # Held to the end: what goes with the last reference may call the engine.
        transport, handler = <object> c.transport, <object> c.handler
        Py_DECREF(transport)
        Py_DECREF(handler)
        queue_drop(&self.pool, c, 0)
        c.fd, c.transport, c.handler, c.framing = o.fd, o.transport, o.handler, o.framing
        c.flags = (c.flags & LISTED) | (o.flags & (IS_TRANSPORT | BLOCKED | SLOW_PARSER | SEEN | TLS))
        c.outside, o.outside = o.outside, 0     # what is no socket's has nothing there
        c.moved, c.unsent = o.moved, o.unsent
        input_drop(&self.pool, c)
        c.input, o.input = o.input, NULL
        queue_move(c, o)
        wheel_unset(&self.wheel, &self.slots, o)
        self.start_heartbeat(c)
        # The other's slot is given back as at a burial, without its end being told.
        o.fd, o.transport, o.handler = -1, NULL, NULL
        o.state = CONN_DEAD
        self.open_count -= 1
        self.used_count -= 1
        if RH_DEBUG:
            alive.connections -= 1
        self.leave(o)   # it has no subscriptions, but may have the memory for some
        slot_release(&self.slots, o)
        if c.count and not c.flags & BLOCKED:
            self.make_dirty(c, True)
        self.later()
        transport.close()

    def is_open(self, uint64_t handle):
        """Tell whether a connection takes messages."""
        cdef Conn* c = self.find(handle)
        return c != NULL and c.state == CONN_OPEN

    def handles(self):
        """Return the handles of all open connections."""
        cdef uint32_t i
        return [handle_of(slot_at(&self.slots, i)) for i in range(self.slots.count)
                if slot_at(&self.slots, i).state == CONN_OPEN]

    def subscribe(self, uint64_t handle, bytes channel not None, uint32_t limit=1024):
        """Put a connection into a channel.

        Args:
            channel: the canonical channel.
            limit: subscriptions that the connection may hold.

        Returns:
            `ADDED`, `ALREADY`, `COLLISION` when it is subscribed to another channel with the same id, `FULL` when it
            is at its limit, or `GONE`.

        Cost: O(1) in the channels and subscribers of the node, a scan of the connection's own subscriptions; where the
            framing is RESP, a scan of the channel's subscribers instead.
        """
        cdef Conn* c = self.find(handle)
        cdef Channel ch
        cdef PyObject* known
        cdef uint32_t number, i
        cdef bint fresh = False
        if c == NULL or c.state != CONN_OPEN:
            return GONE
        known = PyDict_GetItem(self.channels, channel)
        if known != NULL:
            ch = <Channel> known
        else:
            ch = Channel.__new__(Channel)
            ch.name = channel
            rh_id(ch.id, <const uint8_t*> PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel))
            ch.number = number_of(ch.id)
            fresh = True
        number = ch.number
        if c.framing == FRAMING_RESP:
            # A worker of this node holds the channels of all its clients, and names them in full: no ids to collide.
            if not fresh and self.index_of(c, ch) >= 0:
                return ALREADY
        else:
            for i in range(c.sub_count):
                if c.subs[i].number == number:
                    return ALREADY if <PyObject*> ch == c.subs[i].channel else COLLISION
        if c.sub_count >= limit:
            return FULL
        if fresh:
            self.channels[channel] = ch     # before anything refers to it: this may raise, too
        try:
            self.add_subscription(c, ch)
        except MemoryError:
            if fresh:
                del self.channels[channel]
            raise
        if RH_DEBUG and fresh:
            alive.channels += 1
        return ADDED

    def unsubscribe(self, uint64_t handle, bytes channel not None):
        """Take a connection out of a channel.

        Returns:
            False when it was not in it.
        """
        cdef Conn* c = self.find(handle)
        cdef PyObject* known = PyDict_GetItem(self.channels, channel)
        cdef Py_ssize_t index
        if c == NULL or c.state != CONN_OPEN or known == NULL:
            return False
        index = self.index_of(c, <Channel> known)
        if index < 0:
            return False
        self.drop_subscription(c, <uint32_t> index)
        self.later()
        return True

    def hold(self, bytes channel not None, bint held):
        """Say whether publications to a channel are withheld from its subscribers; over with its last subscriber."""
        cdef PyObject* known = PyDict_GetItem(self.channels, channel)
        if known != NULL:
            (<Channel> known).held = held

    def subscribers(self, bytes channel not None):
        """Return how many connections are in a channel."""
        cdef PyObject* known = PyDict_GetItem(self.channels, channel)
        return 0 if known == NULL else (<Channel> known).count

    def subscriptions(self, uint64_t handle):
        """Return the channels that a connection is in."""
        cdef Conn* c = self.find(handle)
        if c == NULL:
            return []
        return [(<Channel> c.subs[i].channel).name for i in range(c.sub_count)]

    def channel_names(self):
        """Return all channels that have a subscriber."""
        return list(self.channels)

    def dispatch(self, batch):
        """Fan a batch of publications out to the subscribers, and write to each of them once.

        Args:
            batch: items of three, ``(kind, channel, payload)``, of which the last two are ``bytes``.

        Raises:
            IndexError, TypeError: an item is none; those before it are delivered, those behind it are not.
            MemoryError: there is no memory for a message, or it is larger than 2 GB as a frame; likewise.

        Cost:
            For each publication one hash look-up, one frame per framing in use, and a pointer per subscriber: no
            Python call and no allocation for each subscriber.
        """
        cdef list item
        self.depth += 1
        try:
            for entry in batch:
                item = entry if isinstance(entry, list) else list(entry)
                self.dispatch_one(<bytes?> item[1], <bytes?> item[2])
        except BaseException:
            self.depth -= 1
            self.recover_after_raise()
            raise
        self.depth -= 1
        self.settle()

    def poll(self):
        """Read from the sockets that have something, and write to those that can take more."""
        cdef int count, i
        cdef uint64_t tag
        cdef Conn* c
        if self.epoll < 0:
            return
        self.depth += 1
        try:
            count = rh_epoll_wait(self.epoll, self.events, EVENTS)
            for i in range(count):
                tag = rh_event_tag(&self.events[i])
                c = self.find(tag)
                if c == NULL:
                    continue
                if rh_event_out(&self.events[i]) and c.flags & BLOCKED:
                    c.flags &= ~BLOCKED
                    if rh_epoll_arm(self.epoll, c.fd, tag, False) < 0:
                        self.mark_closed(c)
                    else:
                        self.make_dirty(c, True)
                if rh_event_in(&self.events[i]) and c.state != CONN_DEAD:
                    self.receive(c)
                    if len(self.pending) >= CALLBACKS:
                        break   # the others are still ready in the next turn; what waits here takes memory
        except BaseException:
            self.depth -= 1
            self.recover_after_raise()
            raise
        self.depth -= 1
        self.settle()

    def flush(self):
        """Run callbacks that wait, and write a slice of what waits; more slices are asked for where it was not all."""
        self.flush_scheduled = False
        self.settle()

    def tick(self, double now):
        """Send the heartbeats and end the connections that are due; to be called every `tick_interval` seconds.

        Args:
            now: seconds of a clock that never goes back, such as ``loop.time()``.
        """
        cdef uint32_t target, slot
        cdef Conn* c
        if self.started < 0:
            self.started = now
        target = <uint32_t> max(0.0, (now - self.started) / self.tick_interval)
        if target > self.wheel.now + LATE_TICKS:
            # The process was held up, and answers to its pings may lie unread: that time counts for nobody.
            target = self.wheel.now + 1
            self.started = now - target * self.tick_interval
        self.depth += 1
        try:
            while self.wheel.now < target:
                self.wheel.now += 1
                slot = self.wheel.buckets[self.wheel.now % WHEEL]
                while slot != NIL:
                    c = slot_at(&self.slots, slot)
                    slot = c.timer_next
                    if c.due <= self.wheel.now:
                        self.timer_fired(c)
                self.judge()
        except BaseException:
            self.depth -= 1
            self.recover_after_raise()
            raise
        self.depth -= 1
        self.settle()

    def stats(self):
        """Return the counters and gauges, by name. Counters start at zero with the engine."""
        return {
            "connections": self.open_count, "closing": self.used_count - self.open_count,
            "subscriptions": self.subscription_count, "channels": len(self.channels),
            "connections_total": self.n.connections_total, "messages": self.n.messages,
            "deliveries": self.n.deliveries, "bytes_out": self.n.bytes_out, "frames_built": self.n.frames_built,
            "sends": self.n.sends, "blocked": self.n.blocked,
            "dropped_invalid_utf8": self.n.dropped_invalid_utf8, "dropped_unclaimed": self.n.dropped_unclaimed,
            "slow_disconnects": self.n.slow_disconnects, "heartbeat_disconnects": self.n.heartbeat_disconnects,
            "protocol_errors": self.n.protocol_errors, "refused_frames": self.n.refused_frames,
        }

    def queues(self):
        """Return what waits for connections now.

        Returns:
            Messages and bytes in all queues, then messages and bytes of the queue that holds the most bytes.

        Cost: a look at each slot; about 2 ms for 100,000 connections.
        """
        cdef uint64_t messages = 0, size = 0
        cdef uint32_t i, most = 0, most_messages = 0, waiting
        cdef Conn* c
        for i in range(self.slots.count):
            c = slot_at(&self.slots, i)
            if c.count == 0 and c.outside == 0:
                continue
            waiting = <uint32_t> self.waiting(c)
            messages += c.count
            size += waiting
            if waiting > most:
                most = waiting
                most_messages = c.count
        return messages, size, most_messages, most

    def busiest(self, int count):
        """Return the channels with the most publications since the last call, which starts the counting anew.

        Returns:
            At most `count` of ``(channel, subscribers, publications)``, the busiest first; idle ones are left out.

        Raises:
            ValueError: `count` is below 1.

        Cost: a look at each channel.
        """
        cdef PyObject* value
        cdef Py_ssize_t position = 0
        cdef Channel channel
        cdef list top = []
        cdef uint32_t least = 0     # what a channel must pass to come in
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count}")
        while PyDict_Next(self.channels, &position, NULL, &value):
            channel = <Channel> value
            if channel.recent > least:
                top.append((channel.recent, channel.name, channel.count))
                if len(top) >= 2 * <Py_ssize_t> count:
                    top.sort(reverse=True)
                    del top[count:]
                    least = top[count - 1][0]
            channel.recent = 0
        top.sort(reverse=True)
        return [(name, subscribers, recent) for recent, name, subscribers in top[:count]]

    def close(self):
        """End every connection at once, without a close frame, and release what they held."""
        cdef uint32_t i
        cdef Conn* c
        if self.closed and self.used_count == 0:
            return
        self.closed = True      # first, so that a callback adds none
        for i in range(self.slots.count):
            c = slot_at(&self.slots, i)
            if c.state != CONN_FREE:
                self.mark_closed(c)
        self.settle()

    cdef int later(self) except -1:
        if self.depth == 0 and not self.flush_scheduled and not self.closed:
            self.call_soon(self.flush)
            self.flush_scheduled = True
        return 0

    cdef int recover_after_raise(self) except -1:
        # Connections may wait to be written, told or reaped, and nothing else may come that would see to it.
        try:
            self.later()
        except Exception as error:
            self.on_error(error)
        return 0

    cdef int settle(self) except -1:
        cdef Conn* c
        if self.depth > 0:  # the outermost entry point does it
            return 0
        self.depth = 1
        try:
            while True:
                while True:
                    c = list_pop(&self.lists[SLOW])
                    if c == NULL:
                        break
                    c.flags &= ~ON_SLOW
                    if c.flags & RELEASE_PENDING:
                        slot_release(&self.slots, c)
                    elif c.state == CONN_SLOW:
                        self.n.slow_disconnects += 1
                        # A frame that is out in part must be finished, or the close frame would stand inside it.
                        queue_drop(&self.pool, c, 1 if c.offset > 0 else 0)
                        self.close_with(c, 4002, b"slow consumer")
                self.run_pending()
                with nogil:
                    self.write_slice()
                self.write_through_python()
                self.reap()
                if not self.pending and not list_filled(&self.lists[SLOW]):
                    break
        except BaseException:
            self.depth = 0
            self.recover_after_raise()
            raise
        self.depth = 0
        if (list_filled(&self.lists[URGENT]) or list_filled(&self.lists[BULK])
                or list_filled(&self.lists[THROUGH_PYTHON])):
            self.later()
        return 0

    cdef int run_pending(self) except -1:
        cdef list pending
        cdef Py_ssize_t done
        while self.pending:
            pending, self.pending = self.pending, []
            done = 0
            try:
                for what, handler, handle, data in pending:
                    done += 1
                    while handle in self.moved:
                        handle = self.moved[handle]
                    try:
                        if what == "vacant":
                            if self.on_vacant is not None:
                                self.on_vacant(data)
                        elif what == "on_gone":
                            handler.on_gone(handle)
                        elif what == "pong":
                            self.answer_ping(handle, data)
                        elif what == "end":
                            self.disconnect(handle, data[0], data[1])
                        elif self.is_open(handle):  # it may have left in a callback before this one
                            getattr(handler, what)(handle, data)
                    except Exception as error:
                        self.on_error(error)
            except BaseException:   # a signal's, or from `on_error`: the others are told all the same
                del pending[:done]
                pending += self.pending
                self.pending = pending
                raise
        self.moved.clear()
        return 0

    cdef int tell(self, str what, Conn* c, object data) except -1:
        self.pending.append((what, <object> c.handler, handle_of(c), data))
        return 0


    # --- 3. Registry --------------------------------------------------------------------------------------------------
    # Each subscription is known from both sides, and each side knows where it stands on the other: joining and leaving
    # move one entry at most, whatever the number of subscribers.

    cdef Py_ssize_t index_of(self, Conn* c, Channel channel) noexcept:
        cdef uint32_t i
        if channel.count < c.sub_count:     # either side knows; the shorter one is looked through
            for i in range(channel.count):
                if channel.subs[i].conn == c:
                    return channel.subs[i].index
            return -1
        for i in range(c.sub_count):
            if c.subs[i].channel == <PyObject*> channel:
                return i
        return -1

    cdef int add_subscription(self, Conn* c, Channel channel) except -1:
        cdef Subscription* subs
        cdef Subscriber* others
        if channel.count == channel.room:
            others = <Subscriber*> resize(&self.pool, channel.subs, &channel.only, channel.room,
                                          2 * channel.room if channel.room else 1, channel.count, sizeof(Subscriber))
            channel.subs = others
            channel.room = 2 * channel.room if channel.room else 1
        if c.sub_count == c.sub_room:
            subs = <Subscription*> resize(&self.pool, c.subs, &c.only, c.sub_room,
                                          2 * c.sub_room if c.sub_room else 1, c.sub_count, sizeof(Subscription))
            c.subs = subs
            c.sub_room = 2 * c.sub_room if c.sub_room else 1
        channel.subs[channel.count].conn = c
        channel.subs[channel.count].index = c.sub_count
        c.subs[c.sub_count].channel = <PyObject*> channel
        c.subs[c.sub_count].position = channel.count
        c.subs[c.sub_count].number = channel.number
        channel.count += 1
        c.sub_count += 1
        self.subscription_count += 1
        if RH_DEBUG:
            alive.subscriptions += 1
        return 0

    cdef int drop_subscription(self, Conn* c, uint32_t index) except -1:
        cdef Channel channel = <Channel> c.subs[index].channel
        cdef uint32_t position = c.subs[index].position
        cdef Subscriber* moved
        cdef Subscription* own
        cdef Subscriber* others
        cdef Subscription* subs
        # Only this can raise, and then nothing has changed.
        if channel.count == 1:
            self.pending.append(("vacant", None, 0, channel.name))
        channel.count -= 1
        if position != channel.count:
            channel.subs[position] = channel.subs[channel.count]
            moved = &channel.subs[position]
            moved.conn.subs[moved.index].position = position
        c.sub_count -= 1
        if index != c.sub_count:
            c.subs[index] = c.subs[c.sub_count]
            own = &c.subs[index]
            (<Channel> own.channel).subs[own.position].index = index
        self.subscription_count -= 1
        if RH_DEBUG:
            alive.subscriptions -= 1
        # Shrink at a quarter, to a half: what a burst of subscribers took is given back, without going to and fro.
        if channel.room > 4 and channel.count <= channel.room // 4:
            others = <Subscriber*> shrunk(&self.pool, channel.subs, channel.room, channel.count, sizeof(Subscriber))
            if others != channel.subs:
                channel.subs = others
                channel.room //= 2
        if c.sub_room > 4 and c.sub_count <= c.sub_room // 4:
            subs = <Subscription*> shrunk(&self.pool, c.subs, c.sub_room, c.sub_count, sizeof(Subscription))
            if subs != c.subs:
                c.subs = subs
                c.sub_room //= 2
        if channel.count == 0:
            if channel.room > 1:
                pool_give(&self.pool, channel.subs, channel.room * sizeof(Subscriber))
            channel.subs = NULL
            channel.room = 0
            del self.channels[channel.name]
            if RH_DEBUG:
                alive.channels -= 1
        return 0


    # --- 4. Dispatch --------------------------------------------------------------------------------------------------
    # A publication becomes one frame for each framing among its subscribers; each subscriber's queue takes a pointer.

    cdef int dispatch_one(self, bytes name, bytes payload) except -1:
        cdef PyObject* known
        cdef Channel channel
        self.n.messages += 1
        known = PyDict_GetItem(self.channels, name)
        if known == NULL:
            self.n.dropped_unclaimed += 1
            return 0
        if self.check_utf8 and not is_utf8(<const uint8_t*> PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)):
            self.n.dropped_invalid_utf8 += 1
            return 0
        channel = <Channel> known
        if channel.held:
            self.n.dropped_unclaimed += 1
            return 0
        channel.recent += 1
        return self.fan_out(channel, channel.subs, channel.count, PyBytes_AS_STRING(payload),
                            PyBytes_GET_SIZE(payload))

    cdef Frame* build(self, int framing, const char* id, bytes channel, const char* text, size_t size) except NULL:
        cdef Frame* f
        cdef char head[9]
        cdef size_t head_size = 0
        if framing == FRAMING_WEBSOCKET or framing == FRAMING_DEFLATE:
            if id != NULL:
                memcpy(head, id, 8)
                head[8] = c'?'
                head_size = 9
            if framing == FRAMING_DEFLATE and head_size + size >= DEFLATE_MIN:
                return self.build_deflated(head, head_size, text, size)
            f = frame_build(&self.pool, OP_TEXT, head, head_size, text, size)
        elif framing == FRAMING_ENGINEIO_4 or framing == FRAMING_ENGINEIO_3:
            f = engineio_frame(&self.pool, id, text, size)
        elif framing == FRAMING_POLLING_4:
            f = polling_4_frame(&self.pool, id, text, size)
        elif framing == FRAMING_POLLING_3:
            f = polling_3_frame(&self.pool, id, text, size)
        elif is_event_stream(framing):
            f = sse_frame(&self.pool, id, text, size, framing == FRAMING_SSE_CHUNKED)
        else:
            f = resp_message(&self.pool, PyBytes_AS_STRING(channel), PyBytes_GET_SIZE(channel), text, size)
        if f == NULL:
            raise MemoryError()
        return f

    cdef Frame* build_deflated(self, const char* head, size_t head_size, const char* text, size_t size) except NULL:
        # RFC 7692, sections 7.2.1 and 8: a flushed raw stream without its last four bytes. Without context takeover
        # each message stands for itself, so that this frame too is the same for everyone.
        compressor = zlib.compressobj(wbits=-15)
        cdef bytes data = compressor.compress(PyBytes_FromStringAndSize(head, head_size))
        data += compressor.compress(PyBytes_FromStringAndSize(text, size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
        cdef Frame* f = frame_build(&self.pool, OP_TEXT | RSV1, PyBytes_AS_STRING(data), len(data) - 4, b"", 0)
        if f == NULL:
            raise MemoryError()
        return f

    cdef int fan_out(self, Channel channel, Subscriber* subs, uint32_t count,
                     const char* payload, size_t size) except -1:
        cdef Frame* frames[FRAMINGS]
        cdef uint32_t i
        cdef Conn* c
        cdef Frame* f
        cdef int framing
        cdef bint urgent = count <= URGENT_MAX
        memset(frames, 0, sizeof(frames))
        try:
            for i in range(count):
                if i + AHEAD < count:
                    rh_prefetch(subs[i + AHEAD].conn)
                c = subs[i].conn
                framing = c.framing
                if framing == FRAMING_ENGINEIO_3:
                    framing = FRAMING_ENGINEIO_4    # their messages are the same
                f = frames[framing]
                if f == NULL:
                    f = frames[framing] = self.build(framing, channel.id, channel.name, payload, size)
                    self.n.frames_built += 1
                if c.state == CONN_OPEN:
                    self.n.deliveries += self.enqueue(c, f, urgent)
        finally:
            for i in range(FRAMINGS):
                if frames[i] != NULL:
                    frame_release(&self.pool, frames[i])
        return 0

    cdef bint enqueue(self, Conn* c, Frame* f, bint urgent) noexcept nogil:
        if ((c.count >= self.watch_messages or (c.count and self.waiting(c) + f.size > self.watch_bytes))
                and not self.tolerates(c, f.size)):
            self.send_away(c)
            return False
        if not queue_append(&self.pool, c, f):
            self.mark_closed(c)
            return False
        if not c.flags & BLOCKED:
            self.make_dirty(c, urgent)
        return True

    cdef uint64_t waiting(self, Conn* c) noexcept nogil:
        return <uint64_t> c.queued - c.offset + (c.outside if c.flags & BLOCKED else 0)

    cdef void put_outside(self, Conn* c, uint32_t size) noexcept nogil:
        self.pool.waiting += size
        self.pool.waiting -= c.outside
        c.outside = size

    cdef void send_away(self, Conn* c) noexcept nogil:
        c.state = CONN_SLOW
        c.flags |= ON_SLOW
        list_push(&self.lists[SLOW], c)

    cdef bint is_over(self, Conn* c, size_t size) noexcept nogil:
        return (c.count >= self.max_queue_messages
                or (c.count != 0 and self.waiting(c) + size > self.max_queue_bytes))

    cdef bint tolerates(self, Conn* c, size_t size) noexcept nogil:
        # One batch of publications may pass the limits of a queue, also where the reader takes it as fast as its line
        # does. So whoever does not stand still has time, within further limits. To know who does, a connection is
        # watched from half its limits on.
        if self.grace_ticks == 0:
            return False    # nobody is watched, so this is the limit
        if not c.flags & ON_OVER:
            if not c.flags & BLOCKED:
                c.moved = self.wheel.now    # all that it was sent before is on its way
            self.look_at(c)
            c.over = self.wheel.now
            c.flags |= ON_OVER
            list_push(&self.lists[OVER], c)
        return not self.is_over(c, size) or (
            c.count < self.burst_messages and self.waiting(c) + size <= self.burst_bytes
            and self.pool.waiting <= self.burst_total and self.wheel.now - c.moved < self.stall_ticks)

    cdef void look_at(self, Conn* c) noexcept nogil:
        # The system takes what is sent in large pieces; what it has yet to get to the peer shows more.
        cdef uint32_t unsent
        if c.fd >= 0:
            unsent = rh_unsent(c.fd)
            if unsent < c.unsent:
                c.moved = self.wheel.now
            c.unsent = unsent

    cdef void judge(self) noexcept nogil:
        # Once a tick: who is over the limits of a queue and stands still, or is so for too long, is sent away.
        cdef uint32_t left = self.lists[OVER].end - self.lists[OVER].start
        cdef Conn* c
        while left:
            left -= 1
            c = list_pop(&self.lists[OVER])
            c.flags &= ~ON_OVER
            if c.flags & RELEASE_PENDING:
                slot_release(&self.slots, c)
            elif c.state == CONN_OPEN and (c.count >= self.watch_messages or self.waiting(c) >= self.watch_bytes):
                self.look_at(c)
                if c.count <= self.max_queue_messages and (c.count <= 1 or self.waiting(c) <= self.max_queue_bytes):
                    c.over = self.wheel.now
                elif (self.wheel.now - c.moved >= self.stall_ticks or self.wheel.now - c.over >= self.grace_ticks):
                    self.send_away(c)
                    continue
                c.flags |= ON_OVER
                list_push(&self.lists[OVER], c)

    cdef int send_frame(self, Conn* c, Frame* f) except -1:
        if f == NULL:
            raise MemoryError()
        self.enqueue(c, f, True)
        frame_release(&self.pool, f)
        return 0

    cdef void make_dirty(self, Conn* c, bint urgent) noexcept nogil:
        if c.flags & ON_URGENT:
            return
        if urgent:
            c.flags |= ON_URGENT
            list_push(&self.lists[URGENT], c)
        elif not c.flags & ON_BULK:
            c.flags |= ON_BULK
            list_push(&self.lists[BULK], c)


    # --- 5. Flush -----------------------------------------------------------------------------------------------------
    # Each connection with something waiting is written once, with all of it; `engine/writer.pxd` holds how.

    cdef void write_slice(self) noexcept nogil:
        cdef int64_t now = clock_ns()
        cdef int64_t deadline = now + self.slice_ns
        cdef int64_t last = now + SLICES * self.slice_ns
        cdef uint32_t written = 0
        cdef Conn* c
        writer_forget(&self.writer)     # frames were freed since the last slice, and their addresses used again
        while True:
            c = self.next_dirty()
            if c == NULL:
                return
            if c.flags & RELEASE_PENDING:
                slot_release(&self.slots, c)
                continue
            if c.state == CONN_DEAD or c.flags & BLOCKED:
                continue
            if c.flags & IS_TRANSPORT:
                if not c.flags & ON_PYTHON:
                    c.flags |= ON_PYTHON
                    list_push(&self.lists[THROUGH_PYTHON], c)
                continue
            self.write_out(c)
            written += 1
            if written % 16 == 0:
                now = clock_ns()
                if now > deadline:
                    # Giving way costs a turn of the loop and lets the readers fall asleep: not where nobody waits. What
                    # the loop has besides descriptors, such as timers and callbacks, waits for some slices at most.
                    if now > last or self.loop_fd < 0 or not rh_is_quiet(self.loop_fd):
                        return
                    deadline = now + self.slice_ns

    cdef Conn* next_dirty(self) noexcept nogil:
        cdef Conn* c
        self.picked += 1
        if list_filled(&self.lists[URGENT]) and (self.picked % BULK_SHARE or not list_filled(&self.lists[BULK])):
            c = list_pop(&self.lists[URGENT])
            list_prefetch(&self.lists[URGENT], 1)
            c.flags &= ~ON_URGENT
            return c
        c = list_pop(&self.lists[BULK])
        list_prefetch(&self.lists[BULK], 1)
        if c != NULL:
            c.flags &= ~ON_BULK
        return c

    cdef void write_out(self, Conn* c) noexcept nogil:
        cdef Py_ssize_t n
        cdef size_t offered = 0
        while c.count:
            n = write_some(&self.writer, c, &offered)
            if n < 0:
                if rh_would_block():
                    self.block(c)
                else:
                    self.mark_closed(c)
                return
            self.n.sends += 1
            self.n.bytes_out += n
            c.moved = self.wheel.now
            queue_written(&self.pool, c, n)
            if <size_t> n < offered:
                self.block(c)
                return
        c.over = self.wheel.now     # all is on its way
        self.finish(c)

    cdef void block(self, Conn* c) noexcept nogil:
        c.flags |= BLOCKED
        self.n.blocked += 1
        c.unsent = rh_unsent(c.fd)
        if rh_epoll_arm(self.epoll, c.fd, handle_of(c), True) < 0:
            self.mark_closed(c)

    cdef void finish(self, Conn* c) noexcept nogil:
        # Closing the socket while the peer still sends would reset it, and could take our close frame with it: so our
        # side only, and the rest when the peer ends its own or the time is over.
        if c.flags & LAST_FRAME:
            # After the end of an event stream nothing comes from the peer that a transport could wait for.
            if c.flags & PEER_DONE or (c.flags & IS_TRANSPORT and is_event_stream(c.framing)):
                self.mark_closed(c)
            elif not c.flags & (HALF_CLOSED | IS_TRANSPORT):
                c.flags |= HALF_CLOSED
                rh_half_close(c.fd)

    cdef bytes concatenated(self, Conn* c, size_t most):
        # As much as `most` bytes of what waits; 0 for all of it, which is whole frames where only that is ever taken.
        cdef size_t size = c.queued - c.offset, done = 0, start = c.offset, part
        if most and size > most:
            size = most
        cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
        cdef char* out = PyBytes_AS_STRING(data)
        cdef Frame* f
        cdef uint32_t i = 0
        while done < size:
            f = queue_at(c, i)
            part = min(f.size - start, size - done)
            memcpy(out + done, frame_bytes(f) + start, part)
            done += part
            start = 0
            i += 1
        self.n.sends += 1
        self.n.bytes_out += size
        c.moved = self.wheel.now
        queue_written(&self.pool, c, size)
        if c.count == 0:
            c.over = self.wheel.now
        return data

    cdef int write_through_python(self) except -1:
        cdef Conn* c
        cdef int64_t deadline = clock_ns() + self.slice_ns
        cdef uint32_t taken = 0
        while True:
            taken += 1
            if taken % 4 == 0 and clock_ns() > deadline:
                return 0    # the rest in the loop's next turn
            c = list_pop(&self.lists[THROUGH_PYTHON])
            if c == NULL:
                return 0
            c.flags &= ~ON_PYTHON
            if c.flags & RELEASE_PENDING:
                slot_release(&self.slots, c)
                continue
            if c.state == CONN_DEAD or c.flags & BLOCKED:
                continue
            if not c.flags & IS_TRANSPORT:  # spliced onto a socket meanwhile
                self.make_dirty(c, True)
                continue
            if self.write_part(c) and not c.flags & ON_PYTHON:
                c.flags |= ON_PYTHON
                list_push(&self.lists[THROUGH_PYTHON], c)   # behind the others

    cdef bint write_part(self, Conn* c) except -1:
        cdef uint64_t handle = handle_of(c)
        transport = <object> c.transport
        try:
            if c.count:
                # A socket's transport gets a part at a time, so that it can say when it has enough: what lies in its
                # buffers is this connection's alone, while what waits here is shared.
                transport.write(self.concatenated(c, PART if c.fd >= 0 else 0))
            if self.find(handle) != c or not c.flags & IS_TRANSPORT or c.transport != <PyObject*> transport:
                return False    # it has gone, or was spliced away, in the call
            if c.count:
                return not c.flags & BLOCKED
            self.finish_transport(c)
        except Exception as error:
            if self.find(handle) == c:
                self.mark_closed(c)
            self.on_error(error)
        return False

    cdef int finish_transport(self, Conn* c) except -1:
        cdef uint64_t handle
        if c.fd < 0:
            self.finish(c)
        elif c.flags & LAST_FRAME and not c.flags & HALF_CLOSED:
            # The transport ends when all is flushed, and then tells so (`lost`). From then on its peer has a tick for
            # its own part, and none where there is nothing to wait for.
            c.flags |= HALF_CLOSED
            wheel_set(&self.wheel, &self.slots, c, 1)
            if c.flags & (TLS | PEER_DONE | DISCARD_INPUT) or c.framing == FRAMING_SSE:  # TLS has no half-close
                handle = handle_of(c)
                (<object> c.transport).close()
                if self.find(handle) == c and c.flags & TLS and c.flags & (PEER_DONE | DISCARD_INPUT):
                    self.call_soon(Lingering(self, handle))
            else:
                (<object> c.transport).write_eof()
        return 0

    cdef bint is_flushed(self, Conn* c) except -1:
        return rh_unsent(c.fd) == 0 and (<object> c.transport).get_write_buffer_size() == 0

    cdef int linger(self, Lingering lingering) except -1:
        cdef Conn* c = self.find(lingering.handle)
        if c == NULL or not c.flags & HALF_CLOSED:
            return 0
        if rh_has_sent(c.fd):
            c.flags |= OVERDUE
            self.mark_closed(c)
            self.settle()
        elif lingering.turns:
            lingering.turns -= 1
            self.call_soon(lingering)
        return 0


    # --- 6. Input -----------------------------------------------------------------------------------------------------
    # Clients send little: actions, pongs, a close frame. Whole messages are read here, also in fragments and in parts;
    # everything unusual goes, bytes and all, to a parser in Python, until that one has taken in whole messages again.

    cdef int receive(self, Conn* c) except -1:
        cdef Py_ssize_t n = rh_recv(c.fd, self.inbox + PARTIAL_MAX, INBOX)
        if n > 0:
            c.flags |= SEEN
            if c.state == CONN_OPEN:
                try:
                    self.consume(c, self.inbox + PARTIAL_MAX, n)
                except BaseException:
                    self.mark_closed(c)    # a part of what it sent is lost
                    raise
            else:
                c.discarded += <uint32_t> n
                if c.discarded > DISCARDED:
                    self.mark_closed(c)    # it does not listen
        elif n == 0 or not rh_would_block():
            self.mark_closed(c)
        return 0

    cdef int consume(self, Conn* c, uint8_t* data, size_t size) except -1:
        # `data` has PARTIAL_MAX bytes of room before it, for the start of its first frame.
        cdef Incoming frame
        cdef Parsed parsed
        cdef uint32_t kept = input_take(c, data)
        data -= kept
        size += kept
        while size and c.state == CONN_OPEN and not c.flags & (PEER_DONE | DISCARD_INPUT):
            if c.flags & SLOW_PARSER:
                return self.leave_to_python(c, data, size)
            if c.input == NULL:
                parsed = parse_incoming(&frame, data, size, self.max_message, False, 0)
            else:
                parsed = parse_incoming(&frame, data, size, self.max_message, c.input.begun, c.input.message)
            if parsed == PARSED_PART:
                if not input_keep(&self.pool, c, data, <uint32_t> size):
                    raise MemoryError()
                return 0
            if parsed != PARSED_WHOLE:
                return self.leave_to_python(c, data, size)
            data += frame.consumed
            size -= frame.consumed
            if frame.opcode == OP_TEXT and frame.last:
                if not is_utf8(frame.payload, frame.size):
                    return self.fail_protocol(c, 1007, "the text is not UTF-8")
                self.tell("on_text", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
            elif frame.opcode == OP_TEXT or frame.opcode == OP_CONTINUATION:
                self.receive_fragment(c, &frame)
            elif frame.opcode == OP_BINARY:
                self.tell("on_binary", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
            elif frame.opcode == OP_CLOSE:
                return self.receive_close(c, frame.payload, frame.size)
            elif self.pay_or_end(c) and frame.opcode == OP_PING:
                if self.pending:    # the answers to what came before it go out first
                    self.tell("pong", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
                else:
                    self.send_frame(c, frame_build(&self.pool, OP_PONG, <char*> frame.payload, frame.size, b"", 0))
        if c.input != NULL and not c.input.begun:
            input_drop(&self.pool, c)
        return 0

    cdef int receive_fragment(self, Conn* c, Incoming* frame) except -1:
        cdef Input* held
        cdef size_t checked, complete
        if not input_extend(&self.pool, c, frame.payload, <uint32_t> frame.size):
            raise MemoryError()
        held = c.input
        # Each fragment is checked when it comes, each byte once: wrong text fails at once, not at its end.
        checked = held.checked
        complete = checked + utf8_complete(input_bytes(held) + checked, held.message - checked)
        if not (is_utf8(input_bytes(held) + checked, complete - checked)
                and is_utf8_start(input_bytes(held) + complete, held.message - complete)
                and (complete == held.message or not frame.last)):
            return self.fail_protocol(c, 1007, "the text is not UTF-8")
        held.checked = <uint32_t> complete
        if not frame.last:
            self.pay_or_end(c)
            return 0
        self.tell("on_text", c, PyBytes_FromStringAndSize(<char*> input_bytes(held), held.message))
        held.message = held.checked = 0
        held.begun = False
        return 0

    cdef int leave_to_python(self, Conn* c, const uint8_t* data, size_t size) except -1:
        cdef Input* held = c.input
        cdef uint8_t header[14]
        cdef int n
        if c.framing == FRAMING_SSE:    # nothing that counts comes after the request, and many reads of it are a flood
            self.pay_or_end(c)
            return 0
        c.flags |= SLOW_PARSER
        if held != NULL and held.begun:
            # The parser learns of the message so far as of one fragment, masked with zeros.
            n = websocket_header(header, OP_TEXT, held.message)
            header[0] = OP_TEXT
            header[1] |= 0x80
            memset(header + n, 0, 4)
            self.tell("on_bytes", c, PyBytes_FromStringAndSize(<char*> header, n + 4)
                      + PyBytes_FromStringAndSize(<char*> input_bytes(held), held.message)
                      + PyBytes_FromStringAndSize(<char*> data, size))
        else:
            self.tell("on_bytes", c, PyBytes_FromStringAndSize(<char*> data, size))
        input_drop(&self.pool, c)
        return 0

    cdef int pay(self, Conn* c) noexcept nogil:
        cdef int64_t now
        if self.input_step == 0:
            return INPUT_PAID
        now = clock_ns()
        if c.full < now:
            c.full = now
        if c.full - now <= self.input_most:
            c.full += self.input_step
            if c.strikes:
                c.strikes -= 1
            return INPUT_PAID
        self.n.refused_frames += 1
        if c.strikes < self.input_strikes:
            c.strikes += 1
        return INPUT_REFUSED if c.strikes < self.input_strikes else INPUT_HOPELESS

    cdef bint pay_or_end(self, Conn* c) except -1:
        cdef int paid = self.pay(c)
        if paid == INPUT_HOPELESS:
            c.flags |= DISCARD_INPUT
            self.end_after_callbacks(c, 4502, "rate-limited")
        return paid == INPUT_PAID

    cdef int answer_ping(self, uint64_t handle, bytes data) except -1:
        cdef Conn* c = self.find(handle)
        if c != NULL and c.state == CONN_OPEN:
            self.send_frame(c, frame_build(&self.pool, OP_PONG, PyBytes_AS_STRING(data), len(data), b"", 0))
        return 0

    cdef bint has_answered(self, Conn* c, uint8_t* data, size_t size) noexcept:
        # Whether the peer's close frame is in what came after ours; what cannot be told counts as one.
        cdef Incoming frame
        if c.flags & SLOW_PARSER or c.input != NULL:
            return True
        while size:
            if (parse_incoming(&frame, data, size, self.max_message, False, 0) != PARSED_WHOLE
                    or frame.opcode == OP_CLOSE):
                return True
            data += frame.consumed
            size -= frame.consumed
        return False

    cdef int receive_close(self, Conn* c, const uint8_t* data, size_t size) except -1:
        # RFC 6455, sections 5.5.1 and 7.4: the answer repeats the code, unless the frame itself is wrong.
        cdef int code = 1005
        if size:
            code = (data[0] << 8) | data[1] if size >= 2 else 0
            if size > 2 and not is_utf8(data + 2, size - 2):
                return self.fail_protocol(c, 1007, "the close reason is not UTF-8")
            if size < 2 or not is_close_code(code):
                return self.fail_protocol(c, 1002, "invalid close frame")
        c.flags |= PEER_DONE
        return self.end_after_callbacks(c, code, "")

    cdef int fail_protocol(self, Conn* c, int code, str reason) except -1:
        self.n.protocol_errors += 1
        c.flags |= DISCARD_INPUT
        return self.end_after_callbacks(c, code, reason)

    cdef int end_after_callbacks(self, Conn* c, int code, str reason) except -1:
        # What the client sent before is acted on before the connection goes.
        self.pending.append(("end", None, handle_of(c), (code, reason)))
        return 0


    # --- 7. Timers ----------------------------------------------------------------------------------------------------
    # A connection is due for one thing at a time: its next ping, the answer to the last one, or, once its close frame
    # is queued, its end.

    cdef int timer_fired(self, Conn* c) except -1:
        if c.state == CONN_CLOSING:
            if (c.flags & IS_TRANSPORT and c.fd >= 0 and c.flags & HALF_CLOSED and self.wheel.now < c.over
                    and not self.is_flushed(c)):
                wheel_set(&self.wheel, &self.slots, c, 1)
            else:
                c.flags |= OVERDUE
                self.mark_closed(c)
        elif c.state == CONN_OPEN:
            if c.framing == FRAMING_ENGINEIO_3 or c.framing == FRAMING_POLLING_3:
                # The client sends the pings, one in each interval.
                if c.flags & SEEN:
                    c.flags &= ~SEEN
                    wheel_set(&self.wheel, &self.slots, c, self.ping_ticks + self.pong_ticks)
                else:
                    self.n.heartbeat_disconnects += 1
                    self.close_with(c, 4003, b"heartbeat missed")
            elif is_event_stream(c.framing):
                self.enqueue(c, self.pings[c.framing], False)   # nothing can come back; a dead peer's queue fills
                wheel_set(&self.wheel, &self.slots, c, self.ping_ticks)
            elif not c.flags & PINGED:
                c.flags = (c.flags | PINGED) & ~SEEN
                self.enqueue(c, self.pings[c.framing], False)
                wheel_set(&self.wheel, &self.slots, c, self.pong_ticks)
            elif c.flags & SEEN:
                c.flags &= ~PINGED
                wheel_set(&self.wheel, &self.slots, c, max(1, <int> self.ping_ticks - <int> self.pong_ticks))
            else:
                self.n.heartbeat_disconnects += 1
                self.close_with(c, 4003, b"heartbeat missed")
        return 0


    # --- 8. Connections -----------------------------------------------------------------------------------------------
    # The end comes in steps: out of the registry (`leave`), last frames out (`close_with`), socket closed and slot free
    # again (`reap`).

    cdef Conn* find(self, uint64_t handle) noexcept nogil:
        return slot_find(&self.slots, handle)

    cdef Conn* create(self, object handler, int framing) except NULL:
        cdef Conn* c
        cdef int i
        if self.closed:
            raise RuntimeError("the engine is closed")
        if not 0 <= framing < FRAMINGS:
            raise ValueError(f"{framing} is no framing")
        if framing == FRAMING_POLLING_3 and not self.check_utf8:
            raise ValueError("this framing needs check_utf8: its lengths hold for valid UTF-8 only")
        if self.slots.unused_count == 0:
            for i in range(LISTS):
                if not list_grow(&self.lists[i], self.slots.count + CHUNK):
                    raise MemoryError()
            if not slots_grow(&self.slots):
                raise MemoryError()
        c = slot_take(&self.slots)
        c.state = CONN_OPEN
        c.framing = <uint8_t> framing
        Py_INCREF(handler)
        c.handler = <PyObject*> handler
        if not is_websocket(framing):
            c.flags |= SLOW_PARSER     # what comes in is no WebSocket frame
        self.start_heartbeat(c)
        self.open_count += 1
        self.used_count += 1
        self.n.connections_total += 1
        if RH_DEBUG:
            alive.connections += 1
        return c

    cdef void start_heartbeat(self, Conn* c) noexcept nogil:
        if c.framing == FRAMING_ENGINEIO_3 or c.framing == FRAMING_POLLING_3:
            wheel_set(&self.wheel, &self.slots, c, self.ping_ticks + self.pong_ticks)
        elif c.framing != FRAMING_RESP:   # a neighbour's silence is no fault
            # The first ping comes after half an interval to a whole one: a crowd that came together is spread out.
            self.spread = self.spread * 1103515245 + 12345
            wheel_set(&self.wheel, &self.slots, c, self.ping_ticks - (self.spread >> 16) % (self.ping_ticks // 2 + 1))
        else:
            wheel_unset(&self.wheel, &self.slots, c)

    cdef int leave(self, Conn* c) except -1:
        while c.sub_count:
            self.drop_subscription(c, c.sub_count - 1)
        if c.sub_room > 1:
            pool_give(&self.pool, c.subs, c.sub_room * sizeof(Subscription))
        c.subs = NULL
        c.sub_room = 0
        return 0

    cdef Frame* close_frame(self, int framing, int code, bytes reason) except? NULL:
        cdef char body[125]
        cdef size_t size = 0
        if framing == FRAMING_SSE:
            return NULL
        if framing == FRAMING_SSE_CHUNKED:
            return frame_of(&self.pool, b"0\r\n\r\n")
        if framing == FRAMING_POLLING_4:
            return frame_of(&self.pool, b"1\x1e")
        if framing == FRAMING_POLLING_3:
            return frame_of(&self.pool, b"1:1")
        if code != 1005:
            body[0] = <char> (code >> 8)
            body[1] = <char> code
            memcpy(body + 2, PyBytes_AS_STRING(reason), len(reason))
            size = 2 + len(reason)
        cdef Frame* f = frame_build(&self.pool, OP_CLOSE, body, size, b"", 0)
        if f == NULL:
            raise MemoryError()
        return f

    cdef int close_with(self, Conn* c, int code, bytes reason) except -1:
        cdef Frame* f
        if c.state != CONN_OPEN and c.state != CONN_SLOW:
            return 0
        if c.framing == FRAMING_RESP:
            self.mark_closed(c)    # its protocol has no close frame
            return 0
        try:
            f = self.close_frame(c.framing, code, reason)
        except MemoryError:
            self.mark_closed(c)    # without one, then
            return 0
        try:
            self.leave(c)
            self.tell("on_gone", c, None)
        except BaseException:
            if f != NULL:
                frame_release(&self.pool, f)
            self.mark_closed(c)
            raise
        self.open_count -= 1
        c.state = CONN_CLOSING
        c.flags |= LAST_FRAME
        if code in (1002, 1003, 1007, 1009, 4502):  # it broke the protocol, or the limits of what it may send
            c.flags |= DISCARD_INPUT
        if f != NULL:
            if not queue_append(&self.pool, c, f):
                self.mark_closed(c)
            frame_release(&self.pool, f)
        if not c.flags & BLOCKED:
            self.make_dirty(c, True)
        wheel_set(&self.wheel, &self.slots, c, self.close_ticks)
        c.over = self.wheel.now + self.close_ticks
        return 0

    cdef void mark_closed(self, Conn* c) noexcept nogil:
        if c.state == CONN_DEAD or c.state == CONN_FREE:
            return
        if c.state == CONN_OPEN or c.state == CONN_SLOW:
            self.open_count -= 1
        c.state = CONN_DEAD
        list_push(&self.lists[DOOMED], c)

    cdef int reap(self) except -1:
        cdef Conn* c
        while True:
            c = list_pop(&self.lists[DOOMED])
            if c == NULL:
                return 0
            try:
                self.leave(c)
                if not c.flags & LAST_FRAME:  # otherwise it was told when it began to close
                    self.tell("on_gone", c, None)
            except BaseException:
                list_push(&self.lists[DOOMED], c)   # to be tried again
                raise
            wheel_unset(&self.wheel, &self.slots, c)
            queue_drop(&self.pool, c, 0)
            input_drop(&self.pool, c)
            self.put_outside(c, 0)
            # Held to the end: what goes with the last reference may call the engine.
            transport, handler = None, <object> c.handler
            Py_DECREF(handler)
            c.handler = NULL
            if c.flags & IS_TRANSPORT:
                transport = <object> c.transport
                Py_DECREF(transport)
                c.transport = NULL
            elif c.fd >= 0:
                rh_close(c.fd)
                c.fd = -1
            close_frame = c.flags & LAST_FRAME and not c.flags & OVERDUE
            self.used_count -= 1
            if RH_DEBUG:
                alive.connections -= 1
            slot_release(&self.slots, c)
            if transport is not None:
                try:
                    if close_frame:
                        transport.close()
                    else:
                        transport.abort()
                except Exception as error:
                    self.on_error(error)
