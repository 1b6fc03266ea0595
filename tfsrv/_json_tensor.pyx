"""JSON values as the values and the shape of a TensorProto, by the rules of TensorFlow Serving.

Those are in util/json_tensor.cc: a list of lists has the shape that its first elements show, all others must be
like them, and each value must be of the kind that the dtype wants. Integers of 8 or 16 bits may be any int32,
of which the low bits count. What differs: half, bfloat16 and uint16 are read too. Nothing here recurses, and
lists nested deeper than a tensor has dimensions are refused at once (CVE-2025-0649).
"""

from libc.stdint cimport int64_t, uint16_t
from libc.string cimport memcpy

from tfsrv._buffer cimport buffer_free, buffer_reserve
from tfsrv._json_description cimport json_status_add_value
from tfsrv._json_document cimport (
    JSON_ARRAY,
    JSON_DOUBLE,
    JSON_FALSE,
    JSON_INT,
    JSON_OBJECT,
    JSON_STRING,
    JSON_TRUE,
    JSON_UINT,
    JsonNode,
    json_double,
    json_float,
    json_is_number,
    json_next,
    json_text,
)
from tfsrv._json_request cimport (
    append_field,
    json_append_base64,
    json_is_base64,
    json_type_name,
    request_too_large,
    request_without_memory,
)
from tfsrv._status cimport (
    INVALID_ARGUMENT,
    OK,
    UNIMPLEMENTED,
    status_add,
    status_add_int,
    status_set,
)
from tfsrv._tensor_proto cimport STRING_VAL, dtype_bytes
from tfsrv._tf cimport (
    DT_BFLOAT16,
    DT_BOOL,
    DT_DOUBLE,
    DT_FLOAT,
    DT_HALF,
    DT_INT16,
    DT_INT32,
    DT_INT64,
    DT_INT8,
    DT_STRING,
    DT_UINT16,
    DT_UINT32,
    DT_UINT64,
    DT_UINT8,
)
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    VARINT,
    field_size,
    put_bytes,
    put_varint,
    varint_size,
)

cdef extern from *:
    """
    #define TFSRV_DTYPE_NAMES 31
    static const char *const tfsrv_dtype_name[TFSRV_DTYPE_NAMES] = {
        "INVALID", "float", "double", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool",
        "qint8", "quint8", "qint32", "bfloat16", "qint16", "quint16", "uint16", "complex128", "half", "resource",
        "variant", "uint32", "uint64", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
        "float8_e5m2fnuz", "int4", "uint4",
    };
    """
    enum:
        DTYPE_NAMES "TFSRV_DTYPE_NAMES"
    const char* const* dtype_name "tfsrv_dtype_name"

cdef enum:
    STRINGS_TAG = STRING_VAL << 3 | LENGTH_DELIMITED
    UNEXPECTED = -1         # a value that is none of the dtype


cdef bint is_read(int dtype) noexcept nogil:
    """Whether a dtype has a form in JSON."""
    return (DT_FLOAT <= dtype <= DT_STRING or dtype == DT_INT64 or dtype == DT_BOOL or dtype == DT_BFLOAT16
            or dtype == DT_UINT16 or dtype == DT_HALF or dtype == DT_UINT32 or dtype == DT_UINT64)


