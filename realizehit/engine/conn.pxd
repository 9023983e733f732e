# A connection and a channel as the engine keeps them, the slots that connections live in, and queues of connections.
#
# Called by all other parts. A slot is used by one connection after another. The generation is part of the handle and
# tells them apart, so that a late answer never reaches the wrong connection. Nothing here raises, calls Python or makes
# a system call.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove, memset

from realizehit.engine.frames cimport Frame
from realizehit.engine.ring cimport Log

cdef enum:
    CHUNK = 1024                # connections that are allocated together, so that a Conn never moves

cdef enum ConnState:
    CONN_FREE = 0               # the slot is unused
    CONN_OPEN = 1               # in the registry; takes messages
    CONN_CLOSING = 2            # out of the registry; its last frames go out, what it sends is thrown away
    CONN_SLOW = 3               # its queue passed a bound: takes nothing more, and is sent away after this dispatch
    CONN_DEAD = 4               # waits for `reap`, which closes its socket
    CONN_ARRIVED = 5            # accepted; has sent no head yet, and is no client (`arrivals.pxd`)

cdef enum ConnFlag:
    IS_TRANSPORT = 1            # second kind of sink: its bytes go through a Python transport
    ON_URGENT = 2               # stands in the urgent dirty list
    ON_BULK = 4                 # stands in the bulk dirty list
    ON_PYTHON = 8               # stands in the list of transports to write to
    BLOCKED = 16                # the socket was full; written again when it says so
    SLOW_PARSER = 32            # its bytes go to a parser in Python
    SEEN = 64                   # something was received since the last ping
    PINGED = 128                # a ping is out
    LAST_FRAME = 256            # a close frame is queued; nothing may follow it
    PEER_DONE = 512             # the peer's close frame came: after the last frame the socket can be closed at once
    HALF_CLOSED = 1024          # our side of the socket is shut, or its transport was told to close
    RELEASE_PENDING = 2048      # its socket is closed; the slot is free again once no list names it
    OVERDUE = 4096              # the time to end is over
    DISCARD_INPUT = 8192        # it broke the protocol: nothing more of it is read
    ON_SLOW = 16384             # stands in the list of connections to close as too slow
    ON_OVER = 32768             # stands in the list of watched connections, for which much waits
    TLS = 65536                 # its transport encrypts, over another transport that has a buffer of its own
    HAS_REPLAY = 131072         # one of its subscriptions may be replaying
    ON_REPLAY = 262144          # stands in the list of connections whose replays can go on
    WITH_PYTHON = 524288        # arrived, and Python decides about it: nothing is read from it meanwhile
    HAS_WINDOW = 1048576        # one of its subscriptions may be conflating
    LISTED = 311310             # ON_URGENT, ON_BULK, ON_PYTHON, ON_SLOW, ON_OVER and ON_REPLAY: a list names it


cdef struct Subscription:
    # A connection's side of "this connection is subscribed to that channel".
    Channel* channel            # lives as long as it has subscribers
    uint32_t position           # where the connection stands in the channel's array
    uint32_t number             # the channel's id as a number, to see collisions without touching the channel


cdef struct Subscriber:
    # The channel's side.
    Conn* conn
    uint32_t index              # where the channel stands in the connection's array
    uint32_t features           # of SubscriberFeature; the bits above them are the number of the replay or window


cdef enum SubscriberFeature:
    # The first two are also forms of a publication (`frames.pxd`). A channel with a subscriber that has any of them but
    # FEATURE_TRACE has a `Log`, and its publications take the way of `logs.pxd`.
    FEATURE_POSITIONS = 1       # it is told positions
    FEATURE_TRACE = 2           # it is told traceparents
    FEATURE_MUTED = 4           # it receives nothing yet
    FEATURE_REPLAYING = 8       # it receives what the replay sends it; live messages only without a position
    FEATURE_CONFLATING = 16     # it receives one message in a time, the newest; it has no positions
    FEATURE_BITS = 5            # how many bits these are


