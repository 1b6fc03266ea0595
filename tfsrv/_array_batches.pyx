"""Batches of numpy arrays, run by a Python callable.

A request is pushed with the GIL held and waits without it; the worker that runs a batch takes the GIL
once: it stacks the rows, calls the callable, divides what that returned, and tells all who wait.

The rules are those of Predict (handlers/_call_batch): requests that are alike share batches, where
rows mean nothing a request runs alone, and if a batch fails, its halves run again, and theirs, so
that only requests that fail by themselves get the exception.

Locks: the scheduler's are held for moments only, and by nobody who waits for the GIL; so they may be
taken with it. What the scheduler asks under its lock looks at C fields alone.

Thread-safety: Python objects are touched with the GIL; the module does not say that it can do without.
"""

import logging
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from threading import Event
from typing import Any

import numpy

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport isnan
from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._array_rows cimport joined, outputs_of, rows_of, stack, why_not_rows
from tfsrv._atomic cimport add_relaxed_i64, load_relaxed_int, store_relaxed_int
from tfsrv._batch_counts cimport batch_counts
from tfsrv._batch_refusals cimport tell_refused
from tfsrv._batch_settings cimport batch_settings_read
from tfsrv._batching cimport (
    KIND_ALONE,
    PUSHED,
    PUSHED_NO_MEMORY,
    REFUSED_LATE,
    BatchHandler,
    batch_allowed_rows,
    batch_queue_free,
    batch_queue_hurry,
    batch_queue_kick,
    batch_queue_new,
    batch_queue_push,
    batch_queue_sweep,
    batch_scratch,
)
from tfsrv._clock cimport NS_PER_S, now_ns
from tfsrv._inner_padding cimport MOST_PADDED_RANK
from tfsrv._status cimport Status, status_error, status_free, status_init
from tfsrv._workers cimport work_queue_is_idle, work_queue_wait

from tfsrv.batching_parameters import BatchingParameters
from tfsrv.errors import Code, ServingError

cdef enum:
    MOST_FORMS = 256            # sets of names that are remembered
    MOST_KINDS = 1024           # dtypes and shapes that are remembered

cdef double MOST_SECONDS = 1e9  # a longer time-out is none

cdef object asarray = numpy.asarray
cdef type ndarray = numpy.ndarray
cdef object logger = logging.getLogger("tfsrv")

cdef BatchHandler handler
handler.shares = shares
handler.is_wanted = is_wanted
handler.begin_split = begin_split
handler.refuse = refuse
handler.run = run
handler.free_context = NULL


# ---- what the scheduler asks, without the GIL -----------------------------------------------------

cdef bint shares(const BatchTask* task, const BatchTask* other) noexcept nogil:
    return True  # a kind's number stands for dtypes and shapes, and for no others


cdef bint is_wanted(const BatchTask* task) noexcept nogil:
    return load_relaxed_int(&(<ArrayTask*>task).abandoned) == 0


cdef bint begin_split(BatchTask* task) noexcept nogil:
    # Written once, before any part of it runs: those who run one read it without the lock.
    if not (<ArrayTask*>task).is_split:
        (<ArrayTask*>task).is_split = True
    return True


cdef void refuse(BatchTask* task, int reason) noexcept nogil:
    with gil:
        refuse_request(<ArrayRequest>task.owner, task.rows - task.rows_begun, reason)


cdef void refuse_request(ArrayRequest request, int64_t rows, int reason) noexcept:
    if request.answer(None, late() if reason == REFUSED_LATE else cancelled()):
        tell([request])
    request.queue.let_go(request, rows)


cdef object late():
    return ServingError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


cdef object cancelled():
    return ServingError(Code.CANCELLED, "CANCELLED")


# ---- requests -------------------------------------------------------------------------------------

