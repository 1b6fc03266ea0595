"""Header fields as nghttp2 takes them and gives them."""

from libc.stdint cimport uint8_t
from libc.string cimport memcmp

from tfsrv._buffer cimport Bytes
from tfsrv._status cimport UNKNOWN
from tfsrv.frontends._nghttp2 cimport (
    NGHTTP2_NV_FLAG_NO_COPY_NAME,
    NGHTTP2_NV_FLAG_NO_COPY_VALUE,
    nghttp2_nv,
)


cdef inline nghttp2_nv field(
    const char* name, size_t name_size, const char* value, size_t value_size
) noexcept:
    """A header field of constants: nghttp2 copies neither."""
    cdef nghttp2_nv made
    made.name = <const uint8_t*>name
    made.value = <const uint8_t*>value
    made.namelen = name_size
    made.valuelen = value_size
    made.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    return made


cdef inline nghttp2_nv status_field(int code) noexcept:
    """grpc-status of one of the seventeen codes."""
    cdef const char* digits = b"0123456789"
    cdef const char* teens = b"10111213141516"
    if code < 0 or code > 16:
        code = UNKNOWN
    if code < 10:
        return field(b"grpc-status", 11, digits + code, 1)
    return field(b"grpc-status", 11, teens + 2 * (code - 10), 2)


cdef inline bint same(Bytes text, const char* other, size_t size) noexcept:
    return text.size == size and memcmp(text.data, other, size) == 0
