# Replays and logs as the registry sees them: what a subscriber with features needs, and how it ends.
#
# Called by subscribing, unsubscribing and the parts that follow logs. A channel has a `Log` as long as it is under a
# rule or has a subscriber with features; a replay exists exactly as long as its subscriber has FEATURE_REPLAYING. Its
# number stands in the subscriber's features, so that it is found at once. `pumping.pxd` sends messages. Nothing here
# calls Python code; MemoryError is all that is raised, and then nothing has changed.

from cpython.ref cimport Py_DECREF
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memset

from realizehit.engine.conflation cimport window_free
from realizehit.engine.conn cimport (
    CHANNEL_LOGGED, CONN_OPEN, FEATURE_BITS, FEATURE_CONFLATING, FEATURE_REPLAYING, FEATURE_TRACE, HAS_REPLAY,
    ON_REPLAY, Channel, Conn, list_push,
)
from realizehit.engine.memory cimport RH_DEBUG, alive, pool_give, pool_take
from realizehit.engine.ring cimport LOG_NONE, Log, ring_clear
from realizehit.engine.state cimport REPLAY_AHEAD, REPLAYS, Replay, State


cdef inline void replay_soon(State* s, Conn* c) noexcept nogil:
    """Let the replays of a connection go on before the engine call returns, if it has any."""
    if c.flags & HAS_REPLAY and c.state == CONN_OPEN and not c.flags & ON_REPLAY:
        c.flags |= ON_REPLAY
        list_push(&s.lists[REPLAYS], c)


cdef inline Log* log_need(State* s, Channel* channel) except NULL:
    """The log of a channel, which is made if there is none."""
    cdef Log* log = channel.log
    if log == NULL:
        log = <Log*> pool_take(&s.pool, sizeof(Log))
        if log == NULL:
            raise MemoryError()
        memset(log, 0, sizeof(Log))
        channel.log = log
        channel.flags |= CHANNEL_LOGGED
        if RH_DEBUG:
            alive.logs += 1
    return log


cdef inline void drop_kept(State* s, Log* log) noexcept:
    """Forget what is kept back."""
    cdef object kept
    if log.kept != NULL:
        kept = <object> log.kept
        s.n.kept_back -= len(<list> kept)
        s.n.kept_bytes -= log.kept_bytes
        log.kept = NULL
        log.kept_bytes = 0
        Py_DECREF(kept)


cdef inline void log_free(State* s, Channel* channel) noexcept:
    """End the log of a channel that has no subscriber with features."""
    cdef Log* log = channel.log
    if log == NULL:
        return
    ring_clear(&s.pool, &s.ring, log)
    drop_kept(s, log)
    pool_give(&s.pool, log, sizeof(Log))
    channel.log = NULL
    channel.flags &= ~CHANNEL_LOGGED
    if RH_DEBUG:
        alive.logs -= 1


cdef inline void log_free_unused(State* s, Channel* channel) noexcept:
    """End the log of a channel that needs none."""
    if channel.log != NULL and channel.log.state == LOG_NONE and channel.log.specials == 0:
        log_free(s, channel)


cdef inline void replay_free(State* s, uint32_t number) noexcept nogil:
    cdef Replay* r = &s.replays.items[number]
    cdef Log* log = r.channel.log
    if r.state == REPLAY_AHEAD:
        log.ahead -= 1
    if r.before:
        s.replays.items[r.before].behind = r.behind
    else:
        log.replays = r.behind
    if r.behind:
        s.replays.items[r.behind].before = r.before
    r.conn = NULL
    r.channel = NULL
    r.behind = s.replays.unused
    s.replays.unused = number
    s.replays.count -= 1


cdef inline uint32_t replay_new(State* s, Conn* c, Channel* channel, uint64_t next) except 0:
    """Make a replay from an offset on, for a channel that has a log; return its number."""
    cdef Replay* r
    cdef Log* log = channel.log
    cdef uint32_t number, room = 2 * s.replays.room if s.replays.room else 64
    if s.replays.unused == 0:
        r = <Replay*> realloc(s.replays.items, room * sizeof(Replay))
        if r == NULL:
            raise MemoryError()
        s.replays.items = r
        memset(r + s.replays.room, 0, (room - s.replays.room) * sizeof(Replay))
        number = room - 1
        while number >= s.replays.room and number:
            r[number].behind = s.replays.unused
            s.replays.unused = number
            number -= 1
        s.replays.room = room
    number = s.replays.unused
    r = &s.replays.items[number]
    s.replays.unused = r.behind
    s.replays.count += 1
    memset(r, 0, sizeof(Replay))
    r.conn = c
    r.channel = channel
    r.next = next
    r.behind = log.replays
    if log.replays:
        s.replays.items[log.replays].before = number
    log.replays = number
    c.flags |= HAS_REPLAY
    return number


cdef inline void set_features(State* s, Channel* channel, uint32_t position, uint32_t features) noexcept nogil:
    """Change a subscriber's features, but not FEATURE_TRACE, of a channel that has a log.

    A replay or window that it had ends.
    """
    cdef uint32_t traced = channel.subs[position].features & FEATURE_TRACE
    cdef uint32_t old = channel.subs[position].features ^ traced
    features &= ~<uint32_t> FEATURE_TRACE
    if old & FEATURE_REPLAYING:
        replay_free(s, old >> FEATURE_BITS)
    elif old & FEATURE_CONFLATING and not features & FEATURE_CONFLATING:
        window_free(s, old >> FEATURE_BITS)
    if old and not features:
        channel.log.specials -= 1
    elif features and not old:
        channel.log.specials += 1
    channel.subs[position].features = features | traced


cdef inline void clear_features(State* s, Channel* channel, uint32_t position) noexcept:
    """Make a subscriber, which may be about to leave, a plain one."""
    set_features(s, channel, position, 0)
    log_free_unused(s, channel)
