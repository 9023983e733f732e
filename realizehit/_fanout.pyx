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

from cpython.bool cimport PyBool_Check
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_Check
from cpython.long cimport PyLong_AsDouble, PyLong_Check
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_Check, PyUnicode_FromStringAndSize

cimport cython
from libc.errno cimport errno
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from realizehit._frames cimport (
    FRAMING_WEBSOCKET, FRAMINGS, Frame, Incoming, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG, OP_TEXT,
    frame_build, frame_bytes, frame_new, is_close_code, parse_incoming,
)
from realizehit._memory cimport RH_DEBUG, Alive, pool_clear, pool_give, pool_take
from realizehit._sockets cimport (
    RH_HAVE_EPOLL, iovec, rh_close, rh_epoll_add, rh_epoll_arm, rh_epoll_create, rh_epoll_wait, rh_event, rh_event_in,
    rh_event_out, rh_event_tag, rh_half_close, rh_recv, rh_send, rh_send_vector, rh_would_block,
)
from realizehit._text cimport is_utf8, number_to_text, percent_encode, rh_id

import os


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


# --- 2. The engine ----------------------------------------------------------------------------------------------------
# One for each event loop. Python adopts connections into it, subscribes them and dispatches publications; it calls back
# with what clients send. Callbacks run when an entry point is about to return, never inside a dispatch or a flush.

cdef enum:
    CHUNK = 1024                # connections that are allocated together, so that a Conn never moves
    INBOX = 65536               # bytes read from a socket at once
    EVENTS = 256                # readiness events taken at once; epoll keeps the others
    SCRATCH = 262144            # bytes of small frames that go out in one send
    COPY_MAX = 4096             # bytes; larger frames are sent from where they are
    VECTOR = 64                 # frames in one vectored send
    QUEUE_MAX = 32768           # messages; the ring's indices have 16 bits
    URGENT_MAX = 64             # subscribers; a channel with more is a broadcast, which waits behind the others
    BULK_SHARE = 4              # every fourth write goes to a broadcast even while urgent ones wait

cdef uint32_t NIL = 0xFFFFFFFF  # no slot

cdef Alive alive                # counted in a debug build only

HAVE_EPOLL = bool(RH_HAVE_EPOLL)
WEBSOCKET = FRAMING_WEBSOCKET
MAX_QUEUE_MESSAGES = QUEUE_MAX

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


cdef inline uint64_t handle_of(const Conn* c) noexcept nogil:
    return (<uint64_t> c.generation << 32) | c.slot


cdef inline void list_push(ConnList* l, Conn* c) noexcept nogil:
    if l.end == l.room:
        # A connection stands in a list once at most, so there is room at the front.
        memmove(l.items, l.items + l.start, (l.end - l.start) * sizeof(Conn*))
        l.end -= l.start
        l.start = 0
    l.items[l.end] = c
    l.end += 1


cdef inline Conn* list_pop(ConnList* l) noexcept nogil:
    cdef Conn* c
    if l.start == l.end:
        return NULL
    c = l.items[l.start]
    l.start += 1
    if l.start == l.end:
        l.start = 0
        l.end = 0
    return c


