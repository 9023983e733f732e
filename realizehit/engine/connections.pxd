# Connections from their slot to their end, which comes in steps: out of the registry and the last frame queued
# (`close_with`), marked closed (`backpressure.mark_closed`), socket closed and slot given back (`reap`).
#
# Called by adopting, closing and the end of each engine call. `reap` is the only place that closes a socket or a
# transport; it runs outside of dispatches and flushes, so that a closed connection is out of every channel before the
# next dispatch. The end of each connection is told once (`on_gone`). Transports are called here and may call the
# engine.

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t

from realizehit.engine.backpressure cimport make_dirty, mark_closed, put_outside
from realizehit.engine.callbacks cimport tell
from realizehit.engine.conflation cimport windows_of
from realizehit.engine.conn cimport (
    BLOCKED, CHUNK, CONN_CLOSING, CONN_DEAD, CONN_OPEN, CONN_SLOW, DISCARD_INPUT, HAS_REPLAY, HAS_WINDOW, IS_TRANSPORT,
    LAST_FRAME, LISTED, ON_SLOW, OVERDUE, RELEASE_PENDING, SEEN, SLOW_PARSER, TLS, Conn, list_grow, list_pop, list_push,
    slot_release, slot_take, slots_grow,
)
from realizehit.engine.frames cimport (
    FRAMING_POLLING_3, FRAMING_RESP, FRAMINGS, Frame, frame_key, frame_release, is_websocket,
)
from realizehit.engine.framings cimport build_close_frame
from realizehit.engine.heartbeats cimport start_heartbeat
from realizehit.engine.input cimport input_drop
from realizehit.engine.memory cimport RH_DEBUG, alive
from realizehit.engine.queue cimport queue_append, queue_drop, queue_move
from realizehit.engine.registry cimport leave_all
from realizehit.engine.replays cimport replay_soon
from realizehit.engine.sockets cimport rh_close
from realizehit.engine.state cimport DOOMED, LISTS, SLOW, State
from realizehit.engine.wheel cimport wheel_set, wheel_unset


cdef inline Conn* new_connection(State* s, object handler) except NULL:
    """Take a slot for a connection, which is in use and neither open nor in the timer wheel yet."""
    cdef Conn* c
    cdef int i
    if s.slots.unused_count == 0:
        for i in range(LISTS):
            if not list_grow(&s.lists[i], s.slots.count + CHUNK):
                raise MemoryError()
        if not slots_grow(&s.slots):
            raise MemoryError()
    c = slot_take(&s.slots)
    Py_INCREF(handler)
    c.handler = <PyObject*> handler
    s.used_count += 1
    if RH_DEBUG:
        alive.connections += 1
    return c


cdef inline void begin_client(State* s, Conn* c, int framing) noexcept nogil:
    """Make a connection a client, open and with heartbeats."""
    c.state = CONN_OPEN
    c.framing = <uint8_t> framing
    c.frame_key = frame_key(framing)
    if not is_websocket(framing):
        c.flags |= SLOW_PARSER     # what comes in is not a WebSocket frame
    start_heartbeat(s, c)
    s.open_count += 1
    s.n.connections_total += 1


cdef inline Conn* open_connection(State* s, object handler, int framing) except NULL:
    """Take a slot for a connection: open and in the timer wheel, with neither socket nor transport yet."""
    cdef Conn* c
    if s.closed:
        raise RuntimeError("the engine is closed")
    if not 0 <= framing < FRAMINGS:
        raise ValueError(f"{framing} is not a framing")
    if framing == FRAMING_POLLING_3 and not s.check_utf8:
        raise ValueError("this framing needs check_utf8: its lengths hold for valid UTF-8 only")
    c = new_connection(s, handler)
    begin_client(s, c, framing)
    return c


