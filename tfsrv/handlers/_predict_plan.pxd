"""What a Predict call runs: its tensors and outputs matched with the signature's."""

from libc.stdint cimport int64_t

from tfsrv._call cimport Call
from tfsrv._predict_request cimport TensorView
from tfsrv._predict_response cimport TensorData
from tfsrv._tf cimport TF_Tensor


# At the start of a call's scratch memory, the arrays behind it.
cdef struct Plan:
    bint as_content             # tensors go into tensor_content
    const TensorView** views    # for each input of the signature; NULL: its default value
    TF_Tensor** feeds           # likewise
    TF_Tensor** fetched         # for each wanted output
    TensorData* outputs         # likewise
    int64_t* dims               # MAX_RANK for each
    int64_t input_bytes

cdef int plan_make(Call* call, bint as_content, size_t max_message_bytes) noexcept nogil
cdef int plan_check_tensors(Call* call) noexcept nogil
