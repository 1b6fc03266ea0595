"""An array of numpy's, written as an input of a PredictRequest."""

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._npy cimport NpyArray
from tfsrv._status cimport Status

cdef int npy_put_input(
    Buffer* wire, size_t most_bytes, const NpyArray* array, Bytes alias, int dtype, Status* status) noexcept nogil
