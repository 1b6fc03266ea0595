"""Answers of Classify, Regress and MultiInference, straight on protobuf's wire format.

Messages: tensorflow_serving/apis/{classification,regression,inference}.proto. As everywhere in proto3,
a label "" and a score or value 0.0 are not written; -0.0 is.

An answer is measured, then written. A tensor that shares its memory with a variable of the model may
change in between: so nothing is written beyond what was measured, and the answer fails if it differs.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from tfsrv._buffer cimport buffer_reserve
from tfsrv._model_spec cimport model_spec_put, model_spec_size
from tfsrv._tstring cimport TString, tstring_get
from tfsrv._wire_format cimport (
    FIXED32,
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    WIRE_CHANGED,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_TOO_BIG,
    field_size,
    put_bytes,
    put_varint,
)


cdef inline uint32_t float_bits(const TensorData* floats, int64_t index) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, <const char*>floats.data + 4 * index, 4)
    return bits


cdef inline char* put_float(char* at, int field, uint32_t bits) noexcept nogil:
    at[0] = <char>(field << 3 | FIXED32)
    memcpy(at + 1, &bits, 4)
    return at + 5


# ---- one result --------------------------------------------------------------------------------------

cdef inline size_t class_size(const InferenceAnswer* answer, int64_t index) noexcept nogil:
    """Of a Class, one label with its score."""
    cdef size_t size = 0
    cdef Bytes label
    if answer.classes != NULL:
        label = tstring_get(&(<const TString*>answer.classes.data)[index])
        if label.size:
            size += field_size(label.size)
    if answer.scores != NULL and float_bits(answer.scores, index) != 0:
        size += 5
    return size


cdef inline size_t row_size(const InferenceAnswer* answer, int64_t row) noexcept nogil:
    """Of a Classifications or a Regression."""
    cdef size_t size = 0
    cdef int64_t i
    if answer.is_regression:
        return 5 if float_bits(answer.scores, row) != 0 else 0
    for i in range(row * answer.width, (row + 1) * answer.width):
        size += field_size(class_size(answer, i))
    return size


cdef size_t result_size(const InferenceAnswer* answer) noexcept nogil:
    """Of a ClassificationResult or a RegressionResult; more than a message may have: stops there."""
    cdef size_t size = 0
    cdef int64_t row
    for row in range(answer.rows):
        size += field_size(row_size(answer, row))
        if size > LARGEST_LENGTH:
            break
    return size


cdef char* put_class(char* at, const char* end, const InferenceAnswer* answer, int64_t index) noexcept nogil:
    """A Class; NULL if there is no room up to `end`."""
    cdef Bytes label = Bytes(NULL, 0)
    cdef uint32_t score = 0
    cdef size_t size = 0
    if answer.classes != NULL:
        label = tstring_get(&(<const TString*>answer.classes.data)[index])
        if label.size:
            size = field_size(label.size)
    if answer.scores != NULL:
        score = float_bits(answer.scores, index)
        if score != 0:
            size += 5
    if field_size(size) > <size_t>(end - at):
        return NULL
    at[0] = 1 << 3 | LENGTH_DELIMITED  # classes
    at = put_varint(at + 1, size)
    if label.size:
        at[0] = 1 << 3 | LENGTH_DELIMITED
        at = put_bytes(at + 1, label)
    if score != 0:
        at = put_float(at, 2, score)
    return at


cdef char* put_row(char* at, const char* end, const InferenceAnswer* answer, int64_t row) noexcept nogil:
    """A Classifications or a Regression; NULL if it is not as it was measured, or there is no room."""
    cdef size_t size = row_size(answer, row)
    cdef const char* row_end
    cdef int64_t i
    if field_size(size) > <size_t>(end - at):
        return NULL
    at[0] = 1 << 3 | LENGTH_DELIMITED  # classifications or regressions
    at = put_varint(at + 1, size)
    row_end = at + size
    if answer.is_regression:
        return put_float(at, 1, float_bits(answer.scores, row)) if size else at
    for i in range(row * answer.width, (row + 1) * answer.width):
        at = put_class(at, row_end, answer, i)
        if at == NULL:
            return NULL
    return at if at == row_end else NULL


cdef char* put_result(char* at, size_t size, const InferenceAnswer* answer) noexcept nogil:
    """A result that was measured to have `size` bytes; NULL if it has not any more."""
    cdef const char* end = at + size
    cdef int64_t row
    for row in range(answer.rows):
        at = put_row(at, end, answer, row)
        if at == NULL:
            return NULL
    return at if at == end else NULL


# ---- whole messages ----------------------------------------------------------------------------------

cdef int wire_write_inference(
    Message* message, const InferenceAnswer* answer, Bytes model_name, int64_t version
) noexcept nogil:
    """Append a ClassificationResponse or a RegressionResponse.

    A WireResult; WIRE_CHANGED: the tensors have changed meanwhile. The message is of no use then.
    """
    cdef size_t result = result_size(answer)
    cdef size_t spec = model_spec_size(model_name, version, answer.signature_name)
    cdef size_t size
    cdef char* at
    if result > LARGEST_LENGTH or field_size(result) + field_size(spec) > LARGEST_LENGTH:
        return WIRE_TOO_BIG
    size = field_size(result) + field_size(spec)
    if buffer_reserve(&message.head, size) != 0:
        return WIRE_NO_MEMORY
    at = message.head.data + message.head.size
    at[0] = 1 << 3 | LENGTH_DELIMITED  # result
    at = put_result(put_varint(at + 1, result), result, answer)
    if at == NULL:
        return WIRE_CHANGED
    at[0] = 2 << 3 | LENGTH_DELIMITED  # model_spec
    model_spec_put(put_varint(at + 1, spec), model_name, version, answer.signature_name)
    message.head.size += size
    return WIRE_OK


cdef int wire_write_multi_inference(
    Message* message, const InferenceAnswer* answers, int size, Bytes model_name, int64_t version
) noexcept nogil:
    """Append a MultiInferenceResponse with these results, in their order. As wire_write_inference."""
    cdef size_t total = 0
    cdef size_t result, spec, body
    cdef char* at
    cdef int i
    for i in range(size):
        result = result_size(&answers[i])
        spec = model_spec_size(model_name, version, answers[i].signature_name)
        body = field_size(spec) + field_size(result)
        total += field_size(body)
        if result > LARGEST_LENGTH or total > LARGEST_LENGTH:
            return WIRE_TOO_BIG
        if buffer_reserve(&message.head, field_size(body)) != 0:
            return WIRE_NO_MEMORY
        at = message.head.data + message.head.size
        at[0] = 1 << 3 | LENGTH_DELIMITED  # results
        at = put_varint(at + 1, body)
        at[0] = 1 << 3 | LENGTH_DELIMITED  # model_spec
        at = model_spec_put(put_varint(at + 1, spec), model_name, version, answers[i].signature_name)
        # classification_result or regression_result
        at[0] = <char>((3 if answers[i].is_regression else 2) << 3 | LENGTH_DELIMITED)
        if put_result(put_varint(at + 1, result), result, &answers[i]) == NULL:
            return WIRE_CHANGED
        message.head.size += field_size(body)
    return WIRE_OK
