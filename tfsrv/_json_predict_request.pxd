"""A JSON body for :predict, made into a PredictRequest on protobuf's wire format."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._input_types cimport InputType
from tfsrv._json_document cimport JsonDocument
from tfsrv._model_spec cimport RequestSpec
from tfsrv._status cimport Status


cdef int json_read_predict(
    const JsonDocument* document, const InputType* inputs, int inputs_size, const RequestSpec* spec,
    Buffer* wire, bint* in_rows, Status* status) noexcept nogil
