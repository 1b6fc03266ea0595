"""DEFLATE (RFC 1951) without a wrapper around it, unpacked by zlib, without the GIL."""

from libc.string cimport memset

from tfsrv._zlib cimport Z_FINISH, Z_MEM_ERROR, Z_OK, Z_STREAM_END, ZLIB_VERSION, ZStream, zlib

cdef enum:
    RAW_WINDOW = -15        # windowBits: the largest window, and no wrapper
    LARGEST = 0xFFFFFFFF    # bytes, which zlib counts in an unsigned int


cdef int inflate_raw(Bytes packed, char* into, size_t size) noexcept nogil:
    """Unpack all of `packed` into exactly `size` bytes at `into`. An InflateResult. Any thread."""
    cdef ZStream stream
    cdef char nothing
    cdef int result
    if packed.size > LARGEST or size > LARGEST:
        return INFLATE_BAD
    memset(&stream, 0, sizeof(stream))
    if zlib.inflateInit2_(&stream, RAW_WINDOW, ZLIB_VERSION, sizeof(ZStream)) != Z_OK:
        return INFLATE_NO_MEMORY
    stream.next_in = <const unsigned char*>packed.data
    stream.avail_in = <unsigned int>packed.size
    stream.next_out = <unsigned char*>(into if size else &nothing)  # zlib takes no NULL
    stream.avail_out = <unsigned int>size
    result = zlib.inflate(&stream, Z_FINISH)
    zlib.inflateEnd(&stream)
    if result == Z_MEM_ERROR:
        return INFLATE_NO_MEMORY
    if result != Z_STREAM_END or stream.avail_in or stream.avail_out:
        return INFLATE_BAD
    return INFLATE_OK
