# What epoll reports becomes reading, accepting, or writing again.
#
# Called by `poll`, once for each event. The tag of an event is a connection's handle, or the number of a door, which is
# smaller than any handle. MemoryError is all that is raised.

from libc.stdint cimport uint64_t

from realizehit.engine.arrivals cimport accept_some, greet
from realizehit.engine.backpressure cimport make_dirty, mark_closed
from realizehit.engine.conn cimport BLOCKED, CONN_ARRIVED, CONN_DEAD, Conn, slot_find
from realizehit.engine.reading cimport receive
from realizehit.engine.sockets cimport rh_epoll_arm, rh_event, rh_event_in, rh_event_out, rh_event_tag
from realizehit.engine.state cimport DOORS, State

cdef enum:
    HEAD_COST = 4               # of an opening handshake, and of what comes behind it
    END_COST = 1                # of a connection that has ended


cdef inline int attend(State* s, const rh_event* event) except -1:
    """Act on an event; return how much there is to do for it, in units of about 5 us; 0 for what is always quick."""
    cdef uint64_t handle = rh_event_tag(event)
    cdef Conn* c
    if handle < DOORS:
        accept_some(s, &s.doors[handle])
        return 0
    c = slot_find(&s.slots, handle)
    if c == NULL:
        return 0
    if c.state == CONN_ARRIVED:
        greet(s, c)
        return HEAD_COST
    if rh_event_out(event) and c.flags & BLOCKED:
        c.flags &= ~BLOCKED
        if rh_epoll_arm(s.epoll, c.fd, handle, False) < 0:
            mark_closed(s, c)
        else:
            make_dirty(s, c, True)
    if rh_event_in(event) and c.state != CONN_DEAD:
        receive(s, c)
    return END_COST if c.state == CONN_DEAD else 0
