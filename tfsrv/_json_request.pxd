"""What the JSON bodies of all methods share: their signature's name, binary strings, and the model's name."""

from libc.stdint cimport int64_t, uint32_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._json_document cimport JsonDocument
from tfsrv._status cimport Status

cdef int json_document_signature_name(const JsonDocument* document, Bytes* name, Status* status) noexcept nogil
cdef bint json_is_base64(const JsonDocument* document, uint32_t at) noexcept nogil
cdef int json_append_base64(
    Buffer* out, char tag, const JsonDocument* document, uint32_t at, Status* status) noexcept nogil
cdef int append_field(Buffer* out, char tag, Bytes value) noexcept nogil
cdef int request_too_large(Status* status) noexcept nogil
cdef int request_without_memory(Status* status) noexcept nogil
cdef const char* json_type_name(int kind) noexcept nogil
