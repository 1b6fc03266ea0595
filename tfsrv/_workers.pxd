"""Threads that run what the loop does not run itself; no Python in them."""

from libc.stdint cimport int64_t

from tfsrv._queue cimport Queue
from tfsrv._thread cimport pthread_cond_t, pthread_mutex_t

ctypedef void (*run_fn)(void* item) noexcept nogil
ctypedef bint (*keep_fn)(void* item) noexcept nogil

cdef enum:
    MAX_THREADS = 128       # base threads and spares together


# The waiting requests of one signature. Owned by who made it, freed by run_queue_free.
cdef struct RunQueue:
    Queue waiting
    run_fn run
    Pool* pool
    int scheduled           # atomic: 1 while in the ready list or in the hands of a worker that looks again
    # under the pool's mutex
    RunQueue* next          # in the ready list
    bint in_list
    int running             # workers in run() for this queue
    int stuck               # of these, runs of more than STUCK_NS
    # what the runs took; written by whoever ran, read by the loop, all relaxed atomics
    int64_t average_ns      # moving average of the last runs
    int fast_streak         # runs in a row under IN_PLACE_NS
    int streak_needed       # until they may run in place (again)
    int in_place            # 1: they may
    int64_t swept_ns        # when run_queue_sweep last went through it; the pusher's


# One thread's entry; a member of Pool, reused when its thread has ended.
cdef struct Worker:
    Pool* pool
    RunQueue* queue         # what it runs now, else NULL; under the mutex
    int64_t since_ns        # when that run began
    bint used
    bint doubled            # a spare stands in for it
    bint counted_stuck


# Owned by WorkerPool; all fields under `mutex` unless they say otherwise.
cdef struct Pool:
    pthread_mutex_t mutex
    pthread_cond_t work     # something is ready, or stop
    pthread_cond_t ended    # a thread ended, or a queue fell idle
    pthread_cond_t watch    # the watcher's
    RunQueue* ready_first
    RunQueue* ready_last
    size_t queue_capacity
    int queues              # RunQueues that were made and are not freed yet
    int64_t spare_idle_ns   # how long a spare waits for something to do before it ends
    int base                # threads that exist from the start
    int threads             # that exist now, the watcher not counted
    int idle
    int running             # workers in a run
    int doubled             # of these, runs that a spare stands in for
    int watching            # atomic: 0 while the watcher sleeps for good
    bint watcher_alive
    bint stop
    Worker workers[128]

cdef RunQueue* run_queue_new(Pool* pool, run_fn run) noexcept nogil
cdef void run_queue_free(void* queue) noexcept nogil
cdef bint run_queue_push(RunQueue* queue, void* item) noexcept nogil
cdef void run_queue_sweep(RunQueue* queue, keep_fn keep) noexcept nogil
cdef void run_queue_note(RunQueue* queue, int64_t run_ns, bint in_place) noexcept nogil
cdef bint run_queue_may_run_in_place(RunQueue* queue) noexcept nogil


cdef class WorkerPool:
    cdef Pool* pool         # owned; leaked when threads or queues outlive this object
    cdef bint started
