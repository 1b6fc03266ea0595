"""A JSON body for :classify or :regress, made into their request on protobuf's wire format."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._json_document cimport JsonDocument
from tfsrv._model_spec cimport RequestSpec
from tfsrv._status cimport Status

cdef int json_read_inference(
    const JsonDocument* document, const RequestSpec* spec, Buffer* wire, Status* status) noexcept nogil
