"""DEFLATE (RFC 1951) without a wrapper around it, unpacked by zlib, without the GIL.

zlib is opened at run time: building needs no header, and its library is on every system, for
package managers need it. Its interface is that of https://zlib.net/manual.html.
"""

from libc.string cimport memset

cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* path, int flags)
    void* dlsym(void* library, const char* name)
    int RTLD_NOW
    int RTLD_LOCAL

# zlib.h's z_stream.
cdef struct ZStream:
    const unsigned char* next_in
    unsigned int avail_in
    unsigned long total_in
    unsigned char* next_out
    unsigned int avail_out
    unsigned long total_out
    const char* msg
    void* state
    void* zalloc            # NULL: malloc
    void* zfree
    void* opaque
    int data_type
    unsigned long adler
    unsigned long reserved

cdef enum:
    Z_FINISH = 4
    Z_OK = 0
    Z_STREAM_END = 1
    Z_MEM_ERROR = -4
    RAW_WINDOW = -15        # windowBits: the largest window, and no wrapper
    LARGEST = 0xFFFFFFFF    # bytes, which zlib counts in an unsigned int

# The functions of zlib that are used.
cdef struct Zlib:
    int (*inflateInit2_)(ZStream* stream, int window, const char* version, int size) noexcept nogil
    int (*inflate)(ZStream* stream, int flush) noexcept nogil
    int (*inflateEnd)(ZStream* stream) noexcept nogil

cdef char* ZLIB_VERSION = b"1.2.11"          # only the first digit is looked at

cdef Zlib zlib


cdef int find(void* library, void** slot, const char* name) except -1:
    slot[0] = dlsym(library, name)
    if slot[0] == NULL:
        raise ImportError(f"libz.so.1 has no {name.decode()}")
    return 0


cdef int open_zlib() except -1:
    cdef void* library = dlopen(b"libz.so.1", RTLD_NOW | RTLD_LOCAL)  # for the life of the process
    if library == NULL:
        raise ImportError("zlib is not installed (Debian: apt-get install zlib1g)")
    find(library, <void**>&zlib.inflateInit2_, b"inflateInit2_")
    find(library, <void**>&zlib.inflate, b"inflate")
    find(library, <void**>&zlib.inflateEnd, b"inflateEnd")
    return 0


open_zlib()


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
