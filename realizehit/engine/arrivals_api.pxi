# What Python sees of arrivals: the methods of `Engine` by which its owner opens doors and decides who comes in.
# Included by `_fanout.pyx`, and so a part of that module.

from realizehit.engine.accept_key cimport ACCEPT_SIZE, KEY_SIZE, rh_accept_key
from realizehit.engine.arrivals cimport answer_opening, give_away, let_in, peer_of
from realizehit.engine.conn cimport CONN_ARRIVED, WITH_PYTHON
from realizehit.engine.heads cimport OpeningHead, query_of, read_opening_head, watched_headers
from realizehit.engine.sockets cimport rh_duplicate, rh_epoll_drop, rh_no_delay
from realizehit.engine.state cimport DOORS, Door


def opening_signature(bytes text not None, size_t most=16384):
    """Return the signature of a usual opening handshake at the front of a text, and the bytes of its head.

    The signature is the head of a request itself: its line without a query, and the headers that count, without the
    key. Returns None for anything else, see `engine/heads.pxd`.
    """
    cdef OpeningHead head
    if not read_opening_head(&head, <const uint8_t*> PyBytes_AS_STRING(text), len(text), most):
        return None
    return head.signature[:head.signature_size], head.size


def opening_fields(bytes text not None, tuple names not None, size_t most=16384):
    """Return what tells clients of one kind apart in a usual opening handshake at the front of a text.

    Args:
        text: what a connection has sent.
        names: of headers, as bytes in lower case.
        most: bytes that the head may have, the blank line not included.

    Returns:
        The values of these headers by name, and the query; None where it is not such a handshake.
    """
    cdef OpeningHead head
    if not read_opening_head(&head, <const uint8_t*> PyBytes_AS_STRING(text), len(text), most):
        return None
    return watched_headers(&head, names), query_of(&head)


def accept_key(bytes key not None):
    """Return the answer to the key of an opening handshake, see RFC 6455, section 4.2.2.

    Raises:
        ValueError: the key does not have 24 bytes.
    """
    cdef char out[ACCEPT_SIZE]
    if len(key) != KEY_SIZE:
        raise ValueError(f"a key has {KEY_SIZE} bytes")
    rh_accept_key(out, <const uint8_t*> PyBytes_AS_STRING(key))
    return out[:ACCEPT_SIZE]


