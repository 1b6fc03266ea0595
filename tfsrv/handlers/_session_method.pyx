"""Methods that run a signature of a loaded SavedModel, without Python.

What they have in common: a request is read, in the loop if it is small, else by a worker; the servable
that it asks for is found, or waited for; the method plans what is to be run; and that runs. Where: in the
loop's thread when the signature has proved to be fast and nothing of it waits, which saves the 40 µs that
waking a thread costs; on a worker otherwise; with others if requests are batched.

A servable that is no SavedModel but a Python object is handed to _predict_python.

Codes and texts are TensorFlow Serving's: model_servers/server_core.cc (ServableRequestFromModelSpec).
"""

from libc.stdint cimport int64_t

from tfsrv._call cimport Call, call_charge, call_is_abandoned, call_release_servable
from tfsrv._call_loop cimport call_complete, call_complete_all
from tfsrv._counters cimport counters_of
from tfsrv._inference_request cimport examples_join
from tfsrv._method cimport STARTED_DONE, STARTED_PARKED, STARTED_RARE, STARTED_RUNNING, Method
from tfsrv._predict_request cimport PredictView, predict_view_drop_joined
from tfsrv._run_queue cimport (
    RunQueue,
    run_queue_free,
    run_queue_new,
    run_queue_push,
    run_queue_sweep,
    run_record_is_fast,
)
from tfsrv._serving_map cimport ServingMap, serving_map_find
from tfsrv._serving_table cimport FOUND, PENDING, UNKNOWN_LABEL, UNKNOWN_MODEL
from tfsrv._session cimport Session, session_plan
from tfsrv._signature cimport Signature
from tfsrv._status cimport (
    INTERNAL,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    MODEL_NOT_FOUND,
    OK,
    QUEUE_FULL,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    status_set,
)
from tfsrv._tensor cimport tensor_views_measure
from tfsrv._wire_format cimport WIRE_OK, WIRE_RARE, WIRE_TOO_BIG
from tfsrv._workers cimport WorkerPool, work_queue_is_idle, work_queue_set_limit
from tfsrv.handlers._call_batch cimport batch_call
from tfsrv.handlers._call_plan cimport Plan
from tfsrv.handlers._call_run cimport run_call, run_has_time, run_is_small, run_is_wanted
from tfsrv.handlers._rest_read cimport rest_set_spec
from tfsrv.handlers._predict_errors cimport tell_unknown_label, tell_unknown_servable
from tfsrv.handlers._predict_python cimport (
    PythonAnswering,
    PythonPredictor,
    start_in_python,
)

from tfsrv.handlers.python_threads import PythonThreads

cdef enum:
    READY = -1              # no Started: go on with it

cdef size_t RARE_BYTES = 1 << 20             # what goes through Python protobuf, which holds the loop up
cdef int64_t SWEEP_FROM = 64                 # abandoned calls that make a look through a full queue worth it


# ---- reading and resolving ---------------------------------------------------------------------------

cdef int start(void* context, Call* call) noexcept nogil:
    """Read, resolve and check; then run in place or hand over. The loop's thread."""
    cdef Settings* settings = <Settings*>context
    cdef int result
    if call.rest.verb:
        result = transcode(settings, call)
        if (result == READY or result == STARTED_DONE) and call.rest.counters != NULL:
            call.counters = call.rest.counters  # no worker has the call
        if result != READY:
            return result
    elif call.body.size > settings.max_message_bytes:
        status_set(&call.status, RESOURCE_EXHAUSTED, "Received message larger than max")
        return STARTED_DONE
    if not call.parsed:
        if not run_is_small(call, call.body.size):
            return have_a_worker(settings, call)
        read(settings, call)
    if call.parse_result == WIRE_RARE:
        if call.body.size > RARE_BYTES:
            status_set(&call.status, RESOURCE_EXHAUSTED, settings.steps.rare_too_large)
            return STARTED_DONE
        return STARTED_RARE
    if call.parse_result != WIRE_OK:
        tell_unreadable(settings, call)
        return STARTED_DONE
    if call.view.unjoined_bytes:
        result = join(settings, call)
        if result != READY:
            return result
    result = hold_servable(settings, call)
    if result == PENDING:
        return STARTED_PARKED
    if result == FOUND and call.servable.impl == NULL:
        return start_in_python(settings.python, call)
    if result != FOUND or settings.steps.plan(settings, call) != OK:
        call_release_servable(call)
        return STARTED_DONE
    return run_or_queue(settings, call)


