"""The batch scheduler: requests of one kind wait together and run together."""

from libc.stdint cimport int64_t, uint64_t

from tfsrv._batch_tuner cimport Tuner
from tfsrv._queue cimport Queue
from tfsrv._thread cimport pthread_mutex_t
from tfsrv._workers cimport Pool, Share, WorkQueue

cdef enum:
    MAX_ALLOWED_SIZES = 64      # allowed_batch_sizes of one model
    KIND_ALONE = 1              # `kind` of tasks that are alone

cdef enum Pushed:
    PUSHED = 0
    PUSHED_FULL = 1             # too much waits already
    PUSHED_TOO_LARGE = 2        # more rows than a request may have
    PUSHED_LATE = 3             # it would not be through by its deadline
    PUSHED_NO_MEMORY = 4

cdef enum Refusal:
    REFUSED_UNWANTED = 0        # nobody waits for it any more
    REFUSED_LATE = 1            # its deadline passed, or would pass before it is through


# When to look at a queue again, besides times.
cdef enum Look:
    LOOK_AT_ONCE = 0
    LOOK_AFTER_PUSH = -1        # not before somebody pushes
    LOOK_AS_LOW = -2            # when a worker stays free for others

# One request, or what a request's owner embeds in it. From a push that says PUSHED until `run` or
# `refuse` gets it, it is the queue's; rows of a task that is split come in several batches.
cdef struct BatchTask:
    # set by the owner
    void* owner
    int64_t rows                # 1 at least
    int64_t bytes               # what it adds to a batch's memory
    int64_t deadline_ns         # 0: none
    int64_t arrived_ns
    uint64_t kind               # tasks that share batches have the same, see BatchHandler.shares
    bint alone                  # shares no batch
    bint low                    # runs when nothing else waits
    # the queue's
    BatchTask* next
    BatchTask* child            # in a heap
    int64_t due_ns              # the order: the least comes first
    int64_t rows_begun          # of a task that is being split: in batches already


# Rows of one task in a batch.
cdef struct BatchPart:
    BatchTask* task
    int64_t first_row
    int64_t rows
    int64_t arrived_ns


# What runs at once. The queue's, lent to one worker at a time.
cdef struct Batch:
    BatchQueue* queue
    BatchPart* parts            # owned, reused
    int size
    int capacity
    int64_t rows
    int64_t bytes               # that its tasks add, each counted whole
    int64_t padding_rows        # to be added to come to an allowed size
    int64_t deadline_ns         # of the last of them; 0: some task has none
    int64_t begun_ns
    int arm                     # of _run_arms: where it runs
    bint in_place               # the loop runs it
    bint strange                # set by run(): what it took teaches nothing
    void* scratch               # owned; the handler's, reused
    size_t scratch_size
    Batch* next


# What a queue does with its tasks: the same functions for all queues of a kind. Called without
# the GIL; `shares`, `is_wanted` and `begin_split` under the queue's lock, so they are quick and call
# nothing of it.
cdef struct BatchHandler:
    # Two tasks with the same `kind` number: may they be in one batch?
    bint (*shares)(const BatchTask* task, const BatchTask* other) noexcept nogil
    # Does anybody still wait for it?
    bint (*is_wanted)(const BatchTask* task) noexcept nogil
    # Rows of it are about to go into different batches. False: it is not to be split (now).
    bint (*begin_split)(BatchTask* task) noexcept nogil
    # The rows from `rows_begun` on will not run: a Refusal.
    void (*refuse)(BatchTask* task, int reason) noexcept nogil
    # Run the batch and complete its tasks, each once, whatever happens.
    void (*run)(Batch* batch) noexcept nogil
    # The queue is freed: free what `context` is. May be NULL.
    void (*free_context)(void* context) noexcept nogil


