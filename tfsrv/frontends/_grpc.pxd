"""gRPC's own encodings in HTTP/2 headers, without Python."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes

cdef int64_t parse_timeout(Bytes text) noexcept nogil
cdef bint is_grpc_content_type(Bytes text) noexcept nogil
cdef bint has_token(Bytes text, Bytes token) noexcept nogil
cdef char* CUT_MARK
cdef size_t kept_size(Bytes text) noexcept nogil
cdef int encode_message(Bytes text, Buffer* into) noexcept nogil
