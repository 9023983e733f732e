# Queues to sockets: each dirty connection is written once, with all that waits for it; `writer.pxd` holds how.
#
# Called when an engine call is about to return, without the GIL. After a slice a connection has an empty queue, waits
# until its socket can take more (BLOCKED), is handed to its transport's list, or is still dirty because the time is
# over. Nothing here calls Python, allocates or frees a connection; one whose socket fails is marked closed.

from libc.stdint cimport int64_t, uint32_t

from realizehit.engine.backpressure cimport mark_closed
from realizehit.engine.conn cimport (
    BLOCKED, CONN_DEAD, HALF_CLOSED, HAS_REPLAY, IS_TRANSPORT, LAST_FRAME, ON_BULK, ON_PYTHON, ON_URGENT, PEER_DONE,
    RELEASE_PENDING, Conn, handle_of, list_filled, list_pop, list_prefetch, list_push, slot_release,
)
from realizehit.engine.frames cimport is_event_stream
from realizehit.engine.queue cimport queue_written
from realizehit.engine.replays cimport replay_soon
from realizehit.engine.sockets cimport rh_epoll_arm, rh_half_close, rh_is_quiet, rh_unsent, rh_would_block
from realizehit.engine.state cimport BULK, THROUGH_PYTHON, URGENT, State, clock_ns
from realizehit.engine.writer cimport write_some, writer_forget

cdef enum:
    BULK_SHARE = 4              # every fourth write goes to a broadcast even while urgent ones wait
    SLICES = 20                 # after so many in a row a flush gives way in any case


cdef inline Conn* next_dirty(State* s) noexcept nogil:
    cdef Conn* c
    s.picked += 1
    if list_filled(&s.lists[URGENT]) and (s.picked % BULK_SHARE or not list_filled(&s.lists[BULK])):
        c = list_pop(&s.lists[URGENT])
        list_prefetch(&s.lists[URGENT], 1)
        c.flags &= ~ON_URGENT
        return c
    c = list_pop(&s.lists[BULK])
    list_prefetch(&s.lists[BULK], 1)
    if c != NULL:
        c.flags &= ~ON_BULK
    return c


cdef inline void block_socket(State* s, Conn* c) noexcept nogil:
    c.flags |= BLOCKED
    s.n.blocked += 1
    c.unsent = rh_unsent(c.fd)
    if rh_epoll_arm(s.epoll, c.fd, handle_of(c), True) < 0:
        mark_closed(s, c)


cdef inline void finish_closing(State* s, Conn* c) noexcept nogil:
    # Called with an empty queue.
    if not c.flags & (LAST_FRAME | HAS_REPLAY):
        return
    replay_soon(s, c)
    # Closing the socket while the peer still sends would reset it, and could take our close frame with it: so our
    # side only, and the rest when the peer ends its own or the time is over.
    if c.flags & LAST_FRAME:
        # After the end of an event stream nothing comes from the peer that a transport could wait for.
        if c.flags & PEER_DONE or (c.flags & IS_TRANSPORT and is_event_stream(c.framing)):
            mark_closed(s, c)
        elif not c.flags & (HALF_CLOSED | IS_TRANSPORT):
            c.flags |= HALF_CLOSED
            rh_half_close(c.fd)


cdef inline void write_out(State* s, Conn* c) noexcept nogil:
    cdef Py_ssize_t n
    cdef size_t offered = 0
    while c.count:
        n = write_some(&s.writer, c, &offered)
        if n < 0:
            if rh_would_block():
                block_socket(s, c)
            else:
                mark_closed(s, c)
            return
        s.n.sends += 1
        s.n.bytes_out += n
        c.moved = s.wheel.now
        queue_written(&s.pool, c, n)
        if <size_t> n < offered:
            block_socket(s, c)
            return
    c.over = s.wheel.now     # all is on its way
    finish_closing(s, c)


cdef inline void write_slice(State* s) noexcept nogil:
    cdef int64_t now = clock_ns()
    cdef int64_t deadline = now + s.slice_ns
    cdef int64_t last = now + SLICES * s.slice_ns
    cdef uint32_t written = 0
    cdef Conn* c
    writer_forget(&s.writer)     # frames were freed since the last slice, and their addresses used again
    while True:
        c = next_dirty(s)
        if c == NULL:
            return
        if c.flags & RELEASE_PENDING:
            slot_release(&s.slots, c)
            continue
        if c.state == CONN_DEAD or c.flags & BLOCKED:
            continue
        if c.flags & IS_TRANSPORT:
            if not c.flags & ON_PYTHON:
                c.flags |= ON_PYTHON
                list_push(&s.lists[THROUGH_PYTHON], c)
            continue
        write_out(s, c)
        written += 1
        if written % 16 == 0:
            now = clock_ns()
            if now > deadline:
                # Giving way costs a turn of the loop and lets the readers fall asleep, so it is done only where
                # something waits. Timers and callbacks, which the descriptor does not show, wait SLICES at most.
                if now > last or s.loop_fd < 0 or not rh_is_quiet(s.loop_fd):
                    return
                deadline = now + s.slice_ns
