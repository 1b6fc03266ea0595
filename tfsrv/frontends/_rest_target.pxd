"""What the head of a request to run a model says: path, query, and forms of the bodies."""

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._rest_call cimport RestCall

cdef bint rest_read_target(
    Bytes path, Bytes query, Bytes content_type, Bytes accept, RestCall* rest, Buffer* prefix) noexcept nogil