@cython.freelist(64)
cdef class ArrayRequest:
    """One request. From its push on the scheduler has a reference to it, until its last row is through."""

    @property
    def begun(self) -> bool:
        """Whether it is in a batch that runs or has run."""
        return self.begun

    @property
    def done(self) -> bool:
        """Whether it has its answer, or needs none any more."""
        return self.done

    def withdraw(self) -> bool:
        """Nobody waits any more, and it will not run; False: it is too late for that."""
        if self.done or self.begun:
            return False
        self.leave()
        return True

    def leave(self) -> None:
        """Nobody waits any more; what runs of it is lost."""
        self.done = True
        store_relaxed_int(&self.task.abandoned, 1)
        self.close_up()
        self.lock = self.loop = self.waiter = self.future = None

    def expire(self) -> None:
        """Its time is over: who waits is told. In the thread of its loop, if it has one."""
        if not self.answer(None, late()):
            return
        if self.loop is not None:
            settle([self])
        else:
            tell([self])

    cdef bint answer(self, object result, object error):
        """Set the answer; False: it is done already. Who waits is to be told."""
        if self.done:
            return False
        self.done = True
        store_relaxed_int(&self.task.abandoned, 1)  # rows of it may wait still
        self.result = result
        self.error = error
        self.close_up()
        return True

    cdef void close_up(self):
        """Let go of what was submitted."""
        self.arrays = None
        self.parts = None


cdef void tell(list requests) noexcept:
    """Wake those who wait for requests that were answered: each loop once."""
    cdef ArrayRequest request
    cdef dict by_loop = {}
    for request in requests:
        if request.loop is not None:
            by_loop.setdefault(request.loop, []).append(request)
    for loop, several in by_loop.items():
        try:
            loop.call_soon_threadsafe(settle, several)
        except RuntimeError:
            pass  # the loop is closed
    for request in requests:
        if request.lock is not None:
            request.lock.release()
            request.lock = None
    for request in requests:
        if request.future is not None:  # the last: it may have callbacks
            tell_future(request)


cdef void tell_future(ArrayRequest request) noexcept:
    future = request.future
    request.future = None
    try:
        if request.error is None:
            future.set_result(request.result)
        else:
            future.set_exception(request.error)
    except BaseException:
        logger.exception("A future of a batch could not be told")


def settle(list requests) -> None:
    """Tell those who wait in this thread's loop."""
    cdef ArrayRequest request
    for request in requests:
        waiter = request.waiter
        request.waiter = request.loop = None
        if waiter is None or waiter.done():
            continue
        if request.error is None:
            waiter.set_result(request.result)
            continue
        try:
            waiter.set_exception(request.error)
        except TypeError as error:  # StopIteration, which no coroutine may raise
            waiter.set_exception(RuntimeError(f"{error}: {request.error!r}"))


# ---- the queue -------------------------------------------------------------------------------------

