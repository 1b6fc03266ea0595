"""What a call runs: the signature's tensors, and where those of the request are."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._call cimport Call
from tfsrv._predict_request cimport TensorView
from tfsrv._predict_response cimport TensorData
from tfsrv._tf cimport TF_Tensor


cdef enum:
    SPLICE_FROM = 16384         # bytes; smaller payloads are cheaper to copy

# One of the results that a call of Classify, Regress or MultiInference gets.
cdef struct InferenceTask:
    Bytes signature_name
    bint is_regression
    int labels                  # index of the output with classes among the wanted ones; -1: none
    int scores                  # of the output with scores, or with the values of a regression; -1: none

# At the start of a call's scratch memory, the arrays behind it.
cdef struct Plan:
    # Appends the response from `outputs`. A WireResult, or sets the call's status.
    int (*write)(Call* call, Plan* plan) noexcept nogil
    bint splices                # it can take long values over as they lie there
    bint as_content             # tensors go into tensor_content
    InferenceTask* tasks        # `tasks_size` of them
    int tasks_size
    const TensorView** views    # for each input of the signature; NULL: its default value
    TF_Tensor** feeds           # likewise
    TF_Tensor** fetched         # for each wanted output
    TensorData* outputs         # likewise
    int64_t* dims               # MAX_RANK for each
    int64_t input_bytes

cdef Plan* plan_lay_out(Call* call, int tasks_size) noexcept nogil
cdef int plan_take_input(
    Call* call, Plan* plan, int input, const TensorView* view, size_t max_message_bytes) noexcept nogil
cdef int plan_charge(Call* call, Plan* plan) noexcept nogil
cdef int plan_check_tensors(Call* call) noexcept nogil
