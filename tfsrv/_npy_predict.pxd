"""Predict with numpy's files as bodies: .npy and .npz in and out, without the GIL."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._input_types cimport InputType
from tfsrv._message cimport Message
from tfsrv._predict_response cimport TensorData
from tfsrv._status cimport Status

cdef int npy_read_predict(
    Bytes body, bint is_npz, const InputType* inputs, int inputs_size, Bytes model_name,
    bint has_version, int64_t version, Bytes label, Bytes signature_name, size_t most_bytes,
    Buffer* wire, Status* status) noexcept nogil
cdef int npy_write_predict(
    Message* message, TensorData* outputs, int outputs_size, bint as_npz, size_t splice_from,
    void (*release)(void* holder) noexcept nogil, Status* status) noexcept nogil
