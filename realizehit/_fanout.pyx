# The compiled core: patterns become channels and ids, publications become frames, frames reach connections.
#
# It imports nothing of the package but its own C parts, `engine/*.pxd`, which act on one C struct, `State`. This file
# and those that it includes are what Python sees of them. Python calls an entry point; the parts do the work
# and leave callbacks in a list; the entry point ends in `settle`, which runs callbacks, writes what waits and closes
# what is marked closed. Callbacks never run inside a dispatch or a flush.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cimport cython
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from realizehit.engine.allowance cimport INPUT_HOPELESS, INPUT_PAID, INPUT_REFUSED, pay
from realizehit.engine.arrivals cimport accept_again
from realizehit.engine.backpressure cimport QueueTotals, make_dirty, mark_closed, put_outside, queue_totals, send_frame
from realizehit.engine.conn cimport (
    BLOCKED, CHANNEL_HELD, CHANNEL_WATCHED, CONN_FREE, CONN_OPEN, FEATURE_MUTED, HALF_CLOSED, IS_TRANSPORT, LAST_FRAME,
    OVERDUE, PEER_DONE, SEEN, SLOW_PARSER, TLS, Channel, Conn, handle_of, list_filled, slot_at, slot_find, slots_clear,
)
from realizehit.engine.connections cimport close_slow, close_with, open_connection, reap, take_over
from realizehit.engine.dispatch cimport publish
from realizehit.engine.events cimport attend
from realizehit.engine.flush cimport write_slice
from realizehit.engine.frames cimport (
    FRAMING_DEFLATE, FRAMING_ENGINEIO_3, FRAMING_ENGINEIO_4, FRAMING_POLLING_3, FRAMING_POLLING_4, FRAMING_RESP,
    FRAMING_SSE, FRAMING_SSE_CHUNKED, FRAMING_WEBSOCKET, OP_BINARY, PARTIAL_MAX, Frame, Message, frame_build,
    set_reply,
)
from realizehit.engine.framings cimport build_message, frame_of, pings_build, pings_release
from realizehit.engine.memory cimport RH_DEBUG, alive, pool_clear
from realizehit.engine.pumping cimport built_clear, pump_waiting
from realizehit.engine.queue cimport QUEUE_MAX
from realizehit.engine.reading cimport INBOX, answer_ping, consume, has_answered
from realizehit.engine.registry cimport (
    SUBSCRIPTION_ADDED, SUBSCRIPTION_ALREADY, SUBSCRIPTION_COLLISION, SUBSCRIPTION_FULL, SUBSCRIPTION_GONE,
    add_subscription, channel_init, drop_subscription, index_of, subscription_refusal,
)
from realizehit.engine.replays cimport log_free_unused, log_need, set_features
from realizehit.engine.sockets cimport (
    RH_HAVE_EPOLL, rh_close, rh_epoll_add, rh_epoll_arm, rh_epoll_create, rh_epoll_wait, rh_event, rh_has_sent,
    rh_unsent, rh_user_timeout,
)
from realizehit.engine.sse cimport chunk_frame
from realizehit.engine.state cimport BULK, LISTS, REPLAYS, SLOW, THROUGH_PYTHON, URGENT, State, clock_ns
from realizehit.engine.text cimport is_utf8
from realizehit.engine.timers cimport advance
from realizehit.engine.transports cimport take_bytes, write_through_python
from realizehit.engine.wheel cimport wheel_init
from realizehit.engine.writer cimport writer_clear, writer_init

import os
import zlib

include "engine/patterns_api.pxi"


# --- The engine ----------------------------------------------------------------------------------------------------
# One for each event loop. Python adopts connections into it, subscribes them and dispatches publications; it calls back
# with what clients send.

cdef enum:
    MOST_COST = 32              # what one `poll` takes on, see `attend`
    CALLBACKS = 16              # that wait, after which it takes on no more
    BENEATH = 131072            # bytes beneath a transport that encrypts, while it takes no more: 64 KiB and a part
    TURNS = 4                   # of the loop, in which what was written should have gone
    EVENTS = 32                 # readiness events taken at once; epoll keeps the others
    LATE_TICKS = 4              # ticks that are made up for; a longer hold-up is left out of all deadlines

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
ADDED = SUBSCRIPTION_ADDED
ALREADY = SUBSCRIPTION_ALREADY
COLLISION = SUBSCRIPTION_COLLISION
FULL = SUBSCRIPTION_FULL
GONE = SUBSCRIPTION_GONE