# TensorFlow Serving's BatchingParameters for one queue, and ours.
cdef struct BatchSettings:
    int64_t max_request_rows    # max_batch_size
    int64_t max_rows            # of a batch
    int64_t max_waiting_rows
    int64_t max_batches         # max_enqueued_batches, for messages
    int64_t max_bytes           # of a batch of several tasks
    int64_t wait_ns             # batch_timeout_micros
    int64_t target_ns           # 99th percentile of the time from arrival to completion; 0: none
    int max_runs                # at a time; 0: as many as there are threads
    int arm                     # of _run_arms: the only one, or ARM_EITHER, ARM_ANY: the queue finds out
    bint splits                 # enable_large_batch_splitting
    bint pads_inner             # pad_variable_length_inputs
    int allowed_size
    int64_t allowed[64]         # ascending


# Tasks of one kind that wait, in order. The queue's.
cdef struct BatchKind:
    BatchKind* next
    uint64_t hash
    bint low
    BatchTask* first            # those that came in order
    BatchTask* last
    BatchTask* heap             # those that did not
    int64_t rows                # not in batches yet
    int64_t since_ns            # when the first of them came, or the last batch went


# What happened, for logs and metrics; under the queue's lock.
cdef struct BatchCounts:
    int64_t batches
    int64_t tasks
    int64_t rows
    int64_t padding_rows
    int64_t refused_full        # atomic
    int64_t refused_late        # atomic
    int64_t refused_unwanted    # atomic
    int64_t run_apart           # atomic: batches that failed and whose members ran again
    int64_t sizes[32]           # batches by the logarithm of their rows, rounded down


cdef struct BatchQueue:
    WorkQueue work              # first: a WorkQueue's address is its BatchQueue's
    const BatchHandler* handler
    void* context               # the handler's
    BatchSettings settings
    Queue inbox                 # what was pushed and not looked at yet
    int inbox_is_open           # atomic; opened at the first push, under the lock
    pthread_mutex_t lock        # over all below that is not atomic
    BatchKind* kinds
    int kinds_size
    BatchKind* free_kinds
    int free_kinds_size
    Batch* free_batches
    int free_batches_size
    Tuner tuner
    bint hurries                # nothing waits for more rows any more
    int64_t last_end_ns         # when a run last ended
    BatchCounts counts
    int runs                    # batches that are running
    # atomic: what those who push read without the lock
    int64_t waiting_rows        # in the inbox and in kinds
    int64_t waiting_normal      # of these, rows of tasks that are not low
    int64_t running_rows
    int64_t full_rows           # with so many there may be a batch that waits for no more
    int has_alone               # a task was pushed that waits for no others
    int64_t wait_ns             # how long a batch with fewer may wait
    int64_t run_ns              # what a run is expected to take, cautiously
    int64_t row_ns              # by which each waiting row delays those behind it
    int64_t mean_left_ns        # that tasks had until they were due when they came; of PATIENCE_NS at most
    int64_t last_call_ns        # when what came since the last look has to begin for its deadline's sake
    int64_t next_sweep_ns


cdef BatchQueue* batch_queue_new(
    Pool* pool, Share* share, const BatchHandler* handler, const BatchSettings* settings, void* context
) noexcept nogil
cdef void batch_queue_free(void* queue) noexcept nogil
cdef int batch_queue_push(BatchQueue* queue, BatchTask* task) noexcept nogil
cdef void batch_queue_kick(BatchQueue* queue, int64_t now) noexcept nogil
cdef void batch_queue_hurry(BatchQueue* queue) noexcept nogil
cdef int64_t batch_queue_sweep(BatchQueue* queue) noexcept nogil
cdef void batch_queue_serve(
    BatchQueue* queue, int64_t until_ns, int64_t longest_ns) noexcept nogil
cdef Batch* batch_form(
    BatchQueue* queue, int64_t now, BatchTask** refused, int64_t* due_ns) noexcept nogil
cdef void batch_ended(Batch* batch, int64_t now) noexcept nogil
cdef void batch_note_alone(
    BatchQueue* queue, int64_t rows, int64_t arrived_ns, int64_t begun_ns, int64_t now) noexcept nogil
cdef int64_t batch_allowed_rows(const BatchSettings* settings, int64_t rows) noexcept nogil
cdef void* batch_scratch(Batch* batch, size_t size) noexcept nogil
