"""Batching for any callable on numpy arrays; needs no TensorFlow and no server.

    def run(inputs: dict[str, NDArray]) -> dict[str, NDArray]:      # rows in dim 0
        return {"y": model(inputs["x"])}

    with BatchScheduler(num_batch_threads=2) as scheduler:
        with BatchingSession(run, scheduler, BatchingParameters(max_batch_size=64)) as session:
            session.run({"x": x})                                   # waits
            session.submit({"x": x}, timeout=0.05)                  # a concurrent.futures.Future
            await session.run_async({"x": x}, priority="low")       # in a coroutine

**What the callable gets and gives.** It gets what was submitted, the rows of many requests
stacked: an array, a dict of arrays or a tuple of arrays. It returns an array, or a dict, tuple or
list of arrays, each with as many rows, and every request gets its own rows in the same form. All of
them are copies: the callable may change and keep its inputs, the caller its answer. What is
submitted must stay as it is until there is an answer. The callable runs in native threads, in
several at a time unless `max_concurrent_runs` is 1, never in more than the scheduler has; what it
keeps in a `threading.local` is gone with the batch. It should let go of the GIL while it computes,
as numpy's large operations do; where other threads compute in Python, a batch waits for the GIL as
long as sys.getswitchinterval() says.

**Which requests share a batch.** Those with the same names, dtypes and shapes but for the first
dim; with `pad_variable_length_inputs` inner dims may have other sizes too, and become the largest
in the batch (outputs are not cut back). Where rows mean nothing, a request runs alone, and the
answer is what the callable returned, as it is: if an input has no dims, or no rows, or others have
another number of rows. If some output turns out to have other rows than the inputs, requests with
such names run alone from then on.

**When they run.** By default as soon as a thread is free: requests gather only while all of them
are busy. The fields of BatchingParameters mean what they mean in TensorFlow Serving
(tensorflow_serving/servables/tensorflow/session_bundle_config.proto), but for `num_batch_threads`
and `thread_pool_name`, which are the scheduler's. Rows of padding are copies of the first row of
the last request. Sessions of one scheduler get equal shares of its threads' time, and one whose
callable hangs delays no other one.

**Deadlines and priorities.** `timeout` is in seconds, None for none. When it is over the answer is
DEADLINE_EXCEEDED, and a request that waits still does not run. One that cannot be through in time,
as far as earlier runs tell, is refused at once. Requests of `priority` "low" run when nothing else
waits. Who leaves, by a future's cancel() or because a task is cancelled, takes the request out of
the queue.

**Errors.** If a batch fails, its requests run again in smaller batches, until only those fail that
fail by themselves: the callable must bear that. They get the exception that was raised for them.
All else is a ServingError, with TensorFlow Serving's code and text:

- INVALID_ARGUMENT: more rows than `max_batch_size`, or no arrays
- UNAVAILABLE: `max_enqueued_batches` times as many rows wait already as a batch may have, or the
  session was closed
- DEADLINE_EXCEEDED: the time is over, or too short
- CANCELLED: the session was closed and told to cancel what waits
- FAILED_PRECONDITION: outputs of a request that was split over batches cannot be put together

**The end.** Close sessions and schedulers, by close() or `with`. What is still open when the
interpreter ends is closed then: what waits is cancelled, and what runs may go on for EXIT_SECONDS.
(Threads of yours that wait for answers are waited for by Python before that, unless they are
daemons.) After a fork the child has none of the threads: what it inherits is closed there, and it
has to make its own.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from tfsrv._array_batches import ArrayQueue, ArrayRequest
from tfsrv._deadlines import Deadlines
from tfsrv._workers import WorkerPool
from tfsrv.batching_parameters import MAX_THREADS, BatchingParameters, WrongParameterError
from tfsrv.errors import Code, ServingError
from tfsrv.processors import cpus

__all__ = [
    "BatchFuture",
    "BatchScheduler",
    "BatchingParameters",
    "BatchingSession",
    "Code",
    "Priority",
    "ServingError",
    "WrongParameterError",
]

Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")
Priority: TypeAlias = Literal["normal", "low"]

EXIT_SECONDS = 5.0  # that runs may take at the end of the interpreter
MOST_SECONDS = 1e9  # a longer time-out is none
CLOSED = "The batching session is closed"
FORKED = "The batching session is of the process that was forked: the child has to make its own"


class BatchScheduler:
    """The threads that run the batches of all sessions that are made with it.

    `num_batch_threads` is how many batches of one session run at a time: as many as there are
    processors if it is not told, 64 at most. There is one thread more, and others stand in for
    long runs, so that no session has all of them. `thread_pool_name` is what tools show of them.

    Raises WrongParameterError, and OSError if the system gives no threads. Thread-safe.
    """

    def __init__(
        self, num_batch_threads: int | None = None, thread_pool_name: str = "batch_threads"
    ) -> None:
        threads = min(cpus(), MAX_THREADS) if num_batch_threads is None else num_batch_threads
        checked = BatchingParameters(num_batch_threads=threads, thread_pool_name=thread_pool_name)
        self._workers = WorkerPool(checked.num_batch_threads, name=checked.thread_pool_name)
        self._queues: set[weakref.ref[ArrayQueue]] = set()
        self._forgotten: set[ArrayQueue] = set()  # of sessions that are gone, with requests still
        self._is_closed = False
        self._deadlines = Deadlines()
        self._workers.start()
        _schedulers.add(self)

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool:
        """Close all sessions, as BatchingSession.close does, and end the threads.

        False if something still runs after `timeout` seconds; what waits then is cancelled, and the
        threads end when they are through.
        """
        self._is_closed = True
        until = None if timeout is None else time.monotonic() + timeout
        for queue in self._open_queues():
            queue.close(CLOSED, cancel, 0)  # all of them refuse requests from now on
        closed = [queue.close(CLOSED, cancel, _left(until)) for queue in self._open_queues()]
        for queue in self._open_queues():
            queue.cancel_waiting()
        left = _left(until) if all(closed) else 0.0
        stopped = self._workers.stop(MOST_SECONDS if left is None else left)
        if all(closed):
            self._queues.clear()
            self._forgotten.clear()
        return all(closed) and stopped

    def describe(self) -> dict[str, Any]:
        """What it does now: `threads` there are, `running` of them, and the `sessions`."""
        return {
            "threads": self._workers.threads,
            "running": self._workers.running,
            "sessions": [{"name": queue.name, **queue.describe()} for queue in self._open_queues()],
        }

    def _open_queues(self) -> list[ArrayQueue]:
        queues = [reference() for reference in list(self._queues)]
        return [queue for queue in queues if queue is not None]

    def _open(
        self, function: Callable[[Any], Any], parameters: BatchingParameters, name: str
    ) -> ArrayQueue:
        if self._is_closed:
            raise ServingError(Code.UNAVAILABLE, "The batch scheduler is closed")
        for forgotten in list(self._forgotten):
            self._close(forgotten, False, 0)
        queue = ArrayQueue(self._workers, function, parameters, name, self)
        self._queues.add(weakref.ref(queue, self._queues.discard))
        if self._is_closed:  # meanwhile
            queue.close(CLOSED, True, 0)
        return queue

    def _close(self, queue: ArrayQueue, cancel: bool, timeout: float | None) -> bool:
        if not queue.close(CLOSED, cancel, timeout):
            return False
        self._queues.discard(weakref.ref(queue))
        self._forgotten.discard(queue)
        return True

    def _forget(self, queue: ArrayQueue) -> None:
        """The session was not closed. What was submitted still gets its answers."""
        if not self._close(queue, False, 0):
            self._forgotten.add(queue)

    def _disown(self) -> None:
        self._is_closed = True
        for queue in self._open_queues():
            queue.disown(FORKED)
        self._workers = WorkerPool(1)  # nothing waits for the parent's threads, or takes their lock
        self._queues.clear()
        self._forgotten.clear()

    def __enter__(self) -> BatchScheduler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        workers = getattr(self, "_workers", None)  # None: it was never made
        if workers is not None:
            workers.stop(0.0)


class BatchingSession(Generic[Inputs, Outputs]):
    """A callable whose requests run in batches: see the module.

    Without a scheduler it has one of its own, with the `num_batch_threads` of its parameters.
    `name` is for logs and describe(). Raises TypeError for a coroutine function, UNAVAILABLE if the
    scheduler is closed, and WrongParameterError. Thread-safe, and for any number of event loops.
    """

    def __init__(
        self,
        function: Callable[[Inputs], Outputs],
        scheduler: BatchScheduler | None = None,
        parameters: BatchingParameters | None = None,
        *,
        name: str = "",
    ) -> None:
        if inspect.iscoroutinefunction(function):
            raise TypeError("The function must return its answer, not a coroutine")
        parameters = parameters or BatchingParameters()
        self._own_scheduler: BatchScheduler | None = None
        if scheduler is None:
            scheduler = self._own_scheduler = BatchScheduler(
                parameters.num_batch_threads, parameters.thread_pool_name
            )
        self._scheduler = scheduler
        try:
            self._queue = scheduler._open(
                function, parameters, name or getattr(function, "__name__", "") or repr(function)
            )
        except BaseException:
            if self._own_scheduler is not None:
                self._own_scheduler.close()
            raise

    def run(
        self, inputs: Inputs, *, timeout: float | None = None, priority: Priority = "normal"
    ) -> Outputs:
        """The callable's answer for `inputs`; waits for it, without the GIL.

        Not for coroutines, whose loop would wait as well.
        """
        answer: Outputs = self._queue.run(inputs, _seconds(timeout), _is_low(priority))
        return answer

    def submit(
        self, inputs: Inputs, *, timeout: float | None = None, priority: Priority = "normal"
    ) -> BatchFuture[Outputs]:
        """As run(), without waiting. Raises what refuses the request at once.

        Callbacks of the future run in the thread of the batch, and should be quick.
        """
        future: BatchFuture[Outputs] = BatchFuture()
        seconds = _seconds(timeout)
        request = self._queue.submit(inputs, seconds, _is_low(priority), future)
        future._request = request
        if seconds >= 0:
            self._scheduler._deadlines.add(seconds, request)
        return future

    async def run_async(
        self, inputs: Inputs, *, timeout: float | None = None, priority: Priority = "normal"
    ) -> Outputs:
        """As run(), for coroutines. Cancelling the task takes the request back."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Outputs] = loop.create_future()
        seconds = _seconds(timeout)
        request = self._queue.ask(inputs, seconds, _is_low(priority), loop, waiter)
        timer = loop.call_later(seconds, request.expire) if seconds >= 0 else None
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            if not request.done:
                request.leave()

    def close(self, *, cancel: bool = False, timeout: float | None = None) -> bool:
        """Take no more requests, and wait until all that were taken have their answers.

        With `cancel` those that do not run yet are cancelled. False if something still runs after
        `timeout` seconds: later it is through all the same, and close() may be called again.
        RuntimeError in the callable itself, which cannot wait for its own end.
        """
        if self._own_scheduler is not None:
            return self._own_scheduler.close(cancel=cancel, timeout=timeout)
        return self._scheduler._close(self._queue, cancel, timeout)

    def describe(self) -> dict[str, Any]:
        """What has happened so far, as numbers.

        `batches` that ran, `requests` and `rows` in them, `padding_rows` on top; `sizes`, batches
        by their rows (1, 2 to 3, 4 to 7 …, under the first number of each); `run_apart`, batches
        that failed and whose requests ran again; requests that were `refused_full`, `refused_late`
        or not run because nobody waited any more (`refused_unwanted`); batches that are `running`
        now and `waiting_rows`.
        """
        return self._queue.describe()

    def __enter__(self) -> BatchingSession[Inputs, Outputs]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        queue = getattr(self, "_queue", None)  # None: it was never made
        if queue is not None and not queue.is_closed:
            self._scheduler._forget(queue)


