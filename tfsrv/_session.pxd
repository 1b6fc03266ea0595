"""A SavedModel: loaded, its signatures resolved, run without the GIL."""

from libc.stdint cimport int64_t

from tfsrv._batching cimport BatchSettings
from tfsrv._buffer cimport Bytes
from tfsrv._servable cimport NativeServable
from tfsrv._signature cimport Signature, SignatureInput, SignatureOutput
from tfsrv._status cimport Status
from tfsrv._tf cimport TF_Graph, TF_Session, TF_Tensor
from tfsrv._workers cimport Share


cdef enum RunPlace:
    IN_CALLERS_THREAD = 0
    ON_RUN_POOL = 1         # a pool with one thread that no other run has
    ON_SHARED_POOL = 2      # the pool of all sessions, with a thread for each processor

cdef struct Session:
    TF_Session* session     # owned; NULL once closed
    TF_Graph* graph         # owned; outlives `session`
    Signature* signatures   # owned; sorted by name, and behind them `joint`; they outlive `session`
    int signatures_size     # of those that have names
    int all_size            # and of the joint one, which may be empty
    Signature* joint        # of MultiInference, see _inference_signature; NULL: no two that could be joined
    void* multi_counters    # Counters of MultiInference on this model; NULL: it has nothing to infer
    bint uses_gpu           # some device is no CPU
    bint has_run_pools      # the pools of _run_pools, for runs with a time-out
    Share share             # of the workers
    bint is_batched         # requests go through queues with `batching`
    BatchSettings batching
    bint hurries            # nobody new comes: queues that are made now let nothing wait; with the GIL

cdef Signature* session_find(Session* session, Bytes name) noexcept nogil
cdef int session_plan(
    Session* session, Signature* signature, const int* wanted, int wanted_size, bint* first_time
) noexcept nogil
cdef int session_run(
    Session* session, Signature* signature, TF_Tensor* const* inputs, const int* wanted,
    int wanted_size, TF_Tensor** outputs, int place, int64_t timeout_ms, Status* status) noexcept nogil


cdef class SavedModelSession(NativeServable):
    cdef Session session    # `impl` points to it
    cdef readonly object signature_defs    # {name: SignatureDef}, from the private descriptor pool
    cdef readonly str export_dir
    cdef readonly str name          # the servable's, of its counters
    cdef readonly int64_t version
    cdef readonly object batching   # BatchingParameters; None: requests are not batched
    cdef readonly str waiting_op    # an op that forbids running in the caller's thread, "" if none
    cdef object __weakref__
    cdef object _lifecycle          # threading.Lock: one close() or cancel() at a time
    cdef bint _cancelled            # TF_CloseSession was called; under _lifecycle
