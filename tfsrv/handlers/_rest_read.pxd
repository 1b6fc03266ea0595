"""Bodies of REST calls, made the gRPC requests that they stand for."""

from libc.stdint cimport int64_t

from tfsrv._buffer cimport Bytes
from tfsrv._call cimport Call
from tfsrv._input_types cimport InputType
from tfsrv._json_document cimport JsonDocument

cdef enum:
    FEW_INPUT_TYPES = 16    # so many are looked up without memory of their own


# The body of a call while it is being read; rest_close frees what it owns.
cdef struct RestBody:
    bint is_quick           # JSON that _json_quick may read from `values` on
    bint is_for_another     # `signature_name` has changed: see rest_read_predict
    const char* values
    bint has_document
    JsonDocument document   # owned
    Bytes signature_name    # no size: the default one
    int64_t charged_bytes   # for the document

cdef void rest_set_spec(Call* call) noexcept nogil
cdef int rest_open(Call* call, RestBody* body, size_t most_bytes) noexcept nogil
cdef int rest_read_whole(Call* call, RestBody* body) noexcept nogil
cdef int rest_read_predict(
    Call* call, RestBody* body, const InputType* inputs, int inputs_size, size_t most_bytes) noexcept nogil
cdef int rest_read_inference(Call* call, RestBody* body) noexcept nogil
cdef int rest_read_protobuf(Call* call) noexcept nogil
cdef void rest_close(Call* call, RestBody* body) noexcept nogil
cdef int rest_tell_no_signature(Call* call, Bytes name) noexcept nogil
