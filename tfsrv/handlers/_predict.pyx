"""Predict, from the request's bytes to the response's, without Python.

A servable that is no SavedModel but a Python object is handed to _predict_python.

The order of checks, codes and texts are TensorFlow Serving's: server_core.cc
(ServableRequestFromModelSpec), predict_util.cc (PreProcessPrediction) and TensorFlow's
cc/saved_model/util.cc (GetInputValues).

Where a request runs: in the loop's thread when its signature has proved to be fast and nothing
of it waits, which saves the 40 µs that waking a thread costs; on a worker otherwise.
"""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._call cimport Call, call_is_abandoned, call_release_servable
from tfsrv._call_loop cimport call_complete
from tfsrv._counters cimport counters_of
from tfsrv._method cimport STARTED_DONE, STARTED_PARKED, STARTED_RARE, STARTED_RUNNING, Method
from tfsrv._predict_request cimport PredictView, wire_read_predict
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
from tfsrv._session cimport Session, session_find, session_plan
from tfsrv._signature cimport Signature
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    MODEL_NOT_FOUND,
    OK,
    QUEUE_FULL,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    status_add_bytes,
    status_set,
)
from tfsrv._tensor cimport tensor_views_measure
from tfsrv._wire_format cimport WIRE_OK, WIRE_RARE
from tfsrv._workers cimport WorkerPool, work_queue_is_idle
from tfsrv.handlers._predict_batch cimport batch_call
from tfsrv.handlers._predict_errors cimport (
    tell_unknown_label,
    tell_unknown_servable,
    tell_unknown_signature,
    tell_wrong_method_name,
)
from tfsrv.handlers._predict_plan cimport Plan, plan_make
from tfsrv.handlers._predict_python cimport PythonPredictor, start_in_python
from tfsrv.handlers._predict_run cimport run_call, run_has_time, run_is_small, run_is_wanted

from google.protobuf.message import DecodeError

from tfsrv import _proto
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.python_threads import PythonThreads

cdef size_t RARE_BYTES = 1 << 20             # what goes through Python protobuf, which holds the loop up
cdef int64_t SWEEP_FROM = 64                 # abandoned calls that make a look through a full queue worth it

cdef Bytes DEFAULT_SIGNATURE = Bytes(b"serving_default", 15)
cdef Bytes METHOD_PREDICT = Bytes(b"tensorflow/serving/predict", 26)
cdef Bytes METHOD_CLASSIFY = Bytes(b"tensorflow/serving/classify", 27)
cdef Bytes METHOD_REGRESS = Bytes(b"tensorflow/serving/regress", 26)


# ---- resolving ----------------------------------------------------------------------------------

cdef int start(void* context_pointer, Call* call) noexcept nogil:
    """Read, resolve and check; then run in place or hand over. The loop's thread."""
    cdef Context* context = <Context*>context_pointer
    cdef int result
    if call.body.size > context.max_message_bytes:
        status_set(&call.status, RESOURCE_EXHAUSTED, "Received message larger than max")
        return STARTED_DONE
    if not call.parsed:
        if not run_is_small(call, call.body.size):
            return have_parsed(context, call)
        call.parse_result = wire_read_predict(call.body.data, call.body.size, &call.view)
        call.parsed = True
    if call.parse_result == WIRE_RARE:
        if call.body.size > RARE_BYTES:
            status_set(
                &call.status, RESOURCE_EXHAUSTED,
                "A request with variants, resources, groups or streaming options is too large.")
            return STARTED_DONE
        return STARTED_RARE
    if call.parse_result != WIRE_OK:
        status_set(&call.status, INTERNAL, "Failed to parse the PredictRequest.")
        return STARTED_DONE
    result = find_servable(context, call)
    if result == PENDING:
        return STARTED_PARKED
    if result == FOUND and call.servable.impl == NULL:
        return start_in_python(context.python, call)
    if (
        result != FOUND or find_signature(context, call) != OK
        or plan_make(call, context.as_content, context.max_message_bytes) != OK
    ):
        call_release_servable(call)
        return STARTED_DONE
    return run_or_queue(context, call)


cdef int have_parsed(Context* context, Call* call) noexcept nogil:
    """Have a worker parse a large request; `start` is called again after it."""
    call.resumes = True
    if not run_queue_push(context.unread, call) and not push_after_sweep(context.unread, call):
        call.resumes = False
        status_set(&call.status, UNAVAILABLE, "Too many large requests are waiting; try again.")
        call.status.reason = QUEUE_FULL
        return STARTED_DONE
    return STARTED_RUNNING


cdef void parse(void* item) noexcept nogil:
    """A worker's turn with a large request: all that grows with its bytes."""
    cdef Call* call = <Call*>item
    if not call_is_abandoned(call):
        call.parse_result = wire_read_predict(call.body.data, call.body.size, &call.view)
        if call.parse_result == WIRE_OK:
            tensor_views_measure(&call.view)
        call.parsed = True
    call_complete(call)


