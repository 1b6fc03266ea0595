"""A chunked body (RFC 9112, 7.1), as its bytes come in."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes


cdef enum ChunkStep:
    CHUNK_MORE = 0          # all bytes are taken
    CHUNK_DATA = 1          # a piece of the body
    CHUNK_END = 2           # the body and its trailers are over


# By value, zeros at first.
cdef struct ChunkReader:
    int state
    int digits              # of this chunk's size
    int64_t left            # bytes of this chunk that have not come yet
    size_t dropped          # bytes of extensions and trailers so far
    bint is_last            # this chunk has no bytes: trailers follow
    int problem             # an HttpProblem, when chunks_read gave -1


cdef int chunks_read(ChunkReader* reader, Bytes* rest, Bytes* piece) noexcept nogil