cdef int transcode(Settings* settings, Call* call) noexcept nogil:
    """Bring a REST call into the form of a gRPC one, here or on a worker. READY, or a Started.

    Its servable is found first and held to the end, for what a body means depends on the signature.
    """
    cdef int result
    if call.rest.transcoded:
        return READY
    if not call.rest.looked_up:
        rest_set_spec(call)
        result = find_servable(settings, call)
        if result == PENDING:
            return STARTED_PARKED
        call.rest.looked_up = True
        if result == FOUND and call.servable.impl == NULL:
            return start_in_python(settings.python, call)
        if call.rest.gzipped or not run_is_small(call, call.body.size):
            # Large bodies for no model are not worth a look.
            return have_a_worker(settings, call) if result == FOUND else STARTED_DONE
        settings.steps.transcode(call, settings.max_message_bytes)
    if call.status.code != OK:  # here, or when a worker had it
        call_release_servable(call)
        return STARTED_DONE
    return READY


cdef void read(const Settings* settings, Call* call) noexcept nogil:
    call.parse_result = settings.steps.read(<char*>call.body.data, call.body.size, &call.view)
    call.parsed = True


cdef int join(Settings* settings, Call* call) noexcept nogil:
    """Join the examples with their context, here or on a worker. READY, or a Started.

    The servable is let go meanwhile. It is looked for before only because a few bytes that nobody
    will run must not become gigabytes.
    """
    cdef int result = hold_servable(settings, call)
    if result == PENDING:
        return STARTED_PARKED
    if result != FOUND:
        return STARTED_DONE
    if call.servable.impl != NULL and settings.steps.check != NULL:
        settings.steps.check(settings, call)
        call.signature = NULL  # it may be unloaded meanwhile
    call_release_servable(call)
    if call.status.code != OK or not may_join(settings, call):
        return STARTED_DONE
    if not run_is_small(call, call.view.unjoined_bytes):
        return have_a_worker(settings, call)
    read_on(call)
    if call.parse_result != WIRE_OK:
        tell_unreadable(settings, call)
        return STARTED_DONE
    return READY


cdef void read_on(Call* call) noexcept nogil:
    """What is left to do of a request that was read: join its examples with their context."""
    call.parse_result = examples_join(&call.view)


