"""Runs any tensors and operations of a loaded SavedModel by their names, without the GIL.

What the names stand for, and the texts that refuse them, are those of TensorFlow's
core/graph/tensor_id.cc (ParseTensorName) and core/graph/subgraph.cc.
"""

from collections.abc import Sequence

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.stdlib cimport free

from tfsrv._budget cimport budget_give, budget_take
from tfsrv._buffer cimport Bytes
from tfsrv._clock cimport now_ns
from tfsrv._message cimport Message, message_free, message_init, message_read, message_seal
from tfsrv._predict_request cimport (
    PredictView,
    TensorView,
    predict_view_bytes,
    predict_view_find,
    predict_view_free,
    predict_view_init,
    wire_read_predict,
)
from tfsrv._predict_response cimport TensorData, wire_write_predict
from tfsrv._run_counts cimport graph_run_add
from tfsrv._run_pools cimport run_pool_give, run_pool_take
from tfsrv._session cimport SavedModelSession, Session
from tfsrv._signature cimport zeroed
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    NO_REASON,
    NOT_FOUND,
    OK,
    RESOURCE_EXHAUSTED,
    RUN_FAILED,
    Status,
    status_add_bytes,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tensor cimport MAX_RANK, tensor_data, tensor_from_view, tensor_view_bytes
from tfsrv._tensor_proto cimport dtype_field
from tfsrv._tf cimport (
    TF_Buffer,
    TF_Graph,
    TF_Operation,
    TF_Output,
    TF_Status,
    TF_Tensor,
    api,
    take_status,
    thread_status,
)
from tfsrv._wire_format cimport WIRE_NO_MEMORY, WIRE_OK, WIRE_RARE

from tfsrv.errors import ErrorDetails, Reason, ServingError

cdef enum:
    FIRST_REF = 100         # DT_X_REF is DT_X + 100, tensorflow/core/framework/types.proto
    POOL_OPTION = 3 << 3    # the tag of RunOptions.inter_op_thread_pool, under 128 all of it


# --------------------------------------------------------------------------------------- names

def tensor_name(name: str) -> tuple[str, int]:
    """The operation and the index of its output that a name of a tensor stands for.

    "x:1" is output 1 of x, "x" is output 0 of it; what follows a colon and is no number belongs
    to the name.
    """
    operation, colon, index = name.rpartition(":")
    if colon and index.isascii() and index.isdigit() and len(index) < 10:
        return operation, int(index)
    return name, 0


def check_names(
    session: SavedModelSession, feeds: Sequence[str], fetches: Sequence[str],
    targets: Sequence[str]
) -> None:
    """Raise ServingError unless the graph has these tensors, and these operations as targets."""
    cdef TF_Graph* graph = (<SavedModelSession>session).session.graph
    if graph == NULL:
        raise ServingError(FAILED_PRECONDITION, "The session is closed")
    try:
        find_all(graph, feeds, fetches, targets)
    except ServingError as error:
        error.details = ErrorDetails(Reason.INVALID_INPUT, session.name, session.version)
        raise


cdef int find_all(TF_Graph* graph, feeds, fetches, targets) except -1:
    for name in feeds:
        find_feed(graph, name)
    for name in fetches:
        find_fetch(graph, name)
    missing = []
    for name in targets:
        if find_operation(graph, name) == NULL:
            missing.append(name)
    if missing:
        raise ServingError(
            NOT_FOUND, f"PruneForTargets: Some target nodes not found: {' '.join(missing)}")
    return 0


cdef TF_Operation* find_operation(TF_Graph* graph, str name) except? NULL:
    encoded = name.encode("utf-8", "surrogatepass")
    return NULL if b"\0" in encoded else api.GraphOperationByName(graph, encoded)


cdef TF_Output find_feed(TF_Graph* graph, str name) except *:
    cdef TF_Output found
    operation, index = tensor_name(name)
    found.oper = find_operation(graph, operation)
    found.index = index
    if found.oper == NULL:
        raise ServingError(NOT_FOUND, f"FeedInputs: unable to find feed output {name}")
    if found.index >= api.OperationNumOutputs(found.oper):
        raise ServingError(
            INVALID_ARGUMENT,
            f"FeedInputs: {name} should have output index < {api.OperationNumOutputs(found.oper)}")
    return found


