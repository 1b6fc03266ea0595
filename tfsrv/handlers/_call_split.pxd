"""A call whose rows are in several batches."""

from libc.stdint cimport int64_t

from tfsrv._call cimport Call
from tfsrv._status cimport Status
from tfsrv._tf cimport TF_Tensor
from tfsrv._thread cimport pthread_mutex_t


# What one batch gave for some rows.
cdef struct SplitPart:
    SplitPart* next
    int64_t first_row
    int64_t rows
    TF_Tensor** outputs         # owned, as are they: for each wanted output
    int64_t charged_bytes       # of the in-flight budget


# Of one call, owned by it until its last row is through; under the mutex.
cdef struct Split:
    pthread_mutex_t mutex
    int64_t rows_left           # that are not through yet
    bint has_feeds              # the inputs were made, or could not be
    Status status               # the first thing that went wrong
    SplitPart* parts            # by descending first_row
    int parts_size
    bint runs_whole             # an output is not one of rows: what the parts gave is of no use

cdef bint split_begin(Call* call) noexcept nogil
cdef int split_make_feeds(Call* call) noexcept nogil
cdef bint split_take(Call* call, SplitPart* part, int64_t begun_ns) noexcept nogil
cdef bint split_leave(Call* call, int64_t rows) noexcept nogil
cdef bint split_fail(Call* call, int64_t rows, const Status* status) noexcept nogil
cdef SplitPart* split_part_new(Call* call, int64_t first_row, int64_t rows) noexcept nogil
cdef void split_part_free(Call* call, SplitPart* part) noexcept nogil
cdef bint split_part_charge(Call* call, SplitPart* part) noexcept nogil
