"""A request's tensors as numpy arrays, and numpy arrays as a response."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._message cimport Message
from tfsrv._predict_request cimport PredictView, TensorView
from tfsrv._predict_response cimport TensorData

# Appends a response with these tensors, which are borrowed, to a message. A WireResult.
ctypedef int (*write_tensors_fn)(
    Message* message, TensorData* tensors, int size, void* arg) noexcept nogil


cdef int64_t array_bytes(const PredictView* view, const TensorView* tensor) noexcept nogil
cdef dict arrays_of_view(const PredictView* view)
cdef int let_go_of_strings(dict arrays) except -1
cdef dict plain_arrays(dict outputs)
cdef int64_t plain_arrays_bytes(dict plain) except -1
cdef int write_tensors(
    Message* message, list named, bint as_content, bint copies_all, write_tensors_fn write, void* arg) except? -1
cdef int write_arrays(
    Message* message, dict plain, Bytes model_name, int64_t version, Bytes signature_name,
    bint as_content) except -1
