# The engine's structures and contracts; the bodies are in `_fanout.pyx`.
#
# Everything belongs to one engine, and an engine to the thread of its event loop. The GIL is released while sockets are
# written, so other threads of the process run; they must not touch the engine.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from cpython.object cimport PyObject

from realizehit._frames cimport Frame
from realizehit._memory cimport Pool
from realizehit._sockets cimport rh_event


cdef enum:
    WHEEL = 512         # buckets of the timer wheel

cdef enum ConnState:
    CONN_FREE = 0       # the slot is unused
    CONN_OPEN = 1       # in the registry; takes messages
    CONN_CLOSING = 2    # out of the registry; its last frames go out, what it sends is thrown away
    CONN_SLOW = 3       # its queue passed a bound: takes nothing more, and is sent away after this dispatch
    CONN_DEAD = 4       # waits for `bury`, which closes its socket

cdef enum ConnFlag:
    IS_TRANSPORT = 1    # second kind of sink: bytes go through a Python transport
    ON_URGENT = 2       # stands in the urgent dirty list
    ON_BULK = 4         # stands in the bulk dirty list
    BLOCKED = 8         # the socket was full; written again when it says so
    HARD = 16           # its bytes go to a parser in Python
    SEEN = 32           # something was received since the last ping
    PINGED = 64         # a ping is out
    LAST_FRAME = 128    # a close frame is queued; nothing may follow it
    PEER_DONE = 256     # the peer's close frame came: after the last frame the socket can be closed at once
    HALF_CLOSED = 512   # our side of the socket is shut
    ON_PYTHON = 2048    # stands in the list of transports to write to
    BURIED = 1024       # its socket is closed; the slot is free again once no dirty list names it


cdef struct Subscription:
    # A connection's side of "this connection is subscribed to that channel".
    PyObject* channel       # a Channel, which lives as long as it has subscribers
    uint32_t position       # where the connection stands in the channel's array
    uint32_t number         # the channel's id as a number, to see collisions without touching the channel


cdef struct Subscriber:
    # The channel's side.
    Conn* conn
    uint32_t index          # where the channel stands in the connection's array


cdef struct Conn:
    int fd                  # -1 where there is none (any more)
    uint32_t slot
    uint32_t generation     # counts the connections that had this slot; never 0
    uint16_t flags
    uint8_t state
    uint8_t framing
    # The queue: a ring of frames, in a pooled block; NULL while empty, which most are most of the time.
    Frame** ring
    uint16_t room           # entries of the ring, a power of two; 0 while empty
    uint16_t head
    uint16_t count
    uint16_t sub_room
    uint32_t offset         # bytes of the first frame that are gone already
    uint32_t queued         # bytes that wait, the offset not subtracted
    # What it is subscribed to; one subscription, the common case, needs no block of its own.
    Subscription* subs
    Subscription only
    uint32_t sub_count
    # Timer wheel: neighbours in the bucket, by slot, and when it is due.
    uint32_t timer_next
    uint32_t timer_prev
    uint32_t due            # tick
    PyObject* handler       # who is told what this connection sends; shared by all connections of a transport
    PyObject* transport     # for IS_TRANSPORT


cdef struct Counters:
    uint64_t connections_total
    uint64_t messages
    uint64_t deliveries
    uint64_t bytes_out
    uint64_t frames_built
    uint64_t sends
    uint64_t joins
    uint64_t blocked
    uint64_t dropped_invalid_utf8
    uint64_t dropped_unclaimed
    uint64_t slow_disconnects
    uint64_t heartbeat_disconnects
    uint64_t protocol_errors


cdef struct ConnList:
    # A queue of connections with room for every slot, so that nothing fails in the middle of a dispatch.
    Conn** items
    uint32_t start
    uint32_t end
    uint32_t room


cdef enum:  # the lists of connections
    URGENT = 0              # dirty through a channel with few subscribers, or a reply
    BULK = 1                # dirty through a broadcast
    THROUGH_PYTHON = 2      # dirty, and written by a Python transport
    SLOW = 3                # to be sent away
    DOOMED = 4              # to be buried
    LISTS = 5


cdef class Channel:
    cdef bytes name
    cdef Subscriber* subs
    cdef Subscriber only
    cdef uint32_t count
    cdef uint32_t room
    cdef uint32_t number    # the id as a number
    cdef char id[8]


