"""Native threads that start together: for the stress functions of the lock-free modules."""

from libc.stdlib cimport calloc, free

from tfsrv._atomic cimport load_acquire_int, pause, store_release_int
from tfsrv._thread cimport pthread_create, pthread_join, pthread_t


cdef inline bint gate_wait(int* gate) noexcept nogil:
    """Wait until all threads are there. False when the run is called off."""
    # Pairs with store_release in run_together; a thread's start orders the rest.
    while load_acquire_int(gate) == 0:
        pause()
    return load_acquire_int(gate) > 0


cdef inline int run_together(
    void* (*start)(void*) noexcept nogil, void* arguments, size_t argument_size,
    unsigned int count, int* gate
) noexcept nogil:
    """Call `start` in `count` threads, each with its element of an array, and wait for them.

    Each has to begin with gate_wait(gate), where `gate` is 0 at first. 0, or -1 when a thread
    could not be started; none has run then.
    """
    cdef pthread_t* threads = <pthread_t*>calloc(<size_t>count + 1, sizeof(pthread_t))
    cdef unsigned int started = 0
    cdef unsigned int i
    if threads == NULL:
        return -1
    while started < count and pthread_create(
            &threads[started], NULL, start,
            <char*>arguments + started * argument_size) == 0:
        started += 1
    store_release_int(gate, 1 if started == count else -1)
    for i in range(started):
        pthread_join(threads[i], NULL)
    free(threads)
    return 0 if started == count else -1
