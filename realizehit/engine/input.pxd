# A connection's input that is not whole yet: the fragments of a text message, and behind them the start of a frame.
# Inline functions for `_fanout.pyx`. Most connections hold nothing most of the time, and then have no block.

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memmove

from realizehit.engine.conn cimport Conn, Input
from realizehit.engine.memory cimport Pool, pool_give, pool_room, pool_take


cdef inline uint8_t* input_bytes(Input* held) noexcept nogil:
    return <uint8_t*> (held + 1)


cdef inline void input_drop(Pool* pool, Conn* c) noexcept nogil:
    """Let go of all that is held."""
    if c.input != NULL:
        pool_give(pool, c.input, sizeof(Input) + c.input.room)
        c.input = NULL


cdef inline bint input_reserve(Pool* pool, Conn* c, uint32_t more) noexcept nogil:
    """Make room for `more` bytes behind what is held; false when there is no memory, with nothing changed."""
    cdef Input* held = c.input
    cdef Input* larger
    cdef size_t used = 0 if held == NULL else held.message + held.partial
    cdef size_t room = used + more
    if held != NULL and room <= held.room:
        return True
    if used:
        room += room // 2   # many small fragments are copied a few times, not each time
    room = pool_room(sizeof(Input) + room) - sizeof(Input)
    larger = <Input*> pool_take(pool, sizeof(Input) + room)
    if larger == NULL:
        return False
    larger.message = larger.partial = larger.checked = 0
    larger.begun = False
    if held != NULL:
        memcpy(larger, held, sizeof(Input) + used)
        pool_give(pool, held, sizeof(Input) + held.room)
    larger.room = <uint32_t> room
    c.input = larger
    return True


cdef inline bint input_keep(Pool* pool, Conn* c, const uint8_t* data, uint32_t size) noexcept nogil:
    """Hold the start of a frame; false when there is no memory."""
    if not input_reserve(pool, c, size):
        return False
    memcpy(input_bytes(c.input) + c.input.message, data, size)
    c.input.partial = size
    return True


cdef inline uint32_t input_take(Conn* c, uint8_t* end) noexcept nogil:
    """Move the start of a frame to where it ends at `end`; return its bytes."""
    cdef uint32_t size = 0 if c.input == NULL else c.input.partial
    if size:
        memmove(end - size, input_bytes(c.input) + c.input.message, size)
        c.input.partial = 0
    return size


cdef inline bint input_extend(Pool* pool, Conn* c, const uint8_t* data, uint32_t size) noexcept nogil:
    """Hold a further fragment of the message, or its first one; false when there is no memory."""
    if not input_reserve(pool, c, size):
        return False
    memcpy(input_bytes(c.input) + c.input.message, data, size)
    c.input.message += size
    c.input.begun = True
    return True
