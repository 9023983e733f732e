# Connections whose bytes go through a Python transport: TLS that ends in this process, and platforms without epoll.
#
# Called after a flush, with the GIL, for the connections that it put into the list THROUGH_PYTHON, and by `take`. These
# functions call the transport, and the transport may call the engine: a connection may be gone or spliced after each
# such call, so that its handle is looked up again. What a transport raises goes to `on_error` and closes the
# connection.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from realizehit.engine.backpressure cimport make_dirty, mark_closed
from realizehit.engine.conn cimport (
    BLOCKED, CONN_DEAD, DISCARD_INPUT, HALF_CLOSED, IS_TRANSPORT, LAST_FRAME, ON_PYTHON, PEER_DONE, RELEASE_PENDING,
    TLS, Conn, handle_of, list_pop, list_push, slot_find, slot_release,
)
from realizehit.engine.flush cimport finish_closing
from realizehit.engine.frames cimport FRAMING_SSE, Frame, frame_bytes
from realizehit.engine.queue cimport queue_at, queue_written
from realizehit.engine.replays cimport replay_soon
from realizehit.engine.sockets cimport rh_unsent
from realizehit.engine.state cimport THROUGH_PYTHON, State, clock_ns
from realizehit.engine.wheel cimport wheel_set

cdef enum:
    PART = 65536                # bytes that a transport is given at once


cdef inline bytes take_bytes(State* s, Conn* c, size_t most):
    # Takes at most `most` bytes of what waits, or all of it with 0: whole frames, where only 0 is ever used.
    cdef size_t size = c.queued - c.offset, done = 0, start = c.offset, part
    if most and size > most:
        size = most
    cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
    cdef char* out = PyBytes_AS_STRING(data)
    cdef Frame* f
    cdef uint32_t i = 0
    while done < size:
        f = queue_at(c, i)
        part = min(f.size - start, size - done)
        memcpy(out + done, frame_bytes(f) + start, part)
        done += part
        start = 0
        i += 1
    s.n.sends += 1
    s.n.bytes_out += size
    c.moved = s.wheel.now
    queue_written(&s.pool, c, size)
    if c.count == 0:
        c.over = s.wheel.now
        replay_soon(s, c)
    return data


cdef inline bint is_flushed(Conn* c) except -1:
    return rh_unsent(c.fd) == 0 and (<object> c.transport).get_write_buffer_size() == 0


cdef inline int finish_transport(State* s, Conn* c) except -1:
    cdef uint64_t handle
    if c.fd < 0:
        finish_closing(s, c)
    elif c.flags & LAST_FRAME and not c.flags & HALF_CLOSED:
        # The transport ends when all is flushed, and then calls `lost`. From now on the peer has a tick to end its
        # side, and no time where nothing is left to wait for.
        c.flags |= HALF_CLOSED
        wheel_set(&s.wheel, &s.slots, c, 1)
        if c.flags & (TLS | PEER_DONE | DISCARD_INPUT) or c.framing == FRAMING_SSE:  # TLS has no half-close
            handle = handle_of(c)
            (<object> c.transport).close()
            if slot_find(&s.slots, handle) == c and c.flags & TLS and c.flags & (PEER_DONE | DISCARD_INPUT):
                (<list> s.pending).append(("linger", None, handle, None))
        else:
            (<object> c.transport).write_eof()
    return 0


cdef inline bint write_part(State* s, Conn* c) except -1:
    cdef uint64_t handle = handle_of(c)
    transport = <object> c.transport
    try:
        if c.count:
            # A socket's transport gets a part at a time, so that it can say when it has enough: its buffers hold copies
            # for this connection alone, while the frames that wait here are shared.
            transport.write(take_bytes(s, c, PART if c.fd >= 0 else 0))
        if slot_find(&s.slots, handle) != c or not c.flags & IS_TRANSPORT or c.transport != <PyObject*> transport:
            return False    # it has gone, or was spliced away, in the call
        if c.count:
            return not c.flags & BLOCKED
        finish_transport(s, c)
    except Exception as error:
        if slot_find(&s.slots, handle) == c:
            mark_closed(s, c)
        (<object> s.on_error)(error)
    return False


cdef inline int write_through_python(State* s) except -1:
    cdef Conn* c
    cdef int64_t deadline = clock_ns() + s.slice_ns
    cdef uint32_t taken = 0
    while True:
        taken += 1
        if taken % 4 == 0 and clock_ns() > deadline:
            return 0    # the rest in the loop's next turn
        c = list_pop(&s.lists[THROUGH_PYTHON])
        if c == NULL:
            return 0
        c.flags &= ~ON_PYTHON
        if c.flags & RELEASE_PENDING:
            slot_release(&s.slots, c)
            continue
        if c.state == CONN_DEAD or c.flags & BLOCKED:
            continue
        if not c.flags & IS_TRANSPORT:  # spliced onto a socket meanwhile
            make_dirty(s, c, True)
            continue
        if write_part(s, c) and not c.flags & ON_PYTHON:
            c.flags |= ON_PYTHON
            list_push(&s.lists[THROUGH_PYTHON], c)   # behind the others
