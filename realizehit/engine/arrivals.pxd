# Connections that have arrived and are no clients yet: accepting them, reading their first bytes, letting them in.
#
# Called by `poll` for what epoll reports, and by the methods of `Engine` by which Python decides about an arrival. An
# arrival whose head is a usual opening handshake becomes a client at once, if its door has a verdict for it: the
# response is a template and the answer to its key. Everything else is told to the door's handler, which lets it in,
# takes its socket, or ends it; nothing more is read from it before. An arrival has no transport and no Python object.
#
# A door with `watched` headers has a verdict too, which is about the kind of client; Python decides about each client.
#
# The handler has `on_arrived(handle, address)` if its door counts arrivals, `on_head(handle, (signature, bytes))` for a
# usual handshake without a verdict, `on_client(handle, (verdict, headers, query, bytes, key, size))` for one with a
# verdict at a door with watched headers, where `key` is where its key begins and `size` that of its head,
# `on_other(handle, bytes)` for anything else, `on_late(handle, None)` for an arrival that has sent nothing in time,
# `on_gone(handle)` for one that ends before it was let in or taken, and `on_exhausted` where the process has no
# descriptor left. MemoryError is all that is raised.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from realizehit.engine.accept_key cimport ACCEPT_SIZE, rh_accept_key
from realizehit.engine.backpressure cimport mark_closed, send_frame
from realizehit.engine.callbacks cimport tell
from realizehit.engine.conn cimport CONN_ARRIVED, SEEN, WITH_PYTHON, Conn, handle_of, slot_release
from realizehit.engine.connections cimport begin_client, new_connection
from realizehit.engine.frames cimport PARTIAL_MAX, Frame, frame_bytes, frame_new
from realizehit.engine.heads cimport OpeningHead, query_of, read_opening_head, watched_headers
from realizehit.engine.memory cimport RH_DEBUG, alive
from realizehit.engine.reading cimport INBOX, consume
from realizehit.engine.sockets cimport (
    rh_accept, rh_close, rh_descriptors, rh_duplicate, rh_epoll_add, rh_epoll_drop, rh_is_exhausted, rh_peer, rh_recv,
    rh_user_timeout, rh_would_block,
)
from realizehit.engine.state cimport DOORS, Door, State
from realizehit.engine.wheel cimport wheel_set, wheel_unset

cdef enum:
    ACCEPTS = 8                 # connections that are accepted from a socket in one turn of the loop
    RESERVE = 16                # descriptors that are not for clients, as in `realizehit.transports.fd_reserve`
    LONGEST_PEER = 256          # bytes of an address, with the name of an interface


cdef inline int ask(State* s, Conn* c, str what, object data) except -1:
    """Have Python decide about an arrival."""
    tell(s, what, c, data)
    c.flags |= WITH_PYTHON
    return 0


cdef inline str peer_of(Conn* c):
    """The numeric address of a connection's peer; empty where it is not known any more."""
    cdef char text[LONGEST_PEER]
    if c.fd < 0 or rh_peer(c.fd, text, LONGEST_PEER) < 0:
        return ""
    return (<bytes> text).decode("ascii", "replace")


cdef inline int arrive(State* s, Door* door, int fd, int most) except -1:
    # The descriptor is the engine's from here on, also where this raises.
    cdef Conn* c
    try:
        c = new_connection(s, <object> door.handler)
    except BaseException:
        rh_close(fd)
        raise
    c.fd = fd
    c.state = CONN_ARRIVED
    c.framing = <uint8_t> (door - s.doors)
    s.arrived_count += 1
    wheel_set(&s.wheel, &s.slots, c, s.head_ticks)
    if rh_epoll_add(s.epoll, fd, handle_of(c)) < 0:
        mark_closed(s, c)
    elif fd >= most:
        ask(s, c, "on_other", b"")      # which refuses it: there is hardly a descriptor left
    elif door.counted:
        ask(s, c, "on_arrived", peer_of(c))
    return 0


cdef inline int turn_away(State* s, Door* door) except -1:
    """Close a connection for which there is no descriptor, or else accept nothing until the next tick.

    It must go, or it would be reported without end. The spare descriptor is there to accept it, which does not help
    where the whole system has no descriptors or no memory.
    """
    cdef int fd
    if s.spare >= 0:
        rh_close(s.spare)
    fd = rh_accept(door.fd)
    if fd >= 0:
        rh_close(fd)
    else:
        rh_epoll_drop(s.epoll, door.fd)
        door.waits = True
    s.spare = rh_duplicate(s.epoll)
    if not s.exhausted:
        s.exhausted = True
        (<list> s.pending).append(("on_exhausted", <object> door.handler, 0, None))
    return 0