cdef inline int close_with(State* s, Conn* c, int code, bytes reason) except -1:
    """Begin to close a connection: it leaves every channel now, and its close frame goes out behind what waits."""
    cdef Frame* f
    if c.state != CONN_OPEN and c.state != CONN_SLOW:
        return 0
    if c.framing == FRAMING_RESP:
        mark_closed(s, c)    # its protocol has no close frame
        return 0
    if c.state == CONN_OPEN:
        windows_of(s, c, True)    # the newest messages, before the end
        if c.state == CONN_DEAD:
            return 0
    try:
        f = build_close_frame(s, c.framing, code, reason)
    except MemoryError:
        mark_closed(s, c)    # without a close frame then
        return 0
    try:
        leave_all(s, c)
        tell(s, "on_gone", c, None)
    except BaseException:
        if f != NULL:
            frame_release(&s.pool, f)
        mark_closed(s, c)
        raise
    s.open_count -= 1
    c.state = CONN_CLOSING
    c.flags |= LAST_FRAME
    if code in (1002, 1003, 1007, 1009, 4502):  # it broke the protocol, or the limits of what it may send
        c.flags |= DISCARD_INPUT
    if f != NULL:
        if not queue_append(&s.pool, c, f):
            mark_closed(s, c)
        frame_release(&s.pool, f)
    if not c.flags & BLOCKED:
        make_dirty(s, c, True)
    wheel_set(&s.wheel, &s.slots, c, s.close_ticks)
    c.over = s.wheel.now + s.close_ticks
    return 0


cdef inline int reap(State* s) except -1:
    """Close the connections that are marked closed, and give their slots back."""
    cdef Conn* c
    while True:
        c = list_pop(&s.lists[DOOMED])
        if c == NULL:
            return 0
        try:
            leave_all(s, c)
            if not c.flags & LAST_FRAME:  # otherwise it was told when it began to close
                tell(s, "on_gone", c, None)
        except BaseException:
            list_push(&s.lists[DOOMED], c)   # to be tried again
            raise
        wheel_unset(&s.wheel, &s.slots, c)
        queue_drop(&s.pool, c, 0)
        input_drop(&s.pool, c)
        put_outside(s, c, 0)
        # Dropping the last reference may run code that calls the engine, so these names keep both until the end.
        transport, handler = None, <object> c.handler
        Py_DECREF(handler)
        c.handler = NULL
        if c.flags & IS_TRANSPORT:
            transport = <object> c.transport
            Py_DECREF(transport)
            c.transport = NULL
        elif c.fd >= 0:
            rh_close(c.fd)
            c.fd = -1
        close_frame = c.flags & LAST_FRAME and not c.flags & OVERDUE
        s.used_count -= 1
        if RH_DEBUG:
            alive.connections -= 1
        slot_release(&s.slots, c)
        if transport is not None:
            try:
                if close_frame:
                    transport.close()
                else:
                    transport.abort()
            except Exception as error:
                (<object> s.on_error)(error)


cdef inline int close_slow(State* s) except -1:
    """Begin to close the connections whose queues passed their limits."""
    cdef Conn* c
    while True:
        c = list_pop(&s.lists[SLOW])
        if c == NULL:
            return 0
        c.flags &= ~ON_SLOW
        if c.flags & RELEASE_PENDING:
            slot_release(&s.slots, c)
        elif c.state == CONN_SLOW:
            s.n.slow_disconnects += 1
            # A frame that is out in part must be finished, or the close frame would stand inside it.
            queue_drop(&s.pool, c, 1 if c.offset > 0 else 0)
            close_with(s, c, 4002, b"slow consumer")


cdef inline int take_over(State* s, Conn* c, Conn* o) except -1:
    """Let `c` go on over what `o` has: socket or transport, handler, framing, queue and input; `o` ends untold.

    The caller has taken the references to the transport and the handler of `c`, and `o` has no subscriptions.
    """
    queue_drop(&s.pool, c, 0)
    windows_of(s, c, False)    # what they hold is in the framing that it had
    c.fd, c.transport, c.handler, c.framing = o.fd, o.transport, o.handler, o.framing
    c.frame_key = frame_key(o.framing)
    c.flags = ((c.flags & (LISTED | HAS_REPLAY | HAS_WINDOW))
               | (o.flags & (IS_TRANSPORT | BLOCKED | SLOW_PARSER | SEEN | TLS)))
    c.outside, o.outside = o.outside, 0
    c.moved, c.unsent = o.moved, o.unsent
    input_drop(&s.pool, c)
    c.input, o.input = o.input, NULL
    queue_move(c, o)
    wheel_unset(&s.wheel, &s.slots, o)
    start_heartbeat(s, c)
    # The other's slot is given back as in `reap`, without its end being told.
    o.fd, o.transport, o.handler = -1, NULL, NULL
    o.state = CONN_DEAD
    s.open_count -= 1
    s.used_count -= 1
    if RH_DEBUG:
        alive.connections -= 1
    replay_soon(s, c)
    leave_all(s, o)     # it has no subscriptions, but may have the memory for some
    slot_release(&s.slots, o)
    if c.count and not c.flags & BLOCKED:
        make_dirty(s, c, True)
    return 0