cdef int find_servable(Context* context, Call* call) noexcept nogil:
    """Take a handle of the servable that the request asks for. A Lookup; -1: bad request."""
    cdef PredictView* view = &call.view
    cdef int64_t version = view.version
    cdef int result
    if not view.has_model_spec:
        status_set(&call.status, INVALID_ARGUMENT, "Missing ModelSpec")
        return -1
    if view.model_name.size == 0:
        status_set(&call.status, INVALID_ARGUMENT, "ModelSpec has no name specified.")
        return -1
    result = serving_map_find(
        context.map, view.model_name, view.has_version, view.version,
        view.has_version_label, view.version_label, &call.servable, &version)
    if result == FOUND or result == PENDING:
        return result
    if result == UNKNOWN_LABEL:
        tell_unknown_label(&call.status, view.version_label)
    else:
        tell_unknown_servable(&call.status, view, version)
        if result == UNKNOWN_MODEL:
            call.status.reason = MODEL_NOT_FOUND
    return result


cdef int find_signature(Context* context, Call* call) noexcept nogil:
    """Set `call.signature`, or the status; returns its code."""
    cdef Session* session = <Session*>call.servable.impl
    cdef Bytes name = call.view.signature_name
    cdef Signature* signature
    if name.size == 0:
        name = DEFAULT_SIGNATURE
    signature = session_find(session, name)
    if signature == NULL:
        return tell_unknown_signature(&call.status, name)
    call.signature = signature
    if signature.counters != NULL:
        call.counters = signature.counters
    if context.checks_method_name and not (
        bytes_equal(signature.method_name, METHOD_PREDICT)
        or bytes_equal(signature.method_name, METHOD_CLASSIFY)
        or bytes_equal(signature.method_name, METHOD_REGRESS)
    ):
        return tell_wrong_method_name(&call.status, signature)
    if signature.broken:
        status_set(&call.status, FAILED_PRECONDITION, "")
        status_add_bytes(&call.status, signature.broken_reason)
        return FAILED_PRECONDITION
    return OK


# ---- running -----------------------------------------------------------------------------------------------

cdef int run_or_queue(Context* context, Call* call) noexcept nogil:
    """Run in the loop's thread if that is quick, else hand the call to a worker."""
    cdef Signature* signature = <Signature*>call.signature
    cdef Plan* plan = <Plan*>call.scratch
    cdef RunQueue* queue
    cdef bint first_time = False
    if (<Session*>call.servable.impl).is_batched:
        return batch_call(context.pool, call)
    queue = <RunQueue*>signature.queue
    if queue == NULL:
        queue = run_queue_new(context.pool, run)
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
    call_complete(call)


# ---- what Python sees -------------------------------------------------------------------------------------------

cdef class PredictMethod(Method):
    """`tensorflow.serving.PredictionService/Predict` on the servables of one serving map.

    SavedModels run on `workers`, servables written in Python on `python_threads`.
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
    ) -> None:
        self.name = "Predict"
        self.serving_map = serving_map
        self.workers = workers
        self.python = PythonPredictor(
            python_threads or PythonThreads(),
            serialization_as_tensor_content=serialization_as_tensor_content,
            max_message_bytes=max_message_bytes)
        self.settings.map = (<ServingMap>serving_map).map
        self.settings.pool = (<WorkerPool>workers).pool
        self.settings.python = <void*>self.python
        self.counters = counters_of("", 0, "", "Predict")
        self.settings.unread = run_queue_new(self.settings.pool, parse)
        if self.settings.unread == NULL:
            raise MemoryError
        self.settings.as_content = serialization_as_tensor_content
        self.settings.checks_method_name = signature_method_name_check
        self.settings.max_message_bytes = max_message_bytes
        self.context = &self.settings
        self.start = start

    def __dealloc__(self):
        if self.settings.unread != NULL:
            run_queue_free(self.settings.unread)

    def rewrite(self, request: bytes) -> bytes:
        """The same request without what unary Predict does not look at.

        Raises ServingError INTERNAL when protobuf does not decode it either.
        """
        message = _proto.message_class("tensorflow.serving.PredictRequest")()
        try:
            message.ParseFromString(request)
        except DecodeError as error:
            raise ServingError(Code.INTERNAL, "Failed to parse the PredictRequest.") from error
        message.DiscardUnknownFields()
        for field in ("predict_streamed_options", "client_id", "request_options"):
            message.ClearField(field)
        for tensor in message.inputs.values():
            # A tensor of such a type is refused for its type; one of another type ignores them.
            tensor.ClearField("resource_handle_val")
            tensor.ClearField("variant_val")
        return message.SerializeToString()
