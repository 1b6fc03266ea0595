"""Predict bodies as most clients write them, decoded in one pass."""

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._input_types cimport InputType
from tfsrv._model_spec cimport RequestSpec

cdef enum:
    QUICK_NOT = 1           # no WireResult: the body is not of this kind; nothing is said of it

cdef bint json_quick_open(Bytes body, Bytes* signature_name, const char** values) noexcept nogil
cdef int json_quick_read(
    const char* values, const char* end, const InputType* inputs, int inputs_size,
    const RequestSpec* spec, Buffer* wire, bint* in_rows) noexcept nogil
