# What Python sees of joining: plain subs, and the channels that clients join without the hub. Included by
# `_fanout.pyx`, and so a part of that module.

from libc.stdio cimport snprintf

from realizehit.engine.actions cimport ID_MAX, PlainSub, read_plain_sub
from realizehit.engine.allowance cimport can_pay
from realizehit.engine.conn cimport CHANNEL_OPEN, FEATURE_TRACE
from realizehit.engine.joining cimport can_join, can_resume
from realizehit.engine.labels cimport read_position
from realizehit.engine.state cimport JOINERS


def plain_sub(bytes text not None):
    """Read the action ``sub`` in its plain form, see `engine/actions.pxd`.

    Args:
        text: UTF-8.

    Returns:
        Its id as it stands in the text, its channel, and its position or None; None for anything else.
    """
    cdef PlainSub sub
    if not read_plain_sub(&sub, PyBytes_AS_STRING(text), len(text)):
        return None
    return (sub.id[:sub.id_size], sub.channel[:sub.channel_size],
            None if sub.since == NULL else sub.since[:sub.since_size])


@cython.no_gc_clear
cdef class JoinCalls(ArrivalCalls):
    """The part of `Engine` that subscribes clients by itself; of no use alone."""

    def take_subs(self, tuple handlers not None, uint32_t limit, may_join=None):
        """Read plain subs of the clients of some handlers, and let them join open channels.

        A plain sub comes as ``on_sub(handle, (id, channel, since))`` instead of ``on_text``, or as neither where the
        engine carries it out and replies.

        Args:
            handlers: at most four.
            limit: subscriptions that a connection may hold.
            may_join: called with a handle and a channel, returns whether this client may join it; it must not call the
                engine. None where everybody may join each channel.
        """
        cdef int i
        if len(handlers) > JOINERS:
            raise ValueError(f"at most {JOINERS} handlers can take subs")
        self.joiners = handlers
        for i in range(JOINERS):
            self.s.joiners[i] = <PyObject*> handlers[i] if i < len(handlers) else NULL
        self.s.join_limit = limit
        self.may_join = may_join

    def take_firsts(self, on_first, uint32_t most=0):
        """Have plain subs of channels without subscribers told together, after the clients were put into the channels.

        A channel is held until `answer_firsts` or `hold`. Nothing else is told before them that came after them.

        Args:
            on_first: called with a list of ``(handle, id, channel)``, as `plain_sub` returns the latter two; None for
                `on_sub`, as for all other subs.
            most: channels that may have subscribers; more come as `on_sub`. 0 for any number.
        """
        self.on_first = on_first
        self.first_most = most

    def answer_firsts(self, list firsts not None, bint opened):
        """Answer subs that `take_firsts` told, now that their channels are in force, and hold these no longer.

        Args:
            firsts: of those that were told.
            opened: whether clients may join the channels without Python from now on.
        """
        cdef Conn* c
        cdef Channel* channel
        cdef bytes id, name
        try:
            for handle, id, name in firsts:
                channel = self.channel_named(name)
                if channel == NULL:
                    continue
                channel.flags &= ~CHANNEL_HELD
                if opened:
                    channel.flags |= CHANNEL_OPEN
                c = slot_find(&self.s.slots, handle)
                if c != NULL and c.state == CONN_OPEN:
                    self.answer_join(c, channel, id, None)
        finally:
            self.later()

    def open_channel(self, bytes channel not None, bint opened):
        """Set whether clients may join a channel without Python; reset when its last subscriber leaves.

        To be set for a channel in force of which no subscription waits, and while no gap is open or being told.
        """
        cdef Channel* known = self.channel_named(channel)
        if known != NULL:
            known.flags = known.flags | CHANNEL_OPEN if opened else known.flags & ~CHANNEL_OPEN

    def close_channels(self):
        """Let clients join no channel without Python, until `open_channel`.

        Cost: a look at each channel.
        """
        cdef PyObject* value
        cdef Py_ssize_t position = 0
        while PyDict_Next(self.channels, &position, NULL, &value):
            (<ChannelEntry> value).channel.flags &= ~CHANNEL_OPEN

    def tell_traces(self, uint64_t handle, bytes channel not None):
        """Send a subscription the traceparents of messages from now on, as the label ``t=<traceparent>``.

        Replayed messages have none.

        Returns:
            False when there is no such subscription.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Channel* known = self.channel_named(channel)
        cdef Py_ssize_t index
        if c == NULL or c.state != CONN_OPEN or known == NULL:
            return False
        index = index_of(c, known)
        if index < 0:
            return False
        known.subs[c.subs[index].position].features |= FEATURE_TRACE
        return True

    def follow_traces(self, on_traced):
        """Have a function called for each delivery of a message whose trace is sampled; None for no longer.

        Args:
            on_traced: called with the channel's name, the traceparent (both bytes), the number of subscribers that the
                message was queued for, at least 1, and the nanoseconds since the engine began with it.
        """
        self.on_traced = on_traced
        self.s.follow_traces = on_traced is not None

    cdef bint join(self, uint64_t handle, bytes id, bytes name, bytes since) except -1:
        """Carry out a plain sub and reply to it; false where Python has to."""
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef PyObject* known = PyDict_GetItem(self.channels, name)
        cdef Channel* channel
        cdef const char* epoch = NULL
        cdef uint64_t after = 0
        if c == NULL or c.state != CONN_OPEN:
            return False
        if known == NULL:
            return since is None and self.join_first(c, id, name)
        channel = &(<ChannelEntry> known).channel
        if not can_join(&self.s, channel):
            return False
        if self.may_join is not None:
            if not self.may_join(handle, name):
                return False
            # Looked up again: Python code has run.
            c = slot_find(&self.s.slots, handle)
            known = PyDict_GetItem(self.channels, name)
            if c == NULL or c.state != CONN_OPEN or known == NULL:
                return False
            channel = &(<ChannelEntry> known).channel
            if not can_join(&self.s, channel):
                return False
        if since is not None and not (read_position(&epoch, &after, PyBytes_AS_STRING(since), len(since))
                                      and can_resume(&self.s, channel, epoch, after)):
            return False
        if subscription_refusal(c, channel, self.s.join_limit) or not can_pay(&self.s, c):
            return False
        pay(&self.s, c)
        try:
            add_subscription(&self.s, c, channel)
            self.answer_join(c, channel, id, since)
            if since is not None:   # after the answer: the first message may follow at once
                tell_positions(&self.s, c, channel, channel.count - 1, False, after)
                self.s.n.resumed += 1
        except MemoryError:
            mark_closed(&self.s, c)     # it would wait for an answer, or for messages
            raise
        return True

    cdef bint join_first(self, Conn* c, bytes id, bytes name) except -1:
        """Make a client the first subscriber of a channel, to be held and told; false where Python has to."""
        cdef ChannelEntry entry
        cdef uint64_t handle = handle_of(c)
        if (self.on_first is None or b"realizehit:" in name
                or (self.first_most and len(self.channels) >= self.first_most)):
            return False
        if self.may_join is not None:
            if not self.may_join(handle, name):
                return False
            # Looked up again: Python code has run.
            c = slot_find(&self.s.slots, handle)
            if c == NULL or c.state != CONN_OPEN or PyDict_GetItem(self.channels, name) != NULL:
                return False
        entry = ChannelEntry.__new__(ChannelEntry, name)
        if subscription_refusal(c, &entry.channel, self.s.join_limit) or not can_pay(&self.s, c):
            return False
        pay(&self.s, c)
        self.channels[name] = entry     # before anything refers to it: this may raise, too
        try:
            add_subscription(&self.s, c, &entry.channel)
        except MemoryError:
            del self.channels[name]
            mark_closed(&self.s, c)     # it would wait for an answer
            raise
        entry.channel.flags |= CHANNEL_HELD
        try:
            self.firsts.append((handle, id, name))
        except MemoryError:
            mark_closed(&self.s, c)     # and so leave the channel
            raise
        return True

    cdef int tell_firsts(self) except -1:
        cdef list firsts = self.firsts
        if firsts:
            self.firsts = []
            try:
                self.on_first(firsts)
            except Exception as error:
                (<object> self.s.on_error)(error)
        return 0

    cdef int answer_join(self, Conn* c, const Channel* channel, bytes id, bytes since) except -1:
        cdef Message m
        cdef char reply[ID_MAX + 128]
        cdef int size = snprintf(reply, sizeof(reply), b"{\"id\":%.*s,\"ret\":\"%.8s\"", <int> len(id),
                                 PyBytes_AS_STRING(id), channel.id)
        if since is not None:
            size += snprintf(reply + size, sizeof(reply) - size, b",\"at\":\"%.*s\",\"recovered\":true",
                             <int> len(since), PyBytes_AS_STRING(since))
        reply[size] = c'}'
        set_reply(&m, reply, size + 1)
        send_frame(&self.s, c, build_message(&self.s, c.framing, &m))
        return 0
