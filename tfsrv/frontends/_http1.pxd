"""An HTTP/1.1 server on uvloop."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._call_loop cimport CallLoop
from tfsrv.frontends._http1_answer cimport Clock
from tfsrv.frontends._http1_routes cimport HttpRoutes

cdef enum:
    INPUT_BYTES = 65536     # one read at most
    OUTPUT_BYTES = 65536    # answers that fit in leave in one piece with their heads


cdef class Http1Server:
    cdef CallLoop calls
    cdef object loop
    cdef HttpRoutes routes
    cdef object answering   # HttpAnswering: requests that Python answers
    cdef char* input        # what connections read into, one after the other
    cdef object input_view
    cdef char* output       # what connections write from, one after the other
    cdef void* connections  # HttpConnection, the newest; the list has a reference to each
    cdef int connections_size
    cdef list dirty         # connections with something to do, after completions
    cdef list sending       # connections that go on in the loop's next turn
    cdef Clock clock
    cdef bytes extra_text
    cdef Bytes extra        # fields of every answer, ending in CR LF
    cdef object ticker
    cdef object idle        # asyncio.Event: no connection left
    cdef bint flushing      # connections with something to do are flushed soon
    cdef bint draining
    cdef bint dropping      # the grace of drain() is over
    cdef readonly object settings
    cdef size_t max_body_bytes
    cdef size_t max_handled_bytes
    cdef int64_t connection_share
    cdef int64_t timeout_ns     # the settings', 0: none
    cdef int64_t head_ns
    cdef int64_t idle_ns
    cdef int64_t upload_ns
    cdef int64_t unread_ns
    cdef int64_t stall_ns
    cdef int64_t linger_ns
    cdef double hangup_seconds
    cdef double tick_seconds
    cdef int64_t relieved_ns    # when relieve() last looked
    cdef bint relieve(self, object asking) noexcept
    cdef void flush_soon(self) noexcept
