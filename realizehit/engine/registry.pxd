# Who is subscribed to what: channels and connections know each other.
#
# Called by subscribing, unsubscribing and closing, never while a dispatch runs over a channel's subscribers. Each side
# of a subscription knows its place on the other side, so that joining and leaving move one entry at most, whatever the
# number of subscribers. The dict of `_fanout.Engine` maps a channel's name to its `ChannelEntry`, which holds the
# `Channel`; a channel stands there exactly as long as it has subscribers. Nothing here calls Python code: that the last
# subscriber left is told by a callback that waits. MemoryError is all that is raised, and then nothing has changed.

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy

from realizehit.engine.conn cimport (
    CHANNEL_LOGGED, CHANNEL_WATCHED, CHANNEL_WILDCARD, Channel, Conn, Subscriber, Subscription, handle_of,
)
from realizehit.engine.frames cimport FRAMING_RESP
from realizehit.engine.memory cimport RH_DEBUG, Pool, alive, pool_give, pool_take
from realizehit.engine.replays cimport clear_features, log_free
from realizehit.engine.state cimport State
from realizehit.engine.text cimport rh_id

cdef enum:  # what `Engine.subscribe` returns
    SUBSCRIPTION_ADDED = 0
    SUBSCRIPTION_ALREADY = 1
    SUBSCRIPTION_COLLISION = 2
    SUBSCRIPTION_FULL = 3
    SUBSCRIPTION_GONE = 4


