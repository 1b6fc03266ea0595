"""Loads SavedModels, and runs their signatures without the GIL."""

import os
import threading
import weakref
from collections.abc import Sequence
from typing import NamedTuple

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strcmp, strstr

from tfsrv._atomic cimport load_acquire_int, load_relaxed_i64, store_release_int
from tfsrv._batch_counts cimport batch_counts, batch_numbers
from tfsrv._batch_settings cimport batch_settings_read
from tfsrv._batching cimport BatchQueue, batch_queue_hurry, batch_queue_sweep
from tfsrv._buffer cimport Bytes, buffer_append, bytes_compare
from tfsrv._clock cimport NS_PER_MS, now_ns
from tfsrv._counters cimport counters_of
from tfsrv._inference_signature cimport inference_join, inference_resolve
from tfsrv._meta_graph cimport (
    MetaGraphView,
    meta_graph_restores_variables,
    meta_graph_scan,
    meta_graph_view_free,
    meta_graph_view_init,
)
from tfsrv._model_spec cimport default_signature
from tfsrv._queue cimport queue_size
from tfsrv._run_arms cimport ARM_ANY, ARM_EITHER, ARM_POOL
from tfsrv._run_counts cimport graph_run_add
from tfsrv._run_pools cimport run_pool_give, run_pool_take
from tfsrv._run_queue cimport RunQueue
from tfsrv._servable cimport NativeServable
from tfsrv._signature cimport (
    BAD_SET,
    FULL_SET,
    NEW_SET,
    Signature,
    signature_choose_set,
    signature_description,
    signature_fetches,
    signature_free,
    signature_free_queue,
    signature_hand_out,
    signature_resolve,
    signatures_are_twins,
    text_of,
    zeroed,
)
from tfsrv._status cimport (
    DATA_LOSS,
    FAILED_PRECONDITION,
    INTERNAL,
    INVALID_ARGUMENT,
    NOT_FOUND,
    RESOURCE_EXHAUSTED,
    RUN_FAILED,
    Status,
    status_add_bytes,
    status_clear,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._tf cimport (
    DT_BOOL,
    TF_Buffer,
    TF_DeviceList,
    TF_Output,
    TF_SessionOptions,
    TF_Status,
    TF_Tensor,
    api,
    can_limit_threads,
    take_status,
    thread_status,
)

from tfsrv import _tf
from tfsrv._proto import message_class
from tfsrv._run_pools import add_run_pools
from tfsrv.batching_parameters import BatchingParameters
from tfsrv.errors import ServingError

cdef enum:
    ON_STACK = 32           # outputs whose arrays need no malloc; most signatures have fewer
    OPTIONS_SIZE = 16       # bytes; RunOptions with a time-out and a pool
    BUILT_AT_LOAD = 4       # signatures, see build_signatures

_loaded: weakref.WeakSet[SavedModelSession] = weakref.WeakSet()  # to be looked at by loaded_sessions
_loaded_lock = threading.Lock()  # models are loaded in threads while others look

# RunOptions (tensorflow/core/protobuf/config.proto), serialized.
# inter_op_thread_pool: -1, that is run the graph in the thread that calls:
cdef const char* THIS_THREAD = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
# inter_op_thread_pool: -2, which no session has:
cdef const char* IN_NO_THREAD = b"\x18\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
cdef size_t THREAD_OPTIONS_SIZE = 11  # bytes of each of them

cdef int64_t LONGEST_TIMEOUT_MS = 1 << 31  # 24 days; TensorFlow counts it in nanoseconds


class BatchNumbers(NamedTuple):
    """What the batches of one queue were since it was made, and how many run now."""

    batches: int
    requests: int
    rows: int
    padding_rows: int
    run_apart: int
    refused_full: int
    refused_late: int
    refused_unwanted: int
    running: int


class QueueNumbers(NamedTuple):
    """What waits for one signature; "" is what MultiInference asks of several."""

    signature_name: str
    waiting: int  # rows if they are batched, else requests
    batches: BatchNumbers | None  # None: requests are not batched


cdef Signature* session_find(Session* session, Bytes name) noexcept nogil:
    """The signature of that name, or NULL."""
    cdef int low = 0
    cdef int high = session.signatures_size
    cdef int middle
    cdef int order
    while low < high:
        middle = low + ((high - low) >> 1)
        order = bytes_compare(name, session.signatures[middle].name)
        if order == 0:
            return &session.signatures[middle]
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return NULL


cdef int session_plan(
    Session* session, Signature* signature, const int* wanted, int wanted_size, bint* first_time
) noexcept nogil:
    """Will running these outputs make TensorFlow compile first? Changes nothing.

    `wanted` holds indexes into `outputs`, each once; NULL or none stands for all. Returns the
    index of the set of outputs that would be fetched, -1 if it is new, and never fails: a list
    that session_run refuses needs no compiling.
    """
    cdef int chosen = signature_choose_set(signature, wanted, wanted_size, False)
    if signature.broken or chosen == BAD_SET:
        first_time[0] = False
        return FULL_SET
    # acquire: what the building thread did comes before
    first_time[0] = (
        chosen == NEW_SET or load_acquire_int(&signature.sets[chosen].ready) == 0
        or runs_in_groups(signature, chosen, wanted_size))
    return chosen


cdef inline bint runs_in_groups(const Signature* signature, int chosen, int wanted_size) noexcept nogil:
    """Whether some outputs of a joint signature are wanted, and TensorFlow keeps enough sets of it."""
    return signature.groups != NULL and chosen == FULL_SET and 0 < wanted_size < signature.outputs_size


# ---------------------------------------------------------------------------------------- running

cdef size_t write_options(
    char* target, int place, int64_t timeout_ms, int pool
) noexcept nogil:
    """A serialized RunOptions of at most OPTIONS_SIZE bytes; its size."""
    cdef uint64_t left
    cdef size_t size = 1
    if place == IN_CALLERS_THREAD:
        memcpy(target, THIS_THREAD, THREAD_OPTIONS_SIZE)
        return THREAD_OPTIONS_SIZE
    if timeout_ms <= 0:
        return 0
    target[0] = 0x10  # timeout_in_ms, a varint
    left = <uint64_t>min(timeout_ms, LONGEST_TIMEOUT_MS)
    while left >= 0x80:
        target[size] = <char>(left | 0x80)
        left >>= 7
        size += 1
    target[size] = <char>left
    target[size + 1] = 0x18  # inter_op_thread_pool, under 128
    target[size + 2] = <char>pool
    return size + 3


cdef int session_run(
    Session* session, Signature* signature, TF_Tensor* const* inputs, const int* wanted,
    int wanted_size, TF_Tensor** outputs, int place, int64_t timeout_ms, Status* status
) noexcept nogil:
    """Run a signature. Returns the code; `status` says more when it is not OK.

    `inputs` are inputs_size tensors in the signature's order; they stay the caller's. `wanted` as
    for session_plan. `outputs` receives the tensors, the caller's from then on, in the order of
    `wanted`, or of the signature's outputs when all are wanted; all NULL after an error.

    `place` is a RunPlace. TensorFlow heeds `timeout_ms` (0: none) only on its own pools, so not in
    the caller's thread. ON_RUN_POOL (see _run_pools) is the shared one where the session's config has
    other pools, or there is a GPU, or no time-out. Any number of threads may run at once.
    """
    cdef TF_Output few_fetches[ON_STACK]
    cdef TF_Tensor* few_fetched[ON_STACK]
    cdef TF_Output* fetches = signature.fetches
    cdef TF_Tensor** fetched = outputs
    cdef const uint64_t* bits = NULL
    cdef int fetches_size = signature.outputs_size
    cdef int answers_size
    cdef int chosen
    cdef int i
    if wanted == NULL:
        wanted_size = 0
    answers_size = wanted_size if wanted_size else fetches_size
    status_clear(status)
    for i in range(answers_size):
        outputs[i] = NULL
    if session.session == NULL:
        return status_set(status, FAILED_PRECONDITION, "The session is closed")
    if signature.broken:
        status_set(status, FAILED_PRECONDITION, "")
        status_add_bytes(status, signature.broken_reason)
        return status.code
    chosen = signature_choose_set(signature, wanted, wanted_size, True)
    if chosen == BAD_SET:
        return status_set(status, INTERNAL, "Outputs out of range or asked for twice")
    if runs_in_groups(signature, chosen, wanted_size):
        return run_groups(
            session, signature, inputs, wanted, wanted_size, outputs, place, timeout_ms, status)
    if wanted_size:  # else simply all of them in order
        if fetches_size > ON_STACK:
            fetches = <TF_Output*>malloc(fetches_size * sizeof(TF_Output))
            fetched = <TF_Tensor**>malloc(fetches_size * sizeof(TF_Tensor*))
            if fetches == NULL or fetched == NULL:
                free(fetches)
                free(fetched)
                return status_set(status, RESOURCE_EXHAUSTED, "No memory to run the model")
        else:
            fetches = few_fetches
            fetched = few_fetched
        if chosen != FULL_SET:
            bits = signature.sets[chosen].bits
        fetches_size = signature_fetches(signature, bits, fetches)
    if run_graph(session, signature, inputs, fetches, fetched, fetches_size, place, timeout_ms, status) == 0:
        if load_acquire_int(&signature.sets[chosen].ready) == 0:
            # release pairs with session_plan's acquire: who reads 1 finds the set compiled
            store_release_int(&signature.sets[chosen].ready, 1)
        if fetched != outputs:
            signature_hand_out(
                signature, bits, fetched, fetches_size, wanted, answers_size, outputs)
    if fetched != outputs and fetched != few_fetched:
        free(fetches)
        free(fetched)
    return status.code


cdef int run_graph(
    Session* session, const Signature* signature, TF_Tensor* const* inputs, const TF_Output* fetches,
    TF_Tensor** fetched, int fetches_size, int place, int64_t timeout_ms, Status* status
) noexcept nogil:
    """Have TensorFlow run the graph. Returns the code; `fetched` is all NULL after an error."""
    cdef TF_Status* tf_status = thread_status()
    cdef TF_Buffer run_options
    cdef char options[OPTIONS_SIZE]
    cdef int64_t begun_ns
    cdef int pool = 0
    cdef int i
    if tf_status == NULL:
        return status_set(status, RESOURCE_EXHAUSTED, "No memory to run the model")
    if session.has_run_pools and timeout_ms > 0 and place == ON_RUN_POOL:
        pool = run_pool_take()
    run_options.data = options
    run_options.length = write_options(options, place, timeout_ms, pool)
    run_options.data_deallocator = NULL
    begun_ns = now_ns()
    api.SessionRun(
        session.session, &run_options if run_options.length else NULL,
        signature.feeds, inputs, signature.inputs_size, fetches, fetched, fetches_size,
        NULL, 0, NULL, tf_status)
    graph_run_add(
        now_ns() - begun_ns, inputs, signature.inputs_size, fetched,
        fetches_size if api.GetCode(tf_status) == 0 else -1)
    run_pool_give(pool)
    if api.GetCode(tf_status) != 0:
        take_status(tf_status, status)
        status.reason = RUN_FAILED
        for i in range(fetches_size):  # some are there when a later one could not be converted
            if fetched[i] != NULL:
                api.DeleteTensor(fetched[i])
                fetched[i] = NULL
    return status.code


cdef int run_groups(
    Session* session, Signature* signature, TF_Tensor* const* inputs, const int* wanted, int wanted_size,
    TF_Tensor** outputs, int place, int64_t timeout_ms, Status* status
) noexcept nogil:
    """Run a joint signature one group of outputs after the other, those that any is wanted of.

    There are as many groups as signatures. To fetch all of them in one run instead would compute
    what nobody asked for, and fail if that does.
    """
    cdef TF_Tensor** fetched = <TF_Tensor**>malloc(signature.outputs_size * sizeof(TF_Tensor*))
    cdef int64_t begun_ns = now_ns()
    cdef int64_t left_ms = timeout_ms
    cdef int begin = 0, end, i
    if fetched == NULL:
        return status_set(status, RESOURCE_EXHAUSTED, "No memory to run the model")
    while begin < signature.outputs_size and status.code == 0:
        end = begin + 1
        while end < signature.outputs_size and signature.groups[end] == signature.groups[begin]:
            end += 1
        if is_any_within(wanted, wanted_size, begin, end):
            if timeout_ms > 0:
                left_ms = max(1, timeout_ms - (now_ns() - begun_ns) // NS_PER_MS)
            if run_graph(
                session, signature, inputs, signature.fetches + begin, fetched, end - begin, place, left_ms,
                status
            ) == 0:
                hand_out_group(fetched, begin, end, wanted, wanted_size, outputs)
        begin = end
    free(fetched)
    for i in range(wanted_size if status.code != 0 else 0):
        if outputs[i] != NULL:
            api.DeleteTensor(outputs[i])
            outputs[i] = NULL
    return status.code


cdef bint is_any_within(const int* wanted, int wanted_size, int begin, int end) noexcept nogil:
    cdef int i
    for i in range(wanted_size):
        if begin <= wanted[i] < end:
            return True
    return False


cdef void hand_out_group(
    TF_Tensor** fetched, int begin, int end, const int* wanted, int wanted_size, TF_Tensor** outputs
) noexcept nogil:
    """Move the tensors of the outputs from `begin` to `end` to where they are wanted; delete the others."""
    cdef int i
    for i in range(wanted_size):
        if begin <= wanted[i] < end:
            outputs[i] = fetched[wanted[i] - begin]
            fetched[wanted[i] - begin] = NULL
    for i in range(end - begin):
        if fetched[i] != NULL:
            api.DeleteTensor(fetched[i])


# ---------------------------------------------------------------------------------------- loading

cdef char ONE_BOOL[1]       # of a tensor that no model ever sees


cdef void keep(void* data, size_t size, void* arg) noexcept nogil:
    """Deallocator of memory that is not to be freed."""


cdef int build_executors(Session* session, Signature* signature, Status* status) noexcept nogil:
    """Let TensorFlow compile the graph for all outputs, without running any of it.

    DirectSession::Run first finds or builds what belongs to the feeds and fetches, then checks the
    types of the tensors that are fed, then the number of the thread pool. So a run that feeds
    one tensor of a wrong type everywhere and names a pool that no session has stops after
    building: nothing runs, no variable changes. The first request then takes 0.1 ms instead of
    12. Returns 1 if it was built. A model that TensorFlow can't compile still loads, and its
    requests get TensorFlow's error.
    """
    cdef TF_Status* tf_status = thread_status()
    cdef TF_Tensor** inputs
    cdef TF_Tensor** outputs
    cdef TF_Tensor* anything = NULL
    cdef TF_Buffer run_options
    cdef int64_t dims = 1
    cdef bint built = False
    cdef int i
    if tf_status == NULL or signature.broken or signature.outputs_size == 0:
        return 0
    inputs = <TF_Tensor**>calloc(signature.inputs_size + 1, sizeof(TF_Tensor*))
    outputs = <TF_Tensor**>calloc(signature.outputs_size, sizeof(TF_Tensor*))
    if inputs != NULL and outputs != NULL:
        anything = api.NewTensor(DT_BOOL, &dims, 1, ONE_BOOL, 1, keep, NULL)
    if anything != NULL:
        for i in range(signature.inputs_size):
            inputs[i] = anything
        run_options.data = IN_NO_THREAD
        run_options.length = THREAD_OPTIONS_SIZE
        run_options.data_deallocator = NULL
        api.SessionRun(
            session.session, &run_options, signature.feeds, inputs, signature.inputs_size,
            signature.fetches, outputs, signature.outputs_size, NULL, 0, NULL, tf_status)
        if take_status(tf_status, status) == INVALID_ARGUMENT:
            buffer_append(&status.message, b"", 1)  # a NUL, for strstr
            built = status.message.size and (
                strstr(status.message.data, "inter_op_thread_pool") != NULL
                or strstr(status.message.data, "Expects arg[") != NULL)
        if built:
            store_release_int(&signature.sets[FULL_SET].ready, 1)
        api.DeleteTensor(anything)
    free(inputs)
    free(outputs)
    return built


cdef void load_session(
    const char* export_dir, const char* const* tags, int tags_size, const char* config,
    size_t config_size, Session* session, TF_Buffer** meta_graph, Status* status
) noexcept nogil:
    """Read the SavedModel, restore its variables and run its initialisers: takes long.

    `meta_graph`, the caller's to delete, and `session` are set as far as it went.
    """
    cdef TF_Status* tf_status = thread_status()
    cdef TF_SessionOptions* options
    if tf_status == NULL:
        status_set(status, RESOURCE_EXHAUSTED, "No memory to load the model")
        return
    options = api.NewSessionOptions()
    meta_graph[0] = api.NewBuffer()
    session.graph = api.NewGraph()
    if config_size:
        api.SetConfig(options, config, config_size, tf_status)
        take_status(tf_status, status)
    if status.code == 0:
        session.session = api.LoadSessionFromSavedModel(
            options, NULL, export_dir, tags, tags_size, session.graph, meta_graph[0], tf_status)
        take_status(tf_status, status)
    api.DeleteSessionOptions(options)


cdef void find_devices(Session* session, Status* status) noexcept nogil:
    """Set `uses_gpu`."""
    cdef TF_Status* tf_status = thread_status()
    cdef TF_DeviceList* devices
    cdef const char* kind
    cdef int i
    devices = api.SessionListDevices(session.session, tf_status)
    if take_status(tf_status, status) != 0:
        return
    for i in range(api.DeviceListCount(devices)):
        kind = api.DeviceListType(devices, i, tf_status)
        if kind == NULL or strcmp(kind, "CPU") != 0:
            session.uses_gpu = True
    api.DeleteDeviceList(devices)


cdef void delete_session(Session* session) noexcept nogil:
    """End and free what belongs to TensorFlow, and the queues. No run may be in flight."""
    cdef TF_Status* tf_status
    cdef int i
    for i in range(session.all_size):
        signature_free_queue(&session.signatures[i])
    if session.session != NULL:
        tf_status = api.NewStatus()  # not the thread's: in __dealloc__ the thread may be ending
        api.CloseSession(session.session, tf_status)
        api.DeleteSession(session.session, tf_status)
        api.DeleteStatus(tf_status)
        session.session = NULL
    if session.graph != NULL:
        api.DeleteGraph(session.graph)
        session.graph = NULL


cdef class SavedModelSession(NativeServable):
    """A loaded SavedModel. Made by `load`, never by its constructor.

    Ownership: the session, the graph, all signatures and their default values are freed by
    close() or with the object; tensors that came out of runs live on. Thread-safety: runs, and
    cancel(), from any threads at once; close() only when no run is in flight.
    """

    def __cinit__(self):
        memset(&self.session, 0, sizeof(Session))
        self.impl = &self.session
        self._lifecycle = threading.Lock()
        self._cancelled = False

    def __init__(self):
        raise TypeError("use SavedModelSession.load")

    def __dealloc__(self):
        cdef int i
        with nogil:
            delete_session(&self.session)
        if self.session.signatures != NULL:
            for i in range(self.session.all_size):
                signature_free(&self.session.signatures[i])
        free(self.session.signatures)

    @staticmethod
    def load(
        export_dir: str,
        *,
        tags: Sequence[str] = ("serve",),
        config: bytes = b"",
        name: str = "",
        version: int = 0,
        batching: BatchingParameters | None = None,
    ) -> SavedModelSession:
        """Load the SavedModel in `export_dir`: for a loader's thread, it may take minutes.

        `tags` choose the MetaGraphDef, `config` is a serialized ConfigProto, `name` and `version`
        are the servable's, `batching` says how its requests are batched, if they are. Opens
        TensorFlow if need be. A ServingError carries TensorFlow's code and message.
        """
        _tf.open_for_sessions()
        cdef SavedModelSession made = SavedModelSession.__new__(SavedModelSession)
        made.export_dir = export_dir
        made.name = name
        made.version = version
        made.batching = batching
        if batching is not None:
            set_batching(&made.session, batching)
        with _loaded_lock:
            _loaded.add(made)
        made.waiting_op = ""
        made.signature_defs = {}
        load_into(made, list(tags), config)
        made.session.batching.arm = ARM_ANY if can_limit_threads() else ARM_EITHER
        if made.session.uses_gpu:
            made.session.batching.arm = ARM_POOL  # where all of its runs are
        return made

    def close(self) -> None:
        """Unload. Nothing may be running; later runs fail, closing again does nothing."""
        with self._lifecycle:
            with nogil:
                delete_session(&self.session)

    def cancel(self) -> None:
        """End all runs, in whatever thread, with CANCELLED, and refuse new ones: the last resort.

        Returns at once; runs end as soon as their ops notice. The model stays loaded until close().
        """
        cdef TF_Status* tf_status
        if not self._lifecycle.acquire(blocking=False):
            return  # being closed or cancelled: nothing is left to end
        try:
            if not self._cancelled and self.session.session != NULL:
                self._cancelled = True
                with nogil:
                    tf_status = thread_status()
                    if tf_status != NULL:
                        api.CloseSession(self.session.session, tf_status)
        finally:
            self._lifecycle.release()

    def hurry(self) -> None:
        """Nobody new comes: let what waits in batches run now, whatever it waits for."""
        cdef BatchQueue* queue
        cdef int i
        with self._lifecycle:  # not while close() frees the queues
            self.session.hurries = True
            for i in range(self.session.all_size):
                queue = batch_queue_of(&self.session, i)
                if queue != NULL:
                    batch_queue_hurry(queue)

    def sweep(self) -> None:
        """Let go of requests in batch queues that nobody waits for any more, and of their memory."""
        cdef BatchQueue* queue
        cdef int i
        with self._lifecycle:  # not while close() frees the queues
            for i in range(self.session.all_size):
                queue = batch_queue_of(&self.session, i)
                if queue != NULL and load_relaxed_i64(&queue.waiting_rows) > 0:
                    batch_queue_sweep(queue)

    def describe_batching(self) -> dict[str, dict[str, object]]:
        """What batch_counts tells of each signature that was asked, by name.

        Signatures with the same inputs and outputs share a queue; it is told of the first of them. Under
        "" is what MultiInference asks of several signatures.
        """
        cdef BatchQueue* queue
        cdef int i
        described = {}
        with self._lifecycle:  # not while close() frees the queues
            for i in range(self.session.all_size):
                queue = batch_queue_of(&self.session, i)
                if queue != NULL:
                    described[text_of(self.session.signatures[i].name)] = batch_counts(queue)
        return described

    @property
    def queues_size(self) -> int:
        """How many signatures there are that queue_numbers() tells of, with that of MultiInference."""
        return self.session.all_size

    def queue_numbers(self, index: int) -> QueueNumbers | None:
        """What waits for a signature, and what its batches were; None of one that was never asked.

        It never waits: None too while the session is being closed or its queues are looked through.
        """
        cdef Signature* signature
        cdef BatchQueue* queue
        if not self._lifecycle.acquire(blocking=False):
            return None
        try:
            if not 0 <= index < self.session.all_size:
                return None
            signature = &self.session.signatures[index]
            if signature.queue == NULL:
                return None
            if not self.session.is_batched:
                return QueueNumbers(
                    text_of(signature.name), queue_size(&(<RunQueue*>signature.queue).waiting), None)
            queue = <BatchQueue*>signature.queue
            return QueueNumbers(
                text_of(signature.name), max(0, load_relaxed_i64(&queue.waiting_rows)),
                BatchNumbers(*batch_numbers(queue)))
        finally:
            self._lifecycle.release()

    def describe(self) -> dict[str, dict[str, object]]:
        """What is known of each signature, by name, for tests and tools.

        The keys: method_name; inputs and outputs, each {alias: (tensor name, dtype)}; defaults,
        the aliases with a default value; may_run_in_place; built, whether TensorFlow has compiled
        the graph for all outputs; other_sets, the number of other sets of outputs asked for so
        far; broken, why it can't be served, or "".
        """
        cdef int i
        return {
            text_of(self.session.signatures[i].name):
                signature_description(&self.session.signatures[i])
            for i in range(self.session.signatures_size)
        }


cdef inline BatchQueue* batch_queue_of(const Session* session, int signature) noexcept:
    """The queue in which requests for a signature wait for a batch; NULL: there is none."""
    return <BatchQueue*>session.signatures[signature].queue if session.is_batched else NULL


def loaded_sessions() -> list[SavedModelSession]:
    """All sessions, in no order, some of them being loaded or closed."""
    with _loaded_lock:
        return list(_loaded)


def batched_sessions() -> list[SavedModelSession]:
    """The sessions whose requests are batched, in no order, some of them closed perhaps."""
    return [session for session in loaded_sessions() if session.batching is not None]


cdef int set_batching(Session* session, object parameters) except -1:
    """Requests go through queues: BatchingParameters as native code reads them."""
    batch_settings_read(&session.batching, parameters)
    session.is_batched = True
    session.share.limit = session.batching.max_runs
    return 0


def _encode(text: str) -> bytes:
    """For C: `text` must have no NUL."""
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise ServingError(INVALID_ARGUMENT, f"{text!r} has a NUL")
    return encoded


cdef int load_into(SavedModelSession made, list tags, bytes config) except -1:
    """Fill in a new session."""
    encoded_dir = _encode(made.export_dir)
    encoded_tags = [_encode(tag) for tag in tags]
    config, has_run_pools = add_run_pools(config)
    cdef const char* c_dir = encoded_dir
    cdef const char* c_config = config
    cdef size_t config_size = len(config)
    cdef int tags_size = len(encoded_tags)
    cdef const char** c_tags = <const char**>zeroed(tags_size, sizeof(char*))
    cdef TF_Buffer* meta_graph = NULL
    cdef Status status
    cdef int i
    status_init(&status)
    try:
        for i in range(tags_size):
            c_tags[i] = encoded_tags[i]
        with nogil:
            load_session(
                c_dir, c_tags, tags_size, c_config, config_size, &made.session, &meta_graph,
                &status)
            if status.code == 0:
                find_devices(&made.session, &status)
        if status.code != 0:
            raise status_error(&status)
        made.session.has_run_pools = has_run_pools and not made.session.uses_gpu
        entries = scan_meta_graph(made, meta_graph)
        with nogil:
            api.DeleteBuffer(meta_graph)
        meta_graph = NULL
        resolve_signatures(made, entries)
        build_signatures(&made.session)
    finally:
        free(c_tags)
        if meta_graph != NULL:
            api.DeleteBuffer(meta_graph)
        status_free(&status)
    return 0


cdef dict scan_meta_graph(SavedModelSession made, TF_Buffer* meta_graph):
    """The serialized SignatureDefs by name; sets `waiting_op`, and asks for the checkpoint."""
    custom_ops = _tf.custom_ops()
    cdef int custom_ops_size = len(custom_ops)
    cdef Bytes* ops = <Bytes*>zeroed(custom_ops_size, sizeof(Bytes))
    cdef MetaGraphView view
    cdef Bytes data
    cdef bint restores_variables
    cdef int result
    cdef int i
    meta_graph_view_init(&view)
    try:
        for i in range(custom_ops_size):
            ops[i].data = <const char*><bytes>custom_ops[i]
            ops[i].size = len(custom_ops[i])
        data.data = <const char*>meta_graph.data
        data.size = meta_graph.length
        with nogil:
            result = meta_graph_scan(data, ops, custom_ops_size, &view)
        if result == -2:
            raise MemoryError
        if result != 0:
            raise ServingError(DATA_LOSS, f"The MetaGraphDef in {made.export_dir} is malformed")
        with nogil:
            restores_variables = meta_graph_restores_variables(data)
        if restores_variables:
            find_checkpoint(made.export_dir)
        made.waiting_op = text_of(view.waiting_op)
        return {
            text_of(view.signatures[i].name): (
                view.signatures[i].signature_def.data[: view.signatures[i].signature_def.size]
                if view.signatures[i].signature_def.size
                else b""
            )
            for i in range(view.signatures_size)
        }
    finally:
        meta_graph_view_free(&view)
        free(ops)


cdef int find_checkpoint(str export_dir) except -1:
    """Raise NOT_FOUND when there is none: the model is half copied.

    TensorFlow's loader takes a SavedModel without one for a SavedModel without variables (see
    cc/saved_model/loader.cc), and every request that reads a variable fails.
    """
    index = os.path.join(export_dir, "variables", "variables.index")
    if not os.path.exists(index):
        raise ServingError(
            NOT_FOUND, f"The model has variables, but there is no checkpoint for them: {index}")
    return 0


cdef int resolve_signatures(SavedModelSession made, dict entries) except -1:
    """Fill in the signatures, sorted by name."""
    signature_def_class = message_class("tensorflow.SignatureDef")
    names = sorted(entries)
    made.session.signatures = <Signature*>zeroed(len(names) + 1, sizeof(Signature))
    made.session.signatures_size = len(names)
    made.session.all_size = len(names) + 1
    cdef Signature* signature
    cdef int i
    for i in range(len(names)):
        signature = &made.session.signatures[i]
        signature_def = signature_def_class.FromString(entries[names[i]])
        made.signature_defs[names[i]] = signature_def
        signature_resolve(signature, made.session.graph, names[i], signature_def)
        inference_resolve(signature, signature_def)
        count_uses(made, signature, names[i])
        signature.may_run_in_place = not made.session.uses_gpu and not made.waiting_op
        signature.twin = find_twin(&made.session, i)
    signature = &made.session.signatures[len(names)]
    if inference_join(made.session.signatures, len(names), signature):
        made.session.joint = signature
        signature.may_run_in_place = not made.session.uses_gpu and not made.waiting_op
        signature.twin = signature
    return 0


cdef int count_uses(SavedModelSession made, Signature* signature, str name) except -1:
    """Give the signature the counters of what can be asked of it."""
    signature.counters = counters_of(made.name, made.version, name, "Predict")
    if signature.classify.refusal.data == NULL:
        signature.classify.counters = counters_of(made.name, made.version, name, "Classify")
    if signature.regress.refusal.data == NULL:
        signature.regress.counters = counters_of(made.name, made.version, name, "Regress")
    if signature.classify.counters != NULL or signature.regress.counters != NULL:
        made.session.multi_counters = counters_of(made.name, made.version, "", "MultiInference")
    return 0


cdef Signature* find_twin(Session* session, int index) noexcept nogil:
    """The first signature with the feeds and fetches of this one; itself if there is none before it."""
    cdef int i
    for i in range(index):
        if signatures_are_twins(&session.signatures[i], &session.signatures[index]):
            return &session.signatures[i]
    return &session.signatures[index]


cdef int build_signatures(Session* session) except -1:
    """See build_executors. The default signature first, then others in their order."""
    cdef Status status
    cdef Signature* signature
    cdef int built = 0
    cdef int i
    status_init(&status)
    with nogil:
        signature = session_find(session, default_signature())
        if signature != NULL:
            built += build_executors(session, signature, &status)
        for i in range(session.signatures_size):
            if built < BUILT_AT_LOAD and &session.signatures[i] != signature:
                built += build_executors(session, &session.signatures[i], &status)
        status_free(&status)
    return 0
