"""Predict, from the request's bytes to the response's, without Python.

A servable that is no SavedModel but a Python object is handed to _predict_python.

The order of checks, codes and texts are TensorFlow Serving's: server_core.cc
(ServableRequestFromModelSpec), predict_util.cc (PreProcessPrediction) and TensorFlow's
cc/saved_model/util.cc (GetInputValues).

Where a request runs: in the loop's thread when its signature has proved to be fast and nothing
of it waits, which saves the 40 µs that waking a thread costs; on a worker otherwise.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._buffer cimport Bytes, buffer_append, bytes_compare, bytes_equal
from tfsrv._call cimport Call, call_charge, call_is_abandoned, call_release_servable, call_scratch
from tfsrv._call_loop cimport call_complete
from tfsrv._method cimport STARTED_DONE, STARTED_PARKED, STARTED_RARE, STARTED_RUNNING, Method
from tfsrv._atomic cimport load_relaxed_i64
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv._counters cimport counters_of
from tfsrv._message cimport message_clear, message_seal
from tfsrv._predict_request cimport (
    PredictView,
    TensorView,
    predict_view_bytes,
    predict_view_find,
    wire_read_predict,
)
from tfsrv._predict_response cimport TensorData, wire_write_predict
from tfsrv._serving_map cimport ServingMap, serving_map_find
from tfsrv._serving_table cimport FOUND, PENDING, UNKNOWN_LABEL
from tfsrv._session cimport Session, session_find, session_plan, session_run
from tfsrv._signature cimport Signature, SignatureInput
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    OK,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNKNOWN,
    status_add_bytes,
    status_set,
)
from tfsrv._tensor cimport (
    MAX_RANK,
    tensor_data,
    tensor_from_view,
    tensor_release,
    tensor_view_bytes,
    tensor_view_parses,
    tensor_views_measure,
)
from tfsrv._tf cimport TF_Tensor
from tfsrv._wire_format cimport WIRE_OK, WIRE_RARE
from tfsrv._workers cimport (
    RunQueue,
    WorkerPool,
    run_queue_free,
    run_queue_may_run_in_place,
    run_queue_new,
    run_queue_note,
    run_queue_push,
    run_queue_sweep,
)
from tfsrv.handlers._predict_errors cimport (
    tell_bad_tensor,
    tell_missing_input,
    tell_output_twice,
    tell_unknown_input,
    tell_unknown_label,
    tell_unknown_output,
    tell_unknown_servable,
    tell_unknown_signature,
    tell_wrong_method_name,
    tell_wrong_size,
)
from tfsrv.handlers._predict_python cimport PythonPredictor, start_in_python

from google.protobuf.message import DecodeError

from tfsrv import _proto
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.python_threads import PythonThreads

cdef size_t IN_PLACE_BYTES = 65536           # larger requests go to a worker: copying takes time too
cdef size_t ALONE_BYTES = 1 << 20            # … unless no other request is in flight that would wait
cdef size_t RARE_BYTES = 1 << 20             # what goes through Python protobuf, which holds the loop up
cdef int64_t IN_PLACE_SLICE_NS = 2 * NS_PER_MS   # of one I/O event; then the other connections' turn
cdef int64_t SLOW_NS = 50 * NS_PER_MS        # slower signatures run on TensorFlow's pool if a deadline is set
cdef int64_t SWEEP_FROM = 64                 # abandoned calls that make a look through a full queue worth it
cdef size_t SPLICE_FROM = 16384              # bytes; smaller payloads are cheaper to copy

cdef Bytes DEFAULT_SIGNATURE = Bytes(b"serving_default", 15)
cdef Bytes METHOD_PREDICT = Bytes(b"tensorflow/serving/predict", 26)
cdef Bytes METHOD_CLASSIFY = Bytes(b"tensorflow/serving/classify", 27)
cdef Bytes METHOD_REGRESS = Bytes(b"tensorflow/serving/regress", 26)


# What a call runs; at the start of its scratch memory, the arrays behind it.
cdef struct Plan:
    Context* context
    const TensorView** views    # for each input of the signature; NULL: its default value
    TF_Tensor** feeds           # likewise
    TF_Tensor** fetched         # for each wanted output
    TensorData* outputs         # likewise
    int64_t* dims               # MAX_RANK for each
    int64_t input_bytes


# ---- resolving ----------------------------------------------------------------------------------

cdef int start(void* context_pointer, Call* call) noexcept nogil:
    """Read, resolve and check; then run in place or hand over. The loop's thread."""
    cdef Context* context = <Context*>context_pointer
    cdef int result
    if call.body.size > context.max_message_bytes:
        status_set(&call.status, RESOURCE_EXHAUSTED, "Received message larger than max")
        return STARTED_DONE
    if not call.parsed:
        if not is_small(call, call.body.size):
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
    if result != FOUND or find_signature(context, call) != OK or make_plan(context, call) != OK:
        call_release_servable(call)
        return STARTED_DONE
    return run_or_queue(context, call)


