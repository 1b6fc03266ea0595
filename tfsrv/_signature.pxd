"""What a signature is once its model is loaded: feeds, fetches, and sets of outputs."""

from libc.stdint cimport uint64_t

from tfsrv._buffer cimport Bytes
from tfsrv._run_queue cimport RunRecord
from tfsrv._tf cimport TF_Graph, TF_Output, TF_Tensor


cdef enum:
    MAX_OTHER_SETS = 16     # sets of outputs, besides all of them, that TensorFlow may build
    FULL_SET = 0            # index in Signature.sets: all outputs
    NEW_SET = -1            # not seen before
    BAD_SET = -2            # an index out of range or twice


cdef struct SignatureInput:
    Bytes alias             # owned by the signature, like all Bytes here
    Bytes tensor_name       # "x:0"
    int dtype
    TF_Tensor* default_value   # owned; NULL when the signature has none for this alias
    bint has_rows           # dim 0 may be any number: rows of several requests may follow each other
    int rank                # -1: any

cdef enum OutputRows:
    HAS_NO_ROWS = 0         # dim 0 is fixed, or a run has shown it to be no number of rows
    MAY_HAVE_ROWS = 1       # dim 0 may be any number
    HAS_ROWS = 2            # and was that of the rows of a batch

cdef struct SignatureOutput:
    Bytes alias
    Bytes tensor_name
    int dtype
    int has_rows            # atomic: an OutputRows

cdef struct FetchSet:
    # Outputs that were fetched together before: a set costs TensorFlow 12 ms and 73 KB once.
    uint64_t* bits          # owned; atomic; bit i is outputs[i]; NULL while the slot is free
    int ready               # atomic: 0 not built yet, 1 built

# What Classify or Regress does with a signature; set by _inference_signature.
cdef struct InferenceUse:
    Bytes refusal           # why it does nothing, as it is told; no data: it works
    int labels              # output with the classes; -1: none
    int scores              # output with the scores, or with the values of a regression; -1: none
    void* counters          # Counters of it on this signature; NULL: it does nothing

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
    FetchSet* sets          # the full set and MAX_OTHER_SETS more
    bint may_run_in_place   # CPU only, and no op of the graph loops or waits
    bint broken             # an input or output is no plain tensor: `broken_reason` says which
    Bytes broken_reason
    Signature* twin         # the first signature of the model with these feeds and fetches in this order
    RunRecord record        # what its runs took
    void* queue             # what waits to be run on this signature; set by its handler
    void (*queue_free)(void* queue) noexcept nogil   # set with it; called once, by close()
    void* counters          # Counters of Predict on this signature; set at load, lives for ever
    InferenceUse classify
    InferenceUse regress
    int* joint_outputs      # owned; where its outputs are in the model's joint signature; NULL: it is not in it
    int* groups             # owned; of the joint one: which signature brought each output, ascending; else NULL

cdef int signature_resolve(
    Signature* signature, TF_Graph* graph, str name, object signature_def) except -1
cdef bint signatures_are_twins(const Signature* one, const Signature* other) noexcept nogil
cdef void signature_free_queue(Signature* signature) noexcept nogil
cdef void signature_free(Signature* signature) noexcept nogil
cdef int signature_choose_set(
    Signature* signature, const int* wanted, int wanted_size, bint claim) noexcept nogil
cdef int signature_fetches(
    const Signature* signature, const uint64_t* bits, TF_Output* fetches) noexcept nogil
cdef void signature_hand_out(
    const Signature* signature, const uint64_t* bits, TF_Tensor** fetched, int fetched_size,
    const int* wanted, int wanted_size, TF_Tensor** outputs) noexcept nogil
cdef object signature_description(const Signature* signature)
cdef Bytes own_bytes(bytes text) except *
cdef int signature_make_room(Signature* signature, int inputs_size, int outputs_size) except -1
cdef bint same_output(TF_Output one, TF_Output other) noexcept nogil
cdef str text_of(Bytes view)
cdef void* zeroed(size_t count, size_t size) except NULL