cdef int json_tensor_add(
    JsonTensor* tensor, const JsonDocument* document, uint32_t at, uint32_t expected_rows, int most_dims,
    Status* status
) noexcept nogil:
    """Append the values of what stands at `at`. The code of `status`.

    Each call after the first is for a row that must have as many values as the first one, and its shape.
    `expected_rows` calls will come, and no row has more than `most_dims` dimensions.
    """
    cdef uint32_t[MAX_RANK] dims
    cdef uint64_t count
    cdef int rank = measure(document, at, dims, most_dims)
    if rank < 0:
        status_set(status, INVALID_ARGUMENT, "Lists are nested too deep: a tensor has at most ")
        status_add_int(status, MAX_RANK)
        status_add(status, " dimensions")
        return INVALID_ARGUMENT
    count = elements(dims, rank, document.size)
    if tensor.rows == 0 and reserve(tensor, count, expected_rows, document.size) != 0:
        return request_without_memory(status)
    if fill(tensor, document, at, dims, rank, status) != OK:
        return status.code
    if tensor.rows == 0:
        memcpy(tensor.dims, dims, <size_t>rank * sizeof(uint32_t))
        tensor.rank = rank
        tensor.row_values = count
    elif count != tensor.row_values:
        status_set(status, INVALID_ARGUMENT, "Expecting tensor size: ")
        status_add_int(status, <int64_t>tensor.row_values)
        status_add(status, " but got: ")
        status_add_int(status, <int64_t>count)
        return INVALID_ARGUMENT
    elif not is_same_shape(tensor, dims, rank):
        status_set(status, INVALID_ARGUMENT, "Expecting shape ")
        add_shape(status, tensor.dims, tensor.rank)
        status_add(status, " but got: ")
        add_shape(status, dims, rank)
        return INVALID_ARGUMENT
    tensor.rows += 1
    return OK


cdef int measure(const JsonDocument* document, uint32_t at, uint32_t* dims, int most_dims) noexcept nogil:
    """The shape that the first elements show. Its rank, or -1 if that is more than `most_dims`."""
    cdef const JsonNode* node = &document.nodes[at]
    cdef int rank = 0
    while node.kind == JSON_ARRAY:
        if rank == most_dims:
            return -1
        dims[rank] = node.size
        rank += 1
        if node.size == 0:
            break
        node += 1
    return rank


cdef uint64_t elements(const uint32_t* dims, int rank, uint32_t limit) noexcept nogil:
    """How many values a shape has; `limit` if there are more: a document cannot have so many."""
    cdef uint64_t count = 1
    cdef int i
    for i in range(rank):
        if dims[i] == 0:
            return 0
    for i in range(rank):
        count *= dims[i]
        if count >= limit:
            return limit
    return count


cdef int reserve(JsonTensor* tensor, uint64_t count, uint32_t rows, uint32_t limit) noexcept nogil:
    """Room for all numbers at once, so that nothing is copied as they grow. 0, or -1 without memory."""
    cdef uint64_t wanted = min(count * rows, <uint64_t>limit)
    if tensor.dtype == DT_STRING or not is_read(tensor.dtype):
        return 0
    return buffer_reserve(&tensor.values, <size_t>wanted * dtype_bytes(tensor.dtype))


cdef bint is_same_shape(const JsonTensor* tensor, const uint32_t* dims, int rank) noexcept nogil:
    cdef int i
    if rank != tensor.rank:
        return False
    for i in range(rank):
        if dims[i] != tensor.dims[i]:
            return False
    return True


cdef void add_shape(Status* status, const uint32_t* dims, int rank) noexcept nogil:
    cdef int i
    status_add(status, "[")
    for i in range(rank):
        if i:
            status_add(status, ",")
        status_add_int(status, dims[i])
    status_add(status, "]")


cdef int fill(
    JsonTensor* tensor, const JsonDocument* document, uint32_t at, const uint32_t* dims, int rank, Status* status
) noexcept nogil:
    """Append all values, in the order of the text, each list checked as it begins. The code of `status`."""
    cdef uint32_t[MAX_RANK] ends     # of the lists that are open
    cdef const JsonNode* node
    cdef int level = 0
    cdef uint32_t count
    while True:
        node = &document.nodes[at]
        if node.kind == JSON_ARRAY:
            if level == rank:
                return unexpected_level(level, status)
            if node.size != dims[level]:
                return unexpected_size(node.size, level, dims[level], status)
            ends[level] = node.value.next
            level += 1
            at += 1
        elif level != rank:
            return incorrect_level(document, at, level, rank, status)
        else:
            # The list that is open has nothing but values of the dtype, or an error is found.
            count = ends[level - 1] - at if level > 0 else 1
            if add_values(tensor, document, at, count, &at, status) != OK:
                return status.code
        while level > 0 and at == ends[level - 1]:
            level -= 1
        if level == 0:
            return OK


