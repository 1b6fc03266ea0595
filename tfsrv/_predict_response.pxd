"""A PredictResponse, written from tensors as they lie in memory, without the GIL."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._message cimport Message
from tfsrv._tstring cimport TString


# One tensor to be written; a view.
cdef struct TensorData:
    Bytes alias
    int dtype
    int rank
    const int64_t* dims     # `rank` of them
    int64_t elements        # their product
    const void* data        # `size` bytes; for DT_STRING an array of TStrings
    size_t size
    void* holder            # keeps `data` alive; a spliced payload takes it over
    bint taken              # set when the message took `holder` over


cdef int wire_write_predict(
    Message* message, TensorData* outputs, int outputs_size, Bytes model_name, int64_t version,
    Bytes signature_name, bint as_content, size_t splice_from,
    void (*release)(void* holder) noexcept nogil) noexcept nogil
cdef bint wire_splices(int dtype, bint as_content) noexcept nogil


cdef class OutputTensor:
    cdef TensorData data
    cdef int64_t* dims          # owned
    cdef TString* strings       # owned; NULL unless the dtype is DT_STRING
    cdef object alias
    cdef object values