cdef struct Channel:
    # A channel that has subscribers, which stand in an array without gaps.
    PyObject* name              # bytes; the registry's key, which holds the reference
    Subscriber* subs
    Subscriber only             # one subscriber, a common case, needs no block
    Log* log                    # NULL unless it has a log, or a subscriber with features
    uint32_t count
    uint32_t room
    uint32_t recent             # publications since `busiest` was last asked
    uint8_t flags               # of ChannelFlag: what was asked for, or is so by its name
    char id[8]


cdef enum ChannelFlag:
    CHANNEL_HELD = 1            # publications are withheld: they belong to an earlier subscription at the broker
    CHANNEL_WILDCARD = 2        # a star stands in its name: publications come with their concrete channel
    CHANNEL_WATCHED = 4         # the connections that leave it are told to Python
    CHANNEL_LOGGED = 8          # `log` is not NULL
    CHANNEL_OPEN = 16           # it is in force, and clients may join it without Python


cdef struct Input:
    # The bytes follow the struct: those of the message so far, then those of a frame that is not whole.
    uint32_t room               # for bytes
    uint32_t message            # bytes of the message
    uint32_t checked            # bytes of it that are known to be UTF-8
    uint32_t partial            # bytes of the frame
    bint begun                  # a message has begun, perhaps with an empty fragment


cdef struct Conn:
    # What a message needs stands in the first 64 bytes.
    int fd                      # -1 without a socket; the engine only inspects a transport's socket
    uint32_t slot
    uint32_t generation         # counts the connections that had this slot; never 0
    uint32_t flags
    uint8_t state
    uint8_t framing             # while it has only arrived, the number of its door
    uint8_t frame_key           # which frames it shares: framing and features
    uint8_t strikes             # what it sent too fast: refused less allowed, 0 or more
    uint32_t over               # last tick at which its queue was within the limit, for ON_OVER; when closing is over
    # The queue: a ring of frames. Most of the time it is empty, else it mostly holds one, which needs no block.
    Frame** ring                # a pooled block, or the next field if that is enough; NULL while empty
    Frame* single
    uint32_t room               # entries of the ring, a power of two; 0 while empty
    uint32_t head
    uint32_t count
    uint32_t offset             # bytes of the first frame that are gone already
    uint32_t queued             # bytes that wait, the offset not subtracted
    uint32_t moved              # tick at which it last took bytes
    # What it is subscribed to; one subscription, the common case, needs no block of its own.
    Subscription* subs
    Subscription only
    uint32_t sub_count
    uint32_t sub_room
    # Timer wheel: neighbours in the bucket, by slot, and when it is due.
    uint32_t timer_next
    uint32_t timer_prev
    uint32_t due                # tick; 0 for never
    PyObject* handler           # receives the connection's messages; shared by all connections of a transport
    PyObject* transport         # for IS_TRANSPORT
    Input* input                # what came of a frame or message that is not whole; NULL for nothing
    uint32_t unsent             # bytes that the system had yet to get to the peer when it was last looked at
    uint32_t outside            # bytes in its transport's buffers, while that takes no more
    uint32_t discarded          # bytes that came while it was closing
    uint32_t newest             # bytes of the messages that its windows hold
    int64_t full                # when its allowance of input is whole again; nanoseconds of the monotonic clock


cdef extern from *:
    """
    #define rh_prefetch(address) __builtin_prefetch(address)
    #define rh_rare(condition) __builtin_expect(!!(condition), 0)
    """
    # Around a condition of the hot path: what depends on it is kept out of the way, so that the rest is inlined.
    bint rh_rare(bint condition) noexcept nogil
    void rh_prefetch(const void* address) noexcept nogil


cdef inline uint64_t handle_of(const Conn* c) noexcept nogil:
    return (<uint64_t> c.generation << 32) | c.slot


cdef struct Slots:
    Conn** chunks
    uint32_t count
    uint32_t* unused            # a stack of slot numbers: the last one left is the next one used, while it is in cache
    uint32_t unused_count


