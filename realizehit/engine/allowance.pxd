# How much input a client may send: the generic cell rate algorithm, one step for each frame.
#
# Called for each frame that a client sends, by the engine's own reading or by the parser in Python (`charge`). It
# counts; only `pay_or_end` acts on the result, by a callback that ends the connection.

from libc.stdint cimport int64_t

from realizehit.engine.callbacks cimport end_after_callbacks
from realizehit.engine.conn cimport DISCARD_INPUT, Conn
from realizehit.engine.state cimport State, clock_ns

cdef enum:  # what `pay` returns
    INPUT_PAID = 0
    INPUT_REFUSED = 1
    INPUT_HOPELESS = 2


cdef inline bint can_pay(State* s, Conn* c) noexcept nogil:
    """Whether `pay` would answer that a frame is paid for."""
    return s.input_step == 0 or c.full - clock_ns() <= s.input_most


cdef inline int pay(State* s, Conn* c) noexcept nogil:
    cdef int64_t now
    if s.input_step == 0:
        return INPUT_PAID
    now = clock_ns()
    if c.full < now:
        c.full = now
    if c.full - now <= s.input_most:
        c.full += s.input_step
        if c.strikes:
            c.strikes -= 1
        return INPUT_PAID
    s.n.refused_frames += 1
    if c.strikes < s.input_strikes:
        c.strikes += 1
    return INPUT_REFUSED if c.strikes < s.input_strikes else INPUT_HOPELESS


cdef inline bint pay_or_end(State* s, Conn* c) except -1:
    """Charge a frame, and end the connection where it sends far too many; return whether the frame is paid for."""
    cdef int paid = pay(s, c)
    if paid == INPUT_HOPELESS:
        c.flags |= DISCARD_INPUT
        end_after_callbacks(s, c, 4502, "rate-limited")
    return paid == INPUT_PAID
