# What happens when a connection's timer fires: a heartbeat, or the end of the time that it has to send something, or
# to end.
#
# Called by `tick`, for each connection that is due. It may begin to close the connection or mark it closed.

from libc.stdint cimport uint32_t

from realizehit.engine.backpressure cimport judge, mark_closed
from realizehit.engine.callbacks cimport tell
from realizehit.engine.conn cimport (
    CONN_ARRIVED, CONN_CLOSING, CONN_OPEN, HALF_CLOSED, IS_TRANSPORT, OVERDUE, Conn, slot_at,
)
from realizehit.engine.connections cimport close_with
from realizehit.engine.heartbeats cimport heartbeat_missed
from realizehit.engine.state cimport State
from realizehit.engine.transports cimport is_flushed
from realizehit.engine.wheel cimport NIL, WHEEL, wheel_set


cdef inline int timer_fired(State* s, Conn* c) except -1:
    if c.state == CONN_ARRIVED:
        wheel_set(&s.wheel, &s.slots, c, s.head_ticks)  # it stays until Python has acted
        tell(s, "on_late", c, None)
    elif c.state == CONN_CLOSING:
        if (c.flags & IS_TRANSPORT and c.fd >= 0 and c.flags & HALF_CLOSED and s.wheel.now < c.over
                and not is_flushed(c)):
            wheel_set(&s.wheel, &s.slots, c, 1)
        else:
            c.flags |= OVERDUE
            mark_closed(s, c)
    elif c.state == CONN_OPEN and heartbeat_missed(s, c):
        s.n.heartbeat_disconnects += 1
        close_with(s, c, 4003, b"heartbeat missed")
    return 0


cdef inline int advance(State* s, uint32_t target) except -1:
    """Let the wheel go on to a tick; in each, the timers that are due fire and watched queues are judged."""
    cdef uint32_t slot
    cdef Conn* c
    while s.wheel.now < target:
        s.wheel.now += 1
        slot = s.wheel.buckets[s.wheel.now % WHEEL]
        while slot != NIL:
            c = slot_at(&s.slots, slot)
            slot = c.timer_next
            if c.due <= s.wheel.now:
                timer_fired(s, c)
        judge(s)
    return 0