cdef bint may_join(const Settings* settings, Call* call) noexcept nogil:
    """Charge what joining takes, which a small request can make large. False, and the status says why."""
    cdef size_t size = call.view.unjoined_bytes
    if size > settings.max_message_bytes:
        status_set(
            &call.status, RESOURCE_EXHAUSTED, "The request's examples are larger than a message may be.")
        return False
    if not call_charge(call, <int64_t>size):
        status_set(
            &call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
        return False
    return True


cdef void tell_unreadable(const Settings* settings, Call* call) noexcept nogil:
    if call.parse_result == WIRE_TOO_BIG:
        status_set(
            &call.status, RESOURCE_EXHAUSTED, "The request's examples are larger than a message may be.")
    elif call.view.unjoined_bytes:  # it was read, and there is no memory to go on
        status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
    elif call.rest.verb:  # no transport has vouched for the body, as gRPC's does
        status_set(&call.status, INVALID_ARGUMENT, settings.steps.unreadable)
        call.status.reason = INVALID_INPUT
    else:
        status_set(&call.status, INTERNAL, settings.steps.unreadable)


cdef int have_a_worker(Settings* settings, Call* call) noexcept nogil:
    """Have a worker read a large request, or read on; `start` is called again after it."""
    cdef RunQueue* queue = settings.rest_unread if call.rest.verb else settings.unread
    call.resumes = True
    if not run_queue_push(queue, call) and not push_after_sweep(queue, call):
        call.resumes = False
        status_set(&call.status, UNAVAILABLE, "Too many large requests are waiting; try again.")
        call.status.reason = QUEUE_FULL
        return STARTED_DONE
    return STARTED_RUNNING


cdef void read_aside(void* item) noexcept nogil:
    """A worker's turn with a large request: all that grows with its bytes."""
    cdef Call* call = <Call*>item
    cdef const Settings* settings = <const Settings*>(<Method>call.method).context
    if not call_is_abandoned(call):
        if call.rest.verb and not call.rest.transcoded:
            settings.steps.transcode(call, settings.max_message_bytes)
        if call.status.code == OK:
            if call.parsed:
                read_on(call)
            else:
                read(settings, call)
            if call.parse_result == WIRE_OK and call.view.unjoined_bytes == 0:
                tensor_views_measure(&call.view)
    call_complete_all(call, call)  # a REST call keeps its servable


cdef int session_prepare(const Settings* settings, Call* call) noexcept nogil:
    """Read and plan the request of a call that has its servable, in this thread. For who has no loop.

    WIRE_RARE if it has to be rewritten first; else the status says what came of it.
    """
    if session_read(settings, call) == WIRE_RARE:
        return WIRE_RARE
    if call.parse_result == WIRE_OK and call.status.code == OK:
        settings.steps.plan(settings, call)
    return WIRE_OK


cdef int session_read(const Settings* settings, Call* call) noexcept nogil:
    """Read the request of a call, all of it, in this thread.

    WIRE_RARE if it has to be rewritten first; else the status says what came of it.
    """
    read(settings, call)
    if call.parse_result == WIRE_RARE:
        if call.body.size <= RARE_BYTES:
            return WIRE_RARE
        status_set(&call.status, RESOURCE_EXHAUSTED, settings.steps.rare_too_large)
        return WIRE_OK
    if call.parse_result == WIRE_OK and call.view.unjoined_bytes and may_join(settings, call):
        read_on(call)
    if call.parse_result != WIRE_OK:
        tell_unreadable(settings, call)
    return WIRE_OK


cdef int hold_servable(Settings* settings, Call* call) noexcept nogil:
    """Find the call's servable, unless it has it already. A Lookup, as of find_servable."""
    return FOUND if call.servable != NULL else find_servable(settings, call)


cdef int find_servable(Settings* settings, Call* call) noexcept nogil:
    """Take a handle of the servable that the request asks for. A Lookup; -1: bad request."""
    cdef PredictView* view = &call.view
    cdef int64_t version = view.spec.version
    cdef int result
    if not view.spec.present:
        status_set(&call.status, INVALID_ARGUMENT, "Missing ModelSpec")
        return -1
    if view.spec.name.size == 0:
        status_set(&call.status, INVALID_ARGUMENT, "ModelSpec has no name specified.")
        return -1
    result = serving_map_find(
        settings.map, view.spec.name, view.spec.has_version, view.spec.version,
        view.spec.has_version_label, view.spec.version_label, &call.servable, &version)
    if result == FOUND or result == PENDING:
        return result
    if result == UNKNOWN_LABEL:
        tell_unknown_label(&call.status, view.spec.version_label)
    else:
        tell_unknown_servable(&call.status, view, version)
        if result == UNKNOWN_MODEL:
            call.status.reason = MODEL_NOT_FOUND
    return result


# ---- running -----------------------------------------------------------------------------------------------

cdef int run_or_queue(Settings* settings, Call* call) noexcept nogil:
    """Run in the loop's thread if that is quick, else hand the call to a worker."""
    cdef Signature* signature = <Signature*>call.signature
    cdef Plan* plan = <Plan*>call.scratch
    cdef RunQueue* queue
    cdef bint first_time = False
    if (<Session*>call.servable.impl).is_batched:
        return batch_call(settings.pool, call)
    queue = <RunQueue*>signature.queue
    if queue == NULL:
        queue = run_queue_new(settings.pool, run)
        if queue == NULL:
            call_release_servable(call)
            status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
            return STARTED_DONE
        signature.queue = queue
        signature.queue_free = run_queue_free
    session_plan(<Session*>call.servable.impl, signature, call.wanted, call.wanted_size, &first_time)
    if (
        signature.may_run_in_place
        and not first_time  # TensorFlow builds an executor first, which takes milliseconds
        and run_record_is_fast(&signature.twin.record)
        and work_queue_is_idle(&queue.work)  # nothing is overtaken
        and run_is_small(call, max(call.body.size, <size_t>plan.input_bytes))
        and run_has_time(call)
    ):
        run_call(call, True, False)
        return STARTED_DONE
    if not run_queue_push(queue, call) and not push_after_sweep(queue, call):
        call_release_servable(call)
        status_set(&call.status, UNAVAILABLE, "The queue of the signature is full; try again.")
        call.status.reason = QUEUE_FULL
        return STARTED_DONE
    return STARTED_RUNNING


cdef bint push_after_sweep(RunQueue* queue, Call* call) noexcept nogil:
    """The queue is full: make room of calls that nobody waits for any more, and try again."""
    if call.loop.in_flight - call.loop.waiting < SWEEP_FROM:
        return False
    run_queue_sweep(queue, is_wanted)
    return run_queue_push(queue, call)


cdef bint is_wanted(void* item) noexcept nogil:
    """Whether a waiting call still has an owner; one without is completed at once."""
    cdef Call* call = <Call*>item
    if not call_is_abandoned(call):
        return True
    call_complete(call)
    return False


cdef void run(void* item) noexcept nogil:
    """A worker's turn with a call."""
    cdef Call* call = <Call*>item
    if run_is_wanted(call):
        run_call(call, False, False)
    predict_view_drop_joined(&call.view)  # here, for it takes long if it is long
    call_complete(call)


# ---- what Python sees -------------------------------------------------------------------------------------------

cdef class SessionMethod(Method):
    """Base of the methods on the servables of one serving map.

    A subclass sets `settings.steps`, and has a python_answering().

    SavedModels run on `workers`, servables written in Python on `python_threads`. No more than
    `rest_readers` workers read large bodies of REST at a time; 0 is as many as there are.
    """

    def __init__(
        self,
        serving_map: ServingMap,
        workers: WorkerPool,
        *,
        serialization_as_tensor_content: bool = False,
        signature_method_name_check: bool = False,
        max_message_bytes: int = 2**31 - 1,
        python_threads: PythonThreads | None = None,
        rest_readers: int = 0,
    ) -> None:
        self.serving_map = serving_map
        self.workers = workers
        self.settings.map = (<ServingMap>serving_map).map
        self.settings.pool = (<WorkerPool>workers).pool
        self.settings.unread = run_queue_new(self.settings.pool, read_aside)
        self.settings.rest_unread = run_queue_new(self.settings.pool, read_aside)
        if self.settings.unread == NULL or self.settings.rest_unread == NULL:
            raise MemoryError
        work_queue_set_limit(&self.settings.rest_unread.work, rest_readers)
        self.settings.as_content = serialization_as_tensor_content
        self.settings.checks_method_name = signature_method_name_check
        self.settings.max_message_bytes = max_message_bytes
        self.python = PythonPredictor(
            python_threads or PythonThreads(), self.python_answering(), max_message_bytes=max_message_bytes)
        self.settings.python = <void*>self.python
        self.counters = counters_of("", 0, "", self.name)
        self.context = &self.settings
        self.start = start

    cdef PythonAnswering python_answering(self):
        """What the method is on servables written in Python; `settings` are made."""
        raise NotImplementedError

    def __dealloc__(self):
        if self.settings.unread != NULL:
            run_queue_free(self.settings.unread)
        if self.settings.rest_unread != NULL:
            run_queue_free(self.settings.rest_unread)
