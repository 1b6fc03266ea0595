"""What a Predict call runs: its tensors and outputs matched with the signature's."""

from tfsrv._call cimport Call

cdef int predict_plan(Call* call, bint as_content, size_t max_message_bytes) noexcept nogil