cdef TF_Output find_fetch(TF_Graph* graph, str name) except *:
    cdef TF_Output found
    cdef int outputs
    cdef int dtype
    operation, index = tensor_name(name)
    found.oper = find_operation(graph, operation)
    found.index = index
    if found.oper == NULL:
        raise ServingError(NOT_FOUND, f"FetchOutputs node {name}: not found")
    outputs = api.OperationNumOutputs(found.oper)
    if outputs == 0:
        raise ServingError(
            INVALID_ARGUMENT,
            f"Tried to fetch data for '{name}', which has no output. To run to a node but not fetch "
            f"any data, pass '{name}' as an argument to the 'target_node_names' argument of the "
            "Session::Run API.")
    if found.index >= outputs:
        raise ServingError(
            INVALID_ARGUMENT,
            f"FetchOutputs {name}: output index too large, must be < {outputs}")
    dtype = api.OperationOutputType(found)
    if dtype_field(dtype - FIRST_REF if dtype > FIRST_REF else dtype) == 0:
        # Of a resource a response would hold an address in this process.
        raise ServingError(
            INVALID_ARGUMENT, f"{name} has a type that a TensorProto cannot carry")
    return found


# ------------------------------------------------------------------------------------- running

def run_tensors(
    session: SavedModelSession,
    request: bytes,
    feeds: Sequence[str],
    fetches: Sequence[str],
    targets: Sequence[str],
    *,
    options: bytes = b"",
    timed: bool = False,
    wants_metadata: bool = False,
    as_content: bool = False,
    max_message_bytes: int = 2**31 - 1,
) -> tuple[bytes, bytes]:
    """Feed, run, fetch. Returns a serialized PredictResponse and a serialized RunMetadata.

    `request` is a serialized PredictRequest whose inputs stand under the names of `feeds`; the
    outputs of the response stand under those of `fetches`, in that order, each once. Names must be
    in one order for one set of them: TensorFlow compiles the graph for each list that it meets,
    and keeps what it compiled. `options` is a serialized RunOptions without a thread pool; `timed`
    says that it has a time-out, which the run then stops at.

    Call it in a thread that may be held up: the GIL is free while the model runs. Somebody holds
    the session meanwhile. Tensors count against the in-flight budget as long as it takes. Raises
    ServingError.
    """
    cdef _SessionRun made = _SessionRun.__new__(_SessionRun)
    return made.answer(
        session, request, list(feeds), list(fetches), list(targets), options, timed, wants_metadata,
        as_content, max_message_bytes)


