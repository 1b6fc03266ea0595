"""A JSON document as an array of nodes, in the order of its text."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tfsrv._buffer cimport Bytes
from tfsrv._status cimport Status


cdef enum JsonKind:
    JSON_NULL = 0
    JSON_FALSE = 1
    JSON_TRUE = 2
    JSON_OBJECT = 3
    JSON_ARRAY = 4
    JSON_STRING = 5
    # Numbers, which must stay the last ones:
    JSON_UINT = 6           # written without a fraction and an exponent, and not below 0
    JSON_INT = 7            # so too, and below 0
    JSON_DOUBLE = 8         # every other one, NaN and the infinities


cdef union JsonValue:
    uint64_t uint_          # JSON_UINT
    int64_t int_            # JSON_INT
    double double_          # JSON_DOUBLE
    const char* text        # JSON_STRING: `size` bytes, without escapes; not ended by a zero
    uint32_t next           # JSON_OBJECT, JSON_ARRAY: the index of the node behind all that is inside


# 16 bytes. What is inside an array or an object stands right behind it: of an object each name, a
# JSON_STRING, and then its value.
cdef struct JsonNode:
    JsonValue value
    # Elements of an array, members of an object, bytes of a string; where a JSON_DOUBLE begins in the body.
    uint32_t size
    int kind                # a JsonKind


# The first node is the root. Strings without escapes stay in the body, which must outlive the document.
cdef struct JsonDocument:
    Bytes body              # not owned
    JsonNode* nodes         # owned
    uint32_t size
    uint32_t capacity
    char* text              # owned; strings that had escapes, without them; NULL if there are none
    size_t text_capacity


cdef void json_document_init(JsonDocument* document) noexcept nogil
cdef void json_document_free(JsonDocument* document) noexcept nogil
cdef size_t json_document_bytes(const JsonDocument* document) noexcept nogil
cdef int json_document_parse(JsonDocument* document, const char* data, size_t size, Status* status) noexcept nogil
cdef uint32_t json_find_member(const JsonDocument* document, uint32_t object_, Bytes name) noexcept nogil
cdef float json_float_again(const JsonDocument* document, const JsonNode* node) noexcept nogil


cdef inline Bytes json_text(const JsonNode* node) noexcept nogil:
    """What a JSON_STRING says."""
    return Bytes(node.value.text, node.size)


cdef inline bint json_is_number(const JsonNode* node) noexcept nogil:
    return node.kind >= JSON_UINT


cdef inline double json_double(const JsonNode* node) noexcept nogil:
    """The double nearest to a number."""
    if node.kind == JSON_DOUBLE:
        return node.value.double_
    if node.kind == JSON_UINT:
        return <double>node.value.uint_
    return <double>node.value.int_


cdef inline float json_float(const JsonDocument* document, const JsonNode* node) noexcept nogil:
    """The float nearest to a JSON_DOUBLE's text, not to the double, which would be to round twice."""
    cdef uint64_t bits
    memcpy(&bits, &node.value.double_, 8)
    # Half-way between two floats, of whose 29 bits more; or so small that those are not where they were.
    if bits & 0x1fffffff == 0x10000000 or (bits << 1) - 1 < (<uint64_t>897 << 53) - 1:
        return json_float_again(document, node)
    return <float>node.value.double_


cdef inline uint32_t json_next(const JsonDocument* document, uint32_t at) noexcept nogil:
    """The index of the value behind the one at `at`, as far as there is one."""
    cdef const JsonNode* node = &document.nodes[at]
    return node.value.next if node.kind == JSON_OBJECT or node.kind == JSON_ARRAY else at + 1