def debug_counts():
    """Return how many objects of each kind exist in all engines, or None without REALIZEHIT_DEBUG=1."""
    if not RH_DEBUG:
        return None
    return {"connections": alive.connections, "frames": alive.frames, "channels": alive.channels,
            "subscriptions": alive.subscriptions, "logs": alive.logs}


@cython.final
@cython.no_gc
cdef class ChannelEntry:
    """A channel in the registry, which keeps it and its name, the dict's key, for as long as it has subscribers."""

    def __cinit__(self, bytes name):
        channel_init(&self.channel, <PyObject*> name, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


@cython.final
cdef class Lingering:
    """Ends a TLS connection in one of the loop's next turns, once its last frames have gone; asyncio would wait."""

    def __cinit__(self, Engine engine, uint64_t handle):
        self.engine = engine
        self.handle = handle
        self.turns = TURNS

    def __call__(self):
        self.engine.linger(self)


include "engine/logs_api.pxi"

include "engine/arrivals_api.pxi"

include "engine/joining_api.pxi"

include "engine/conflation_api.pxi"


@cython.final
@cython.no_gc_clear  # `State` refers to its Python objects until the end
cdef class Engine(ConflationCalls):
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
        head_timeout: seconds that an arrival may take to send something.
        max_head: bytes that the head of an opening handshake may have.
        slice_seconds: how long a flush may hold the event loop while somebody else waits for it.
        loop_fd: the descriptor on which the event loop itself waits, to see that; -1 where it is not known, and a flush
            then gives way after every slice.
        check_utf8: whether a payload that is not UTF-8 is dropped; false where the receivers check it themselves.
        ring_bytes: bytes of memory for the recent messages of all logs.
        epoll: false to do without an epoll set of its own, as on platforms that have none.

    Attributes:
        tick_interval: seconds between the calls of `tick` that the owner makes.
        on_vacant: called with a channel's name after its last subscriber left; set by the owner.
        on_left: called with a channel's name and a list of handles, which may be gone or back, after these connections
            left a channel that `watch_leavers` was asked for; once for a channel and call of the engine; set by the
            owner.
        on_hole: called with a channel's name, an epoch and an offset when a publication does not follow the position of
            its log; it and later ones are kept back until `log_repair` or `log_set`. The owner must read the log after
            this call, since an earlier read may not have what is missing.
        on_windows: called when `advance_windows` must be called, once until that returns 0; set by the owner. Without
            it `tick` does this, in its coarser steps.
        on_starved: called with a channel's name and a list of ``(handle, offset)`` for replays whose message after that
            offset is not in memory; they wait for `replay_part`, `log_fill` or `replay_end`.

    A connection's handler has ``on_text(handle, data)``, ``on_binary(handle, data)``, ``on_bytes(handle, data)`` for
    input that the engine leaves to Python, and ``on_gone(handle)``.

    Reentrancy: everything here is for the event loop's thread. Callbacks may call any method.
    """

    def __cinit__(self):
        self.pending, self.channels, self.moved, self.leavers, self.doors = [], {}, {}, {}, {}
        self.firsts = []
        self.compressobj = zlib.compressobj
        self.s.pending = <PyObject*> self.pending
        self.s.leavers = <PyObject*> self.leavers
        self.s.channels = <PyObject*> self.channels
        self.s.compressobj = <PyObject*> self.compressobj
        self.s.on_error = <PyObject*> self.on_error
        self.s.epoll = self.s.spare = -1
        self.s.room = 0xFFFFFFFF
        wheel_init(&self.s.wheel)

    def __init__(self, call_soon, on_error, *, max_queue_bytes=1 << 20, max_queue_messages=4096,
                 double grace=0.0, double stall=5.0, burst_bytes=0, burst_messages=0, burst_total=1 << 26,
                 max_message=16384, double input_rate=0.0, int input_burst=1, int input_strikes=100,
                 heartbeat_interval=25.0, heartbeat_timeout=20.0, close_timeout=5.0, head_timeout=10.0,
                 size_t max_head=16384, slice_seconds=0.0005,
                 int loop_fd=-1, check_utf8=True, ring_bytes=1 << 26, epoll=True):
        cdef State* s = &self.s
        if self.on_error is not None:
            raise RuntimeError("the engine is initialized already")
        if not 1 <= max_queue_bytes <= 1 << 30:
            raise ValueError(f"max_queue_bytes must be 1 to {1 << 30}, not {max_queue_bytes}")
        if not 1 <= max_queue_messages <= QUEUE_MAX:
            raise ValueError(f"max_queue_messages must be 1 to {QUEUE_MAX}, not {max_queue_messages}")
        if not 0 <= ring_bytes <= 1 << 40:
            raise ValueError(f"ring_bytes must be 0 to {1 << 40}, not {ring_bytes}")
        if not 0 <= input_rate <= 1e9:
            raise ValueError(f"input_rate must be 0 to 1e9, not {input_rate}")
        if input_burst < 1:
            raise ValueError(f"input_burst must be 1 or more, not {input_burst}")
        if not 1 <= input_strikes <= 255:
            raise ValueError(f"input_strikes must be 1 to 255, not {input_strikes}")
        self.call_soon = call_soon
        self.on_error = on_error
        s.on_error = <PyObject*> on_error
        s.max_queue_bytes = max_queue_bytes
        s.max_queue_messages = max_queue_messages
        s.max_message = max_message
        s.input_strikes = <uint8_t> input_strikes
        s.input_step = max(1, <int64_t> (1e9 / input_rate)) if input_rate else 0
        s.input_most = (input_burst - 1) * s.input_step
        s.slice_ns = <int64_t> (slice_seconds * 1e9)
        s.loop_fd = loop_fd
        s.check_utf8 = check_utf8
        s.ring.limit = ring_bytes
        self.tick_interval = max(0.01, min(1.0, heartbeat_interval / 8, heartbeat_timeout / 8, close_timeout / 4,
                                           head_timeout / 4))
        s.ping_ticks = max(1, round(heartbeat_interval / self.tick_interval))
        s.pong_ticks = max(1, round(heartbeat_timeout / self.tick_interval))
        s.close_ticks = max(1, round(close_timeout / self.tick_interval))
        s.head_ticks = 1 + max(1, round(head_timeout / self.tick_interval))  # the first tick is under way
        s.max_head = max_head
        s.burst_bytes = min(max(burst_bytes, max_queue_bytes), 1 << 30)
        s.burst_messages = min(max(burst_messages, max_queue_messages), QUEUE_MAX)
        s.burst_total = burst_total
        s.watch_bytes = max(1, max_queue_bytes // 2) if grace else max_queue_bytes
        s.watch_messages = max(1, max_queue_messages // 2) if grace else max_queue_messages
        s.user_timeout = <uint32_t> max(1.0, (heartbeat_interval + heartbeat_timeout) * 1000)
        s.grace_ticks = max(1, round(grace / self.tick_interval)) if grace else 0
        s.stall_ticks = max(1, round(min(stall, grace) / self.tick_interval))
        self.started = -1
        s.inbox = <uint8_t*> malloc(PARTIAL_MAX + INBOX)
        s.events = <rh_event*> malloc(EVENTS * sizeof(rh_event))
        if not (writer_init(&s.writer) and s.inbox and s.events):
            raise MemoryError()
        pings_build(s)
        if epoll and RH_HAVE_EPOLL:
            s.epoll = rh_epoll_create()
            if s.epoll < 0:
                raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        # `close` has ended the connections; an engine that was never closed gives back its memory all the same.
        cdef int i
        slots_clear(&self.s.slots)
        for i in range(LISTS):
            free(self.s.lists[i].items)
        pings_release(&self.s)
        writer_clear(&self.s.writer)
        free(self.s.replays.items)
        free(self.s.built)
        free(self.s.windows.items)
        free(self.s.inbox)
        free(self.s.events)
        pool_clear(&self.s.pool)
        if self.s.epoll >= 0:
            rh_close(self.s.epoll)
        if self.s.spare >= 0:
            rh_close(self.s.spare)

    @property
    def owns_sockets(self):
        """Whether `adopt` can be used; otherwise connections keep their transport and come by `attach`."""
        return self.s.epoll >= 0

    def fileno(self):
        """Return the descriptor to watch for reading; when it is readable, call `on_readable`. -1 without epoll."""
        return self.s.epoll

    def adopt(self, int fd, handler, bytes head=b"", bytes rest=b"", int framing=WEBSOCKET):
        """Take over a connected socket.

        Args:
            fd: its descriptor, non-blocking; the engine's from here on, also where this raises.
            handler: the object that receives the client's messages.
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
            c = open_connection(&self.s, handler, framing)
        except BaseException:
            rh_close(fd)
            raise
        c.fd = fd
        if framing != FRAMING_RESP:
            rh_user_timeout(fd, self.s.user_timeout)
        if rh_epoll_add(self.s.epoll, fd, handle_of(c)) < 0:
            error = errno
            mark_closed(&self.s, c)
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
        cdef Conn* c = open_connection(&self.s, handler, framing)
        c.flags |= IS_TRANSPORT
        if tls:
            c.flags |= TLS
        c.fd = fd
        if fd >= 0:
            rh_user_timeout(fd, self.s.user_timeout)
        Py_INCREF(transport)
        c.transport = <PyObject*> transport
        return self.begin(c, head, rest)

    cdef object begin(self, Conn* c, bytes head, bytes rest):
        cdef uint64_t handle = handle_of(c)
        try:
            if head:
                send_frame(&self.s, c, frame_of(&self.s.pool, head))
            self.feed_rest(handle, rest)    # no callback before the caller knows the handle
        except BaseException:
            mark_closed(&self.s, c)    # the caller never gets its handle
            self.recover_after_raise()
            raise
        return handle

    def feed(self, uint64_t handle, bytes data not None):
        """Take bytes that a client sent, for a connection with a transport."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Py_ssize_t done = 0, size = len(data), part
        self.depth += 1
        try:
            # Through the inbox, since frames are unmasked in place and `bytes` must not change.
            while done < size and c != NULL:
                part = min(<Py_ssize_t> INBOX, size - done)
                memcpy(self.s.inbox + PARTIAL_MAX, PyBytes_AS_STRING(data) + done, part)
                done += part
                c.flags |= SEEN
                if c.state == CONN_OPEN:
                    consume(&self.s, c, self.s.inbox + PARTIAL_MAX, part)
                elif (c.flags & IS_TRANSPORT and c.flags & LAST_FRAME and c.count == 0
                        and has_answered(&self.s, c, self.s.inbox + PARTIAL_MAX, part)):
                    # Without a half-close the peer's answer to our close frame is what ends the connection.
                    mark_closed(&self.s, c)
                    break
        except BaseException:
            mark_closed(&self.s, c)    # a part of what it sent is lost
            self.depth -= 1
            self.recover_after_raise()
            raise
        self.depth -= 1
        self.settle()

    def lost(self, uint64_t handle):
        """Learn that a connection's transport is gone."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c != NULL:
            mark_closed(&self.s, c)
            self.settle()

    def pause(self, uint64_t handle):
        """Stop writing to a transport whose buffer is full."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c == NULL or c.flags & BLOCKED or not c.flags & IS_TRANSPORT:
            return
        c.flags |= BLOCKED
        self.s.n.blocked += 1
        if c.fd >= 0:
            c.unsent = rh_unsent(c.fd)
            size = (<object> c.transport).get_write_buffer_size() + (BENEATH if c.flags & TLS else 0)
            if slot_find(&self.s.slots, handle) == c:
                put_outside(&self.s, c, min(size, 1 << 30))

    def resume(self, uint64_t handle):
        """Write to a transport again."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c != NULL and c.flags & BLOCKED and c.flags & IS_TRANSPORT:
            c.flags &= ~BLOCKED
            c.moved = self.s.wheel.now
            put_outside(&self.s, c, 0)
            if c.count:
                make_dirty(&self.s, c, True)
                self.later()

    def take(self, uint64_t handle):
        """Take what waits for a connection with a transport, instead of having it written there.

        Returns:
            Whole frames, concatenated; empty where nothing waits or the connection is gone.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c == NULL or not c.flags & IS_TRANSPORT or c.count == 0:
            return b""
        data = take_bytes(&self.s, c, 0)
        if list_filled(&self.s.lists[REPLAYS]):
            self.later()
        return data

    def send(self, uint64_t handle, bytes data not None, bint binary=False):
        """Send a message to one connection, such as the reply to an action, in the connection's framing.

        Args:
            data: for a text message valid UTF-8.
            binary: whether it goes out as binary, which only plain WebSockets have.

        Returns:
            False when the connection is gone or going.

        Cost: one frame; it goes out with whatever else waits for the connection.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Message m
        if c == NULL or c.state != CONN_OPEN:
            return False
        if binary:
            send_frame(&self.s, c, frame_build(&self.s.pool, OP_BINARY, PyBytes_AS_STRING(data), len(data), b"", 0))
        else:
            if c.framing == FRAMING_POLLING_3 and not is_utf8(<const uint8_t*> PyBytes_AS_STRING(data), len(data)):
                raise ValueError("the text is not UTF-8")
            set_reply(&m, PyBytes_AS_STRING(data), len(data))
            send_frame(&self.s, c, build_message(&self.s, c.framing, &m))
        self.later()
        return True

    def send_bytes(self, uint64_t handle, bytes data not None):
        """Send bytes as they are, such as frames that a parser in Python made; as a chunk where all goes out in chunks.

        Returns:
            False when the connection is gone or going.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Frame* f
        cdef char* out
        if c == NULL or c.state != CONN_OPEN:
            return False
        if c.framing != FRAMING_SSE_CHUNKED:
            send_frame(&self.s, c, frame_of(&self.s.pool, data))
        elif len(data):  # an empty chunk would be the last one
            f = chunk_frame(&self.s.pool, len(data), &out)
            if f != NULL:
                memcpy(out, PyBytes_AS_STRING(data), len(data))
            send_frame(&self.s, c, f)
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
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef bytes text
        if c == NULL or c.state != CONN_OPEN:
            return False
        text = reason.encode(errors="replace")[:123].decode(errors="ignore").encode()
        if peer_done:
            c.flags |= PEER_DONE
        close_with(&self.s, c, code, text)
        self.later()
        return True

    def resume_fast_path(self, uint64_t handle):
        """Take a connection's input back from the parser in Python, which holds no part of a message any more."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c != NULL:
            c.flags &= ~SLOW_PARSER

    def charge(self, uint64_t handle):
        """Count a frame of a client's input against its allowance (the generic cell rate algorithm).

        The engine counts what it reads itself, but not a whole text or binary message: its receiver calls this, so
        that a refused one can be answered. A ping that is refused is not answered.

        Returns:
            `PAID`; `REFUSED` where it is one too many; `HOPELESS` where so many more were refused than allowed that the
            connection must be closed.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        return INPUT_PAID if c == NULL else pay(&self.s, c)

    def seen(self, uint64_t handle):
        """Note that a client showed itself where the engine does not read its input, as a polling request does."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
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
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Conn* o = slot_find(&self.s.slots, other)
        if c == NULL or o == NULL or c == o or c.state != CONN_OPEN or o.state != CONN_OPEN:
            raise ValueError("both connections must be open")
        if not c.flags & IS_TRANSPORT or o.sub_count:
            raise ValueError("the first must have a transport, and the second no subscriptions")
        self.moved[other] = handle      # for callbacks that wait
        if not o.flags & IS_TRANSPORT and rh_epoll_arm(self.s.epoll, o.fd, handle, (o.flags & BLOCKED) != 0) < 0:
            del self.moved[other]
            raise OSError(errno, os.strerror(errno))
        # Dropping the last reference may run code that calls the engine, so these names keep both until the end.
        transport, handler = <object> c.transport, <object> c.handler
        Py_DECREF(transport)
        Py_DECREF(handler)
        take_over(&self.s, c, o)
        self.later()
        transport.close()

    def is_open(self, uint64_t handle):
        """Tell whether a connection takes messages."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        return c != NULL and c.state == CONN_OPEN

    def handles(self):
        """Return the handles of all open connections."""
        cdef uint32_t i
        return [handle_of(slot_at(&self.s.slots, i)) for i in range(self.s.slots.count)
                if slot_at(&self.s.slots, i).state == CONN_OPEN]

    def subscribe(self, uint64_t handle, bytes channel not None, uint32_t limit=1024, bint muted=False):
        """Put a connection into a channel.

        A channel with a raw ``*`` in it is a wildcard's: what is published to it must come as
        ``@c=<concrete channel>?<payload>``, and subscribers get it with that label behind the id.

        Args:
            channel: the canonical channel.
            limit: subscriptions that the connection may hold.
            muted: whether it receives nothing of the channel until `set_positions` or `unmute`.

        Returns:
            `ADDED`, `ALREADY`, `COLLISION` when it is subscribed to another channel with the same id, `FULL` when it
            is at its limit, or `GONE`.

        Cost: O(1) in the channels and subscribers of the node, a scan of the connection's own subscriptions; where the
            framing is RESP, a scan of the channel's subscribers instead.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef PyObject* known
        cdef ChannelEntry entry
        cdef int refusal
        if c == NULL or c.state != CONN_OPEN:
            return SUBSCRIPTION_GONE
        known = PyDict_GetItem(self.channels, channel)
        entry = ChannelEntry.__new__(ChannelEntry, channel) if known == NULL else <ChannelEntry> known
        refusal = subscription_refusal(c, &entry.channel, limit)
        if refusal:
            return refusal
        if known == NULL:
            self.channels[channel] = entry  # before anything refers to it: this may raise, too
        try:
            if muted:
                log_need(&self.s, &entry.channel)
            add_subscription(&self.s, c, &entry.channel)
            if muted:
                set_features(&self.s, &entry.channel, entry.channel.count - 1, FEATURE_MUTED)
        except MemoryError:
            log_free_unused(&self.s, &entry.channel)
            if known == NULL:
                del self.channels[channel]
            raise
        return SUBSCRIPTION_ADDED

    def unsubscribe(self, uint64_t handle, bytes channel not None):
        """Take a connection out of a channel.

        Returns:
            False when it was not in it.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Channel* known = self.channel_named(channel)
        cdef Py_ssize_t index
        if c == NULL or c.state != CONN_OPEN or known == NULL:
            return False
        index = index_of(c, known)
        if index < 0:
            return False
        drop_subscription(&self.s, c, <uint32_t> index)
        self.later()
        return True

    def hold(self, bytes channel not None, bint held):
        """Set whether the engine withholds a channel's publications; reset when its last subscriber leaves."""
        cdef Channel* known = self.channel_named(channel)
        if known != NULL:
            known.flags = known.flags | CHANNEL_HELD if held else known.flags & ~CHANNEL_HELD

    def watch_leavers(self, bytes channel not None, bint watched):
        """Set whether `on_left` reports the leavers of a channel; reset when its last subscriber leaves.

        A connection leaves by `unsubscribe`, `disconnect` or its end. Clients join a watched channel through Python.

        Returns:
            False when the channel has no subscribers, so that nothing was changed.
        """
        cdef Channel* known = self.channel_named(channel)
        if known == NULL:
            return False
        known.flags = known.flags | CHANNEL_WATCHED if watched else known.flags & ~CHANNEL_WATCHED
        return True

    def is_subscribed(self, uint64_t handle, bytes channel not None):
        """Tell whether a connection is in a channel."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Channel* known = self.channel_named(channel)
        return c != NULL and known != NULL and index_of(c, known) >= 0

    def subscribers(self, bytes channel not None):
        """Return how many connections are in a channel."""
        cdef Channel* known = self.channel_named(channel)
        return 0 if known == NULL else known.count

    def subscriber_handles(self, bytes channel not None):
        """Return the handles of the connections that are in a channel."""
        cdef Channel* known = self.channel_named(channel)
        return [] if known == NULL else [handle_of(known.subs[i].conn) for i in range(known.count)]

    def subscriptions(self, uint64_t handle):
        """Return the channels that a connection is in."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c == NULL:
            return []
        return [<object> c.subs[i].channel.name for i in range(c.sub_count)]

    def channel_names(self):
        """Return all channels that have a subscriber."""
        return list(self.channels)

    def dispatch(self, batch):
        """Fan a batch of publications out to the subscribers, and write to each of them once.

        Payloads that are not UTF-8, and those on a wildcard's channel that do not name their concrete channel, are
        dropped and counted.

        Args:
            batch: items of three, ``(kind, channel, payload)``, of which the last two are ``bytes``.

        Raises:
            IndexError, TypeError: an item is malformed; those before it are delivered, those after it are not.
            MemoryError: there is no memory for a message, or its frame is larger than 2 GB; the same applies.

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

    def on_readable(self):
        """Do what `poll` does: now, or in the loop's next turn if the last `poll` left something.

        What the loop has for others, such as messages of the broker, then waits for one `poll` only, not for two.
        """
        if not self.has_more:
            self.poll()
        elif not self.poll_scheduled:
            self.call_soon(self.poll_again)
            self.poll_scheduled = True

    def poll_again(self):
        """Do what `on_readable` put off."""
        self.poll_scheduled = False
        self.poll()

    def poll(self):
        """Read from the sockets that have something, and write to those that can take more."""
        cdef int count, i, cost = 0
        if self.s.epoll < 0:
            return
        self.depth += 1
        try:
            count = rh_epoll_wait(self.s.epoll, self.s.events, EVENTS)
            for i in range(count):
                cost += attend(&self.s, &self.s.events[i])
                # The others are still ready in the next turn: a storm of arrivals or of ends must not hold up the
                # messages of the other clients.
                if cost >= MOST_COST or len(self.pending) >= CALLBACKS:
                    self.has_more = True
                    break
            else:
                self.has_more = False
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
        cdef uint32_t target
        self.s.now = now
        if self.started < 0:
            self.started = now
        target = <uint32_t> max(0.0, (now - self.started) / self.tick_interval)
        if target > self.s.wheel.now + LATE_TICKS:
            # The process was held up, and answers to its pings may lie unread: that time counts for nobody.
            target = self.s.wheel.now + 1
            self.started = now - target * self.tick_interval
        self.depth += 1
        try:
            accept_again(&self.s)
            advance(&self.s, target)
            if self.s.windows.open:
                self.pass_time(now)
        except BaseException:
            self.depth -= 1
            self.recover_after_raise()
            raise
        self.depth -= 1
        self.settle()

    def stats(self):
        """Return the counters and gauges, by name. Counters start at zero with the engine."""
        return {
            "connections": self.s.open_count, "closing": self.s.used_count - self.s.open_count - self.s.arrived_count,
            "subscriptions": self.s.subscription_count, "channels": len(self.channels),
            "connections_total": self.s.n.connections_total, "messages": self.s.n.messages,
            "deliveries": self.s.n.deliveries, "bytes_out": self.s.n.bytes_out, "frames_built": self.s.n.frames_built,
            "sends": self.s.n.sends, "blocked": self.s.n.blocked,
            "dropped_invalid_utf8": self.s.n.dropped_invalid_utf8, "dropped_unclaimed": self.s.n.dropped_unclaimed,
            "malformed": self.s.n.malformed,
            "slow_disconnects": self.s.n.slow_disconnects, "heartbeat_disconnects": self.s.n.heartbeat_disconnects,
            "protocol_errors": self.s.n.protocol_errors, "refused_frames": self.s.n.refused_frames,
            "ring_messages": self.s.ring.count, "ring_bytes": self.s.ring.bytes, "replays": self.s.replays.count,
            "resumed": self.s.n.resumed, "replayed": self.s.n.replayed, "replayed_read": self.s.n.replayed_read,
            "log_duplicates": self.s.n.log_duplicates, "unpositioned": self.s.n.unpositioned,
            "kept_back": self.s.n.kept_back,
            "conflating": self.s.windows.count, "conflated": self.s.n.conflated,
        }

    def queues(self):
        """Return what waits for connections now.

        Returns:
            Messages and bytes in all queues, then messages and bytes of the queue that holds the most bytes.

        Cost: a look at each slot; about 2 ms for 100,000 connections.
        """
        cdef QueueTotals t = queue_totals(&self.s)
        return t.messages, t.bytes, t.most_messages, t.most_bytes

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
        cdef Channel* channel
        cdef list top = []
        cdef uint32_t least = 0     # what a channel must pass to come in
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count}")
        while PyDict_Next(self.channels, &position, NULL, &value):
            channel = &(<ChannelEntry> value).channel
            if channel.recent > least:
                top.append((channel.recent, <object> channel.name, channel.count))
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
        if self.s.closed and self.s.used_count == 0:
            return
        self.s.closed = True      # first, so that a callback adds none
        for i in range(self.s.slots.count):
            c = slot_at(&self.s.slots, i)
            if c.state != CONN_FREE:
                mark_closed(&self.s, c)
        self.settle()

    cdef int later(self) except -1:
        if self.depth == 0 and not self.flush_scheduled and not self.s.closed:
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
        if self.depth > 0:  # the outermost entry point does it
            return 0
        self.depth = 1
        try:
            while True:
                close_slow(&self.s)
                self.run_pending()
                if list_filled(&self.s.lists[REPLAYS]):
                    pump_waiting(&self.s)
                with nogil:
                    write_slice(&self.s)
                write_through_python(&self.s)
                reap(&self.s)
                if not self.pending and not list_filled(&self.s.lists[SLOW]):
                    break
        except BaseException:
            self.depth = 0
            self.recover_after_raise()
            raise
        built_clear(&self.s)
        self.depth = 0
        if self.s.windows.open and not self.s.windows.told:
            self.tell_windows()
        if (list_filled(&self.s.lists[URGENT]) or list_filled(&self.s.lists[BULK])
                or list_filled(&self.s.lists[THROUGH_PYTHON]) or list_filled(&self.s.lists[REPLAYS])):
            self.later()
        return 0

    cdef int tell_windows(self) except -1:
        self.s.windows.told = True
        if self.on_windows is not None:
            try:
                self.on_windows()
            except Exception as error:
                self.on_error(error)
        return 0

    cdef int run_pending(self) except -1:
        cdef list pending
        cdef Py_ssize_t done
        while self.pending:
            pending = self.pending.copy()
            self.pending.clear()
            done = 0
            try:
                for what, handler, handle, data in pending:
                    if what != "on_sub":    # which sees to it by itself
                        self.tell_firsts()
                    done += 1
                    while handle in self.moved:
                        handle = self.moved[handle]
                    try:
                        self.run_callback(what, handler, handle, data)
                    except Exception as error:
                        self.drop(handle)   # an arrival that nobody decided about; anything else is left alone
                        self.on_error(error)
            except BaseException:   # a signal's, or from `on_error`: the others are told all the same
                self.pending[:0] = pending[done:]
                raise
            self.tell_firsts()
        self.moved.clear()
        return 0

    cdef int dispatch_one(self, bytes name, bytes payload) except -1:
        cdef Channel* channel = self.channel_named(name)
        self.s.n.messages += 1
        if channel == NULL:
            self.s.n.dropped_unclaimed += 1
            return 0
        return publish(&self.s, channel, payload)

    cdef int linger(self, Lingering lingering) except -1:
        cdef Conn* c = slot_find(&self.s.slots, lingering.handle)
        if c == NULL or not c.flags & HALF_CLOSED:
            return 0
        if rh_has_sent(c.fd):
            c.flags |= OVERDUE
            mark_closed(&self.s, c)
            self.settle()
        elif lingering.turns:
            lingering.turns -= 1
            self.call_soon(lingering)
        return 0

    cdef int run_callback(self, str what, object handler, uint64_t handle, object data) except -1:
        if what == "on_sub":
            if self.is_open(handle) and not self.join(handle, <bytes> data[0], <bytes> data[1], data[2]):
                self.tell_firsts()
                handler.on_sub(handle, data)
        elif what == "on_client":
            if self.takes_callbacks(handle):
                handler.on_client(handle, data)
        elif what == "vacant":
            if self.on_vacant is not None:
                self.on_vacant(data)
        elif what == "left":
            handles = self.leavers.pop(data, None)
            if handles and self.on_left is not None:
                self.on_left(data, handles)
        elif what == "hole":
            self.tell_hole(data)
        elif what == "starved":
            self.tell_starved(data)
        elif what == "traced":
            if self.on_traced is not None:
                self.on_traced(data[0], data[1], data[2], clock_ns() - <int64_t> data[3])
        elif what == "on_gone":
            handler.on_gone(handle)
        elif what == "pong":
            answer_ping(&self.s, handle, data)
        elif what == "end":
            self.disconnect(handle, data[0], data[1])
        elif what == "linger":
            self.call_soon(Lingering(self, handle))
        elif what == "on_exhausted":
            self.s.exhausted = False
            handler.on_exhausted(handle, data)
        elif self.takes_callbacks(handle):  # it may have left in a callback before this one
            getattr(handler, what)(handle, data)
        return 0

    cdef bint takes_callbacks(self, uint64_t handle) noexcept:
        cdef Conn* c = slot_find(&self.s.slots, handle)
        return c != NULL and (c.state == CONN_OPEN or c.state == CONN_ARRIVED)

    cdef int feed_rest(self, uint64_t handle, bytes rest) except -1:
        if rest:
            self.depth += 1     # no callback before the caller is done
            try:
                self.feed(handle, rest)
            finally:
                self.depth -= 1
        return self.later()