cdef class ArrayQueue:
    """Requests for one callable, on the workers of a pool.

    `inputs` is an array, or a dict or tuple of arrays. `timeout` is in seconds, less than 0 for none;
    `low` requests wait for all others. `owner` is kept as long as anything is outstanding. What is wrong
    with a request, and what goes wrong with it, is raised, or told to who waits: see tfsrv.batching.
    """

    def __cinit__(
        self, workers: WorkerPool, function: Callable[[Any], Any], parameters: BatchingParameters,
        name: str, owner: Any = None,
    ) -> None:
        self.workers = workers
        self.owner = owner
        self.function = function
        self.name = name
        self.forms = {}
        self.kinds = {}
        self.next_kind = KIND_ALONE + 1  # never used by requests that run alone
        self.idle = Event()
        self.runners = set()
        batch_settings_read(&self.settings, parameters)
        self.queue = batch_queue_new(workers.pool, NULL, &handler, &self.settings, <void*>self)
        if self.queue == NULL:
            raise MemoryError
        self.queue.work.own.limit = self.settings.max_runs
        self.queue.work.own.strict = True  # the callable may rely on how many threads run it

    def __dealloc__(self):
        # Closed, or forgotten; then it is leaked if a worker is still on its way out.
        if self.queue != NULL and work_queue_is_idle(&self.queue.work):
            batch_queue_free(self.queue)

    # Who asks.

    def run(self, inputs: Any, timeout: float, low: bool) -> Any:
        """Wait for the answer."""
        cdef ArrayRequest request = self.new_request(inputs, timeout, low)
        lock = allocate_lock()
        lock.acquire()
        request.lock = lock
        self.push(request)
        batch_queue_kick(self.queue, request.task.task.arrived_ns)
        try:
            if timeout < 0:
                lock.acquire()
            elif not lock.acquire(True, timeout):
                request.expire()
        except BaseException:  # KeyboardInterrupt
            request.leave()
            raise
        if request.error is not None:
            raise request.error
        return request.result

    def submit(self, inputs: Any, timeout: float, low: bool, future: Any) -> ArrayRequest:
        """Have the answer told to a concurrent.futures.Future, in any thread."""
        cdef ArrayRequest request = self.new_request(inputs, timeout, low)
        request.future = future
        self.push(request)
        batch_queue_kick(self.queue, request.task.task.arrived_ns)
        return request

    def ask(self, inputs: Any, timeout: float, low: bool, loop: Any, waiter: Any) -> ArrayRequest:
        """Have the answer told to a future of an asyncio loop, in whose thread this is."""
        cdef ArrayRequest request = self.new_request(inputs, timeout, low)
        request.loop = loop
        request.waiter = waiter
        self.push(request)
        if self.kicking is None:  # once, after those who ask in the same turn of the loop
            self.kicking = loop
            loop.call_soon(self.kick)
        elif self.kicking is not loop:
            batch_queue_kick(self.queue, request.task.task.arrived_ns)
        return request

    def kick(self) -> None:
        """Have a worker look at what was pushed."""
        self.kicking = None
        if self.queue != NULL:
            batch_queue_kick(self.queue, now_ns())

    cdef ArrayRequest new_request(self, object inputs, double timeout, bint low):
        """A request that was not pushed yet."""
        cdef ArrayRequest request
        if self.closed is not None:
            raise ServingError(Code.UNAVAILABLE, self.closed)
        request = ArrayRequest.__new__(ArrayRequest)
        memset(&request.task, 0, sizeof(ArrayTask))
        request.queue = self
        self.look_at(request, inputs)
        request.rows_left = request.task.task.rows
        request.task.task.owner = <void*>request
        request.task.task.low = low
        request.task.task.arrived_ns = now_ns()
        if isnan(timeout):
            raise ValueError("timeout is no number")
        if 0 <= timeout < MOST_SECONDS:
            request.task.task.deadline_ns = request.task.task.arrived_ns + <int64_t>(timeout * NS_PER_S)
        return request

    cdef int look_at(self, ArrayRequest request, object inputs) except -1:
        """Find out how many rows a request has, and what it is like."""
        cdef BatchTask* task = &request.task.task
        cdef list arrays = []
        cdef Form form = self.form_of(inputs, arrays)
        cdef list key = [form]
        cdef tuple shape
        cdef Py_ssize_t rows = -1
        cdef Py_ssize_t size
        cdef bint pads = self.settings.pads_inner
        if not arrays:
            raise ServingError(
                Code.INVALID_ARGUMENT, "Batching Run() must have at least one input tensor")
        request.form = form
        request.arrays = arrays
        task.alone = form.runs_alone
        for array in arrays:
            shape = array.shape
            size = shape[0] if shape else 0
            rows = size if rows < 0 or rows == size else 0
            task.bytes += array.nbytes
            key.append(array.dtype)
            if pads:  # up to six dims, none of them 0
                key.append(len(shape))
                if len(shape) > MOST_PADDED_RANK or 0 in shape:
                    task.alone = True
            else:
                key.append(shape[1:])
        task.alone = task.alone or rows < 1
        task.rows = max(1, rows)
        task.kind = KIND_ALONE
        if not task.alone:
            names = tuple(key)
            kind = self.kinds.get(names)
            if kind is None:
                if len(self.kinds) >= MOST_KINDS:
                    self.kinds.clear()  # what waits keeps its number, which is never used again
                kind = self.kinds[names] = self.next_kind
                self.next_kind += 1
            task.kind = kind
        return 0

    cdef Form form_of(self, object inputs, list arrays):
        """The form of the inputs; `arrays` becomes them, in its order."""
        cdef Form form
        cdef object key
        if isinstance(inputs, dict):
            key = tuple(inputs)
        else:
            key = len(inputs) if isinstance(inputs, tuple) else None
        form = self.forms.get(key)
        if form is None:
            form = self.new_form(key)
        if form.kind is dict:
            for name in form.names:
                array = inputs[name]
                arrays.append(array if type(array) is ndarray else asarray(array))
        elif form.kind is tuple:
            arrays.extend([asarray(array) for array in inputs])
        else:
            arrays.append(inputs if type(inputs) is ndarray else asarray(inputs))
        return form

    def new_form(self, key: Any) -> Form:
        """A form that was not seen yet; dicts with the same names in another order share one."""
        if len(self.forms) >= MOST_FORMS:
            self.forms.clear()
        if not isinstance(key, tuple):
            form = Form(None if key is None else tuple)
        else:
            if not all([isinstance(name, str) for name in key]):
                raise TypeError("names of inputs are str")
            names = tuple(sorted(key))
            form = self.forms.get(names)
            if form is None:
                form = self.forms[names] = Form(dict, names)
        self.forms[key] = form
        return form

    cdef int push(self, ArrayRequest request) except -1:
        """Give a request to the scheduler. ServingError if it is refused."""
        cdef int pushed
        if self.closed is not None:  # while the inputs were looked at, which is any code
            raise ServingError(Code.UNAVAILABLE, self.closed)
        self.take_in(request)
        pushed = batch_queue_push(self.queue, &request.task.task)
        if pushed == PUSHED:
            return 0
        error = self.refusal(request, pushed)
        request.leave()
        self.let_go(request, request.rows_left)
        raise error

    cdef object refusal(self, ArrayRequest request, int pushed):
        """The error of a request that was not taken."""
        cdef Status status
        if pushed == PUSHED_NO_MEMORY:
            return MemoryError()
        status_init(&status)
        tell_refused(self.queue, &request.task.task, pushed, &status)
        error = status_error(&status)
        status_free(&status)
        return error

    # What is outstanding.

    cdef void take_in(self, ArrayRequest request):
        """Before a push: the scheduler holds the request from now on."""
        Py_INCREF(request)  # the scheduler's reference
        request.before = NULL
        request.after = self.first
        if self.first != NULL:
            (<ArrayRequest>self.first).before = <void*>request
        self.first = <void*>request
        self.outstanding += 1

    cdef void let_go(self, ArrayRequest request, int64_t rows):
        """The scheduler is through with some rows; with the last ones it lets the request go."""
        request.rows_left -= rows
        if request.rows_left > 0:
            return
        if request.before != NULL:
            (<ArrayRequest>request.before).after = request.after
        else:
            self.first = request.after
        if request.after != NULL:
            (<ArrayRequest>request.after).before = request.before
        self.outstanding -= 1
        if self.closed is not None and self.outstanding == 0:
            self.idle.set()
        Py_DECREF(request)  # the scheduler's reference

    # The end.

    def close(self, text: str, cancel: bool, timeout: float | None) -> bool:
        """Take nothing any more, and wait for what was taken; False: some of it still runs.

        `text` is what later requests are told. With `cancel` only that is waited for that runs
        already. If it is False, close() may be called again. With a `timeout` of 0 the callable itself may
        call it.
        """
        cdef BatchQueue* queue
        if get_ident() in self.runners and timeout != 0:
            raise RuntimeError("a callable cannot wait for its own end")
        if self.closed is None:
            self.closed = text
        if cancel:
            self.cancel_waiting()
        if self.outstanding == 0:
            self.idle.set()
        elif self.queue != NULL:
            batch_queue_hurry(self.queue)
        if not self.idle.wait(timeout):
            return False
        queue = self.queue
        if queue != NULL:
            self.last_counts = batch_counts(queue)
            self.queue = NULL
            with nogil:
                work_queue_wait(&queue.work)
            self.last_counts = batch_counts(queue)  # the last batch is counted now, too
            with nogil:
                batch_queue_free(queue)
        return True

    def cancel_waiting(self) -> None:
        """Cancel what did not begin."""
        cdef ArrayRequest request
        cdef void* at = self.first
        cdef list waiting = []
        cdef list told = []
        while at != NULL:
            request = <ArrayRequest>at
            if not request.done and not request.begun:
                waiting.append(request)
            at = request.after
        for request in waiting:
            future = request.future
            if future is not None:
                future.cancel()  # which withdraws the request
            elif request.answer(None, cancelled()):
                told.append(request)
        tell(told)
        if self.queue != NULL:
            batch_queue_sweep(self.queue)  # there may be no workers any more

    def disown(self, text: str) -> None:
        """In a process that was forked: the workers are the parent's, so nothing can run any more."""
        self.closed = text
        self.last_counts = {}
        self.queue = NULL  # leaked: a lock in it may have been held
        self.outstanding = 0
        self.idle.set()

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more requests."""
        return self.closed is not None

    def describe(self) -> dict[str, Any]:
        """What has happened so far, see batch_counts()."""
        if self.queue == NULL:
            return dict(self.last_counts)
        return batch_counts(self.queue)


# ---- running ----------------------------------------------------------------------------------------

# A batch that is being run; on the stack of who runs it.
cdef struct Running:
    Batch* batch
    BatchPart** live        # parts that take part in the present run; in the batch's scratch memory
    int live_size
    int64_t rows


cdef void run(Batch* batch) noexcept nogil:
    """A worker's turn with a batch: the scheduler is through with its parts afterwards."""
    with gil:
        run_batch(batch, <ArrayQueue>batch.queue.context)


