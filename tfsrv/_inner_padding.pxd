"""Padding the inner dims of a tensor where it lies."""

from libc.stdint cimport int64_t

cdef enum:
    MOST_PADDED_RANK = 6    # as in TensorFlow Serving, whose dims are template arguments

cdef int pad_inner(
    char* data, int dtype, int rank, const int64_t* dims, const int64_t* wanted) noexcept nogil
