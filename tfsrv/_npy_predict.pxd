"""Predict with numpy's files as bodies: .npy and .npz in and out, without the GIL."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._input_types cimport InputType
from tfsrv._message cimport Message
from tfsrv._model_spec cimport RequestSpec
from tfsrv._predict_response cimport TensorData
from tfsrv._status cimport Status

cdef int npy_read_predict(
    Bytes body, bint is_npz, const InputType* inputs, int inputs_size, const RequestSpec* spec,
    size_t most_bytes, Buffer* wire, Status* status) noexcept nogil
cdef int npy_write_predict(
    Message* message, TensorData* outputs, int outputs_size, bint as_npz, size_t splice_from,
    void (*release)(void* holder) noexcept nogil, Status* status) noexcept nogil
