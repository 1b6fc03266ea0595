"""What nghttp2 calls."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from tfsrv.frontends._nghttp2 cimport (
    nghttp2_data_source,
    nghttp2_session,
    nghttp2_session_callbacks,
)

cdef void set_callbacks(nghttp2_session_callbacks* callbacks) noexcept
cdef ssize_t read_answer(
    nghttp2_session* session, int32_t stream_id, uint8_t* target, size_t size, uint32_t* data_flags,
    nghttp2_data_source* source, void* user_data) noexcept
