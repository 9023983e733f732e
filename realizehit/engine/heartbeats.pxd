# Heartbeats: when a connection is pinged, and whether it has answered.
#
# Called when a connection opens or changes its framing, and when its timer in the wheel fires while it is open. A
# connection is due for one thing at a time: its next ping, or the answer to the last one. Nothing here closes a
# connection: the caller does, where an answer is missing. Nothing raises.

from realizehit.engine.backpressure cimport enqueue
from realizehit.engine.conn cimport PINGED, SEEN, Conn
from realizehit.engine.frames cimport FRAMING_ENGINEIO_3, FRAMING_POLLING_3, FRAMING_RESP, is_event_stream
from realizehit.engine.state cimport State
from realizehit.engine.wheel cimport wheel_set, wheel_unset


cdef inline void start_heartbeat(State* s, Conn* c) noexcept nogil:
    if c.framing == FRAMING_ENGINEIO_3 or c.framing == FRAMING_POLLING_3:
        wheel_set(&s.wheel, &s.slots, c, s.ping_ticks + s.pong_ticks)
    elif c.framing != FRAMING_RESP:   # a worker of this node may stay silent
        # The first ping comes after half an interval to a whole one: a crowd that came together is spread out.
        s.spread = s.spread * 1103515245 + 12345
        wheel_set(&s.wheel, &s.slots, c, s.ping_ticks - (s.spread >> 16) % (s.ping_ticks // 2 + 1))
    else:
        wheel_unset(&s.wheel, &s.slots, c)


cdef inline bint heartbeat_missed(State* s, Conn* c) noexcept nogil:
    """Ping an open connection that is due, or set its next timer; true where it owes an answer and has sent nothing."""
    if c.framing == FRAMING_ENGINEIO_3 or c.framing == FRAMING_POLLING_3:
        # The client sends the pings, one in each interval.
        if c.flags & SEEN:
            c.flags &= ~SEEN
            wheel_set(&s.wheel, &s.slots, c, s.ping_ticks + s.pong_ticks)
        else:
            return True
    elif is_event_stream(c.framing):
        enqueue(s, c, s.pings[c.framing], False)   # nothing can come back; a dead peer's queue fills
        wheel_set(&s.wheel, &s.slots, c, s.ping_ticks)
    elif not c.flags & PINGED:
        c.flags = (c.flags | PINGED) & ~SEEN
        enqueue(s, c, s.pings[c.framing], False)
        wheel_set(&s.wheel, &s.slots, c, s.pong_ticks)
    elif c.flags & SEEN:
        c.flags &= ~PINGED
        wheel_set(&s.wheel, &s.slots, c, max(1, <int> s.ping_ticks - <int> s.pong_ticks))
    else:
        return True
    return False