cdef inline Conn* slot_at(const Slots* slots, uint32_t slot) noexcept nogil:
    return &slots.chunks[slot // CHUNK][slot % CHUNK]


cdef inline Conn* slot_find(const Slots* slots, uint64_t handle) noexcept nogil:
    """The connection with this handle, or NULL when it is dead or gone."""
    cdef uint32_t slot = <uint32_t> handle
    cdef Conn* c
    if slot >= slots.count:
        return NULL
    c = slot_at(slots, slot)
    return c if c.generation == handle >> 32 and c.state != CONN_FREE and c.state != CONN_DEAD else NULL


cdef inline bint slots_grow(Slots* slots) noexcept nogil:
    """Add a chunk of unused slots; false when there is no memory, with nothing changed."""
    cdef uint32_t count = slots.count + CHUNK, i
    cdef Conn** chunks = <Conn**> realloc(slots.chunks, (count // CHUNK) * sizeof(Conn*))
    cdef uint32_t* unused
    cdef Conn* chunk
    if chunks == NULL:
        return False
    slots.chunks = chunks
    unused = <uint32_t*> realloc(slots.unused, count * sizeof(uint32_t))
    if unused == NULL:
        return False
    slots.unused = unused
    chunk = <Conn*> calloc(CHUNK, sizeof(Conn))
    if chunk == NULL:
        return False
    slots.chunks[slots.count // CHUNK] = chunk
    for i in range(<uint32_t> CHUNK):
        chunk[i].slot = slots.count + i
        unused[slots.unused_count + i] = count - 1 - i
    slots.unused_count += CHUNK
    slots.count = count
    return True


cdef inline Conn* slot_take(Slots* slots) noexcept nogil:
    """A connection in an unused slot, of which there must be one; all fields zero but slot, generation and fd."""
    cdef Conn* c
    cdef uint32_t slot, generation
    slots.unused_count -= 1
    slot = slots.unused[slots.unused_count]
    c = slot_at(slots, slot)
    generation = c.generation + 1
    memset(c, 0, sizeof(Conn))
    c.slot = slot
    c.generation = generation if generation else 1
    c.fd = -1
    return c


cdef inline void slot_give(Slots* slots, Conn* c) noexcept nogil:
    c.state = CONN_FREE
    c.flags = 0
    slots.unused[slots.unused_count] = c.slot
    slots.unused_count += 1


cdef inline void slot_release(Slots* slots, Conn* c) noexcept nogil:
    """Give a slot back now, or when the last list that names it lets go of it."""
    if c.flags & LISTED:
        c.flags |= RELEASE_PENDING
    else:
        slot_give(slots, c)


cdef inline void slots_clear(Slots* slots) noexcept nogil:
    cdef uint32_t i
    for i in range(slots.count // CHUNK):
        free(slots.chunks[i])
    free(slots.chunks)
    free(slots.unused)


cdef struct ConnList:
    # A queue of connections with room for every slot, so that nothing fails in the middle of a dispatch.
    Conn** items
    uint32_t start
    uint32_t end
    uint32_t room


cdef inline bint list_grow(ConnList* l, uint32_t room) noexcept nogil:
    cdef Conn** items = <Conn**> realloc(l.items, room * sizeof(Conn*))
    if items == NULL:
        return False
    l.items = items
    l.room = room
    return True


cdef inline bint list_filled(const ConnList* l) noexcept nogil:
    return l.start < l.end


cdef inline void list_push(ConnList* l, Conn* c) noexcept nogil:
    if l.end == l.room:
        # A connection stands in a list once at most, so there is room at the front.
        memmove(l.items, l.items + l.start, (l.end - l.start) * sizeof(Conn*))
        l.end -= l.start
        l.start = 0
    l.items[l.end] = c
    l.end += 1


cdef inline void list_prefetch(const ConnList* l, uint32_t ahead) noexcept nogil:
    """Have the processor fetch a connection that comes soon, while it is busy with the one before."""
    if l.start + ahead < l.end:
        rh_prefetch(l.items[l.start + ahead])


cdef inline Conn* list_pop(ConnList* l) noexcept nogil:
    """The connection at the front, or NULL."""
    cdef Conn* c
    if l.start == l.end:
        return NULL
    c = l.items[l.start]
    l.start += 1
    if l.start == l.end:
        l.start = 0
        l.end = 0
    return c