cdef int unexpected_level(int level, Status* status) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "Encountered list at unexpected level: ")
    status_add_int(status, level)
    status_add(status, " expected < ")
    status_add_int(status, level)
    return INVALID_ARGUMENT


cdef int unexpected_size(uint32_t size, int level, uint32_t expected, Status* status) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "Encountered list at unexpected size: ")
    status_add_int(status, size)
    status_add(status, " at level: ")
    status_add_int(status, level)
    status_add(status, " expected size: ")
    status_add_int(status, expected)
    return INVALID_ARGUMENT


cdef int incorrect_level(
    const JsonDocument* document, uint32_t at, int level, int rank, Status* status
) noexcept nogil:
    status_set(status, INVALID_ARGUMENT, "JSON Value: ")
    json_status_add_value(status, document, at)
    status_add(status, " found at incorrect level: ")
    status_add_int(status, level + 1)
    status_add(status, " in the JSON DOM. Expected at level: ")
    status_add_int(status, rank)
    return INVALID_ARGUMENT


# ---- values ------------------------------------------------------------------------------------------

cdef int add_values(
    JsonTensor* tensor, const JsonDocument* document, uint32_t at, uint32_t most, uint32_t* after, Status* status
) noexcept nogil:
    """Append values from `at` on, up to `most` nodes of them, or up to a list. The code of `status`.

    `after` is where it stopped.
    """
    cdef uint32_t end = at + most
    cdef uint32_t done
    if tensor.dtype == DT_STRING:
        return add_strings(tensor, document, at, end, after, status)
    if not is_read(tensor.dtype):
        return refuse(tensor.dtype, document, at, status)
    if buffer_reserve(&tensor.values, <size_t>most * dtype_bytes(tensor.dtype)) != 0:
        return request_without_memory(status)
    done = put_values(
        tensor.dtype, document, &document.nodes[at], most, tensor.values.data + tensor.values.size)
    tensor.values.size += <size_t>done * dtype_bytes(tensor.dtype)
    at += done
    after[0] = at
    if at < end and document.nodes[at].kind != JSON_ARRAY:
        return refuse(tensor.dtype, document, at, status)
    return OK


cdef int add_strings(
    JsonTensor* tensor, const JsonDocument* document, uint32_t at, uint32_t end, uint32_t* after, Status* status
) noexcept nogil:
    """add_values for strings, which objects may stand for. The first of them may be behind `end`."""
    cdef const JsonNode* node
    while True:
        node = &document.nodes[at]
        if node.kind == JSON_STRING:
            if append_field(&tensor.values, STRINGS_TAG, json_text(node)) != 0:
                return request_without_memory(status)
        elif node.kind != JSON_OBJECT:
            return refuse(DT_STRING, document, at, status)
        elif not json_is_base64(document, at):
            status_set(status, INVALID_ARGUMENT, "JSON Value: ")
            json_status_add_value(status, document, at)
            status_add(status, " not formatted correctly for base64 data")
            return INVALID_ARGUMENT
        elif json_append_base64(&tensor.values, STRINGS_TAG, document, at, status) != OK:
            return status.code
        at = json_next(document, at)
        if at >= end or document.nodes[at].kind == JSON_ARRAY:
            after[0] = at
            return OK


cdef int refuse(int dtype, const JsonDocument* document, uint32_t at, Status* status) noexcept nogil:
    """The error of a value that is none of the dtype, or of a dtype that has none."""
    cdef int kind = document.nodes[at].kind
    cdef bint is_known = is_read(dtype) or kind == JSON_OBJECT
    status_set(
        status, INVALID_ARGUMENT if is_known else UNIMPLEMENTED,
        "JSON Value: " if is_known else "Conversion of JSON Value: ")
    json_status_add_value(status, document, at)
    if is_known:
        status_add(status, " Type: ")
        status_add(status, json_type_name(kind))
        status_add(status, " is not of expected type: ")
    else:
        status_add(status, " to type: ")
    if 0 <= dtype < DTYPE_NAMES:
        status_add(status, dtype_name[dtype])
    else:
        status_add(status, "unknown dtype enum (")
        status_add_int(status, dtype)
        status_add(status, ")")
    return status.code