cdef class Engine:
    # Python's side
    cdef object call_soon
    cdef object on_error
    cdef public object on_vacant
    cdef list pending           # callbacks to run, (method name, handler, handle, data)
    # limits
    cdef uint32_t max_queue_bytes
    cdef uint32_t max_queue_messages
    cdef size_t max_message
    cdef int64_t slice_ns
    cdef readonly double tick_interval
    cdef uint32_t ping_ticks
    cdef uint32_t pong_ticks
    cdef uint32_t close_ticks
    # connections
    cdef int epoll
    cdef rh_event* events
    cdef Conn** chunks
    cdef uint32_t slots
    cdef uint32_t* free_slots
    cdef uint32_t free_count
    cdef uint32_t open_count
    cdef uint32_t used_count    # open, closing or dead
    cdef uint64_t subscription_count
    # registry: channel name -> Channel
    cdef dict channels
    # output
    cdef ConnList lists[LISTS]
    cdef uint32_t picked
    cdef char* scratch
    cdef Frame** joined         # the queue that `scratch` holds, to share it with connections whose queue is the same
    cdef uint32_t joined_count
    cdef uint32_t joined_size
    cdef Frame* ping_frame
    # input
    cdef uint8_t* inbox
    # timers
    cdef uint32_t wheel[WHEEL]
    cdef uint32_t now           # tick
    cdef double started
    cdef uint32_t spread        # varies the first ping of each connection
    #
    cdef Pool pool
    cdef Counters n
    cdef int depth              # entry points on the stack
    cdef bint flush_scheduled
    cdef bint closed

    # Connections. `create` raises MemoryError; what it returns is open and in the wheel, without a socket.
    cdef Conn* at(self, uint32_t slot) noexcept nogil
    cdef Conn* find(self, uint64_t handle) noexcept nogil
    cdef object begin(self, Conn* c, bytes head, bytes rest)
    cdef int grow_slots(self) except -1
    cdef Conn* create(self, object handler, int framing) except NULL
    cdef int leave(self, Conn* c) except -1             # out of every channel
    cdef int close_with(self, Conn* c, int code, bytes reason) except -1
    cdef void doom(self, Conn* c) noexcept nogil        # its socket is of no use any more
    cdef int bury(self) except -1                       # closes what was doomed
    cdef void recycle(self, Conn* c) noexcept nogil     # the slot may be used again

    # Registry.
    cdef Py_ssize_t index_of(self, Conn* c, Channel channel) noexcept
    cdef int add_subscription(self, Conn* c, Channel channel) except -1
    cdef int drop_subscription(self, Conn* c, uint32_t index) except -1

    # Dispatch. `enqueue` never fails: a connection whose queue is full becomes CONN_SLOW, one for which there is
    # no memory is doomed.
    cdef int dispatch_one(self, bytes name, bytes payload) except -1
    cdef int fan_out(self, Subscriber* subs, uint32_t count, const char* prefix,
                     const char* payload, size_t size) except -1 nogil
    cdef bint enqueue(self, Conn* c, Frame* f, bint urgent) noexcept nogil   # whether it was queued
    cdef void append(self, Conn* c, Frame* f) noexcept nogil
    cdef void make_dirty(self, Conn* c, bint urgent) noexcept nogil
    cdef void drop_queue(self, Conn* c, uint32_t keep) noexcept nogil
    cdef void release(self, Frame* f) noexcept nogil

    # Flush. The write functions return what `send` returned and put what they offered into `offered`.
    cdef void write_slice(self) noexcept nogil
    cdef Conn* next_dirty(self) noexcept nogil
    cdef void write_out(self, Conn* c) noexcept nogil
    cdef Py_ssize_t write_joined(self, Conn* c, size_t* offered) noexcept nogil
    cdef Py_ssize_t write_vector(self, Conn* c, size_t* offered) noexcept nogil
    cdef void block(self, Conn* c) noexcept nogil
    cdef void written(self, Conn* c, size_t size) noexcept nogil
    cdef void finish(self, Conn* c) noexcept nogil
    cdef int write_through_python(self) except -1

    # Input.
    cdef int receive(self, Conn* c) except -1
    cdef int consume(self, Conn* c, uint8_t* data, size_t size) except -1
    cdef int receive_close(self, Conn* c, const uint8_t* data, size_t size) except -1
    cdef int tell(self, str what, Conn* c, object data) except -1

    # Timers.
    cdef void timer_set(self, Conn* c, uint32_t ticks) noexcept nogil
    cdef void timer_unset(self, Conn* c) noexcept nogil
    cdef int timer_fired(self, Conn* c) except -1

    # Entry points end in `settle`, which runs callbacks, flushes and buries; what happens outside of one asks for it
    # with `later`.
    cdef int settle(self) except -1
    cdef int run_pending(self) except -1
    cdef int later(self) except -1
