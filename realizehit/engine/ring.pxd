# The ring: the recent messages of all logs that this node follows, bounded in bytes; the oldest go first.
#
# Called by `logs.pxd` and `replays.pxd`. An entry holds the labelled WebSocket frame that live subscribers got, so that
# a message that is replayed costs a pointer for each client. The entries of a log are consecutive and end at its
# position. All entries stand in one list in the order of their arrival, and those of a log in an array, so that an
# offset is found at once. Nothing here knows a connection or calls Python. What fails for want of memory leaves the
# log without entries, which is always correct: replays ask for what is missing.

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from realizehit.engine.frames cimport Frame, frame_release
from realizehit.engine.memory cimport Pool, pool_give, pool_room, pool_take

cdef enum LogState:
    LOG_NONE = 0                # no rule: here for subscribers with features only
    LOG_OPENED = 1              # its position is not known yet
    LOG_LIVE = 2
    LOG_HOLE = 3                # a publication did not follow: it and what came after it is kept back


cdef struct Entry:
    Entry* older                # neighbours among the entries of all logs
    Entry* newer
    Log* log
    Frame* frame                # NULL for a message that cannot be sent, such as one that is not UTF-8


cdef struct Log:
    uint8_t state               # of LogState
    bint asking                 # a callback that tells starved replays is queued
    uint32_t specials           # subscribers with features
    uint32_t replays            # the first one; 0 for none
    uint32_t ahead              # replays that wait for messages beyond the position
    char epoch[8]
    char old_epoch[8]           # the one before, whose offsets go on in this one; zeros for none
    char shown_epoch[8]
    uint64_t last               # the position
    double touched              # seconds, as of the last tick before the last message came; 0 if none came yet
    uint64_t dotted             # offset of the first message of an epoch that subscribers were not told; 0 for none
    uint64_t shown              # plain subscribers got the messages up to it while the position was not known
    uint64_t owed               # those after `shown` up to it may be on their way to plain subscribers
    uint64_t kept_first         # offset of the oldest message that the broker keeps, as of the last read
    double expires              # the log is at the broker until then if nothing is published; 0 if that is not known
    double ttl                  # and for so many seconds after its last message
    Entry** items               # a power of two of them, or NULL
    uint32_t room
    uint32_t head
    uint32_t count
    # what is kept back
    uint32_t tries              # how often the same publication did not follow
    PyObject* kept              # list of bytes, or NULL
    uint64_t kept_bytes
    uint64_t lost               # offset of the last one that there was no room for; 0 for none
    char lost_epoch[8]
    uint64_t hole               # offset of the publication that did not follow
    uint64_t hole_last          # the position at that time
    char hole_epoch[8]


cdef struct Ring:
    Entry* oldest
    Entry* newest
    uint64_t bytes
    uint64_t limit
    uint64_t count


cdef inline uint64_t ring_first(const Log* log) noexcept nogil:
    """Offset of the oldest message in the ring; one past the position if there is none."""
    return log.last + 1 - log.count


cdef inline Entry* ring_at(const Log* log, uint64_t offset) noexcept nogil:
    """The entry of an offset, which must be in the ring."""
    return log.items[(log.head + <uint32_t> (offset - ring_first(log))) & (log.room - 1)]


cdef inline size_t entry_bytes(const Frame* f) noexcept nogil:
    cdef size_t size = sizeof(Entry) + 2 * sizeof(Entry*)
    return size + pool_room(sizeof(Frame) + f.size) if f != NULL else size


cdef inline bint ring_resize(Pool* pool, Log* log, uint32_t room) noexcept nogil:
    cdef Entry** items = <Entry**> pool_take(pool, room * sizeof(Entry*))
    cdef uint32_t i
    if items == NULL:
        return False
    for i in range(log.count):
        items[i] = log.items[(log.head + i) & (log.room - 1)]
    if log.items != NULL:
        pool_give(pool, log.items, log.room * sizeof(Entry*))
    log.items = items
    log.room = room
    log.head = 0
    return True


cdef inline void ring_drop_first(Pool* pool, Ring* ring, Log* log) noexcept nogil:
    """Drop the oldest entry of a log."""
    cdef Entry* e = log.items[log.head]
    if e.older != NULL:
        e.older.newer = e.newer
    else:
        ring.oldest = e.newer
    if e.newer != NULL:
        e.newer.older = e.older
    else:
        ring.newest = e.older
    ring.bytes -= entry_bytes(e.frame)
    ring.count -= 1
    if e.frame != NULL:
        pool.waiting += e.frame.size    # what the ring holds does not count as waiting for a connection
        frame_release(pool, e.frame)
    pool_give(pool, e, sizeof(Entry))
    log.head = (log.head + 1) & (log.room - 1)
    log.count -= 1
    if log.count == 0:
        pool_give(pool, log.items, log.room * sizeof(Entry*))
        log.items = NULL
        log.room = log.head = 0
    elif log.room > 8 and log.count <= log.room // 4:
        ring_resize(pool, log, log.room // 2)


cdef inline void ring_clear(Pool* pool, Ring* ring, Log* log) noexcept nogil:
    while log.count:
        ring_drop_first(pool, ring, log)


cdef inline Entry* entry_new(Pool* pool, Ring* ring, Log* log, Frame* f) noexcept nogil:
    # An entry in no list, with room for it in the log's array; NULL without memory.
    cdef Entry* e
    if log.count == log.room and not ring_resize(pool, log, 2 * log.room if log.room else 4):
        return NULL
    e = <Entry*> pool_take(pool, sizeof(Entry))
    if e == NULL:
        if log.count == 0:      # an empty log has no array
            pool_give(pool, log.items, log.room * sizeof(Entry*))
            log.items = NULL
            log.room = log.head = 0
        return NULL
    e.log = log
    e.frame = f
    if f != NULL:
        f.refs += 1
        pool.waiting -= f.size
    ring.bytes += entry_bytes(f)
    ring.count += 1
    return e


cdef inline void ring_append(Pool* pool, Ring* ring, Log* log, Frame* f) noexcept nogil:
    """Make a message the newest of a log, and its position one higher; evict what is over the bound."""
    cdef Entry* e = entry_new(pool, ring, log, f)
    if e == NULL:
        ring_clear(pool, ring, log)
        log.last += 1
        return
    e.newer = NULL
    e.older = ring.newest
    if ring.newest != NULL:
        ring.newest.newer = e
    else:
        ring.oldest = e
    ring.newest = e
    log.items[(log.head + log.count) & (log.room - 1)] = e
    log.count += 1
    log.last += 1
    while ring.bytes > ring.limit:
        ring_drop_first(pool, ring, ring.oldest.log)


cdef inline bint ring_prepend(Pool* pool, Ring* ring, Log* log, Frame* f) noexcept nogil:
    """Put the message before the first one of a log into the ring, as the next to go; false if there is no room."""
    cdef Entry* e
    if ring.bytes + entry_bytes(f) > ring.limit:
        return False
    e = entry_new(pool, ring, log, f)
    if e == NULL:
        return False
    e.older = NULL
    e.newer = ring.oldest
    if ring.oldest != NULL:
        ring.oldest.older = e
    else:
        ring.newest = e
    ring.oldest = e
    log.head = (log.head + log.room - 1) & (log.room - 1)
    log.items[log.head] = e
    log.count += 1
    return True
