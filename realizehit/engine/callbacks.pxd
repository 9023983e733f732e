# Callbacks into Python that wait until the engine call that is running is about to return.
#
# Called by the parts that read, close and unsubscribe. Each entry is (what, handler, handle, data); `_fanout.Engine`
# runs them in order. Nothing here calls Python code. MemoryError is all that can be raised, and then nothing is queued.

from realizehit.engine.conn cimport DISCARD_INPUT, Conn, handle_of
from realizehit.engine.state cimport State


cdef inline int tell(State* s, str what, Conn* c, object data) except -1:
    (<list> s.pending).append((what, <object> c.handler, handle_of(c), data))
    return 0


cdef inline int end_after_callbacks(State* s, Conn* c, int code, str reason) except -1:
    # What the client sent before is acted on before the connection goes.
    (<list> s.pending).append(("end", None, handle_of(c), (code, reason)))
    return 0


cdef inline int fail_protocol(State* s, Conn* c, int code, str reason) except -1:
    s.n.protocol_errors += 1
    c.flags |= DISCARD_INPUT
    return end_after_callbacks(s, c, code, reason)
