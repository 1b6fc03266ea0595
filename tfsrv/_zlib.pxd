"""zlib's functions, as far as they are used: https://zlib.net/manual.html."""

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
    Z_NO_FLUSH = 0
    Z_FINISH = 4
    Z_OK = 0
    Z_STREAM_END = 1
    Z_MEM_ERROR = -4
    Z_BUF_ERROR = -5
    Z_DEFLATED = 8
    Z_DEFAULT_STRATEGY = 0

cdef struct Zlib:
    int (*inflateInit2_)(ZStream* stream, int window, const char* version, int size) noexcept nogil
    int (*inflate)(ZStream* stream, int flush) noexcept nogil
    int (*inflateReset)(ZStream* stream) noexcept nogil
    int (*inflateEnd)(ZStream* stream) noexcept nogil
    int (*deflateInit2_)(
        ZStream* stream, int level, int method, int window, int memory, int strategy, const char* version, int size
    ) noexcept nogil
    int (*deflate)(ZStream* stream, int flush) noexcept nogil
    int (*deflateEnd)(ZStream* stream) noexcept nogil

cdef char* ZLIB_VERSION  # what we were written for; only the first digit is looked at
cdef Zlib zlib  # set when this module is imported, for the life of the process