cdef uint32_t put_values(
    int dtype, const JsonDocument* document, const JsonNode* nodes, uint32_t count, char* out
) noexcept nogil:
    """Write values up to the first that is none of the dtype. How many that were."""
    if dtype == DT_FLOAT:
        return put_floats(document, nodes, count, <float*>out)
    if dtype == DT_DOUBLE:
        return put_doubles(nodes, count, <double*>out)
    if dtype == DT_INT32:
        return put_integers(nodes, count, out, 4, 31, True)
    if dtype == DT_INT64:
        return put_integers(nodes, count, out, 8, 63, True)
    if dtype == DT_BOOL:
        return put_bools(nodes, count, out)
    if dtype == DT_UINT8 or dtype == DT_INT8:  # whatever is an int32, of which the low bits count
        return put_integers(nodes, count, out, 1, 31, True)
    if dtype == DT_INT16:
        return put_integers(nodes, count, out, 2, 31, True)
    if dtype == DT_UINT16:
        return put_integers(nodes, count, out, 2, 16, False)
    if dtype == DT_UINT32:
        return put_integers(nodes, count, out, 4, 32, False)
    if dtype == DT_UINT64:
        return put_integers(nodes, count, out, 8, 64, False)
    if dtype == DT_HALF:
        return put_small_floats(nodes, count, <uint16_t*>out, 5, 10)
    return put_small_floats(nodes, count, <uint16_t*>out, 8, 7)  # bfloat16


cdef uint32_t put_floats(
    const JsonDocument* document, const JsonNode* nodes, uint32_t count, float* out
) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if nodes[i].kind == JSON_DOUBLE:
            out[i] = json_float(document, &nodes[i])
        elif nodes[i].kind == JSON_UINT:
            out[i] = <float>nodes[i].value.uint_
        elif nodes[i].kind == JSON_INT:
            out[i] = <float>nodes[i].value.int_
        else:
            return i
    return count


cdef uint32_t put_doubles(const JsonNode* nodes, uint32_t count, double* out) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if not json_is_number(&nodes[i]):
            return i
        out[i] = json_double(&nodes[i])
    return count


cdef inline uint32_t put_integers(
    const JsonNode* nodes, uint32_t count, char* out, int size, int bits, bint is_signed
) noexcept nogil:
    """Integers of so many bytes and bits, without the sign's."""
    cdef uint64_t largest = <uint64_t>-1 if bits == 64 else (<uint64_t>1 << bits) - 1
    cdef int64_t smallest = -<int64_t>largest - 1
    cdef uint32_t i
    for i in range(count):
        if nodes[i].kind == JSON_UINT:
            if nodes[i].value.uint_ > largest:
                return i
        elif nodes[i].kind != JSON_INT or not is_signed or nodes[i].value.int_ < smallest:
            return i
        memcpy(out + <size_t>i * size, &nodes[i].value, size)  # the low bytes come first
    return count


cdef uint32_t put_bools(const JsonNode* nodes, uint32_t count, char* out) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if nodes[i].kind != JSON_TRUE and nodes[i].kind != JSON_FALSE:
            return i
        out[i] = nodes[i].kind == JSON_TRUE
    return count


cdef uint32_t put_small_floats(
    const JsonNode* nodes, uint32_t count, uint16_t* out, int exponent_bits, int mantissa_bits
) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if not json_is_number(&nodes[i]):
            return i
        out[i] = small_float(json_double(&nodes[i]), exponent_bits, mantissa_bits)
    return count


