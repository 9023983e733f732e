# The records of a fleet: counts, histograms, examples of faults, gaps that late messages may fill.
# Inline functions for `_load.pyx`; no Python objects, nothing that can raise.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf

from realizehit.loadtest._load_wire cimport HDR_SIZE

cdef enum:
    PROBLEMS = 32               # examples kept
    NOTES = 8
    NOTE_SIZE = 200
    GAPS = 4096                 # gaps remembered, to distinguish late messages from duplicates

cdef struct Counts:
    int64_t failed
    int64_t dropped
    int64_t closed
    int64_t protocol_errors
    int64_t refused
    int64_t pings
    int64_t bytes_in
    int64_t expected
    int64_t deliveries
    int64_t lost
    int64_t forgone
    int64_t duplicates
    int64_t reordered
    int64_t unexpected
    int64_t foreign
    int64_t published
    int64_t acknowledged
    int64_t heard
    int64_t publish_errors
    int64_t abandoned
    int64_t late
    int64_t reconnects
    int64_t resubscribes

cdef struct Problem:
    const char* kind
    uint32_t conn
    uint32_t channel
    uint32_t expected
    uint32_t got

cdef struct Gap:
    uint32_t sub
    uint32_t start
    uint32_t stop

cdef struct Ledger:
    Counts n
    Problem[PROBLEMS] problems
    int problem_count
    char[NOTES][NOTE_SIZE] notes
    int note_count
    Gap[GAPS] gaps
    int gap_count
    uint64_t[HDR_SIZE] latencies
    uint64_t[HDR_SIZE] joins
    uint64_t[HDR_SIZE] lags


cdef inline void example(Ledger* ledger, const char* kind, uint32_t conn, uint32_t channel, uint32_t expected,
                         uint32_t got) noexcept nogil:
    if ledger.problem_count < PROBLEMS:
        ledger.problems[ledger.problem_count] = Problem(kind, conn, channel, expected, got)
        ledger.problem_count += 1


cdef inline void remark(Ledger* ledger, const char* kind, const char* text, size_t size) noexcept nogil:
    """Keep a text if it is one of the first notes."""
    if ledger.note_count < NOTES:
        snprintf(ledger.notes[ledger.note_count], NOTE_SIZE, "%s: %.*s", kind, <int> min(size, <size_t> NOTE_SIZE),
                 text)
        ledger.note_count += 1


cdef inline void gap(Ledger* ledger, uint32_t sub, uint32_t start, uint32_t stop) noexcept nogil:
    if ledger.gap_count < GAPS:
        ledger.gaps[ledger.gap_count] = Gap(sub, start, stop)
        ledger.gap_count += 1


cdef inline bint fill_gap(Ledger* ledger, uint32_t sub, uint32_t number) noexcept nogil:
    """Whether a number was counted as lost, but arrived late."""
    cdef int i
    cdef uint32_t stop
    for i in range(ledger.gap_count):
        if ledger.gaps[i].sub == sub and ledger.gaps[i].start <= number < ledger.gaps[i].stop:
            stop = ledger.gaps[i].stop
            ledger.gaps[i].stop = number
            if number + 1 < stop:
                gap(ledger, sub, number + 1, stop)
            return True
    return False
