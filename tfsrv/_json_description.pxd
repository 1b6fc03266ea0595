"""JSON values in the texts of errors."""

from libc.stdint cimport uint32_t

from tfsrv._json_document cimport JsonDocument
from tfsrv._status cimport Status

cdef void json_status_add_value(Status* status, const JsonDocument* document, uint32_t at) noexcept nogil
