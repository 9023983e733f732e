# The engine and its contracts; the bodies are in `_fanout.pyx`.
#
# Everything belongs to one engine, and an engine to the thread of its event loop. The GIL is released while sockets are
# written, so other threads of the process run; they must not touch the engine.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from realizehit.engine.conn cimport Conn, ConnList, Slots, Subscriber
from realizehit.engine.frames cimport FRAMINGS, Frame, Incoming
from realizehit.engine.memory cimport Pool
from realizehit.engine.sockets cimport rh_event
from realizehit.engine.wheel cimport Wheel
from realizehit.engine.writer cimport Writer


cdef struct Counters:
    uint64_t connections_total
    uint64_t messages
    uint64_t deliveries
    uint64_t bytes_out
    uint64_t frames_built
    uint64_t sends
    uint64_t blocked
    uint64_t dropped_invalid_utf8
    uint64_t dropped_unclaimed
    uint64_t slow_disconnects
    uint64_t heartbeat_disconnects
    uint64_t protocol_errors
    uint64_t refused_frames


cdef enum:  # the lists of connections
    URGENT = 0              # dirty through a channel with few subscribers, or a reply
    BULK = 1                # dirty through a broadcast
    THROUGH_PYTHON = 2      # dirty, and written by a Python transport
    SLOW = 3                # to be sent away
    DOOMED = 4              # to be reaped
    OVER = 5                # much waits for them, to be looked at in each tick
    LISTS = 6


cdef class Channel:
    cdef bytes name
    cdef Subscriber* subs
    cdef Subscriber only    # one subscriber, a common case, needs no block
    cdef uint32_t count
    cdef uint32_t room
    cdef uint32_t number    # the id as a number
    cdef uint32_t recent    # publications since `busiest` was last asked
    cdef bint held          # not in force yet: what comes belongs to an earlier subscription
    cdef char id[8]


cdef class Lingering:
    cdef Engine engine
    cdef uint64_t handle
    cdef int turns


