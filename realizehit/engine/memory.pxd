# Memory of the engine: blocks by size class that are kept for the next message, and counts of what is alive.
#
# A burst frees as many frames as it made; given back to the allocator they go back to the kernel and come again with
# the next burst, page fault by page fault, which was half the time of a prototype. A pool belongs to one engine and so
# to one thread.

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef enum:
    POOL_CLASSES = 12           # blocks of 32, 64, ... 65,536 bytes
    POOL_SMALLEST = 5           # log2 of the smallest
    POOL_KEEP = 8 << 20         # bytes that a class keeps at most while unused

cdef struct Block:
    Block* next

cdef struct Pool:
    Block* unused[POOL_CLASSES]
    uint32_t kept[POOL_CLASSES]
    uint64_t waiting        # bytes of frames and queues that are in use

cdef extern from *:
    """
    #include <stdint.h>
    #ifdef REALIZEHIT_DEBUG
    #define RH_DEBUG 1
    #else
    #define RH_DEBUG 0
    #endif
    /* Objects that exist now, in all engines of the process; counted in a debug build only. */
    typedef struct { int64_t connections, frames, channels, subscriptions, logs; } rh_alive_counts;
    static rh_alive_counts rh_alive;
    static int rh_class_of(size_t size) {   /* 0 for up to 32 bytes, 1 for up to 64, ... */
        return size <= 32 ? 0 : 64 - 5 - __builtin_clzll((unsigned long long) size - 1);
    }
    """
    const bint RH_DEBUG
    ctypedef struct Alive "rh_alive_counts":
        int64_t connections
        int64_t frames
        int64_t channels
        int64_t subscriptions
        int64_t logs
    Alive alive "rh_alive"
    int rh_class_of(size_t size) noexcept nogil


cdef inline size_t pool_room(size_t size) noexcept nogil:
    """How many bytes a block for `size` bytes really has."""
    cdef int c = rh_class_of(size)
    return size if c >= POOL_CLASSES else <size_t> 1 << (c + POOL_SMALLEST)


cdef inline void* pool_take(Pool* pool, size_t size) noexcept nogil:
    """Return a block for `size` bytes, or NULL when there is no memory."""
    cdef int c = rh_class_of(size)
    cdef Block* block
    if c >= POOL_CLASSES:
        return malloc(size)
    block = pool.unused[c]
    if block != NULL:
        pool.unused[c] = block.next
        pool.kept[c] -= 1
        return block
    return malloc(<size_t> 1 << (c + POOL_SMALLEST))


cdef inline void pool_give(Pool* pool, void* memory, size_t size) noexcept nogil:
    """Take back a block that was taken for `size` bytes."""
    cdef int c = rh_class_of(size)
    cdef Block* block = <Block*> memory
    if c >= POOL_CLASSES or (<size_t> pool.kept[c] << (c + POOL_SMALLEST)) >= POOL_KEEP:
        free(memory)
        return
    block.next = pool.unused[c]
    pool.unused[c] = block
    pool.kept[c] += 1


cdef inline void pool_clear(Pool* pool) noexcept nogil:
    cdef int c
    cdef Block* block
    for c in range(POOL_CLASSES):
        while pool.unused[c] != NULL:
            block = pool.unused[c]
            pool.unused[c] = block.next
            free(block)
        pool.kept[c] = 0