cdef void run_batch(Batch* batch, ArrayQueue queue) noexcept:
    cdef list answered = []
    cdef object ident = get_ident()
    cdef int i
    queue.runners.add(ident)
    try:
        try_batch(batch, queue, answered)
    except BaseException as error:  # no memory for our own doing
        batch.strange = True
        for i in range(batch.size):
            fail(&batch.parts[i], error, answered)
    tell(answered)
    queue.runners.discard(ident)
    for i in range(batch.size):
        queue.let_go(<ArrayRequest>batch.parts[i].task.owner, batch.parts[i].rows)


cdef int try_batch(Batch* batch, ArrayQueue queue, list answered) except -1:
    cdef Running running
    cdef int i
    running.batch = batch
    running.live = <BatchPart**>batch_scratch(batch, <size_t>batch.size * sizeof(BatchPart*))
    if running.live == NULL:
        raise MemoryError
    for i in range(batch.size):
        (<ArrayRequest>batch.parts[i].task.owner).begun = True
    if not try_range(&running, queue, 0, batch.size, answered):
        add_relaxed_i64(&batch.queue.counts.run_apart, 1)
        run_apart(&running, queue, 0, batch.size, answered)
    return 0


cdef inline ArrayRequest request_of(const BatchPart* part):
    return <ArrayRequest>part.task.owner


