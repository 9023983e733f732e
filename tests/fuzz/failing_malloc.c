/* Allocation that fails once: the library that `tests.fuzz.allocations` has loaded before all others. */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

static long countdown = -1;         /* allocations until the one that fails; negative for none */
static uintptr_t low, high;         /* addresses of the code whose allocations count; all where both are 0 */

/* Have the allocation fail that comes after `after` others; return how many of the last ones were left. */
long failing_malloc_arm(long after, uintptr_t from, uintptr_t to) {
    long left = countdown;
    countdown = after, low = from, high = to;
    return left;
}

static int fails(void *caller) {
    if (countdown < 0 || (high && ((uintptr_t) caller < low || (uintptr_t) caller >= high))) return 0;
    if (countdown-- > 0) return 0;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size) {
    return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, size);
}
