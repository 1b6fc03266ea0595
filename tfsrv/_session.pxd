"""A SavedModel: loaded, its signatures resolved, run without the GIL."""

from libc.stdint cimport int64_t, uint64_t

from tfsrv._buffer cimport Bytes
from tfsrv._serving_map cimport NativeServable
from tfsrv._status cimport Status
from tfsrv._tf cimport TF_Buffer, TF_Graph, TF_Operation, TF_Output, TF_Session, TF_Tensor


cdef struct SignatureInput:
    Bytes alias             # owned by the session, like all Bytes here
    Bytes tensor_name       # "x:0"
    int dtype
    TF_Tensor* default_value   # owned; NULL when the signature has none for this alias

cdef struct SignatureOutput:
    Bytes alias
    Bytes tensor_name
    int dtype

# Outputs that were fetched together before: a set costs TensorFlow 12 ms and 73 KB once.
cdef struct FetchSet:
    uint64_t* bits          # owned; bit i is outputs[i]
    int ready               # atomic: 0 not built yet, 1 built

cdef struct Signature:
    Bytes name
    Bytes method_name
    int inputs_size
    int outputs_size
    int defaults_size       # inputs with a default value
    SignatureInput* inputs  # sorted by alias
    SignatureOutput* outputs   # sorted by alias
    TF_Output* feeds        # inputs_size, in the order of inputs
    TF_Output* fetches      # outputs_size, in the order of outputs
    FetchSet* sets          # MAX_FETCH_SETS of them; own to _session
    int sets_size           # atomic
    bint may_run_in_place   # CPU only, and no op of the graph loops or waits
    bint broken             # an input or output is no plain tensor: `broken_reason` says which
    Bytes broken_reason
    void* queue             # what waits to be run on this signature; set by the handler that runs it
    void (*queue_free)(void* queue) noexcept nogil   # set with it; called once, by close()
    void* counters          # Counters of Predict on this signature; set at load, lives for ever

cdef struct Session:
    TF_Session* session
    TF_Graph* graph
    Signature* signatures   # sorted by name
    int signatures_size
    bint uses_gpu
    bint closed             # TF_CloseSession was called

cdef Signature* session_find(Session* session, Bytes name) noexcept nogil
cdef int session_plan(Session* session, Signature* signature, const int* wanted, int wanted_size, bint* first_time) noexcept nogil
cdef int session_run(
    Session* session, Signature* signature, TF_Tensor* const* inputs, const int* wanted,
    int wanted_size, TF_Tensor** outputs, bint in_callers_thread, int64_t timeout_ms,
    Status* status) noexcept nogil


cdef class SavedModelSession(NativeServable):
    cdef Session session    # `impl` points to it
    cdef readonly object signature_defs    # {name: SignatureDef}, from the private descriptor pool
    cdef readonly str export_dir