cdef int fail(BatchPart* part, object error, list answered) except -1:
    cdef ArrayRequest request = request_of(part)
    if request.answer(None, error):
        answered.append(request)
    return 0


cdef int gather(Running* running, int first, int size) except -1:
    """Set `live`: those of some parts that somebody waits for."""
    cdef BatchPart* part
    cdef int i
    running.live_size = 0
    running.rows = 0
    for i in range(first, first + size):
        part = &running.batch.parts[i]
        if not request_of(part).done:
            running.live[running.live_size] = part
            running.live_size += 1
            running.rows += part.rows
    return 0


cdef bint try_range(Running* running, ArrayQueue queue, int first, int size, list answered) except -1:
    """Run some parts of the batch as one. False: it failed, and may work with fewer of them."""
    cdef ArrayRequest request
    cdef int64_t padding_rows
    cdef int i
    gather(running, first, size)
    if running.live_size == 0:
        return True
    request = request_of(running.live[0])
    padding_rows = 0
    if not running.live[0].task.alone:
        if request.form.runs_alone and running.live_size > 1:
            return False
        padding_rows = batch_allowed_rows(&queue.settings, running.rows) - running.rows
    try:
        if running.live[0].task.alone or (
            request.form.runs_alone and running.live[0].rows == running.live[0].task.rows
        ):
            run_single(queue, request, answered)
        else:
            return run_together(running, queue, request.form, padding_rows, answered)
    except BaseException as error:
        running.batch.strange = True
        if running.live_size > 1 and may_be_ones_fault(error):
            return False
        for i in range(running.live_size):
            fail(running.live[i], error, answered)
    return True


cdef bint may_be_ones_fault(object error) except -1:
    """Whether a run that failed so may work without some of its requests."""
    if isinstance(error, ServingError):
        return error.code not in (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)
    return isinstance(error, Exception)


cdef int run_apart(Running* running, ArrayQueue queue, int first, int size, list answered) except -1:
    """Run parts that failed as one: in halves, so that one bad request among n costs 2 log n runs.

    Where both halves fail there are many bad ones, or it is the callable: then one by one.
    """
    cdef int half = size // 2
    cdef bint left = False
    cdef bint right = False
    cdef int i
    if size > 2 and not request_of(&running.batch.parts[first]).form.runs_alone:
        left = try_range(running, queue, first, half, answered)
        right = try_range(running, queue, first + half, size - half, answered)
        tell_now(answered)
    if left or right:
        if not left:
            run_apart(running, queue, first, half, answered)
        if not right:
            run_apart(running, queue, first + half, size - half, answered)
        return 0
    for i in range(first, first + size):
        if not try_range(running, queue, i, 1, answered):
            try_range(running, queue, i, 1, answered)  # as it is, see keep_apart()
        tell_now(answered)
    return 0


