# What Python sees of conflation: the methods of `Engine` by which its owner sets it and tells the time. Included by
# `_fanout.pyx`, and so a part of that module.

from realizehit.engine.conflation cimport (
    WINDOW_TICK_MS, send_newest, window_new, window_resize, windows_advance, windows_of,
)
from realizehit.engine.conn cimport FEATURE_BITS, FEATURE_CONFLATING
from realizehit.engine.state cimport Windows

cdef enum:
    LONGEST_WINDOW_MS = 60000

WINDOW_TICK = WINDOW_TICK_MS / 1000.0
MAX_EVERY = LONGEST_WINDOW_MS


@cython.no_gc_clear
cdef class ConflationCalls(JoinCalls):
    """The part of `Engine` that gives subscribers one message in a time; of no use alone."""

    def set_every(self, uint64_t handle, bytes channel not None, uint32_t every):
        """Let a subscription receive at most one message in a time, always the newest; or every message again.

        The first message goes at once; of those that follow within the time, the newest goes at its end. When a
        subscription gets every message again, what was kept for it goes at once.

        Args:
            every: milliseconds, at most `MAX_EVERY`; rounded up to whole ticks of `WINDOW_TICK`. 0 for every message.

        Returns:
            False when there is no such subscription, or it is one with positions.

        Raises:
            ValueError: `every` is too long.
        """
        cdef State* s = &self.s
        cdef Conn* c = slot_find(&s.slots, handle)
        cdef Channel* known = self.channel_named(channel)
        cdef Py_ssize_t index
        cdef uint32_t features, position, number, ticks = (every + WINDOW_TICK_MS - 1) // WINDOW_TICK_MS
        if every > LONGEST_WINDOW_MS:
            raise ValueError(f"every must be at most {LONGEST_WINDOW_MS} milliseconds, not {every}")
        if c == NULL or c.state != CONN_OPEN or known == NULL or c.framing == FRAMING_RESP:
            return False
        index = index_of(c, known)
        if index < 0:
            return False
        position = c.subs[index].position
        features = known.subs[position].features
        number = features >> FEATURE_BITS
        if features & FEATURE_POSITIONS:
            return False
        if not features & FEATURE_CONFLATING:
            if ticks:
                log_need(s, known)
                try:
                    number = window_new(s, c, known, ticks)
                except MemoryError:
                    log_free_unused(s, known)
                    raise
                set_features(s, known, position, features | FEATURE_CONFLATING | number << FEATURE_BITS)
        elif ticks:
            window_resize(s, number, ticks)
        else:
            send_newest(s, &s.windows.items[number])
            set_features(s, known, position, features & FEATURE_MUTED)
            log_free_unused(s, known)
            self.later()
        return True

    def every(self, uint64_t handle, bytes channel not None):
        """Return the milliseconds in which a subscription receives at most one message; 0 for every message."""
        cdef uint32_t position
        cdef Channel* known = self.channel_with(handle, channel, &position)
        cdef uint32_t features = 0 if known == NULL else known.subs[position].features
        if not features & FEATURE_CONFLATING:
            return 0
        return self.s.windows.items[features >> FEATURE_BITS].ticks * WINDOW_TICK_MS

    def send_newest(self, uint64_t handle):
        """Send now what is kept for the subscriptions of a connection, whose times begin anew.

        To be called before `splice`, whose connection may get another framing, and before the client is told something
        that what is kept must not follow.
        """
        cdef Conn* c = slot_find(&self.s.slots, handle)
        if c != NULL and c.newest:
            windows_of(&self.s, c, True)
            self.later()

    def advance_windows(self, double now):
        """Send what is kept for subscriptions whose time is over.

        The owner calls it when `on_windows` says so, and then again after the seconds that it returns.

        Args:
            now: seconds of the clock that `tick` is told.

        Returns:
            The seconds until the next call; 0 when there is nothing to wait for, until `on_windows`.
        """
        self.depth += 1
        try:
            self.pass_time(now)
        finally:
            self.depth -= 1
        self.settle()
        if not self.s.windows.open:
            return 0.0
        return self.s.windows.began + (self.s.windows.now + 1) * WINDOW_TICK - now

    cdef int settle(self) except -1:
        raise NotImplementedError   # `Engine` overrides it; Cython has no abstract methods

    cdef int pass_time(self, double now) except -1:
        cdef Windows* windows = &self.s.windows
        if windows.open == 0:
            windows.told = False
            return 0
        if not windows.timed:
            windows.timed = True
            windows.began = now - windows.now * WINDOW_TICK
        # A timer may be early by a part of a millisecond.
        windows_advance(&self.s, <uint64_t> max(0.0, (now - windows.began) / WINDOW_TICK + 0.05))
        if windows.open == 0:
            windows.told = windows.timed = False
        return 0
