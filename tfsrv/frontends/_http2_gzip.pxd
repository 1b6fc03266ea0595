"""Compressed messages of streams: gzip works in a thread while the loop goes on."""

from tfsrv.frontends._http2_connection cimport Connection
from tfsrv.frontends._http2_stream cimport Stream

cdef void inflate_request(Connection connection, Stream* stream) noexcept
cdef void deflate_answer(Connection connection, Stream* stream) noexcept
cdef void let_go(Stream* stream) noexcept