cdef inline void* shrunk(Pool* pool, void* items, size_t room, size_t count, size_t item) noexcept nogil:
    """Move `count` entries to an array of half the room, more than one; the same array when there is no memory."""
    cdef void* moved = pool_take(pool, room // 2 * item)
    if moved == NULL:
        return items
    memcpy(moved, items, count * item)
    pool_give(pool, items, room * item)
    return moved


cdef inline void* resize(Pool* pool, void* items, void* only, size_t room, size_t wanted, size_t count,
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


cdef inline uint32_t number_of(const char* hexits) noexcept nogil:
    """The 8 hex digits of an id as a number."""
    cdef uint32_t value = 0
    cdef int i
    for i in range(8):
        value = (value << 4) | <uint32_t> (hexits[i] - c'0' if hexits[i] <= c'9' else hexits[i] - c'a' + 10)
    return value


cdef inline void channel_init(Channel* channel, PyObject* name, const char* text, size_t size) noexcept nogil:
    """Fill a channel that is all zeros; `name` is the object that holds the text, and must live as long as it."""
    channel.name = name
    rh_id(channel.id, <const uint8_t*> text, size)
    if memchr(text, c'*', size) != NULL:    # what a pattern's author writes as a star is percent-encoded
        channel.flags |= CHANNEL_WILDCARD


cdef inline Py_ssize_t index_of(Conn* c, Channel* channel) noexcept nogil:
    cdef uint32_t i
    if channel.count < c.sub_count:     # either side knows; the shorter one is looked through
        for i in range(channel.count):
            if channel.subs[i].conn == c:
                return channel.subs[i].index
        return -1
    for i in range(c.sub_count):
        if c.subs[i].channel == channel:
            return i
    return -1


cdef inline int subscription_refusal(Conn* c, Channel* channel, uint32_t limit) noexcept nogil:
    """Why a connection cannot be added to a channel, which may be new; 0 where it can."""
    cdef uint32_t i, number
    if c.framing == FRAMING_RESP:
        # A worker of this node holds the channels of all its clients, and names them in full: no ids to collide.
        if channel.count and index_of(c, channel) >= 0:
            return SUBSCRIPTION_ALREADY
    else:
        number = number_of(channel.id)
        for i in range(c.sub_count):
            if c.subs[i].number == number:
                return SUBSCRIPTION_ALREADY if c.subs[i].channel == channel else SUBSCRIPTION_COLLISION
    return SUBSCRIPTION_FULL if c.sub_count >= limit else 0


cdef inline int add_subscription(State* s, Conn* c, Channel* channel) except -1:
    cdef Subscription* subs
    cdef Subscriber* others
    if channel.count == channel.room:
        others = <Subscriber*> resize(&s.pool, channel.subs, &channel.only, channel.room,
                                      2 * channel.room if channel.room else 1, channel.count, sizeof(Subscriber))
        channel.subs = others
        channel.room = 2 * channel.room if channel.room else 1
    if c.sub_count == c.sub_room:
        subs = <Subscription*> resize(&s.pool, c.subs, &c.only, c.sub_room,
                                      2 * c.sub_room if c.sub_room else 1, c.sub_count, sizeof(Subscription))
        c.subs = subs
        c.sub_room = 2 * c.sub_room if c.sub_room else 1
    if RH_DEBUG and channel.count == 0:
        alive.channels += 1
    channel.subs[channel.count].conn = c
    channel.subs[channel.count].index = c.sub_count
    channel.subs[channel.count].features = 0
    c.subs[c.sub_count].channel = channel
    c.subs[c.sub_count].position = channel.count
    c.subs[c.sub_count].number = number_of(channel.id)
    channel.count += 1
    c.sub_count += 1
    s.subscription_count += 1
    if RH_DEBUG:
        alive.subscriptions += 1
    return 0


cdef inline int note_leaver(State* s, const Channel* channel, uint64_t handle) except -1:
    """Let `on_left` tell that a connection left; asking again for the same one changes nothing."""
    cdef object name = <object> channel.name
    cdef list handles = (<dict> s.leavers).get(name)
    if handles is None:
        (<list> s.pending).append(("left", None, 0, name))
        handles = (<dict> s.leavers)[name] = []
    if not handles or handles[-1] != handle:
        handles.append(handle)
    return 0


cdef inline int drop_subscription(State* s, Conn* c, uint32_t index) except -1:
    cdef Channel* channel = c.subs[index].channel
    cdef uint32_t position = c.subs[index].position
    cdef Subscriber* moved
    cdef Subscription* own
    cdef Subscriber* others
    cdef Subscription* subs
    # Only these two can raise, and then the subscription is still there.
    if channel.flags & CHANNEL_WATCHED:
        note_leaver(s, channel, handle_of(c))
    if channel.count == 1:
        (<list> s.pending).append(("vacant", None, 0, <object> channel.name))
    if channel.flags & CHANNEL_LOGGED:
        clear_features(s, channel, position)
    channel.count -= 1
    if position != channel.count:
        channel.subs[position] = channel.subs[channel.count]
        moved = &channel.subs[position]
        moved.conn.subs[moved.index].position = position
    c.sub_count -= 1
    if index != c.sub_count:
        c.subs[index] = c.subs[c.sub_count]
        own = &c.subs[index]
        own.channel.subs[own.position].index = index
    s.subscription_count -= 1
    if RH_DEBUG:
        alive.subscriptions -= 1
    # Shrink at a quarter, to a half: what a burst of subscribers took is given back, without going to and fro.
    if channel.room > 4 and channel.count <= channel.room // 4:
        others = <Subscriber*> shrunk(&s.pool, channel.subs, channel.room, channel.count, sizeof(Subscriber))
        if others != channel.subs:
            channel.subs = others
            channel.room //= 2
    if c.sub_room > 4 and c.sub_count <= c.sub_room // 4:
        subs = <Subscription*> shrunk(&s.pool, c.subs, c.sub_room, c.sub_count, sizeof(Subscription))
        if subs != c.subs:
            c.subs = subs
            c.sub_room //= 2
    if channel.count == 0:
        if channel.room > 1:
            pool_give(&s.pool, channel.subs, channel.room * sizeof(Subscriber))
        channel.subs = NULL
        channel.room = 0
        if channel.flags & CHANNEL_LOGGED:
            log_free(s, channel)
        if RH_DEBUG:
            alive.channels -= 1
        del (<dict> s.channels)[<object> channel.name]  # frees the channel
    return 0


cdef inline int leave_all(State* s, Conn* c) except -1:
    while c.sub_count:
        drop_subscription(s, c, c.sub_count - 1)
    if c.sub_room > 1:
        pool_give(&s.pool, c.subs, c.sub_room * sizeof(Subscription))
    c.subs = NULL
    c.sub_room = 0
    return 0
