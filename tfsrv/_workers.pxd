"""Threads that run what the loop does not run itself; no Python in them."""

from libc.stdint cimport int64_t

from tfsrv._thread cimport pthread_cond_t, pthread_mutex_t

# One worker's turn at a queue that has something to run, without the pool's mutex. It runs one item
# or one batch, and sees to it that the rest is not forgotten: see work_queue_schedule.
ctypedef void (*turn_fn)(WorkQueue* queue) noexcept nogil

cdef enum:
    MAX_THREADS = 128       # base threads and spares together


# What a model has had of the workers, all of its queues together. Owned by who made it, and
# outlives those queues; zeroed memory is a good one. Under the pool's mutex.
cdef struct Share:
    int64_t taken_ns        # its workers' time, and what it is ahead of others that were idle
    int64_t last_ns         # its last run took this; what the next one is taken to take
    int running             # workers at its queues
    int limit               # of those; 0: none but the queues' own
    int stuck               # runs of more than STUCK_NS, which do not count against the limit
    bint strict             # they do, here and in the queues' own


# What waits for workers: the first member of each kind of queue. Owned by who made it; ended by
# work_queue_end.
cdef struct WorkQueue:
    turn_fn turn
    Pool* pool
    Share* share            # borrowed; `own` unless its model has one
    Share own
    int scheduled           # atomic: 1 while in the ready list or in the hands of a worker that looks again
    int limit               # atomic: workers at a time; 0: as many as the pool allows
    # under the pool's mutex
    WorkQueue* next         # in the ready list
    bint in_list
    bint ended              # it is about to be freed
    int low                 # atomic; in the list: only if a worker stays free for others
    int64_t due_ns          # atomic; in the list: not before; 0: at once
    int running             # workers in turn(); the loop reads it without the mutex
    int low_running         # of these, turns that it had as low
    int stuck               # of these, runs of more than STUCK_NS


# One thread's entry; a member of Pool, reused when its thread has ended.
cdef struct Worker:
    Pool* pool
    WorkQueue* queue        # what it runs now, else NULL; under the mutex
    int64_t since_ns        # when that run began
    int64_t charged_ns      # what its share was charged for it
    bint low                # the queue was low when it was taken
    bint used
    bint doubled            # a spare stands in for it
    bint counted_stuck


# Owned by WorkerPool; all fields under `mutex` unless they say otherwise.
cdef struct Pool:
    pthread_mutex_t mutex
    pthread_cond_t work     # something is ready, or stop
    pthread_cond_t ended    # a thread ended, or a queue fell idle
    pthread_cond_t watch    # the watcher's
    WorkQueue* ready_first
    WorkQueue* ready_last
    size_t queue_capacity
    int queues              # WorkQueues that were made and are not ended yet
    int64_t floor_ns        # `taken_ns` of the share that was served last
    int64_t spare_idle_ns   # how long a spare waits for something to do before it ends
    int base                # threads that exist from the start
    int threads             # that exist now, the watcher not counted
    int idle
    int running             # workers in a run
    int doubled             # of these, runs that a spare stands in for
    int64_t kept_ns         # until when an idle worker sleeps that keeps the time; 0: none does
    int watching            # atomic: 0 while the watcher sleeps for good
    bint watcher_alive
    bint stop
    Worker workers[128]
    char name[16]           # of the threads

cdef void work_queue_begin(WorkQueue* queue, Pool* pool, turn_fn turn) noexcept nogil
cdef void work_queue_wait(WorkQueue* queue) noexcept nogil
cdef void work_queue_end(WorkQueue* queue) noexcept nogil
cdef void work_queue_schedule(WorkQueue* queue, int64_t due_ns, bint low) noexcept nogil
cdef void work_queue_set_limit(WorkQueue* queue, int limit) noexcept nogil
cdef bint work_queue_is_idle(WorkQueue* queue) noexcept nogil


cdef class WorkerPool:
    cdef Pool* pool         # owned; leaked when threads or queues outlive this object
    cdef bint started