cdef bint is_small(Call* call, size_t size) noexcept nogil:
    """Whether so many bytes may be worked on in the loop: others wait meanwhile."""
    return size < (IN_PLACE_BYTES if call.loop.waiting > 1 else ALONE_BYTES)


cdef int have_parsed(Context* context, Call* call) noexcept nogil:
    """Have a worker parse a large request; `start` is called again after it."""
    call.resumes = True
    if not run_queue_push(context.unread, call) and not push_after_sweep(context.unread, call):
        call.resumes = False
        status_set(&call.status, UNAVAILABLE, "Too many large requests are waiting; try again.")
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


# ---- planning ---------------------------------------------------------------------------------------

cdef int make_plan(Context* context, Call* call) noexcept nogil:
    """Match the request's inputs and outputs with the signature's. Returns the status' code."""
    cdef Signature* signature = <Signature*>call.signature
    cdef PredictView* view = &call.view
    cdef Plan* plan = lay_out_plan(context, call)
    cdef int i, used = 0
    cdef int64_t size
    cdef SignatureInput* input
    if plan == NULL:
        return status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
    if view.inputs_size > signature.inputs_size or (
        view.inputs_size < signature.inputs_size and signature.defaults_size == 0
    ):
        return tell_wrong_size(&call.status, view, signature)
    for i in range(signature.inputs_size):
        input = &signature.inputs[i]
        plan.views[i] = predict_view_find(view, input.alias)
        if plan.views[i] == NULL:
            if input.default_value == NULL:
                return tell_missing_input(&call.status, view, signature, input)
            continue
        used += 1
        size = tensor_view_bytes(view, plan.views[i])
        if size < 0:
            return tell_bad_tensor(&call.status, input.alias)
        if <size_t>size > context.max_message_bytes - <size_t>plan.input_bytes:
            # The repeat rule lets a request of 40 bytes ask for gigabytes.
            return status_set(
                &call.status, RESOURCE_EXHAUSTED,
                "The request's tensors are larger than a message may be.")
        plan.input_bytes += size
    if used != view.inputs_size:
        return tell_unknown_input(&call.status, view, signature)
    if find_outputs(call) != OK:
        return call.status.code
    if not call_charge(call, plan.input_bytes + <int64_t>predict_view_bytes(view)):
        return status_set(&call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
    return OK


cdef Plan* lay_out_plan(Context* context, Call* call) noexcept nogil:
    """An empty plan for the call's signature in its scratch memory."""
    cdef size_t inputs = <size_t>(<Signature*>call.signature).inputs_size
    cdef size_t outputs = <size_t>(<Signature*>call.signature).outputs_size  # a longer filter names one twice
    cdef size_t per_output = sizeof(TF_Tensor*) + sizeof(TensorData) + MAX_RANK * sizeof(int64_t) + sizeof(int)
    cdef char* at = <char*>call_scratch(
        call, sizeof(Plan) + inputs * (sizeof(TensorView*) + sizeof(TF_Tensor*)) + outputs * per_output)
    cdef Plan* plan = <Plan*>at
    if at == NULL:
        return NULL
    at += sizeof(Plan)
    plan.context = context
    plan.input_bytes = 0
    plan.dims = <int64_t*>at
    at += outputs * MAX_RANK * sizeof(int64_t)
    plan.outputs = <TensorData*>at
    at += outputs * sizeof(TensorData)
    plan.views = <const TensorView**>at
    at += inputs * sizeof(TensorView*)
    plan.feeds = <TF_Tensor**>at
    at += inputs * sizeof(TF_Tensor*)
    plan.fetched = <TF_Tensor**>at
    at += outputs * sizeof(TF_Tensor*)
    call.wanted = <int*>at
    call.wanted_size = 0
    memset(<void*>plan.feeds, 0, (inputs + outputs) * sizeof(TF_Tensor*))
    return plan


cdef int find_output(const Signature* signature, Bytes alias) noexcept nogil:
    """Index of an output by alias; -1 when there is none."""
    cdef int low = 0, high = signature.outputs_size, middle, order
    while low < high:
        middle = (low + high) // 2
        order = bytes_compare(signature.outputs[middle].alias, alias)
        if order == 0:
            return middle
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return -1


cdef int find_outputs(Call* call) noexcept nogil:
    """Set `call.wanted` from the output filter; an empty filter asks for all outputs."""
    cdef Signature* signature = <Signature*>call.signature
    cdef PredictView* view = &call.view
    cdef Bytes alias
    cdef int i, j, index
    for i in range(view.output_filter_size):
        alias = view.output_filter[i]
        index = find_output(signature, alias)
        if index < 0:
            if check_tensors(call) != OK:
                return call.status.code
            return tell_unknown_output(&call.status, signature, alias)
        for j in range(i):  # at most as many as the signature has outputs: then one came twice
            if call.wanted[j] == index:
                if check_tensors(call) != OK:
                    return call.status.code
                return tell_output_twice(&call.status, alias)
        call.wanted[i] = index
        call.wanted_size = i + 1
    if call.wanted_size == 0:
        for i in range(signature.outputs_size):
            call.wanted[i] = i
        call.wanted_size = signature.outputs_size
    return OK


cdef int check_tensors(Call* call) noexcept nogil:
    """Tell of a tensor that does not parse, as TensorFlow Serving does before it looks at outputs.

    Makes none: a few bytes can stand for gigabytes, and nobody will run them.
    """
    cdef Signature* signature = <Signature*>call.signature
    cdef Plan* plan = <Plan*>call.scratch
    cdef int i
    for i in range(signature.inputs_size):
        if plan.views[i] != NULL and not tensor_view_parses(&call.view, plan.views[i]):
            return tell_bad_tensor(&call.status, signature.inputs[i].alias)
    return OK


# ---- running -----------------------------------------------------------------------------------------------

cdef int run_or_queue(Context* context, Call* call) noexcept nogil:
    """Run in the loop's thread if that is quick, else hand the call to a worker."""
    cdef Signature* signature = <Signature*>call.signature
    cdef Plan* plan = <Plan*>call.scratch
    cdef RunQueue* queue = <RunQueue*>signature.queue
    cdef bint first_time = False
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
        and run_queue_may_run_in_place(queue)
        and is_small(call, max(call.body.size, <size_t>plan.input_bytes))
        and (call.loop.event_ns == 0 or now_ns() - call.loop.event_ns < IN_PLACE_SLICE_NS)
    ):
        execute(call, True)
        return STARTED_DONE
    if not run_queue_push(queue, call) and not push_after_sweep(queue, call):
        call_release_servable(call)
        status_set(&call.status, UNAVAILABLE, "The queue of the signature is full; try again.")
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
    if call_is_abandoned(call):
        status_set(&call.status, CANCELLED, "CANCELLED")
    elif call.deadline_ns != 0 and call.deadline_ns <= now_ns():
        status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
    else:
        execute(call, False)
    call_complete(call)