cdef int tell_now(list answered) except -1:
    """There are more runs to come, for which nobody should wait who is through."""
    cdef list told = answered[:]
    answered.clear()
    tell(told)
    return 0


cdef int run_single(ArrayQueue queue, ArrayRequest request, list answered) except -1:
    """A request by itself, whatever its arrays are; it gets what the callable returns, as it is."""
    cdef Form form = request.form
    result = queue.function(form.build([array.copy() for array in request.arrays]))
    if request.answer(result, None):
        answered.append(request)
    return 0


cdef bint run_together(
    Running* running, ArrayQueue queue, Form form, int64_t padding_rows, list answered
) except -1:
    """Run the live parts as one. False: some output cannot be divided among them."""
    cdef list outputs = []
    cdef Form outputs_form
    cdef ArrayRequest request
    cdef BatchPart* part
    cdef int64_t row = 0
    cdef int i
    # Nothing here holds the stacked rows while the callable runs: they are its own.
    result = queue.function(form.build(stacked(running, padding_rows, queue.settings.pads_inner)))
    outputs_form = outputs_of(result, outputs)
    problem = why_not_rows(outputs, running.rows + padding_rows)
    if problem is not None:
        running.batch.strange = True
        return keep_apart(running, queue, form, result, padding_rows, problem, answered)
    for i in range(running.live_size):
        part = running.live[i]
        request = request_of(part)
        rows = rows_of(outputs, row, part.rows)
        row += part.rows
        if request.task.is_split:
            take_part(request, part, outputs_form, rows, answered)
        elif request.answer(outputs_form.build(rows), None):
            answered.append(request)
    return True


cdef list stacked(Running* running, int64_t padding_rows, bint pads_inner):
    """The live parts' rows, for each input."""
    cdef ArrayRequest first = request_of(running.live[0])
    cdef ArrayRequest request
    cdef list whole = []
    cdef list arrays
    cdef BatchPart* part
    cdef Py_ssize_t i
    cdef int j
    for i in range(len(first.arrays)):
        arrays = []
        for j in range(running.live_size):
            part = running.live[j]
            request = request_of(part)
            array = request.arrays[i]
            if request.task.is_split:
                array = array[part.first_row : part.first_row + part.rows]
            arrays.append(array)
        whole.append(stack(arrays, padding_rows, pads_inner))
    return whole


cdef bint keep_apart(
    Running* running, ArrayQueue queue, Form form, object result, int64_t padding_rows, str problem,
    list answered
) except -1:
    """Some output has other rows than the inputs: from now on such inputs run alone."""
    cdef BatchPart* part = running.live[0]
    cdef ArrayRequest request = request_of(part)
    if not form.runs_alone:
        form.runs_alone = True
        logger.warning("%s: requests will run alone, because an output has other rows: %s", queue.name, problem)
    if running.live_size > 1:
        return False
    if part.rows != part.task.rows:
        fail(part, ServingError(Code.FAILED_PRECONDITION, problem), answered)
    elif padding_rows:
        return False  # once more, without padding
    elif request.answer(result, None):
        answered.append(request)
    return True


cdef int take_part(
    ArrayRequest request, BatchPart* part, Form form, list rows, list answered
) except -1:
    """Keep some rows of a split request; with the last ones it has its answer."""
    cdef int64_t have = 0
    if request.done:
        return 0
    if request.parts is None:
        request.parts = []
    request.parts.append((part.first_row, part.rows, rows))
    for _, size, _ in request.parts:
        have += size
    if have < request.task.task.rows:
        return 0
    request.parts.sort(key=first_row_of)
    try:
        whole = joined([arrays for _, _, arrays in request.parts])
    except ValueError:
        fail(
            part,
            ServingError(
                Code.FAILED_PRECONDITION,
                "The batches that the request was split over gave outputs of different shapes."),
            answered)
        return 0
    if request.answer(form.build(whole), None):
        answered.append(request)
    return 0


def first_row_of(part: tuple[int, int, list[Any]]) -> int:
    """Where a part of a split request begins."""
    return part[0]
