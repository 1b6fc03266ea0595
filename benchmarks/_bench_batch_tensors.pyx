"""The loops of bench_batch_tensors.py: native calls only, so that Python costs nothing."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from tfsrv._batch_tensors cimport (
    RowSource,
    rows_merge,
    rows_of_view,
    rows_of_wire,
    rows_slice,
)
from tfsrv._memory cimport Block, memory_give, memory_take
from tfsrv._predict_request cimport (
    PredictView,
    predict_view_free,
    predict_view_init,
    wire_read_predict,
)
from tfsrv._tensor cimport tensor_release
from tfsrv._tf cimport TF_Tensor

cdef int64_t now() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return moment.tv_sec * 1000000000 + moment.tv_nsec


cdef class Batch:
    """Requests that were read, and what was made of them."""
    cdef list requests
    cdef PredictView* views
    cdef RowSource* sources
    cdef TF_Tensor** parts
    cdef int size

    def __cinit__(self, requests: list):
        cdef int i
        self.requests = requests
        self.size = len(requests)
        self.views = <PredictView*>calloc(self.size, sizeof(PredictView))
        self.sources = <RowSource*>calloc(self.size, sizeof(RowSource))
        self.parts = <TF_Tensor**>calloc(self.size, sizeof(void*))
        if self.views == NULL or self.sources == NULL or self.parts == NULL:
            raise MemoryError
        for i in range(self.size):
            predict_view_init(&self.views[i])
            if wire_read_predict(
                    PyBytes_AS_STRING(requests[i]), len(requests[i]), &self.views[i]) != 0:
                raise ValueError("The request cannot be read")
            self.sources[i] = rows_of_wire(
                &self.views[i], &self.views[i].inputs[0],
                rows_of_view(&self.views[i], &self.views[i].inputs[0]))

    def __dealloc__(self):
        cdef int i
        for i in range(self.size):
            predict_view_free(&self.views[i])
        free(self.views)
        free(self.sources)
        free(self.parts)

    cdef TF_Tensor* merge(self) except NULL:
        cdef TF_Tensor* whole
        cdef int bad
        if rows_merge(self.sources, self.size, 0, False, &whole, &bad) != 0:
            raise ValueError("The requests cannot be merged")
        return whole

    def merge_ns(self) -> int:
        """Nanoseconds to merge all, and to delete the batch."""
        cdef int64_t start = now()
        tensor_release(self.merge())
        return now() - start

    def split_ns(self) -> int:
        """Nanoseconds to take a batch apart into one tensor a request, and to delete those."""
        cdef TF_Tensor* whole = self.merge()
        cdef int64_t first = 0
        cdef int64_t start
        cdef int64_t elapsed
        cdef bint failed = False
        cdef int i
        start = now()
        for i in range(self.size):
            self.parts[i] = rows_slice(whole, first, self.sources[i].rows)
            first += self.sources[i].rows
        for i in range(self.size):
            if self.parts[i] == NULL:
                failed = True
            else:
                tensor_release(self.parts[i])
        elapsed = now() - start
        tensor_release(whole)
        if failed:
            raise MemoryError
        return elapsed


cdef class Copies:
    """memcpy of so many pieces, between memory that was touched before."""
    cdef Block source
    cdef Block target
    cdef size_t piece
    cdef int pieces

    def __cinit__(self, pieces: int, piece: int):
        self.piece = piece
        self.pieces = pieces
        self.source = memory_take(self.piece * <size_t>self.pieces)
        self.target = memory_take(self.piece * <size_t>self.pieces)
        if self.source.data == NULL or self.target.data == NULL:
            raise MemoryError
        memset(self.source.data, 1, self.piece * <size_t>self.pieces)
        memset(self.target.data, 2, self.piece * <size_t>self.pieces)

    def __dealloc__(self):
        if self.source.data != NULL:
            memory_give(self.source.data, self.source.key)
        if self.target.data != NULL:
            memory_give(self.target.data, self.target.key)

    def whole_ns(self) -> int:
        """Nanoseconds for all in one call."""
        cdef int64_t start = now()
        memcpy(self.target.data, self.source.data, self.piece * <size_t>self.pieces)
        return now() - start

    def pieces_ns(self) -> int:
        """Nanoseconds for one call a piece."""
        cdef int64_t start = now()
        cdef size_t at = 0
        cdef int _i
        for _i in range(self.pieces):
            memcpy(<char*>self.target.data + at, <char*>self.source.data + at, self.piece)
            at += self.piece
        return now() - start