cdef void execute(Call* call, bint in_place) noexcept nogil:
    """Tensors in, run, tensors out; sets status and response and lets the servable go."""
    cdef Plan* plan = <Plan*>call.scratch
    cdef RunQueue* queue = <RunQueue*>(<Signature*>call.signature).queue
    cdef int64_t begun_ns = now_ns()
    cdef bint ran = make_feeds(call, plan) == OK
    if ran:
        run_session(call, plan, in_place)
    drop_feeds(call, plan)
    if call.status.code == OK:
        encode(call, plan)
    if ran:  # with the writing: an answer of many strings takes longer than the run behind it
        run_queue_note(queue, now_ns() - begun_ns, in_place)
    call_release_servable(call)


cdef int make_feeds(Call* call, Plan* plan) noexcept nogil:
    cdef Signature* signature = <Signature*>call.signature
    cdef int i, result
    for i in range(signature.inputs_size):
        if plan.views[i] == NULL:
            plan.feeds[i] = signature.inputs[i].default_value
            continue
        result = tensor_from_view(&call.view, plan.views[i], &plan.feeds[i])
        if result == -2:
            return status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        if result != 0:
            return tell_bad_tensor(&call.status, signature.inputs[i].alias)
    return OK


cdef void drop_feeds(Call* call, Plan* plan) noexcept nogil:
    cdef int i
    for i in range((<Signature*>call.signature).inputs_size):
        if plan.views[i] != NULL and plan.feeds[i] != NULL:
            tensor_release(plan.feeds[i])
        plan.feeds[i] = NULL


