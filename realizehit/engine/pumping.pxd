# Replays at work: messages of the ring, or of a part that was read for it, go into the queue of a connection, at most
# up to a part of its bounds; the rest follows when the queue is empty.
#
# Called when a replay begins, when a queue has emptied, and when its log or the ring has changed. A replay that has
# everything becomes a live subscription in the same step. It never makes a connection too slow: it appends to the queue
# only while there is room, and a message that has none waits. A replay whose next message the ring does not hold is
# told to Python once (`on_starved`), and waits. MemoryError is all that is raised: the replay is as it was then.

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc

from realizehit.engine.backpressure cimport bytes_waiting, make_dirty, mark_closed
from realizehit.engine.conn cimport (
    BLOCKED, CHANNEL_LOGGED, CONN_OPEN, FEATURE_BITS, FEATURE_POSITIONS, FEATURE_REPLAYING, HAS_REPLAY, ON_REPLAY,
    RELEASE_PENDING, Channel, Conn, handle_of, list_pop, slot_release,
)
from realizehit.engine.frames cimport FRAMING_ENGINEIO_3, FRAMING_ENGINEIO_4, FRAMING_WEBSOCKET, Frame, frame_release
from realizehit.engine.labelled cimport build_replayed
from realizehit.engine.queue cimport queue_append
from realizehit.engine.registry cimport index_of
from realizehit.engine.replays cimport set_features
from realizehit.engine.ring cimport Log, ring_at, ring_first
from realizehit.engine.state cimport (
    REPLAY_AHEAD, REPLAY_ASKED, REPLAY_ROOM, REPLAY_STARVED, REPLAYS, Built, Replay, State, clock_ns,
)

cdef enum:
    QUEUE_PART = 4              # a replay fills at most a fourth of the bounds of a queue
    BUILT = 256                 # entries of the table of frames in other framings


cdef struct Part:
    # Consecutive messages that were read for replays that starve.
    Frame** frames              # labelled WebSocket frames; NULL for a message that cannot be sent
    uint64_t first
    uint32_t count


cdef inline void built_clear(State* s) noexcept nogil:
    """Forget the frames that were built for this turn of the loop."""
    cdef int i
    if s.built_count == 0:
        return
    s.built_count = 0
    for i in range(BUILT):
        if s.built[i].source != NULL:
            frame_release(&s.pool, s.built[i].source)
            frame_release(&s.pool, s.built[i].made)
            s.built[i].source = NULL


cdef inline Frame* replayed_frame(State* s, const Conn* c, Channel* channel, Frame* f,
                                  uint64_t offset) except NULL:
    # The frame in the framing of a connection; borrowed. Many replay the same messages in the same turn of the loop, so
    # that what was built lately is kept until its end.
    cdef int framing = c.framing
    cdef Built* b
    cdef Frame* made
    if framing == FRAMING_WEBSOCKET:
        return f
    if framing == FRAMING_ENGINEIO_3:
        framing = FRAMING_ENGINEIO_4
    if s.built == NULL:
        s.built = <Built*> calloc(BUILT, sizeof(Built))
        if s.built == NULL:
            raise MemoryError()
    b = &s.built[(offset + <uint32_t> framing * 29 + (<uintptr_t> channel >> 6) * 37) % BUILT]
    if b.source == f and b.framing == framing:
        return b.made
    made = build_replayed(s, framing, channel, f, channel.log.epoch, offset)
    if b.source != NULL:
        frame_release(&s.pool, b.source)
        frame_release(&s.pool, b.made)
    f.refs += 1
    b.source, b.made, b.framing = f, made, framing
    s.built_count += 1
    return made


cdef inline void become_live(State* s, Replay* r) noexcept nogil:
    cdef Channel* channel = r.channel
    cdef Py_ssize_t index = index_of(r.conn, channel)
    set_features(s, channel, r.conn.subs[index].position, FEATURE_POSITIONS)