cdef uint16_t small_float(double value, int exponent_bits, int mantissa_bits) noexcept nogil:
    """The nearest float of 16 bits, the even one of two: not by way of a float, which would round twice."""
    cdef uint64_t bits, significand, lost, half
    cdef uint32_t sign, result
    cdef uint32_t infinity = ((<uint32_t>1 << exponent_bits) - 1) << mantissa_bits
    cdef int smallest = 2 - (1 << (exponent_bits - 1))  # exponent of a number that is not subnormal
    cdef int exponent, shift
    memcpy(&bits, &value, 8)
    sign = <uint32_t>(bits >> 63) << 15
    exponent = <int>(bits >> 52 & 0x7ff) - 1023
    significand = bits & ((<uint64_t>1 << 52) - 1)
    if exponent == 1024:
        return <uint16_t>(sign | infinity | (<uint32_t>1 << (mantissa_bits - 1) if significand else 0))
    if exponent > -smallest + 1:
        return <uint16_t>(sign | infinity)
    shift = 52 - mantissa_bits
    if exponent < smallest:
        shift += smallest - exponent
    if shift > 62:
        return <uint16_t>sign
    significand |= <uint64_t>1 << 52
    lost = significand & ((<uint64_t>1 << shift) - 1)
    half = <uint64_t>1 << (shift - 1)
    result = <uint32_t>(significand >> shift)
    if lost > half or (lost == half and result & 1):
        result += 1
    # The leading bit of the significand adds the 1 to the exponent, and a carry what it should.
    if exponent > smallest:
        result += <uint32_t>(exponent - smallest) << mantissa_bits
    return <uint16_t>(sign | min(result, infinity))


# ---- the TensorProto ---------------------------------------------------------------------------------

cdef int json_tensor_append(JsonTensor* tensor, bint in_rows, Buffer* wire, Status* status) noexcept nogil:
    """Append the tensor as an entry of a PredictRequest's inputs. The code of `status`.

    With `in_rows` its first dimension is the number of rows. Its values are freed.
    """
    cdef bint is_content = tensor.dtype != DT_STRING and tensor.values.size > 0
    cdef size_t values = tensor.values.size
    cdef size_t shape = dim_size(tensor.rows) if in_rows else 0
    cdef size_t body, entry
    cdef char* at
    cdef int i
    for i in range(tensor.rank):
        shape += dim_size(tensor.dims[i])
    body = 1 + varint_size(<uint64_t>tensor.dtype) + field_size(shape)
    body += field_size(values) if is_content else values
    entry = field_size(tensor.alias.size) + field_size(body)
    if wire.size + field_size(entry) > LARGEST_LENGTH:
        return request_too_large(status)
    if buffer_reserve(wire, field_size(entry)) != 0:
        return request_without_memory(status)
    at = wire.data + wire.size
    at = put_tag_and_size(at, 2 << 3 | LENGTH_DELIMITED, entry)
    at[0] = 1 << 3 | LENGTH_DELIMITED
    at = put_bytes(at + 1, tensor.alias)
    at = put_tag_and_size(at, 2 << 3 | LENGTH_DELIMITED, body)
    at = put_tag_and_size(at, 1 << 3 | VARINT, <uint64_t>tensor.dtype)
    at = put_tag_and_size(at, 2 << 3 | LENGTH_DELIMITED, shape)
    if in_rows:
        at = put_dim(at, tensor.rows)
    for i in range(tensor.rank):
        at = put_dim(at, tensor.dims[i])
    if is_content:
        at = put_tag_and_size(at, 4 << 3 | LENGTH_DELIMITED, values)
    if values:
        memcpy(at, tensor.values.data, values)
    wire.size = <size_t>(at - wire.data) + values
    buffer_free(&tensor.values)
    return OK


cdef inline char* put_tag_and_size(char* at, char tag, uint64_t size) noexcept nogil:
    at[0] = tag
    return put_varint(at + 1, size)


cdef inline size_t dim_size(uint32_t size) noexcept nogil:
    """Bytes of a TensorShapeProto.Dim with its tag: its one field, unless that is 0."""
    return field_size(1 + varint_size(size) if size else 0)


cdef inline char* put_dim(char* at, uint32_t size) noexcept nogil:
    at = put_tag_and_size(at, 2 << 3 | LENGTH_DELIMITED, 1 + varint_size(size) if size else 0)
    return put_tag_and_size(at, 1 << 3 | VARINT, size) if size else at
