"""A JSON body for :predict, made into a PredictRequest on protobuf's wire format."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._json_document cimport JsonDocument
from tfsrv._status cimport Status


# An input of the signature: not owned.
cdef struct JsonInput:
    Bytes alias
    int dtype               # TensorFlow's number; what the values have to be


cdef int json_read_predict(
    const JsonDocument* document, const JsonInput* inputs, int inputs_size, Bytes model_name,
    bint has_version, int64_t version, Bytes label, Bytes signature_name, Buffer* wire,
    bint* in_rows, Status* status) noexcept nogil
