"""A PredictRequest, written piece by piece while its values are being decoded from another form."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes


# Where the lengths of an input that is being written stand, from the buffer's start.
cdef struct InputMark:
    size_t entry
    size_t tensor
    size_t content          # 0: none

cdef int request_begin_input(Buffer* wire, Bytes alias, int dtype, InputMark* mark) noexcept nogil
cdef int request_begin_content(Buffer* wire, InputMark* mark) noexcept nogil
cdef int request_end_content(Buffer* wire, const InputMark* mark) noexcept nogil
cdef int request_put_string(Buffer* wire, Bytes value) noexcept nogil
cdef int request_end_input(
    Buffer* wire, const InputMark* mark, const int64_t* dims, int rank) noexcept nogil
