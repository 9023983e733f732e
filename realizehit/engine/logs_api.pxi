# What Python sees of logs and replays: the methods of `Engine` that follow logs. Included by `_fanout.pyx`, and so a
# part of that module.

from realizehit.engine.conn cimport FEATURE_POSITIONS, handle_of
from realizehit.engine.labels cimport EPOCH_SIZE
from realizehit.engine.logs cimport (
    close_log, end_muting, end_replay, epoch_of, fill_log, is_known, messages_of, offset_reached, open_log, repair_log,
    send_part, set_log, tell_positions,
)
from realizehit.engine.pumping cimport take_starved
from realizehit.engine.ring cimport LOG_HOLE, ring_first


@cython.no_gc_clear
cdef class LogCalls:
    """The part of `Engine` that follows logs; of no use alone."""

    def unmute(self, uint64_t handle, bytes channel not None):
        """Make a muted subscription a plain one, from now on.

        Returns:
            False when it is not muted, or does not exist.
        """
        cdef uint32_t position
        cdef Channel* known = self.channel_with(handle, channel, &position)
        return known != NULL and end_muting(&self.s, known, position)

    def set_positions(self, uint64_t handle, bytes channel not None, after=None):
        """Tell a subscription positions from now on, as the label ``@o=<offset>``.

        Args:
            after: offset, in the numbering of the log's epoch. The subscription is sent what came after it, oldest
                first, in parts as its connection takes them, and then goes on live. It may be beyond the log's
                position: nothing up to it is sent then. None for live from the log's position.

        Returns:
            False when there is no such subscription, or the position of the log is not known.

        Raises:
            ValueError: it is larger than any offset.
        """
        cdef uint32_t position
        cdef Channel* known = self.channel_with(handle, channel, &position)
        if known == NULL:
            return False
        try:
            return tell_positions(&self.s, known.subs[position].conn, known, position, after is None, after or 0)
        finally:
            self.later()

    def log_open(self, bytes channel not None):
        """Say that a channel has a log, whose position is not known yet.

        Publications with a position go to plain subscribers, and are kept back for the others until `log_set`.

        Returns:
            False when the channel has no subscribers. A log ends with the last one.
        """
        cdef Channel* known = self.channel_named(channel)
        return known != NULL and open_log(&self.s, known)

    def log_set(self, bytes channel not None, str epoch not None, uint64_t offset, messages=()):
        """Set the position of a log, and handle the publications that were kept back.

        Args:
            epoch: 8 characters of a-z and 0-9.
            offset: of the last message that is not delivered any more.
            messages: ``(offset, payload)``, consecutive, ending at `offset`; they are kept for replays. A payload of a
                wildcard's channel begins with ``@c=<concrete channel>?``, here and below.

        Returns:
            False when the channel has no log.

        Raises:
            ValueError: the epoch is malformed, or the messages do not fit the position.
        """
        cdef bytes name = epoch_of(epoch)
        cdef list parts = messages_of(messages)
        cdef Channel* known = self.channel_named(channel)
        try:
            return known != NULL and set_log(&self.s, known, name, offset, parts)
        finally:
            self.later()

    def log_repair(self, bytes channel not None, str epoch not None, messages):
        """Deliver messages that follow the position of a log, and handle the publications that were kept back.

        All of them go into the queues of live subscribers at once. A caller with many messages gives a part at a time,
        well within the bounds of a queue, and lets the event loop run between.

        Args:
            epoch: of the log now. It may be another one whose offsets go on.
            messages: ``(offset, payload)``, consecutive; those up to the position are skipped.

        Returns:
            False when the channel has no log, or its position is not known.

        Raises:
            ValueError: the epoch is malformed, or the messages do not follow the position.
        """
        cdef bytes name = epoch_of(epoch)
        cdef list parts = messages_of(messages)
        cdef Channel* known = self.channel_named(channel)
        try:
            return known != NULL and repair_log(&self.s, known, name, parts)
        finally:
            self.later()

    def log_fill(self, bytes channel not None, messages):
        """Keep older messages for replays, as far as there is memory.

        Args:
            messages: ``(offset, payload)``, consecutive, ending right before the first one that is kept.

        Returns:
            False when they do not end there, or the channel has no log whose position is known.
        """
        cdef list parts = messages_of(messages)
        cdef Channel* known = self.channel_named(channel)
        try:
            return known != NULL and fill_log(&self.s, known, parts)
        finally:
            self.later()

    def log_kept(self, bytes channel not None, uint64_t first, double expires, double ttl):
        """Say what the broker keeps of a log, so that clients can join it with a position and without Python.

        Args:
            first: offset of the oldest message.
            expires: until when the log is kept if nothing is published, by the clock of `tick`.
            ttl: seconds for which it is kept after its last message.

        Returns:
            False when the channel has no log.
        """
        cdef Channel* known = self.channel_named(channel)
        if known == NULL or known.log == NULL:
            return False
        known.log.kept_first, known.log.expires, known.log.ttl = first, expires, ttl
        return True

    def log_close(self, bytes channel not None):
        """Say that a channel has no log any more: replays end, and positions are told no longer.

        Returns:
            False when it had none.
        """
        cdef Channel* known = self.channel_named(channel)
        try:
            return known != NULL and close_log(&self.s, known)
        finally:
            self.later()

    def log_state(self, bytes channel not None):
        """Return a log's epoch, its position, and the offset of the oldest message that is kept (one more if none is).

        None when the channel has no log, or its position is not known.
        """
        cdef Channel* known = self.channel_named(channel)
        if known == NULL or not is_known(known.log):
            return None
        return known.log.epoch[:EPOCH_SIZE].decode("ascii"), known.log.last, ring_first(known.log)

    def log_touched(self, bytes channel not None):
        """Return when the last message of a log came, by the clock of `tick`; 0 if none did.

        It may be a tick too early.
        """
        cdef Channel* known = self.channel_named(channel)
        return 0.0 if known == NULL or known.log == NULL else known.log.touched

    def log_replaying(self, bytes channel not None):
        """Return the handles of the connections whose replays of a log are not over."""
        cdef Channel* known = self.channel_named(channel)
        cdef list found = []
        cdef uint32_t number = 0 if known == NULL or known.log == NULL else known.log.replays
        while number:
            found.append(handle_of(self.s.replays.items[number].conn))
            number = self.s.replays.items[number].behind
        return found

    def log_owes(self, bytes channel not None):
        """Whether publications up to the position that was set first may still be on their way to plain subscribers."""
        cdef Channel* known = self.channel_named(channel)
        return known != NULL and is_known(known.log) and known.log.shown < known.log.owed

    def position(self, uint64_t handle, bytes channel not None):
        """Return the epoch and the offset that a subscription has come to.

        None if it is told no positions, or the position of the log is not known.
        """
        cdef uint32_t position
        cdef Channel* known = self.channel_with(handle, channel, &position)
        if known == NULL or not is_known(known.log) or not known.subs[position].features & FEATURE_POSITIONS:
            return None
        return known.log.epoch[:EPOCH_SIZE].decode("ascii"), offset_reached(&self.s, known, position)

    def has_positions(self, uint64_t handle, bytes channel not None):
        """Return whether a subscription is told positions, also while that of the log is not known."""
        cdef uint32_t position
        cdef Channel* known = self.channel_with(handle, channel, &position)
        return known != NULL and bool(known.subs[position].features & FEATURE_POSITIONS)

    def replay_part(self, bytes channel not None, messages):
        """Send messages to the replays of a channel that wait for them; each as much as its connection has room for.

        Args:
            messages: ``(offset, payload)``, consecutive.

        Cost: a frame for each message and framing, and a pointer for each client.
        """
        cdef list parts = messages_of(messages)
        cdef Channel* known = self.channel_named(channel)
        if known != NULL:
            try:
                send_part(&self.s, known, parts)
            finally:
                self.later()

    def replay_end(self, uint64_t handle, bytes channel not None, uint64_t after):
        """Let a replay leave out the messages up to an offset.

        Returns:
            False when there is no such replay.
        """
        cdef uint32_t position
        cdef Channel* known = self.channel_with(handle, channel, &position)
        if known == NULL:
            return False
        try:
            return end_replay(&self.s, known, position, after)
        finally:
            self.later()

    cdef int later(self) except -1:
        raise NotImplementedError   # `Engine` overrides it; Cython has no abstract methods

    cdef int tell_hole(self, tuple hole) except -1:
        cdef Channel* channel = self.channel_named(hole[0])
        if channel != NULL and channel.log != NULL and channel.log.state == LOG_HOLE and self.on_hole is not None:
            self.on_hole(*hole)
        return 0

    cdef int tell_starved(self, bytes name) except -1:
        cdef Channel* channel = self.channel_named(name)
        if channel != NULL and channel.log != NULL:
            starved = take_starved(&self.s, channel.log)
            if starved and self.on_starved is not None:
                self.on_starved(name, starved)
        return 0

    cdef Channel* channel_with(self, uint64_t handle, bytes name, uint32_t* position) noexcept:
        cdef Conn* c = slot_find(&self.s.slots, handle)
        cdef Channel* channel = self.channel_named(name)
        cdef Py_ssize_t index
        if c == NULL or c.state != CONN_OPEN or channel == NULL or channel.log == NULL:
            return NULL
        index = index_of(c, channel)
        if index < 0:
            return NULL
        position[0] = c.subs[index].position
        return channel

    @cython.final
    cdef Channel* channel_named(self, bytes name) noexcept:
        cdef PyObject* known = PyDict_GetItem(self.channels, name)
        return NULL if known == NULL else &(<ChannelEntry> known).channel
