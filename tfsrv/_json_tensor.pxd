"""JSON values as the values and the shape of a TensorProto."""

from libc.stdint cimport uint32_t, uint64_t

from tfsrv._buffer cimport Buffer, Bytes
from tfsrv._json_document cimport JsonDocument
from tfsrv._status cimport Status
from tfsrv._tensor_proto cimport MAX_RANK


# Values on their way into a TensorProto: of one value of the body, or of one for each row.
cdef struct JsonTensor:
    Bytes alias             # not owned
    int dtype
    uint32_t rows           # values of the body that are in it
    uint64_t row_values     # elements in each of them
    int rank                # of each of them
    uint32_t[254] dims      # MAX_RANK
    Buffer values           # owned; tensor_content, or for strings fields string_val
    uint32_t at             # for the owner: where its value stands in the body; 0: not known


cdef int json_tensor_add(
    JsonTensor* tensor, const JsonDocument* document, uint32_t at, uint32_t expected_rows, int most_dims,
    Status* status) noexcept nogil
cdef int json_tensor_append(JsonTensor* tensor, bint in_rows, Buffer* wire, Status* status) noexcept nogil
