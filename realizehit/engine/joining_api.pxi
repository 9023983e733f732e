# What Python sees of joining: plain subs, and the channels that clients join without the hub. Included by
# `_fanout.pyx`, and so a part of that module.

from libc.stdio cimport snprintf

from realizehit.engine.actions cimport ID_MAX, PlainSub, read_plain_sub
from realizehit.engine.allowance cimport can_pay
from realizehit.engine.conn cimport CHANNEL_LOGGED, CHANNEL_OPEN, CHANNEL_WATCHED, CHANNEL_WILDCARD, FEATURE_TRACE
from realizehit.engine.state cimport JOINERS


def plain_sub(bytes text not None):
    """Read the action ``sub`` in its plain form, see `engine/actions.pxd`.

    Args:
        text: UTF-8.

    Returns:
        Its id as it stands in the text, and its channel; None for anything else.
    """
    cdef PlainSub sub
    if not read_plain_sub(&sub, PyBytes_AS_STRING(text), len(text)):
        return None
    return sub.id[:sub.id_size], sub.channel[:sub.channel_size]


@cython.no_gc_clear
cdef class JoinCalls(ArrivalCalls):
    """The part of `Engine` that subscribes clients by itself; of no use alone."""

    def take_subs(self, tuple handlers not None, uint32_t limit, may_join=None):
        """Read plain subs of the clients of some handlers, and let them join open channels.

        A plain sub comes as ``on_sub(handle, (id, channel))`` instead of ``on_text``, or as neither where the engine
        carries it out and replies.

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

    cdef bint join(self, uint64_t handle, bytes id, bytes name) except -1:
        """Carry out a plain sub and reply to it; false where Python has to."""
        cdef PyObject* known = PyDict_GetItem(self.channels, name)
        cdef Conn* c
        cdef Channel* channel
        cdef Message m
        cdef char reply[ID_MAX + 64]
        cdef int size
        if known == NULL or not (<ChannelEntry> known).channel.flags & CHANNEL_OPEN:
            return False
        if self.may_join is not None:
            if not self.may_join(handle, name):
                return False
            known = PyDict_GetItem(self.channels, name)     # looked up again: Python code has run
        c = slot_find(&self.s.slots, handle)
        if known == NULL or c == NULL or c.state != CONN_OPEN:
            return False
        channel = &(<ChannelEntry> known).channel
        if ((channel.flags & (CHANNEL_OPEN | CHANNEL_HELD | CHANNEL_LOGGED | CHANNEL_WATCHED | CHANNEL_WILDCARD))
                != CHANNEL_OPEN or subscription_refusal(c, channel, self.s.join_limit) or not can_pay(&self.s, c)):
            return False
        pay(&self.s, c)
        add_subscription(&self.s, c, channel)
        size = snprintf(reply, sizeof(reply), b"{\"id\":%.*s,\"ret\":\"%.8s\"}", <int> len(id), PyBytes_AS_STRING(id),
                        channel.id)
        set_reply(&m, reply, size)
        send_frame(&self.s, c, build_message(&self.s, c.framing, &m))
        return True