class BatchFuture(Future[Outputs]):
    """The future of a request: cancel() works as long as it waits for its batch."""

    _request: ArrayRequest | None = None

    def cancel(self) -> bool:
        """Take the request back. False if it runs, or is done."""
        request = self._request
        if request is None or not request.withdraw():
            return self.cancelled()
        super().cancel()
        self.set_running_or_notify_cancel()  # tells concurrent.futures.wait
        return True

    def running(self) -> bool:
        """Whether a batch that has the request runs."""
        return self._request is not None and self._request.begun and not self.done()


def _seconds(timeout: float | None) -> float:
    """A time-out as the queue takes it: less than 0 is none."""
    if timeout is None or timeout >= MOST_SECONDS:
        return -1.0
    return max(0.0, timeout) if timeout == timeout else timeout


def _is_low(priority: Priority) -> bool:
    if priority == "low":
        return True
    if priority != "normal":
        raise ValueError(f'priority should be "normal" or "low"; was {priority!r}')
    return False


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


_schedulers: weakref.WeakSet[BatchScheduler] = weakref.WeakSet()


def _close_all() -> None:
    until = time.monotonic() + EXIT_SECONDS
    for scheduler in list(_schedulers):
        scheduler.close(cancel=True, timeout=_left(until))


def _disown_all() -> None:
    for scheduler in list(_schedulers):
        scheduler._disown()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_disown_all)