cdef bint may_take_long(Session* session, Call* call) noexcept nogil:
    """Whether the run should stop when its deadline passes, which costs it some 15 µs.

    True for graphs that loop or wait, for what has not run yet, and for what has been slow.
    """
    cdef Signature* signature = <Signature*>call.signature
    cdef int64_t average_ns = load_relaxed_i64(&(<RunQueue*>signature.queue).average_ns)
    return session.uses_gpu or not signature.may_run_in_place or average_ns == 0 or average_ns > SLOW_NS


cdef void run_session(Call* call, Plan* plan, bint in_place) noexcept nogil:
    cdef Session* session = <Session*>call.servable.impl
    cdef int64_t timeout_ms = 0
    cdef bint in_callers_thread = not session.uses_gpu
    call.run_start_ns = now_ns()
    if call.deadline_ns != 0 and not in_place and may_take_long(session, call):
        # Only on its own pool does TensorFlow look at a time-out.
        in_callers_thread = False
        timeout_ms = max(1, (call.deadline_ns - call.run_start_ns) // NS_PER_MS + 1)
    session_run(
        session, <Signature*>call.signature, plan.feeds, call.wanted, call.wanted_size, plan.fetched,
        in_callers_thread, timeout_ms, &call.status)
    call.run_ns = now_ns() - call.run_start_ns


cdef void encode(Call* call, Plan* plan) noexcept nogil:
    """Write the response; takes the fetched tensors over."""
    cdef Bytes signature_name = call.view.signature_name
    cdef int i, result = 0
    if signature_name.size == 0:
        signature_name = DEFAULT_SIGNATURE
    for i in range(call.wanted_size):
        plan.outputs[i].taken = False
        if tensor_data(plan.fetched[i], plan.dims + i * MAX_RANK, &plan.outputs[i]) != 0:
            status_set(&call.status, UNKNOWN, "An output has a type that a TensorProto cannot carry: ")
            status_add_bytes(&call.status, (<Signature*>call.signature).outputs[call.wanted[i]].alias)
        plan.outputs[i].alias = (<Signature*>call.signature).outputs[call.wanted[i]].alias
        plan.outputs[i].holder = plan.fetched[i]
    if call.status.code == OK:
        result = buffer_append(&call.response.head, b"\0\0\0\0\0\0\0\0", call.headroom)
        if result == 0:
            result = wire_write_predict(
                &call.response, plan.outputs, call.wanted_size, call.view.model_name,
                call.servable.version, signature_name, plan.context.as_content, SPLICE_FROM,
                tensor_release)
        if result != WIRE_OK:
            message_clear(&call.response)
            status_set(&call.status, INTERNAL, "The response is larger than a message may be.")
    for i in range(call.wanted_size):
        if not plan.outputs[i].taken:
            tensor_release(plan.fetched[i])
        plan.fetched[i] = NULL
    if call.status.code != OK:
        return
    message_seal(&call.response)
    if not call_charge(call, <int64_t>call.response.left):
        message_clear(&call.response)
        status_set(&call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")


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
