"""A gRPC server on libnghttp2 and uvloop."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._call_loop cimport CallLoop
from tfsrv.frontends._http2_stream cimport Stream
from tfsrv.frontends._nghttp2 cimport nghttp2_option, nghttp2_session_callbacks

cdef enum:
    OUTPUT_BYTES = 65536    # answers that fit in are copied out of it once more


cdef struct MethodEntry:
    Bytes path              # bytes of an object in Http2Server.paths
    void* method            # Method, kept alive by Http2Server.methods
    void* streaming         # the same if it is a StreamingMethod; else NULL


cdef class Http2Server:
    cdef CallLoop calls
    cdef object loop
    cdef dict methods
    cdef list paths
    cdef MethodEntry* table
    cdef int table_size
    cdef nghttp2_session_callbacks* callbacks
    cdef nghttp2_option* option
    cdef Stream* free_streams
    cdef int free_size
    cdef char* input        # what connections read into, one after the other
    cdef object input_view
    cdef char* output       # what connections write from, one after the other
    cdef list dirty         # connections with something to write, after completions
    cdef set connections
    cdef set answering      # tasks of streaming calls, those included that are cancelled and not over
    cdef object ticker
    cdef object idle        # asyncio.Event: no connection left
    cdef bint flushing      # connections with something to write are flushed soon
    cdef bint draining
    cdef bint dropping      # the grace of drain() is over
    cdef readonly object settings
    cdef size_t max_message_bytes
    cdef int64_t connection_share
    cdef int64_t preface_ns     # the settings' patience
    cdef int64_t unread_ns
    cdef int64_t upload_ns
    cdef int64_t stall_ns
    cdef int64_t last_word_ns
    cdef int64_t stream_grace_ns
    cdef double tick_seconds
    cdef int64_t relieved_ns    # when relieve() last looked
    cdef Stream* new_stream(self) noexcept
    cdef void free_stream(self, Stream* stream) noexcept
    cdef bint relieve(self, object asking) noexcept
    cdef void flush_soon(self) noexcept
    cdef int make_callbacks(self) except -1