cdef inline void accept_again(State* s) noexcept:
    """Accept at the doors that were left alone for want of descriptors."""
    cdef int i
    cdef Door* door
    for i in range(DOORS):
        door = &s.doors[i]
        if door.handler != NULL and door.waits:
            door.waits = rh_epoll_add(s.epoll, door.fd, i) < 0


cdef inline int accept_some(State* s, Door* door) except -1:
    """Accept what waits at a door, up to `ACCEPTS` connections; epoll reports the others again."""
    cdef int fd, most
    if door.handler == NULL:
        return 0
    most = rh_descriptors() - RESERVE
    for _ in range(ACCEPTS):
        fd = rh_accept(door.fd)
        if fd >= 0:
            arrive(s, door, fd, most if most > 1 else 1)
        elif rh_is_exhausted():     # asked first: `rh_would_block` knows ENOBUFS too, of writing
            turn_away(s, door)
            return 0
        elif rh_would_block():
            return 0
    return 0


cdef inline int let_in(State* s, Conn* c, object handler, int framing) except -1:
    """Make an arrival a client."""
    cdef PyObject* before = c.handler
    Py_INCREF(handler)
    c.handler = <PyObject*> handler
    Py_DECREF(<object> before)      # not the last reference: the door has one
    c.flags = SEEN
    s.arrived_count -= 1
    begin_client(s, c, framing)
    return 0


cdef inline int answer_opening(State* s, Conn* c, tuple verdict, const uint8_t* key) except -1:
    """Let an arrival in by a verdict, and queue the response to its handshake."""
    cdef bytes before = verdict[2]
    cdef bytes behind = verdict[3]
    cdef Py_ssize_t size = PyBytes_GET_SIZE(before)
    cdef Frame* f = frame_new(&s.pool, size + ACCEPT_SIZE + PyBytes_GET_SIZE(behind))
    cdef char* out
    if f == NULL:
        raise MemoryError()
    out = frame_bytes(f)
    memcpy(out, PyBytes_AS_STRING(before), size)
    rh_accept_key(out + size, key)
    memcpy(out + size + ACCEPT_SIZE, PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind))
    let_in(s, c, verdict[0], verdict[1])
    send_frame(s, c, f)
    return 0


cdef inline int meet(State* s, Conn* c, uint8_t* data, size_t size) except -1:
    """Act on the first bytes of an arrival, which have `PARTIAL_MAX` bytes of room before them."""
    cdef OpeningHead head
    cdef Door* door = &s.doors[c.framing]
    cdef bytes signature
    cdef PyObject* verdict
    if not read_opening_head(&head, data, size, s.max_head):
        return ask(s, c, "on_other", PyBytes_FromStringAndSize(<char*> data, size))
    signature = PyBytes_FromStringAndSize(head.signature, head.signature_size)
    verdict = PyDict_GetItem(<dict> door.verdicts, signature) if s.open_count < s.room else NULL
    if verdict == NULL:
        return ask(s, c, "on_head", (signature, PyBytes_FromStringAndSize(<char*> data, size)))
    if door.watched != NULL:
        return ask(s, c, "on_client", (<tuple> verdict, watched_headers(&head, <tuple> door.watched), query_of(&head),
                                       PyBytes_FromStringAndSize(<char*> data, size), head.key - data, head.size))
    answer_opening(s, c, <tuple> verdict, head.key)
    if head.size < size:
        consume(s, c, data + head.size, size - head.size)
    return 0


cdef inline int greet(State* s, Conn* c) except -1:
    """Read the first bytes of an arrival, and act on them."""
    cdef Py_ssize_t n
    if c.flags & WITH_PYTHON:
        return 0
    n = rh_recv(c.fd, s.inbox + PARTIAL_MAX, INBOX)
    if n > 0:
        try:
            meet(s, c, s.inbox + PARTIAL_MAX, n)
        except BaseException:
            mark_closed(s, c)    # what it sent is lost
            raise
    elif n == 0 or not rh_would_block():
        mark_closed(s, c)
    return 0


cdef inline int give_away(State* s, Conn* c) except -2:
    """Give up an arrival, of which nobody is told, and return its descriptor, which is the caller's."""
    cdef int fd = c.fd
    handler = <object> c.handler
    rh_epoll_drop(s.epoll, fd)
    rh_user_timeout(fd, 0)      # this limit is for clients
    wheel_unset(&s.wheel, &s.slots, c)
    Py_DECREF(handler)
    c.handler = NULL
    c.fd = -1
    s.arrived_count -= 1
    s.used_count -= 1
    if RH_DEBUG:
        alive.connections -= 1
    slot_release(&s.slots, c)
    return fd