cdef class Engine:
    # Python's side
    cdef object call_soon
    cdef object on_error
    cdef public object on_vacant
    cdef list pending           # callbacks to run: (what, handler, handle, data)
    cdef dict moved             # handles that `splice` ended while callbacks wait -> the ones that go on
    # limits
    cdef uint32_t max_queue_bytes
    cdef uint32_t max_queue_messages
    cdef uint32_t burst_bytes       # the limits of a connection that may be over the others for a time
    cdef uint32_t burst_messages
    cdef uint64_t burst_total
    cdef uint32_t watch_bytes       # from here on a connection is watched; the limits where there is no grace
    cdef uint32_t watch_messages
    cdef uint32_t grace_ticks       # 0 for none
    cdef uint32_t stall_ticks
    cdef size_t max_message
    cdef int64_t input_step         # nanoseconds that a frame of input costs; 0 where it is not bounded
    cdef uint8_t input_strikes      # frames refused, less those allowed since, after which it is closed
    cdef int64_t input_most         # nanoseconds that a connection may be ahead of its rate
    cdef int64_t slice_ns
    cdef int loop_fd
    cdef bint check_utf8
    cdef readonly double tick_interval
    cdef uint32_t ping_ticks
    cdef uint32_t pong_ticks
    cdef uint32_t close_ticks
    cdef uint32_t user_timeout      # milliseconds
    # connections
    cdef Slots slots
    cdef uint32_t open_count
    cdef uint32_t used_count    # open, closing or dead
    cdef uint64_t subscription_count
    # registry: channel name -> Channel
    cdef dict channels
    # output
    cdef ConnList lists[LISTS]
    cdef uint32_t picked
    cdef Writer writer
    cdef Frame* pings[FRAMINGS]     # the heartbeat of each framing that has one
    # input
    cdef int epoll
    cdef rh_event* events
    cdef uint8_t* inbox             # what is read, behind room for the start of its first frame
    # timers
    cdef Wheel wheel
    cdef double started
    cdef uint32_t spread        # varies the first ping of each connection
    #
    cdef Pool pool
    cdef Counters n
    cdef int depth              # entry points on the stack
    cdef bint flush_scheduled
    cdef bint closed

    # Connections. `create` raises MemoryError; what it returns is open and in the wheel, without a socket.
    cdef Conn* find(self, uint64_t handle) noexcept nogil
    cdef Conn* create(self, object handler, int framing) except NULL
    cdef object begin(self, Conn* c, bytes head, bytes rest)
    cdef int leave(self, Conn* c) except -1             # out of every channel
    cdef Frame* close_frame(self, int framing, int code, bytes reason) except? NULL    # NULL where there is none
    cdef void start_heartbeat(self, Conn* c) noexcept nogil
    cdef void count_pings(self, int sign) noexcept
    cdef int close_with(self, Conn* c, int code, bytes reason) except -1
    cdef void mark_closed(self, Conn* c) noexcept nogil        # its socket is of no use any more
    cdef int reap(self) except -1                       # closes what is marked

    # Registry.
    cdef Py_ssize_t index_of(self, Conn* c, Channel channel) noexcept
    cdef int add_subscription(self, Conn* c, Channel channel) except -1
    cdef int drop_subscription(self, Conn* c, uint32_t index) except -1

    # Dispatch. `enqueue` says whether the frame was queued: a connection whose queue is full becomes CONN_SLOW, one
    # for which there is no memory is doomed. `send_frame` takes the caller's hold on the frame.
    cdef int dispatch_one(self, bytes name, bytes payload) except -1
    # `build` makes a message of a framing: with `id` a publication, which RESP names by its channel, without one a
    # reply.
    cdef Frame* build(self, int framing, const char* id, bytes channel, const char* text, size_t size) except NULL
    cdef Frame* build_deflated(self, const char* head, size_t head_size, const char* text, size_t size) except NULL
    cdef int fan_out(self, Channel channel, Subscriber* subs, uint32_t count,
                     const char* payload, size_t size) except -1
    cdef bint enqueue(self, Conn* c, Frame* f, bint urgent) noexcept nogil
    cdef bint tolerates(self, Conn* c, size_t size) noexcept nogil  # whether a connection may pass its limit now
    cdef void send_away(self, Conn* c) noexcept nogil
    cdef bint is_over(self, Conn* c, size_t size) noexcept nogil
    cdef void look_at(self, Conn* c) noexcept nogil     # whether its peer took something
    cdef void judge(self) noexcept nogil
    cdef int send_frame(self, Conn* c, Frame* f) except -1
    cdef void make_dirty(self, Conn* c, bint urgent) noexcept nogil

    # Flush.
    cdef void write_slice(self) noexcept nogil
    cdef Conn* next_dirty(self) noexcept nogil
    cdef void write_out(self, Conn* c) noexcept nogil
    cdef void block(self, Conn* c) noexcept nogil
    cdef void finish(self, Conn* c) noexcept nogil
    cdef bytes concatenated(self, Conn* c, size_t most)
    cdef int write_through_python(self) except -1
    cdef bint write_part(self, Conn* c) except -1       # whether more can be written at once
    cdef int finish_transport(self, Conn* c) except -1
    cdef bint is_flushed(self, Conn* c) except -1
    cdef int linger(self, Lingering lingering) except -1
    cdef uint64_t waiting(self, Conn* c) noexcept nogil
    cdef void put_outside(self, Conn* c, uint32_t size) noexcept nogil

    # Input.
    cdef int receive(self, Conn* c) except -1
    cdef int consume(self, Conn* c, uint8_t* data, size_t size) except -1
    cdef int receive_fragment(self, Conn* c, Incoming* frame) except -1
    cdef int leave_to_python(self, Conn* c, const uint8_t* data, size_t size) except -1
    cdef int pay(self, Conn* c) noexcept nogil          # as `charge` answers
    cdef bint pay_or_end(self, Conn* c) except -1       # whether it is paid for
    cdef int answer_ping(self, uint64_t handle, bytes data) except -1
    # Both end the connection once the callbacks that wait have run; `fail_protocol` blames the client.
    cdef int fail_protocol(self, Conn* c, int code, str reason) except -1
    cdef int end_after_callbacks(self, Conn* c, int code, str reason) except -1
    cdef bint has_answered(self, Conn* c, uint8_t* data, size_t size) noexcept
    cdef int receive_close(self, Conn* c, const uint8_t* data, size_t size) except -1
    cdef int tell(self, str what, Conn* c, object data) except -1

    # Timers.
    cdef int timer_fired(self, Conn* c) except -1

    # Entry points end in `settle`, which runs callbacks, flushes and reaps; what happens outside of one asks for it
    # with `later`.
    cdef int settle(self) except -1
    cdef int run_pending(self) except -1
    cdef int recover_after_raise(self) except -1     # an entry point raises: its leftovers are for the next flush
    cdef int later(self) except -1
