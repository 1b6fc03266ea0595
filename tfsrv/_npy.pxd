"""numpy's .npy: what its header says, and headers for arrays of ours.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html says what is valid.
"""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._status cimport Status
from tfsrv._tensor_proto cimport MAX_RANK


# An element of an array, as numpy describes it.
cdef struct NpyType:
    char kind               # numpy's letter: b, i, u, f, c, V, S or U
    int64_t unit            # bytes of an element


# One array; a view into the file.
cdef struct NpyArray:
    Bytes name              # for messages; empty if it has none
    NpyType type
    bint big_endian
    bint fortran            # the first dim is the one whose elements lie side by side
    int rank
    int64_t[MAX_RANK] dims
    int64_t elements        # their product
    Bytes data              # `elements` times `unit` bytes


cdef int npy_refuse(Status* status, Bytes name, const char* text) noexcept nogil
cdef int npy_read(Bytes file, Bytes name, NpyArray* array, Status* status) noexcept nogil
cdef int npy_check_type(const NpyArray* array, int dtype, Status* status) noexcept nogil
cdef bint npy_type_of(int dtype, int64_t longest, NpyType* type) noexcept nogil
cdef int npy_put_header(Buffer* into, NpyType type, const int64_t* dims, int rank) noexcept nogil