cdef inline uint32_t number_of(const char* hexits) noexcept nogil:
    """The 8 hex digits of an id as a number."""
    cdef uint32_t value = 0
    cdef int i
    for i in range(8):
        value = (value << 4) | <uint32_t> (hexits[i] - c'0' if hexits[i] <= c'9' else hexits[i] - c'a' + 10)
    return value


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
cdef class Engine:
    """Connections, the channels that they are subscribed to, and the way of a message from the one to the other.

    Args:
        call_soon: the event loop's ``call_soon``; asks for a further slice of a flush.
        on_error: called with an exception that a callback raised.
        max_queue_bytes: bytes that may wait for a connection; one message may pass it while nothing else waits.
        max_queue_messages: messages that may wait for a connection, at most `MAX_QUEUE_MESSAGES`.
        max_message: bytes of a message that a client may send; longer ones go to the handler's ``on_bytes``.
        heartbeat_interval: seconds between pings of a connection.
        heartbeat_timeout: seconds that a connection may stay silent after a ping.
        close_timeout: seconds that a connection may take to end after its close frame.
        slice_seconds: how long a flush may hold the event loop.
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
        self.epoll = -1

    def __init__(self, call_soon, on_error, *, max_queue_bytes=1 << 20, max_queue_messages=4096, max_message=16384,
                 heartbeat_interval=25.0, heartbeat_timeout=20.0, close_timeout=5.0, slice_seconds=0.002, epoll=True):
        cdef int i
        if not 1 <= max_queue_messages <= QUEUE_MAX:
            raise ValueError(f"max_queue_messages must be 1 to {QUEUE_MAX}, not {max_queue_messages}")
        self.call_soon = call_soon
        self.on_error = on_error
        self.on_vacant = None
        self.pending = []
        self.channels = {}
        self.max_queue_bytes = max_queue_bytes
        self.max_queue_messages = max_queue_messages
        self.max_message = max_message
        self.slice_ns = <int64_t> (slice_seconds * 1e9)
        self.tick_interval = max(0.01, min(1.0, heartbeat_interval / 8, heartbeat_timeout / 8, close_timeout / 4))
        self.ping_ticks = max(1, round(heartbeat_interval / self.tick_interval))
        self.pong_ticks = max(1, round(heartbeat_timeout / self.tick_interval))
        self.close_ticks = max(1, round(close_timeout / self.tick_interval))
        self.started = -1
        for i in range(WHEEL):
            self.wheel[i] = NIL
        self.scratch = <char*> malloc(SCRATCH)
        self.joined = <Frame**> malloc(QUEUE_MAX * sizeof(Frame*))
        self.inbox = <uint8_t*> malloc(INBOX)
        self.events = <rh_event*> malloc(EVENTS * sizeof(rh_event))
        self.ping_frame = frame_build(&self.pool, OP_PING, b"", 0, b"", 0)
        if not (self.scratch and self.joined and self.inbox and self.events and self.ping_frame):
            raise MemoryError()
        if epoll and RH_HAVE_EPOLL:
            self.epoll = rh_epoll_create()
            if self.epoll < 0:
                raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        # `close` has ended the connections; an engine that was never closed gives back its memory all the same.
        cdef uint32_t i
        for i in range(self.slots // CHUNK):
            free(self.chunks[i])
        free(self.chunks)
        free(self.free_slots)
        for i in range(LISTS):
            free(self.lists[i].items)
        if self.ping_frame != NULL:
            pool_give(&self.pool, self.ping_frame, sizeof(Frame) + self.ping_frame.size)
        free(self.scratch)
        free(self.joined)
        free(self.inbox)
        free(self.events)
        pool_clear(&self.pool)
        if self.epoll >= 0:
            rh_close(self.epoll)

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
        if rh_epoll_add(self.epoll, fd, handle_of(c)) < 0:
            error = errno
            self.doom(c)
            self.later()
            raise OSError(error, os.strerror(error))
        return self.begin(c, head, rest)

    def attach(self, transport, handler, bytes head=b"", bytes rest=b"", int framing=WEBSOCKET):
        """Take a connection whose bytes go through a Python transport, such as one with TLS.

        The transport's protocol calls `feed`, `pause`, `resume` and `lost`.

        Args:
            transport: has ``write``, ``close`` and ``abort``, as asyncio's have.

        Returns:
            The connection's handle.
        """
        cdef Conn* c = self.create(handler, framing)
        c.flags |= IS_TRANSPORT
        Py_INCREF(transport)
        c.transport = <PyObject*> transport
        return self.begin(c, head, rest)

    cdef object begin(self, Conn* c, bytes head, bytes rest):
        cdef uint64_t handle = handle_of(c)
        cdef Frame* f
        if head:
            f = frame_new(&self.pool, len(head))
            if f == NULL:
                raise MemoryError()
            if RH_DEBUG:
                alive.frames += 1
            memcpy(frame_bytes(f), PyBytes_AS_STRING(head), len(head))
            self.enqueue(c, f, True)
            self.release(f)
        if rest:
            self.depth += 1     # no callback before the caller knows the handle
            try:
                self.feed(handle, rest)
            finally:
                self.depth -= 1
        self.later()
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
                memcpy(self.inbox, PyBytes_AS_STRING(data) + done, part)
                done += part
                c.flags |= SEEN
                if c.state == CONN_OPEN:
                    self.consume(c, self.inbox, part)
                elif c.flags & IS_TRANSPORT and c.flags & LAST_FRAME and c.count == 0:
                    # Without a half-close the peer's answer to our close frame is what ends the connection.
                    self.doom(c)
                    break
        finally:
            self.depth -= 1
        self.settle()

    def lost(self, uint64_t handle):
        """Learn that a connection's transport is gone."""
        cdef Conn* c = self.find(handle)
        if c != NULL:
            self.doom(c)
            self.settle()

    def pause(self, uint64_t handle):
        """Stop writing to a transport whose buffer is full."""
        cdef Conn* c = self.find(handle)
        if c != NULL:
            c.flags |= BLOCKED
            self.n.blocked += 1

    def resume(self, uint64_t handle):
        """Write to a transport again."""
        cdef Conn* c = self.find(handle)
        if c != NULL and c.flags & BLOCKED:
            c.flags &= ~BLOCKED
            if c.count:
                self.make_dirty(c, True)
                self.later()

    def send(self, uint64_t handle, bytes data not None, bint binary=False):
        """Send a message to one connection, such as the reply to an action.

        Returns:
            False when the connection is gone or going.

        Cost: one frame; it goes out with whatever else waits for the connection.
        """
        cdef Conn* c = self.find(handle)
        cdef Frame* f
        if c == NULL or c.state != CONN_OPEN:
            return False
        f = frame_build(&self.pool, OP_BINARY if binary else OP_TEXT, PyBytes_AS_STRING(data), len(data), b"", 0)
        if f == NULL:
            raise MemoryError()
        if RH_DEBUG:
            alive.frames += 1
        self.enqueue(c, f, True)
        self.release(f)
        self.later()
        return True

    def send_bytes(self, uint64_t handle, bytes data not None):
        """Send bytes as they are, such as frames that a parser in Python made.

        Returns:
            False when the connection is gone or going.
        """
        cdef Conn* c = self.find(handle)
        cdef Frame* f
        if c == NULL or c.state != CONN_OPEN:
            return False
        f = frame_new(&self.pool, len(data))
        if f == NULL:
            raise MemoryError()
        if RH_DEBUG:
            alive.frames += 1
        memcpy(frame_bytes(f), PyBytes_AS_STRING(data), len(data))
        self.enqueue(c, f, True)
        self.release(f)
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
        if c == NULL or c.state != CONN_OPEN:
            return False
        if peer_done:
            c.flags |= PEER_DONE
        self.close_with(c, code, reason.encode()[:123].decode(errors="ignore").encode())
        self.later()
        return True

    def soften(self, uint64_t handle):
        """Take a connection's input back from the parser in Python, which holds no part of a message any more."""
        cdef Conn* c = self.find(handle)
        if c != NULL:
            c.flags &= ~HARD

    def is_open(self, uint64_t handle):
        """Tell whether a connection takes messages."""
        cdef Conn* c = self.find(handle)
        return c != NULL and c.state == CONN_OPEN

    def handles(self):
        """Return the handles of all open connections."""
        cdef uint32_t i
        return [handle_of(self.at(i)) for i in range(self.slots) if self.at(i).state == CONN_OPEN]

    def subscribe(self, uint64_t handle, bytes channel not None, uint32_t limit=1024):
        """Put a connection into a channel.

        Args:
            channel: the canonical channel.
            limit: subscriptions that the connection may hold.

        Returns:
            `ADDED`, `ALREADY`, `COLLISION` when it is subscribed to another channel with the same id, `FULL` when it
            is at its limit, or `GONE`.

        Cost: O(1) in the channels and subscribers of the node, a scan of the connection's own subscriptions.
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
        for i in range(c.sub_count):
            if c.subs[i].number == number:
                return ALREADY if <PyObject*> ch == c.subs[i].channel else COLLISION
        if c.sub_count >= min(limit, <uint32_t> QUEUE_MAX):
            return FULL
        self.add_subscription(c, ch)
        if fresh:
            self.channels[channel] = ch
            if RH_DEBUG:
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
        finally:
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
                        self.doom(c)
                    else:
                        self.make_dirty(c, True)
                if rh_event_in(&self.events[i]) and c.state != CONN_DEAD:
                    self.receive(c)
        finally:
            self.depth -= 1
        self.settle()

    def flush(self):
        """Run callbacks that wait, and write a slice of what waits; more slices are asked for where it was not all."""
        self.flush_scheduled = False
        self.settle()

    def tick(self, double now):
        """Send the heartbeats and end the connections that are due.

        Args:
            now: seconds of a clock that never goes back, such as ``loop.time()``.
        """
        cdef uint32_t target, slot, following
        cdef int rounds
        if self.started < 0:
            self.started = now
        target = <uint32_t> max(0.0, (now - self.started) / self.tick_interval)
        if target > self.now + 2:
            # The process was held up: answers to its pings may lie in the sockets. They count.
            for rounds in range(1 + self.open_count // EVENTS):
                self.poll()
            if target > self.now + WHEEL:
                self.now = target - WHEEL
        self.depth += 1
        try:
            while self.now < target:
                self.now += 1
                slot = self.wheel[self.now % WHEEL]
                while slot != NIL:
                    following = self.at(slot).timer_next
                    if self.at(slot).due <= self.now:
                        self.timer_fired(self.at(slot))
                    slot = following
        finally:
            self.depth -= 1
        self.settle()

    def stats(self):
        """Return the counters and gauges, by name. Counters start at zero with the engine."""
        return {
            "connections": self.open_count, "closing": self.used_count - self.open_count,
            "subscriptions": self.subscription_count, "channels": len(self.channels),
            "connections_total": self.n.connections_total, "messages": self.n.messages,
            "deliveries": self.n.deliveries, "bytes_out": self.n.bytes_out, "frames_built": self.n.frames_built,
            "sends": self.n.sends, "joins": self.n.joins, "blocked": self.n.blocked,
            "dropped_invalid_utf8": self.n.dropped_invalid_utf8, "dropped_unclaimed": self.n.dropped_unclaimed,
            "slow_disconnects": self.n.slow_disconnects, "heartbeat_disconnects": self.n.heartbeat_disconnects,
            "protocol_errors": self.n.protocol_errors,
        }

    def close(self):
        """End every connection at once, without a close frame, and release what they held."""
        cdef uint32_t i
        cdef Conn* c
        if self.closed:
            return
        for i in range(self.slots):
            c = self.at(i)
            if c.state != CONN_FREE:
                self.doom(c)
        self.settle()
        self.closed = True

    cdef int later(self) except -1:
        if self.depth == 0 and not self.flush_scheduled and not self.closed:
            self.flush_scheduled = True
            self.call_soon(self.flush)
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
                    if c.state == CONN_SLOW:
                        self.n.slow_disconnects += 1
                        # A frame that is out in part must be finished, or the close frame would stand inside it.
                        self.drop_queue(c, 1 if c.offset > 0 else 0)
                        self.close_with(c, 4002, b"slow consumer")
                self.run_pending()
                with nogil:
                    self.write_slice()
                self.write_through_python()
                self.bury()
                if not self.pending and self.lists[SLOW].start == self.lists[SLOW].end:
                    break
        finally:
            self.depth = 0
        if self.lists[URGENT].start < self.lists[URGENT].end or self.lists[BULK].start < self.lists[BULK].end:
            self.later()
        return 0

    cdef int run_pending(self) except -1:
        cdef list pending
        while self.pending:
            pending, self.pending = self.pending, []
            for what, handler, handle, data in pending:
                try:
                    if what == "vacant":
                        if self.on_vacant is not None:
                            self.on_vacant(data)
                    elif what == "on_gone":
                        handler.on_gone(handle)
                    elif what == "closed_by_peer":
                        self.disconnect(handle, data)
                    elif self.is_open(handle):  # it may have left in a callback before this one
                        getattr(handler, what)(handle, data)
                except Exception as error:
                    self.on_error(error)
        return 0

    cdef int tell(self, str what, Conn* c, object data) except -1:
        self.pending.append((what, <object> c.handler, handle_of(c), data))
        return 0


    # --- 3. Registry --------------------------------------------------------------------------------------------------
    # Each subscription is known from both sides, and each side knows where it stands on the other: joining and leaving
    # move one entry at most, whatever the number of subscribers.

    cdef Py_ssize_t index_of(self, Conn* c, Channel channel) noexcept:
        cdef uint32_t i
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
            channel.subs = <Subscriber*> resize(&self.pool, channel.subs, &channel.only, channel.room,
                                                channel.room // 2, channel.count, sizeof(Subscriber))
            channel.room //= 2
        if c.sub_room > 4 and c.sub_count <= c.sub_room // 4:
            c.subs = <Subscription*> resize(&self.pool, c.subs, &c.only, c.sub_room,
                                            c.sub_room // 2, c.sub_count, sizeof(Subscription))
            c.sub_room //= 2
        if channel.count == 0:
            if channel.room > 1:
                pool_give(&self.pool, channel.subs, channel.room * sizeof(Subscriber))
            channel.subs = NULL
            channel.room = 0
            del self.channels[channel.name]
            if RH_DEBUG:
                alive.channels -= 1
            self.pending.append(("vacant", None, 0, channel.name))
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
        if not is_utf8(<const uint8_t*> PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload)):
            self.n.dropped_invalid_utf8 += 1
            return 0
        channel = <Channel> known
        return self.fan_out(channel.subs, channel.count, channel.id, PyBytes_AS_STRING(payload),
                            PyBytes_GET_SIZE(payload))

    cdef int fan_out(self, Subscriber* subs, uint32_t count, const char* prefix,
                     const char* payload, size_t size) except -1 nogil:
        cdef Frame* frames[FRAMINGS]
        cdef char head[9]
        cdef uint32_t i
        cdef Conn* c
        cdef Frame* f
        cdef bint urgent = count <= URGENT_MAX
        memset(frames, 0, sizeof(frames))
        memcpy(head, prefix, 8)
        head[8] = c'?'
        for i in range(count):
            c = subs[i].conn
            f = frames[c.framing]
            if f == NULL:
                f = frame_build(&self.pool, OP_TEXT, head, 9, payload, size)
                if f == NULL:
                    with gil:
                        raise MemoryError()
                frames[c.framing] = f
                self.n.frames_built += 1
                if RH_DEBUG:
                    alive.frames += 1
            if c.state == CONN_OPEN:
                self.n.deliveries += self.enqueue(c, f, urgent)
        for i in range(FRAMINGS):
            if frames[i] != NULL:
                self.release(frames[i])
        return 0

    cdef bint enqueue(self, Conn* c, Frame* f, bint urgent) noexcept nogil:
        if c.count >= self.max_queue_messages or (c.count and c.queued + f.size > self.max_queue_bytes):
            c.state = CONN_SLOW
            list_push(&self.lists[SLOW], c)
            return False
        self.append(c, f)
        if not c.flags & BLOCKED:
            self.make_dirty(c, urgent)
        return True

    cdef void append(self, Conn* c, Frame* f) noexcept nogil:
        cdef Frame** ring
        cdef uint32_t room, first
        if c.count == c.room:
            room = 2 * <uint32_t> c.room if c.room else 4
            ring = <Frame**> pool_take(&self.pool, room * sizeof(Frame*))
            if ring == NULL:
                self.doom(c)
                return
            if c.room:
                first = c.room - c.head
                memcpy(ring, c.ring + c.head, first * sizeof(Frame*))
                memcpy(ring + first, c.ring, c.head * sizeof(Frame*))
                pool_give(&self.pool, c.ring, c.room * sizeof(Frame*))
            c.ring = ring
            c.room = <uint16_t> room
            c.head = 0
        c.ring[(c.head + c.count) & (c.room - 1)] = f
        c.count += 1
        c.queued += f.size
        f.refs += 1

    cdef void make_dirty(self, Conn* c, bint urgent) noexcept nogil:
        if c.flags & ON_URGENT:
            return
        if urgent:
            c.flags |= ON_URGENT
            list_push(&self.lists[URGENT], c)
        elif not c.flags & ON_BULK:
            c.flags |= ON_BULK
            list_push(&self.lists[BULK], c)

    cdef void drop_queue(self, Conn* c, uint32_t keep) noexcept nogil:
        cdef Frame* f
        while c.count > keep:
            c.count -= 1
            f = c.ring[(c.head + c.count) & (c.room - 1)]
            c.queued -= f.size
            self.release(f)
        if c.count == 0:
            c.offset = 0
            if c.room:
                pool_give(&self.pool, c.ring, c.room * sizeof(Frame*))
                c.ring = NULL
                c.room = 0
                c.head = 0

    cdef void release(self, Frame* f) noexcept nogil:
        f.refs -= 1
        if f.refs == 0:
            pool_give(&self.pool, f, sizeof(Frame) + f.size)
            if RH_DEBUG:
                alive.frames -= 1


    # --- 5. Flush -----------------------------------------------------------------------------------------------------
    # Each connection with something waiting is written once, with all of it. A send costs microseconds in the kernel
    # and next to nothing per byte, so frames are joined; connections that wait for the same frames share the join.

    cdef void write_slice(self) noexcept nogil:
        cdef int64_t deadline = clock_ns() + self.slice_ns
        cdef uint32_t written = 0
        cdef Conn* c
        # Frames may have been freed and their addresses used again since the last slice.
        self.joined_count = 0
        while True:
            c = self.next_dirty()
            if c == NULL:
                return
            if c.flags & BURIED:
                if not c.flags & (ON_URGENT | ON_BULK):
                    self.recycle(c)
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
            if written % 16 == 0 and clock_ns() > deadline:
                return

    cdef Conn* next_dirty(self) noexcept nogil:
        cdef Conn* c
        self.picked += 1
        if self.lists[URGENT].start < self.lists[URGENT].end and (self.picked % BULK_SHARE or self.lists[BULK].start == self.lists[BULK].end):
            c = list_pop(&self.lists[URGENT])
            c.flags &= ~ON_URGENT
            return c
        c = list_pop(&self.lists[BULK])
        if c != NULL:
            c.flags &= ~ON_BULK
        return c

    cdef void write_out(self, Conn* c) noexcept nogil:
        cdef Frame* f
        cdef Py_ssize_t n
        cdef size_t offered = 0
        while c.count:
            f = c.ring[c.head]
            if c.count == 1:
                offered = f.size - c.offset
                n = rh_send(c.fd, frame_bytes(f) + c.offset, offered)
            elif f.size <= COPY_MAX:
                n = self.write_joined(c, &offered)
            else:
                n = self.write_vector(c, &offered)
            if n < 0:
                if rh_would_block():
                    self.block(c)
                else:
                    self.doom(c)
                return
            self.n.sends += 1
            self.n.bytes_out += n
            self.written(c, n)
            if <size_t> n < offered:
                self.block(c)
                return
        self.finish(c)

    cdef Py_ssize_t write_joined(self, Conn* c, size_t* offered) noexcept nogil:
        cdef uint32_t i = 0, mask = c.room - 1
        cdef size_t size = 0
        cdef Frame* f
        if not (self.joined_count and c.offset == 0 and c.count >= self.joined_count
                and c.head + self.joined_count <= c.room
                and memcmp(c.ring + c.head, self.joined, self.joined_count * sizeof(Frame*)) == 0):
            f = c.ring[c.head]
            while True:
                memcpy(self.scratch + size, frame_bytes(f), f.size)
                self.joined[i] = f
                size += f.size
                i += 1
                if i == c.count:
                    break
                f = c.ring[(c.head + i) & mask]
                if f.size > COPY_MAX or size + f.size > SCRATCH:
                    break
            self.joined_count = i
            self.joined_size = <uint32_t> size
            self.n.joins += 1
        offered[0] = self.joined_size - c.offset
        return rh_send(c.fd, self.scratch + c.offset, offered[0])

    cdef Py_ssize_t write_vector(self, Conn* c, size_t* offered) noexcept nogil:
        cdef iovec parts[VECTOR]
        cdef uint32_t i, count = c.count if c.count < VECTOR else VECTOR
        cdef Frame* f
        offered[0] = 0
        for i in range(count):
            f = c.ring[(c.head + i) & (c.room - 1)]
            parts[i].iov_base = frame_bytes(f)
            parts[i].iov_len = f.size
            offered[0] += f.size
        parts[0].iov_base = <char*> parts[0].iov_base + c.offset
        parts[0].iov_len -= c.offset
        offered[0] -= c.offset
        return rh_send_vector(c.fd, parts, count)

    cdef void block(self, Conn* c) noexcept nogil:
        c.flags |= BLOCKED
        self.n.blocked += 1
        if rh_epoll_arm(self.epoll, c.fd, handle_of(c), True) < 0:
            self.doom(c)

    cdef void written(self, Conn* c, size_t size) noexcept nogil:
        cdef Frame* f
        size += c.offset
        while c.count:
            f = c.ring[c.head]
            if size < f.size:
                break
            size -= f.size
            c.queued -= f.size
            c.head = (c.head + 1) & (c.room - 1)
            c.count -= 1
            self.release(f)
        c.offset = <uint32_t> size
        if c.count == 0:
            pool_give(&self.pool, c.ring, c.room * sizeof(Frame*))
            c.ring = NULL
            c.room = 0
            c.head = 0

    cdef void finish(self, Conn* c) noexcept nogil:
        # Closing the socket while the peer still sends would reset it, and could take our close frame with it: so our
        # side only, and the rest when the peer ends its own or the time is over.
        if c.flags & LAST_FRAME:
            if c.flags & PEER_DONE:
                self.doom(c)
            elif not c.flags & (HALF_CLOSED | IS_TRANSPORT):
                c.flags |= HALF_CLOSED
                rh_half_close(c.fd)

    cdef int write_through_python(self) except -1:
        cdef Conn* c
        cdef bytes data
        cdef char* out
        cdef Frame* f
        cdef uint32_t i
        cdef size_t done
        while True:
            c = list_pop(&self.lists[THROUGH_PYTHON])
            if c == NULL:
                return 0
            c.flags &= ~ON_PYTHON
            if c.state == CONN_DEAD or c.flags & BLOCKED:
                continue
            if c.count:
                data = PyBytes_FromStringAndSize(NULL, c.queued - c.offset)
                out = PyBytes_AS_STRING(data)
                done = 0
                for i in range(c.count):
                    f = c.ring[(c.head + i) & (c.room - 1)]
                    memcpy(out + done, frame_bytes(f) + (c.offset if i == 0 else 0), f.size - (c.offset if i == 0 else 0))
                    done += f.size - (c.offset if i == 0 else 0)
                self.n.sends += 1
                self.n.bytes_out += len(data)
                self.written(c, len(data))
                try:
                    (<object> c.transport).write(data)
                except Exception as error:
                    self.on_error(error)
                    self.doom(c)
                    continue
            if c.state != CONN_DEAD:
                self.finish(c)


    # --- 6. Input -----------------------------------------------------------------------------------------------------
    # Clients send little: actions, pongs, a close frame. Whole frames are read here; everything unusual goes, bytes and
    # all, to a parser in Python, until that one has taken in whole messages again.

    cdef int receive(self, Conn* c) except -1:
        cdef Py_ssize_t n = rh_recv(c.fd, self.inbox, INBOX)
        if n > 0:
            c.flags |= SEEN
            if c.state == CONN_OPEN:
                self.consume(c, self.inbox, n)
        elif n == 0 or not rh_would_block():
            self.doom(c)
        return 0

    cdef int consume(self, Conn* c, uint8_t* data, size_t size) except -1:
        cdef Incoming frame
        cdef Frame* pong
        while size and c.state == CONN_OPEN and not c.flags & PEER_DONE:
            if c.flags & HARD or not parse_incoming(&frame, data, size, self.max_message):
                c.flags |= HARD
                self.tell("on_bytes", c, PyBytes_FromStringAndSize(<char*> data, size))
                return 0
            data += frame.consumed
            size -= frame.consumed
            if frame.opcode == OP_TEXT:
                if not is_utf8(frame.payload, frame.size):
                    self.n.protocol_errors += 1
                    return self.close_with(c, 1007, b"the text is not UTF-8")
                self.tell("on_text", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
            elif frame.opcode == OP_BINARY:
                self.tell("on_binary", c, PyBytes_FromStringAndSize(<char*> frame.payload, frame.size))
            elif frame.opcode == OP_PING:
                pong = frame_build(&self.pool, OP_PONG, <char*> frame.payload, frame.size, b"", 0)
                if pong == NULL:
                    raise MemoryError()
                if RH_DEBUG:
                    alive.frames += 1
                self.enqueue(c, pong, True)
                self.release(pong)
            elif frame.opcode == OP_CLOSE:
                return self.receive_close(c, frame.payload, frame.size)
        return 0

    cdef int receive_close(self, Conn* c, const uint8_t* data, size_t size) except -1:
        # RFC 6455, sections 5.5.1 and 7.4: the answer repeats the code, unless the frame itself is wrong.
        cdef int code = 1005
        if size:
            code = (data[0] << 8) | data[1] if size >= 2 else 0
            if size < 2 or not is_close_code(code):
                self.n.protocol_errors += 1
                return self.close_with(c, 1002, b"invalid close frame")
            if not is_utf8(data + 2, size - 2):
                self.n.protocol_errors += 1
                return self.close_with(c, 1007, b"the close reason is not UTF-8")
        # What the client sent before its close frame is acted on before the connection goes.
        c.flags |= PEER_DONE
        self.pending.append(("closed_by_peer", None, handle_of(c), code))
        return 0


    # --- 7. Timers ----------------------------------------------------------------------------------------------------
    # A wheel of buckets, a bucket a tick, each a list of connections linked by slot. A connection is due for one thing
    # at a time: its next ping, the answer to the last one, or, once its close frame is queued, its end.

    cdef void timer_set(self, Conn* c, uint32_t ticks) noexcept nogil:
        cdef uint32_t* bucket
        self.timer_unset(c)
        c.due = self.now + (ticks if ticks else 1)
        bucket = &self.wheel[c.due % WHEEL]
        c.timer_next = bucket[0]
        c.timer_prev = NIL
        if bucket[0] != NIL:
            self.at(bucket[0]).timer_prev = c.slot
        bucket[0] = c.slot

    cdef void timer_unset(self, Conn* c) noexcept nogil:
        if c.due == 0:
            return
        if c.timer_next != NIL:
            self.at(c.timer_next).timer_prev = c.timer_prev
        if c.timer_prev != NIL:
            self.at(c.timer_prev).timer_next = c.timer_next
        else:
            self.wheel[c.due % WHEEL] = c.timer_next
        c.due = 0

    cdef int timer_fired(self, Conn* c) except -1:
        if c.state == CONN_CLOSING:
            self.doom(c)
        elif c.state == CONN_OPEN:
            if not c.flags & PINGED:
                c.flags = (c.flags | PINGED) & ~SEEN
                self.enqueue(c, self.ping_frame, False)
                self.timer_set(c, self.pong_ticks)
            elif c.flags & SEEN:
                c.flags &= ~PINGED
                self.timer_set(c, self.ping_ticks - self.pong_ticks if self.ping_ticks > self.pong_ticks else 1)
            else:
                self.n.heartbeat_disconnects += 1
                self.close_with(c, 4003, b"heartbeat missed")
        return 0


    # --- 8. Connections -----------------------------------------------------------------------------------------------
    # A slot is used by one connection after another; its generation, which is part of the handle, tells them apart.
    # The end comes in steps: out of the registry (`leave`), last frames out (`close_with`), socket closed (`bury`),
    # slot free (`recycle`).

    cdef Conn* at(self, uint32_t slot) noexcept nogil:
        return &self.chunks[slot // CHUNK][slot % CHUNK]

    cdef Conn* find(self, uint64_t handle) noexcept nogil:
        cdef uint32_t slot = <uint32_t> handle
        cdef Conn* c
        if slot >= self.slots:
            return NULL
        c = self.at(slot)
        return c if c.generation == handle >> 32 and c.state != CONN_FREE and c.state != CONN_DEAD else NULL

    cdef int grow_slots(self) except -1:
        cdef uint32_t slots = self.slots + CHUNK, i
        cdef Conn** chunks = <Conn**> realloc(self.chunks, (slots // CHUNK) * sizeof(Conn*))
        cdef uint32_t* free_slots
        cdef void* items
        cdef Conn* chunk
        if chunks == NULL:
            raise MemoryError()
        self.chunks = chunks
        free_slots = <uint32_t*> realloc(self.free_slots, slots * sizeof(uint32_t))
        if free_slots == NULL:
            raise MemoryError()
        self.free_slots = free_slots
        for i in range(LISTS):
            items = realloc(self.lists[i].items, slots * sizeof(Conn*))
            if items == NULL:
                raise MemoryError()
            self.lists[i].items = <Conn**> items
            self.lists[i].room = slots
        chunk = <Conn*> calloc(CHUNK, sizeof(Conn))
        if chunk == NULL:
            raise MemoryError()
        self.chunks[self.slots // CHUNK] = chunk
        for i in range(CHUNK):
            chunk[i].slot = self.slots + i
            self.free_slots[self.free_count + i] = self.slots + CHUNK - 1 - i
        self.free_count += CHUNK
        self.slots = slots
        return 0

    cdef Conn* create(self, object handler, int framing) except NULL:
        cdef Conn* c
        cdef uint32_t slot, generation
        if self.closed:
            raise RuntimeError("the engine is closed")
        if not 0 <= framing < FRAMINGS:
            raise ValueError(f"{framing} is no framing")
        if self.free_count == 0:
            self.grow_slots()
        self.free_count -= 1
        slot = self.free_slots[self.free_count]
        c = self.at(slot)
        generation = c.generation + 1
        memset(c, 0, sizeof(Conn))
        c.slot = slot
        c.generation = generation if generation else 1
        c.fd = -1
        c.state = CONN_OPEN
        c.framing = <uint8_t> framing
        Py_INCREF(handler)
        c.handler = <PyObject*> handler
        # The first ping comes after half an interval to a whole one, so that a crowd that came together is spread out.
        self.spread = self.spread * 1103515245 + 12345
        self.timer_set(c, self.ping_ticks - (self.spread >> 16) % (self.ping_ticks // 2 + 1))
        self.open_count += 1
        self.used_count += 1
        self.n.connections_total += 1
        if RH_DEBUG:
            alive.connections += 1
        return c

    cdef int leave(self, Conn* c) except -1:
        while c.sub_count:
            self.drop_subscription(c, c.sub_count - 1)
        if c.sub_room > 1:
            pool_give(&self.pool, c.subs, c.sub_room * sizeof(Subscription))
        c.subs = NULL
        c.sub_room = 0
        return 0

    cdef int close_with(self, Conn* c, int code, bytes reason) except -1:
        cdef char body[125]
        cdef size_t size = 0
        cdef Frame* f
        if c.state != CONN_OPEN and c.state != CONN_SLOW:
            return 0
        self.leave(c)
        self.tell("on_gone", c, None)
        self.open_count -= 1
        c.state = CONN_CLOSING
        if code != 1005:
            body[0] = <char> (code >> 8)
            body[1] = <char> code
            memcpy(body + 2, PyBytes_AS_STRING(reason), len(reason))
            size = 2 + len(reason)
        f = frame_build(&self.pool, OP_CLOSE, body, size, b"", 0)
        if f == NULL:
            raise MemoryError()
        if RH_DEBUG:
            alive.frames += 1
        self.append(c, f)
        self.release(f)
        c.flags |= LAST_FRAME
        if not c.flags & BLOCKED:
            self.make_dirty(c, True)
        self.timer_set(c, self.close_ticks)
        return 0

    cdef void doom(self, Conn* c) noexcept nogil:
        if c.state == CONN_DEAD or c.state == CONN_FREE:
            return
        if c.state == CONN_OPEN or c.state == CONN_SLOW:
            self.open_count -= 1
        c.state = CONN_DEAD
        list_push(&self.lists[DOOMED], c)

    cdef int bury(self) except -1:
        cdef Conn* c
        while True:
            c = list_pop(&self.lists[DOOMED])
            if c == NULL:
                return 0
            self.leave(c)
            if not c.flags & LAST_FRAME:  # otherwise it was told when it began to close
                self.tell("on_gone", c, None)
            self.timer_unset(c)
            self.drop_queue(c, 0)
            if c.flags & IS_TRANSPORT:
                transport = <object> c.transport
                try:
                    if c.flags & LAST_FRAME:
                        transport.close()
                    else:
                        transport.abort()
                except Exception as error:
                    self.on_error(error)
                Py_DECREF(transport)
                c.transport = NULL
            elif c.fd >= 0:
                rh_close(c.fd)
                c.fd = -1
            Py_DECREF(<object> c.handler)
            c.handler = NULL
            self.used_count -= 1
            if RH_DEBUG:
                alive.connections -= 1
            if c.flags & (ON_URGENT | ON_BULK):
                c.flags |= BURIED
            else:
                self.recycle(c)

    cdef void recycle(self, Conn* c) noexcept nogil:
        c.state = CONN_FREE
        c.flags = 0
        self.free_slots[self.free_count] = c.slot
        self.free_count += 1