cdef inline int starve(State* s, Replay* r) except -1:
    cdef Log* log = r.channel.log
    if not log.asking:
        (<list> s.pending).append(("starved", None, 0, <object> r.channel.name))
        log.asking = True
    r.state = REPLAY_STARVED
    return 0


cdef inline int pump(State* s, uint32_t number, const Part* part) except -1:
    """Send a replay what there is and what its connection's queue has room for; it may be live and gone afterwards."""
    cdef Replay* r = &s.replays.items[number]
    cdef Conn* c = r.conn
    cdef Log* log = r.channel.log
    cdef Frame* f
    if c.state != CONN_OPEN:
        return 0
    if r.state == REPLAY_AHEAD:
        log.ahead -= 1
    r.state = REPLAY_ROOM
    while True:
        if r.next > log.last:
            if r.next == log.last + 1:
                become_live(s, r)
            else:
                r.state = REPLAY_AHEAD
                log.ahead += 1
            return 0
        if c.count and (c.count >= s.max_queue_messages // QUEUE_PART
                        or bytes_waiting(c) >= s.max_queue_bytes // QUEUE_PART):
            return 0
        if r.next >= ring_first(log):
            f = ring_at(log, r.next).frame
        elif part != NULL and part.first <= r.next < part.first + part.count:
            f = part.frames[r.next - part.first]
        else:
            return starve(s, r)
        if f != NULL:
            f = replayed_frame(s, c, r.channel, f, r.next)
            if not queue_append(&s.pool, c, f):
                mark_closed(s, c)
                return 0
            s.n.replayed += 1
            if r.next < ring_first(log):
                s.n.replayed_read += 1
            if not c.flags & BLOCKED:
                make_dirty(s, c, False)
        r.next += 1


cdef inline int pump_log(State* s, Log* log, const Part* part, bint ahead_only) except -1:
    """Let the replays of a log go on, except those that wait for room."""
    cdef uint32_t number = log.replays, behind
    cdef Replay* r
    while number:
        r = &s.replays.items[number]
        behind = r.behind
        if r.state == REPLAY_AHEAD or (not ahead_only and r.state != REPLAY_ROOM and (
                r.next >= ring_first(log)
                or (part != NULL and part.first <= r.next < part.first + part.count))):
            pump(s, number, part)
        number = behind
    return 0


cdef inline int pump_connection(State* s, Conn* c) except -1:
    cdef uint32_t i, features
    cdef Channel* channel
    cdef bint found = False
    for i in range(c.sub_count):
        channel = c.subs[i].channel
        if not channel.flags & CHANNEL_LOGGED:
            continue
        features = channel.subs[c.subs[i].position].features
        if features & FEATURE_REPLAYING:
            found = True
            if s.replays.items[features >> FEATURE_BITS].state == REPLAY_ROOM:
                pump(s, features >> FEATURE_BITS, NULL)
    if not found:
        c.flags &= ~HAS_REPLAY
    return 0


cdef inline int pump_waiting(State* s) except -1:
    """Let the replays go on whose connections took what was queued, for the time of a slice."""
    cdef Conn* c
    cdef int64_t deadline = 0
    while True:
        c = list_pop(&s.lists[REPLAYS])
        if c == NULL:
            return 0
        c.flags &= ~ON_REPLAY
        if c.flags & RELEASE_PENDING:
            slot_release(&s.slots, c)
            continue
        if c.state != CONN_OPEN:
            continue
        pump_connection(s, c)
        if deadline == 0:
            deadline = clock_ns() + s.slice_ns
        elif clock_ns() > deadline:
            return 0    # the rest in the loop's next turn


cdef inline list take_starved(State* s, Log* log):
    """The replays of a log that starve and were not told yet: (handle, offset of the last message that it has)."""
    cdef list found = []
    cdef uint32_t number = log.replays
    cdef Replay* r
    log.asking = False
    while number:
        r = &s.replays.items[number]
        if r.state == REPLAY_STARVED and r.conn.state == CONN_OPEN:
            found.append((handle_of(r.conn), r.next - 1))
            r.state = REPLAY_ASKED
        number = r.behind
    return found
