"""Streaming calls: streams on which messages go both ways until one side ends it."""

from libc.stdint cimport int64_t

from tfsrv._streaming_method cimport StreamingMethod
from tfsrv.frontends._http2_connection cimport Connection
from tfsrv.frontends._http2_stream cimport Stream

cdef void streaming_begin(Connection connection, Stream* stream, StreamingMethod method) noexcept
cdef void streaming_data(Stream* stream, const char* data, size_t size) noexcept
cdef void streaming_request_end(Stream* stream) noexcept
cdef void streaming_copy(Stream* stream, char* target, size_t size) noexcept
cdef bint streaming_tick(Stream* stream, int64_t now) noexcept
cdef bint streaming_relieve(Stream* stream, int64_t now) noexcept
cdef void streaming_closed(Stream* stream) noexcept
