# The state of an engine as one C struct, which every part that follows takes as its first argument.
#
# `_fanout.Engine` holds it, fills it at its start and frees it at its end. It belongs to the thread of the event loop.
# The GIL is released while sockets are written, so that other threads run; they must not touch it.
#
# The Python objects in it are borrowed: the engine holds the references for as long as it exists.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from realizehit.engine.conn cimport Channel, Conn, ConnList, Slots
from realizehit.engine.frames cimport FRAMINGS, Frame
from realizehit.engine.memory cimport Pool
from realizehit.engine.ring cimport Ring
from realizehit.engine.sockets cimport rh_event
from realizehit.engine.wheel cimport Wheel
from realizehit.engine.writer cimport Writer


cdef struct Replay:
    # A subscription that is sent what came after a position, before it is live. Slots of one array, by number.
    Conn* conn
    Channel* channel
    uint64_t next               # offset of the message that it is sent next
    uint32_t before             # neighbours among the replays of the channel, 0 for none
    uint32_t behind
    uint8_t state               # of ReplayState


cdef enum ReplayState:
    REPLAY_ROOM = 0             # waits until its connection's queue has room
    REPLAY_AHEAD = 1            # waits for messages beyond the log's position
    REPLAY_STARVED = 2          # needs a message that the ring does not hold, yet to be told
    REPLAY_ASKED = 3            # `on_starved` told it


cdef struct Replays:
    Replay* items               # number 0 is not used
    uint32_t room
    uint32_t unused             # the first of the free ones, which are linked by `behind`
    uint32_t count


cdef struct Window:
    # A subscription that receives one message in a time. Slots of one array, by number.
    Conn* conn
    Channel* channel
    Frame* newest               # goes at the end of the window; held; NULL if nothing came since the last message
    uint64_t due                # tick at which the window ends, or WINDOW_FRESH; 0 while it is not open
    uint32_t ticks              # its length
    uint32_t before             # neighbours in its bucket, 0 for none
    uint32_t behind


cdef enum:
    WINDOW_BUCKETS = 512        # a window that ends later than these is passed over until its turn
    WINDOW_FRESH = 0xFFFFFFFF   # its length counts from the next tick; a process with this tick is 497 days old


cdef struct Windows:
    Window* items               # number 0 is not used
    uint32_t room
    uint32_t unused             # the first of the free ones, which are linked by `behind`
    uint32_t count
    uint32_t open
    uint64_t now                # tick
    double began                # when tick 0 was, by the owner's clock; set while `timed`
    bint timed                  # the owner has told the time since the first of the open windows opened
    bint told                   # the owner knows that windows are open
    uint32_t buckets[WINDOW_BUCKETS + 1]    # the first window in each, 0 for none; the last has the fresh ones


cdef struct Built:
    # A labelled frame in another framing than WebSocket's, for replays of the same turn of the loop.
    Frame* source               # the frame of the ring, held
    Frame* made                 # held
    int framing


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
    uint64_t malformed          # publications to a wildcard's channel that do not say their concrete channel
    uint64_t slow_disconnects
    uint64_t heartbeat_disconnects
    uint64_t protocol_errors
    uint64_t refused_frames
    uint64_t resumed            # clients that joined a log after a position without Python
    uint64_t replayed           # messages that replays sent
    uint64_t replayed_read      # those of them that the ring did not hold
    uint64_t log_duplicates     # publications at or below the position of their log
    uint64_t unpositioned       # publications without a position on a channel with a log
    uint64_t kept_back          # publications that wait for the position of their log, or for what is missing; a gauge
    uint64_t kept_bytes         # a gauge, too
    uint64_t conflated          # messages that a newer one replaced, counted for each subscriber


cdef enum:
    DOORS = 32                  # listening sockets of an engine, at most
    JOINERS = 4                 # handlers that take plain subs, at most


cdef struct Door:
    # A listening socket, which stays its owner's.
    int fd
    PyObject* handler           # of what arrives, until it is a client; NULL for an unused entry
    PyObject* verdicts          # dict: signature of a head -> verdict, see `Engine.listen`
    PyObject* watched           # tuple: headers by which Python decides about each client; NULL where it does not
    bint counted                # Python is told of each arrival before its head is read
    bint waits                  # epoll does not watch it until the next tick, since nothing can be accepted


cdef enum:  # the lists of connections
    URGENT = 0              # dirty through a channel with few subscribers, or a reply
    BULK = 1                # dirty through a broadcast
    THROUGH_PYTHON = 2      # dirty, and written by a Python transport
    SLOW = 3                # to be closed as too slow
    DOOMED = 4              # to be reaped
    OVER = 5                # much waits for them, to be looked at in each tick
    REPLAYS = 6             # took what was queued, so that their replays can go on
    LISTS = 7


cdef struct State:
    # Python objects
    PyObject* pending           # list of callbacks to run: (what, handler, handle, data)
    PyObject* leavers           # dict of callbacks "left" that wait: channel name -> list of handles
    PyObject* channels          # dict, the registry: channel name -> _fanout.ChannelEntry
    PyObject* on_error          # called with an exception that a callback raised
    PyObject* compressobj       # zlib.compressobj
    # limits
    uint32_t max_queue_bytes
    uint32_t max_queue_messages
    uint32_t burst_bytes        # the limits of a connection that may be over the others for a time
    uint32_t burst_messages
    uint64_t burst_total
    uint32_t watch_bytes        # from here on a connection is watched; the limits if there is no grace
    uint32_t watch_messages
    uint32_t grace_ticks        # 0 for none
    uint32_t stall_ticks
    size_t max_message
    int64_t input_step          # nanoseconds that a frame of input costs; 0 where it is not bounded
    int64_t input_most          # nanoseconds that a connection may be ahead of its rate
    uint8_t input_strikes       # frames refused, less those allowed since, after which a connection is closed
    bint check_utf8
    int64_t slice_ns
    int loop_fd                 # the descriptor on which the event loop waits; -1 where it is not known
    uint32_t ping_ticks
    uint32_t pong_ticks
    uint32_t close_ticks
    uint32_t user_timeout       # milliseconds
    # connections
    Slots slots
    uint32_t open_count
    uint32_t arrived_count
    uint32_t used_count         # arrived, open, closing or dead
    uint64_t subscription_count
    bint closed
    # arrivals
    Door doors[DOORS]
    uint32_t room               # clients up to which arrivals are let in by a verdict
    uint32_t head_ticks         # for a head to arrive
    size_t max_head             # bytes
    int spare                   # a descriptor to give up where there is no other one; -1 for none
    bint exhausted              # that there is none waits to be told
    # joining
    PyObject* joiners[JOINERS]  # the handlers that take plain subs
    uint32_t join_limit         # subscriptions that a connection may hold
    bint follow_traces          # whether deliveries of sampled traces are told to Python
    # output
    ConnList lists[LISTS]
    uint32_t picked
    Writer writer
    Frame* pings[FRAMINGS]      # the heartbeat of each framing that has one
    # logs
    Ring ring
    Replays replays
    double now                  # seconds, as of the last tick
    Built* built                # frames of other framings made from those in the ring; NULL if never needed
    uint32_t built_count        # used since the table was cleared
    # conflation
    Windows windows
    # input
    int epoll
    rh_event* events
    uint8_t* inbox              # what is read, behind room for the start of its first frame
    # timers
    Wheel wheel
    uint32_t spread             # varies the first ping of each connection
    #
    Pool pool
    Counters n


cdef inline int64_t clock_ns() noexcept nogil:
    """Return the monotonic clock in nanoseconds."""
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t> t.tv_sec * 1000000000 + t.tv_nsec
