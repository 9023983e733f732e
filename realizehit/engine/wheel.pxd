# The timer wheel: heartbeats and deadlines of all connections. Inline functions for `_fanout.pyx`.
#
# A bucket a tick, each a list of connections linked by slot, so that setting, moving and taking out a timer is O(1) and
# a tick looks at the connections that may be due and at no others. A connection has one timer at most.

from libc.stdint cimport uint32_t

from realizehit.engine.conn cimport Conn, Slots, slot_at

cdef enum:
    WHEEL = 512                 # buckets; a timer that is further away is passed over until its turn

cdef struct Wheel:
    uint32_t buckets[WHEEL]     # the first connection's slot, or NIL
    uint32_t now                # tick

cdef extern from *:
    """
    #define RH_NIL 0xFFFFFFFFu
    """
    const uint32_t NIL "RH_NIL"  # no slot


cdef inline void wheel_init(Wheel* wheel) noexcept nogil:
    cdef int i
    for i in range(WHEEL):
        wheel.buckets[i] = NIL


cdef inline void wheel_unset(Wheel* wheel, Slots* slots, Conn* c) noexcept nogil:
    if c.due == 0:
        return
    if c.timer_next != NIL:
        slot_at(slots, c.timer_next).timer_prev = c.timer_prev
    if c.timer_prev != NIL:
        slot_at(slots, c.timer_prev).timer_next = c.timer_next
    else:
        wheel.buckets[c.due % WHEEL] = c.timer_next
    c.due = 0


cdef inline void wheel_set(Wheel* wheel, Slots* slots, Conn* c, uint32_t ticks) noexcept nogil:
    """Make a connection due in `ticks` ticks, one at least, instead of whenever it was due before."""
    cdef uint32_t* bucket
    wheel_unset(wheel, slots, c)
    c.due = wheel.now + (ticks if ticks else 1)
    bucket = &wheel.buckets[c.due % WHEEL]
    c.timer_next = bucket[0]
    c.timer_prev = NIL
    if bucket[0] != NIL:
        slot_at(slots, bucket[0]).timer_prev = c.slot
    bucket[0] = c.slot