@cython.no_gc_clear
cdef class ArrivalCalls(LogCalls):
    """The part of `Engine` that accepts connections; of no use alone."""

    @property
    def arrivals(self):
        """How many connections were accepted that are neither let in nor given away yet."""
        return self.s.arrived_count

    @property
    def clients(self):
        """How many connections are open."""
        return self.s.open_count

    @property
    def room(self):
        """Clients up to which verdicts are used; with more, and while it is 0, Python decides by each head."""
        return self.s.room

    @room.setter
    def room(self, uint32_t room):
        self.s.room = room

    def listen(self, int fd, handler, dict verdicts not None, bint counted=False, tuple watched=None):
        """Accept the connections of a TCP socket that listens, which stays the caller's, until `unlisten`.

        Args:
            fd: its descriptor, non-blocking.
            handler: is told of arrivals: ``on_arrived(handle, address)``, if `counted`; ``on_head(handle, (signature,
                bytes))`` for a usual opening handshake without a verdict; ``on_client(handle, (verdict, headers, query,
                bytes, key, size))`` for one with a verdict, if `watched`; ``on_other(handle, bytes)`` for any other
                first bytes; ``on_late(handle, None)``; ``on_gone(handle)``; ``on_exhausted(0, None)`` where a
                connection was closed, or has to wait, for want of a descriptor. It answers each but the last two by
                `read_head`, `open_arrival`, `admit`, `give_away` or `drop`.
            verdicts: for a signature ``(handler, framing, before, behind)``: who is to receive what the client sends,
                and the response, before and behind the answer to its key; what stands behind these is the caller's.
                The caller adds and removes entries.
            counted: whether nothing is read from an arrival before `read_head`.
            watched: the names of headers, as bytes in lower case, by which the handler decides about each client;
                None to have clients let in by their verdict alone.

        Raises:
            OSError: the descriptor cannot be watched, or there are too many doors.
        """
        cdef int i
        cdef Door* door
        for i in range(DOORS):
            door = &self.s.doors[i]
            if door.handler == NULL:
                break
        else:
            raise OSError(f"an engine listens on at most {DOORS} sockets")
        if self.s.spare < 0:
            self.s.spare = rh_duplicate(self.s.epoll)
        # What it accepts has these from the beginning.
        rh_no_delay(fd)
        rh_user_timeout(fd, self.s.user_timeout)
        door.fd = fd
        door.counted = counted
        door.waits = False
        door.verdicts = <PyObject*> verdicts
        door.watched = NULL if watched is None else <PyObject*> watched
        door.handler = <PyObject*> handler
        if rh_epoll_add(self.s.epoll, fd, i) < 0:
            door.handler = NULL
            raise OSError(errno, os.strerror(errno))
        try:
            self.doors[fd] = (handler, verdicts, watched)
        except BaseException:
            rh_epoll_drop(self.s.epoll, fd)
            door.handler = NULL
            raise

    def unlisten(self, int fd):
        """Accept nothing more from a socket, and end what has arrived there; unknown ones are ignored."""
        cdef uint32_t i
        cdef int number
        cdef Conn* c
        for number in range(DOORS):
            if self.s.doors[number].handler != NULL and self.s.doors[number].fd == fd:
                break
        else:
            return
        rh_epoll_drop(self.s.epoll, fd)
        for i in range(self.s.slots.count):
            c = slot_at(&self.s.slots, i)
            if c.state == CONN_ARRIVED and c.framing == number:
                mark_closed(&self.s, c)
        self.s.doors[number].handler = NULL
        del self.doors[fd]
        self.later()

    def peer(self, uint64_t handle):
        """Return the numeric address of an arrival's or a client's peer; empty where it is not known any more."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        return "" if c == NULL else peer_of(c)

    def read_head(self, uint64_t handle):
        """Let the head of an arrival be read, after `on_arrived`."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c != NULL and c.state == CONN_ARRIVED:
            c.flags &= ~WITH_PYTHON

    def open_arrival(self, uint64_t handle, tuple verdict not None, bytes data not None, Py_ssize_t key=-1,
                     Py_ssize_t size=-1):
        """Let an arrival in by a verdict.

        Args:
            handle: of the arrival.
            verdict: see `listen`.
            data: what came of it.
            key: where its key begins, as ``on_client`` told it; the head is read again without it.
            size: of its head, likewise.

        Returns:
            False where it is gone, or its head is not a usual handshake; nothing has changed then.

        Raises:
            ValueError: the key is not within the head.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef const uint8_t* text = <const uint8_t*> PyBytes_AS_STRING(data)
        cdef OpeningHead head
        if c == NULL or c.state != CONN_ARRIVED:
            return False
        if key < 0:
            if not read_opening_head(&head, text, len(data), self.s.max_head):
                return False
            key = head.key - text
            size = head.size
        elif size > len(data) or key > size - KEY_SIZE:
            raise ValueError("the key is not within the head")
        try:
            answer_opening(&self.s, c, verdict, text + key)
        except BaseException:
            mark_closed(&self.s, c)
            self.recover_after_raise()
            raise
        self.feed_rest(handle, data[size:])
        return True

    def admit(self, uint64_t handle, handler, bytes head not None, bytes rest not None, int framing):
        """Let an arrival in that Python has decided about; it keeps its handle.

        Args:
            handle: of the arrival.
            handler: receives what the client sends.
            head: the response.
            rest: what came behind the request.
            framing: how messages look on it.

        Returns:
            False where it is gone.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c == NULL or c.state != CONN_ARRIVED:
            return False
        try:
            let_in(&self.s, c, handler, framing)
            send_frame(&self.s, c, frame_of(&self.s.pool, head))
        except BaseException:
            mark_closed(&self.s, c)
            self.recover_after_raise()
            raise
        self.feed_rest(handle, rest)
        return True

    def waited(self, uint64_t handle):
        """Return the seconds since an arrival was accepted, to a tick; 0 where it is gone."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c == NULL or c.state != CONN_ARRIVED:
            return 0.0
        return max(0, <int64_t> self.s.head_ticks - 1 - <int64_t> (c.due - self.s.wheel.now)) * self.tick_interval

    def give_away(self, uint64_t handle):
        """Return the socket of an arrival, which the engine forgets; -1 where it is gone. Nobody is told of its end."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c == NULL or c.state != CONN_ARRIVED:
            return -1
        return give_away(&self.s, c)

    def drop(self, uint64_t handle):
        """End an arrival without a word; unknown ones are ignored."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c != NULL and c.state == CONN_ARRIVED:
            mark_closed(&self.s, c)
            self.later()

    cdef int feed_rest(self, uint64_t handle, bytes rest) except -1:
        return 0

    cdef int recover_after_raise(self) except -1:
        return 0