cdef class _SessionRun:
    """One run: owns all that it needs, and frees it with itself."""

    cdef PredictView view
    cdef Message message
    cdef Status status
    cdef int feeds_size
    cdef int fetches_size
    cdef int targets_size
    cdef TF_Output* feeds       # feeds_size
    cdef TF_Tensor** inputs     # feeds_size, owned
    cdef const TensorView** views   # feeds_size, of `view`
    cdef TF_Output* fetches     # fetches_size
    cdef TF_Tensor** outputs    # fetches_size, owned
    cdef TensorData* datas      # views of `outputs`
    cdef int64_t* dims          # MAX_RANK for each output
    cdef TF_Operation** targets
    cdef TF_Buffer* metadata    # owned
    cdef int64_t charged        # of the in-flight budget
    cdef list aliases           # what `datas` look into

    def __cinit__(self):
        predict_view_init(&self.view)
        message_init(&self.message)
        status_init(&self.status)

    def __dealloc__(self):
        message_free(&self.message)
        predict_view_free(&self.view)
        status_free(&self.status)
        if self.inputs != NULL:
            delete_tensors(self.inputs, self.feeds_size)
        if self.outputs != NULL:
            delete_tensors(self.outputs, self.fetches_size)
        if self.metadata != NULL:
            api.DeleteBuffer(self.metadata)
        free(self.feeds)
        free(self.inputs)
        free(self.views)
        free(self.fetches)
        free(self.outputs)
        free(self.datas)
        free(self.dims)
        free(self.targets)
        if self.charged:
            budget_give(self.charged)

    cdef tuple answer(
        self, SavedModelSession owner, bytes request, list feeds, list fetches, list targets,
        bytes options, bint timed, bint wants_metadata, bint as_content, size_t max_message_bytes
    ):
        cdef Session* session = &owner.session
        cdef Bytes nothing = Bytes(NULL, 0)
        cdef const char* data = request
        cdef size_t size = <size_t>len(request)
        cdef int result
        if session.session == NULL:
            raise ServingError(FAILED_PRECONDITION, "The session is closed")
        self.resolve(session.graph, feeds, fetches, targets)
        with nogil:
            result = wire_read_predict(data, size, &self.view)
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result != WIRE_OK and result != WIRE_RARE:
            raise ServingError(INTERNAL, "Failed to parse the SessionRunRequest.")
        if result == WIRE_RARE:
            raise ServingError(
                INVALID_ARGUMENT, "A feed is a resource or a variant, which no client can send.")
        self.find_feeds(feeds)
        if wants_metadata:
            self.metadata = api.NewBuffer()
            if self.metadata == NULL:
                raise MemoryError
        # Room for the number of a pool; a later field of the same number wins.
        cdef bytearray with_pool = bytearray(options) + b"\0\0"
        cdef char* options_data = with_pool
        cdef size_t options_size = <size_t>len(options)
        with nogil:
            if self.make_inputs(size, max_message_bytes) == OK:
                self.run(session, options_data, options_size, timed)
            if self.status.code == OK:
                result = self.write(nothing, as_content)
        if self.status.code != OK:
            raise self.error(owner)
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result != WIRE_OK:
            raise ServingError(INTERNAL, "The response is larger than a message may be.")
        return self.response(), self.run_metadata()

    cdef int resolve(self, TF_Graph* graph, list feeds, list fetches, list targets) except -1:
        cdef int i
        self.feeds = <TF_Output*>zeroed(len(feeds), sizeof(TF_Output))
        self.views = <const TensorView**>zeroed(len(feeds), sizeof(TensorView*))
        self.inputs = <TF_Tensor**>zeroed(len(feeds), sizeof(TF_Tensor*))
        self.feeds_size = len(feeds)
        self.fetches = <TF_Output*>zeroed(len(fetches), sizeof(TF_Output))
        self.outputs = <TF_Tensor**>zeroed(len(fetches), sizeof(TF_Tensor*))
        self.fetches_size = len(fetches)
        self.datas = <TensorData*>zeroed(len(fetches), sizeof(TensorData))
        self.dims = <int64_t*>zeroed(<size_t>len(fetches) * MAX_RANK, sizeof(int64_t))
        self.targets = <TF_Operation**>zeroed(len(targets), sizeof(TF_Operation*))
        self.targets_size = len(targets)
        self.aliases = [name.encode() for name in fetches]
        for i in range(self.feeds_size):
            self.feeds[i] = find_feed(graph, feeds[i])
        for i in range(self.fetches_size):
            self.fetches[i] = find_fetch(graph, fetches[i])
            self.datas[i].alias = Bytes(PyBytes_AS_STRING(self.aliases[i]), <size_t>len(self.aliases[i]))
        for i in range(self.targets_size):
            self.targets[i] = find_operation(graph, targets[i])
            if self.targets[i] == NULL:
                raise ServingError(
                    NOT_FOUND, f"PruneForTargets: Some target nodes not found: {targets[i]}")
        return 0

    cdef int find_feeds(self, list feeds) except -1:
        """Where in the request the tensors are."""
        cdef bytes name
        cdef int i
        for i in range(self.feeds_size):
            name = feeds[i].encode()
            self.views[i] = predict_view_find(
                &self.view, Bytes(PyBytes_AS_STRING(name), <size_t>len(name)))
            if self.views[i] == NULL:
                raise ServingError(INVALID_ARGUMENT, f"There is no tensor for the feed {feeds[i]}")
        return 0

    cdef int make_inputs(self, size_t request_bytes, size_t max_message_bytes) noexcept nogil:
        """The tensors that are fed. Sets the status; returns its code."""
        cdef int64_t total = 0
        cdef int64_t size
        cdef int result
        cdef int i
        for i in range(self.feeds_size):
            size = tensor_view_bytes(&self.view, self.views[i])
            if size < 0:
                return self.refuse_feed(i)
            if <size_t>size > max_message_bytes - <size_t>total:
                # The repeat rule lets a request of 40 bytes ask for gigabytes.
                return status_set(
                    &self.status, RESOURCE_EXHAUSTED,
                    "The request's tensors are larger than a message may be.")
            total += size
        if not self.charge(total + <int64_t>(request_bytes + predict_view_bytes(&self.view))):
            return self.status.code
        for i in range(self.feeds_size):
            result = tensor_from_view(&self.view, self.views[i], &self.inputs[i])
            if result == -2:
                return status_set(&self.status, RESOURCE_EXHAUSTED, "out of memory")
            if result != 0:
                return self.refuse_feed(i)
        return OK

    cdef bint charge(self, int64_t bytes) noexcept nogil:
        """Count bytes as in flight as long as this lives; False, and a status, if there is no room."""
        if not budget_take(bytes):
            status_set(
                &self.status, RESOURCE_EXHAUSTED,
                "Too many bytes are in flight (--max_in_flight_bytes).")
            return False
        self.charged += bytes
        return True

    cdef int refuse_feed(self, int feed) noexcept nogil:
        status_set(&self.status, INVALID_ARGUMENT, "tensor parsing error: ")
        status_add_bytes(&self.status, self.views[feed].alias)
        self.status.reason = INVALID_INPUT
        return INVALID_ARGUMENT

    cdef void run(
        self, Session* session, char* options, size_t options_size, bint timed
    ) noexcept nogil:
        cdef TF_Status* tf_status = thread_status()
        cdef TF_Buffer run_options
        cdef int64_t begun_ns
        cdef int pool = 0
        if tf_status == NULL:
            status_set(&self.status, RESOURCE_EXHAUSTED, "No memory to run the model")
            return
        if timed and session.has_run_pools:
            pool = run_pool_take()
            options[options_size] = POOL_OPTION
            options[options_size + 1] = <char>pool
            options_size += 2
        run_options.data = options
        run_options.length = options_size
        run_options.data_deallocator = NULL
        begun_ns = now_ns()
        api.SessionRun(
            session.session, &run_options, self.feeds, self.inputs, self.feeds_size, self.fetches,
            self.outputs, self.fetches_size, <const TF_Operation* const*>self.targets,
            self.targets_size, self.metadata, tf_status)
        graph_run_add(
            now_ns() - begun_ns, self.inputs, self.feeds_size, self.outputs,
            self.fetches_size if api.GetCode(tf_status) == 0 else -1)
        run_pool_give(pool)
        if take_status(tf_status, &self.status) != OK:
            self.status.reason = RUN_FAILED
        delete_tensors(self.inputs, self.feeds_size)

    cdef int write(self, Bytes nothing, bint as_content) noexcept nogil:
        """Write the response; a WireResult."""
        cdef int result
        cdef int i
        for i in range(self.fetches_size):
            # find_fetch has looked at the type
            tensor_data(self.outputs[i], self.dims + i * MAX_RANK, &self.datas[i])
        result = wire_write_predict(
            &self.message, self.datas, self.fetches_size, nothing, 0, nothing, as_content, 0, NULL)
        delete_tensors(self.outputs, self.fetches_size)
        message_seal(&self.message)
        if result == WIRE_OK:
            self.charge(2 * <int64_t>self.message.left)  # it is about to be copied
        return result

    cdef object error(self, SavedModelSession owner):
        error = status_error(&self.status)
        if self.status.reason != NO_REASON:
            error.details = ErrorDetails(Reason(self.status.reason), owner.name, owner.version)
        return error

    cdef bytes response(self):
        cdef size_t size = self.message.left
        cdef bytes made = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
        cdef char* data = PyBytes_AS_STRING(made)
        with nogil:
            message_read(&self.message, data, size)
        return made

    cdef bytes run_metadata(self):
        if self.metadata == NULL or self.metadata.length == 0:
            return b""
        return (<const char*>self.metadata.data)[: self.metadata.length]


cdef void delete_tensors(TF_Tensor** tensors, int size) noexcept nogil:
    cdef int i
    for i in range(size):
        if tensors[i] != NULL:
            api.DeleteTensor(tensors[i])
            tensors[i] = NULL
