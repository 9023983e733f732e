# The engine's attributes and its own methods; the bodies are in `_fanout.pyx`.
#
# Everything belongs to one engine, and an engine to the thread of its event loop. The GIL is released while sockets are
# written, so other threads of the process run; they must not touch the engine.

from libc.stdint cimport uint32_t, uint64_t

from realizehit.engine.conn cimport Channel, Conn
from realizehit.engine.state cimport State


cdef class ChannelEntry:
    cdef Channel channel


cdef class LogCalls:
    cdef State s
    cdef dict channels          # the registry: channel name -> ChannelEntry
    cdef public object on_hole
    cdef public object on_starved

    cdef int later(self) except -1      # asks for `settle`
    cdef Channel* channel_named(self, bytes name) noexcept      # NULL without subscribers
    cdef Channel* channel_with(self, uint64_t handle, bytes name, uint32_t* position) noexcept  # with a `Log`
    cdef int tell_hole(self, tuple hole) except -1
    cdef int tell_starved(self, bytes name) except -1


cdef class ArrivalCalls(LogCalls):
    cdef dict doors             # the objects that `State.doors` refers to, by descriptor
    cdef readonly double tick_interval

    cdef int feed_rest(self, uint64_t handle, bytes rest) except -1     # of what came with a head; asks for `settle`
    cdef int recover_after_raise(self) except -1     # an entry point raises: its leftovers are for the next flush


cdef class JoinCalls(ArrivalCalls):
    cdef tuple joiners          # the handlers that `State.joiners` refers to
    cdef object on_traced
    cdef object may_join        # says which client may join which channel; None where every client may join each
    cdef object on_first
    cdef uint32_t first_most    # channels; 0 for any number
    cdef list firsts            # subs of channels without subscribers, yet to be told: (handle, id, channel)

    cdef bint join(self, uint64_t handle, bytes id, bytes name, bytes since) except -1
    cdef bint join_first(self, Conn* c, bytes id, bytes name) except -1
    cdef int tell_firsts(self) except -1
    cdef int answer_join(self, Conn* c, const Channel* channel, bytes id, bytes since) except -1


cdef class ConflationCalls(JoinCalls):
    cdef public object on_windows
    cdef int depth              # entry points on the stack

    cdef int pass_time(self, double now) except -1

    # Entry points end in `settle`, which runs callbacks, flushes and reaps; what happens outside of one asks for it
    # with `later`.
    cdef int settle(self) except -1


cdef class Lingering:
    cdef Engine engine
    cdef uint64_t handle
    cdef int turns


cdef class Engine(ConflationCalls):
    # The Python objects that the state refers to; they are replaced by no others.
    cdef list pending           # callbacks to run: (what, handler, handle, data)
    cdef dict leavers           # callbacks "left" that wait: channel name -> handles
    cdef object on_error
    cdef object compressobj
    #
    cdef object call_soon
    cdef public object on_vacant
    cdef public object on_left
    cdef dict moved             # handles that `splice` ended while callbacks wait -> the ones that go on
    cdef double started
    cdef bint flush_scheduled, poll_scheduled
    cdef bint has_more             # the last `poll` left something to the next one

    cdef object begin(self, Conn* c, bytes head, bytes rest)
    cdef int dispatch_one(self, bytes name, bytes payload) except -1
    cdef int linger(self, Lingering lingering) except -1

    cdef int tell_windows(self) except -1    # that `advance_windows` must be called
    cdef int run_pending(self) except -1
    cdef int run_callback(self, str what, object handler, uint64_t handle, object data) except -1
    cdef bint takes_callbacks(self, uint64_t handle) noexcept
