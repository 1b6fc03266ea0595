"""JSON bodies for :classify and :regress, made into their requests on protobuf's wire format.

This is TensorFlow Serving's util/json_tensor.cc, FillClassificationRequestFromJson: its checks, their order and their
texts. A ClassificationRequest and a RegressionRequest look the same (apis/classification.proto,
apis/regression.proto); the examples are core/example/example.proto's.

`read_inference` is the reader's face for Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t

from tfsrv._buffer cimport buffer_append, buffer_free, buffer_init, buffer_reserve
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
    json_document_free,
    json_document_init,
    json_document_parse,
    json_find_member,
    json_float,
    json_next,
    json_text,
)
from tfsrv._json_request cimport (
    append_field,
    json_append_base64,
    json_document_signature_name,
    json_is_base64,
    json_type_name,
    request_too_large,
    request_without_memory,
)
from tfsrv._model_spec cimport request_put_spec
from tfsrv._status cimport (
    INVALID_ARGUMENT,
    OK,
    status_add,
    status_add_bytes,
    status_error,
    status_free,
    status_init,
    status_set,
)
from tfsrv._wire_format cimport (
    WIRE_OK,
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    LONGEST_VARINT,
    field_size,
    put_bytes,
    put_varint,
)

# Which list a feature has: the fields of tensorflow.Feature.
cdef enum Kind:
    NONE = 0
    BYTES = 1
    FLOATS = 2
    INTEGERS = 3

cdef enum:
    FIRST_TAG = 1 << 3 | LENGTH_DELIMITED
    SECOND_TAG = 2 << 3 | LENGTH_DELIMITED

cdef uint64_t LARGEST_INTEGER = (1ULL << 63) - 1


# The message that is being made, from the inside out: none knows its length before it is done.
cdef struct Reader:
    const JsonDocument* document
    int kind                # of the feature
    Buffer values           # owned; of the feature: its list without a tag
    Buffer features         # owned; of the example
    Buffer examples         # owned; the ExampleList, or ExampleListWithContext
    Status* status


cdef int json_read_inference(
    const JsonDocument* document, const RequestSpec* spec, Buffer* wire, Status* status
) noexcept nogil:
    """Append the request that a body asks for to `wire`. The code of `status`.

    The document is one whose root is an object: json_document_signature_name has looked at it. Where this
    fails, `wire` may have a part of the request.
    """
    cdef Reader reader
    cdef bint has_context = False
    reader.document = document
    reader.status = status
    status.code = OK
    buffer_init(&reader.values)
    buffer_init(&reader.features)
    buffer_init(&reader.examples)
    if read_body(&reader, &has_context) == OK:
        if request_put_spec(wire, spec) != WIRE_OK:
            request_without_memory(status)
        else:
            append_input(&reader, has_context, wire)
    buffer_free(&reader.values)
    buffer_free(&reader.features)
    buffer_free(&reader.examples)
    return status.code


cdef int append_input(Reader* self, bint has_context, Buffer* wire) noexcept nogil:
    """The Input, field 2 of the request. The code of the status."""
    cdef size_t size = field_size(self.examples.size)
    cdef char* at
    if wire.size + field_size(size) > LARGEST_LENGTH:
        return request_too_large(self.status)
    if buffer_reserve(wire, field_size(size)) != 0:
        return request_without_memory(self.status)
    at = wire.data + wire.size
    at[0] = SECOND_TAG
    at = put_varint(at + 1, size)
    at[0] = SECOND_TAG if has_context else FIRST_TAG
    at = put_bytes(at + 1, Bytes(self.examples.data, self.examples.size))
    wire.size = <size_t>(at - wire.data)
    return OK


cdef int wrong_body(Reader* self, const char* text) noexcept nogil:
    status_set(self.status, INVALID_ARGUMENT, "JSON Value: ")
    json_status_add_value(self.status, self.document, 0)
    status_add(self.status, text)
    return INVALID_ARGUMENT


cdef int read_body(Reader* self, bint* has_context) noexcept nogil:
    """The context if there is one, and the examples. The code of the status, as that of all that follow."""
    cdef uint32_t context = json_find_member(self.document, 0, Bytes(b"context", 7))
    cdef uint32_t examples, at, _i
    has_context[0] = context != 0
    if context and read_example(self, context, SECOND_TAG) != OK:
        return self.status.code
    examples = json_find_member(self.document, 0, Bytes(b"examples", 8))
    if examples == 0:
        return wrong_body(self, " When method is classify, key 'examples' is expected and was not found")
    if self.document.nodes[examples].kind != JSON_ARRAY:
        return wrong_body(self, " Expecting 'examples' value to be an list/array")
    if self.document.nodes[examples].size == 0:
        return wrong_body(self, " 'examples' value is an empty array")
    at = examples + 1
    for _i in range(self.document.nodes[examples].size):
        if read_example(self, at, FIRST_TAG) != OK:
            return self.status.code
        at = json_next(self.document, at)
    return OK


cdef int read_example(Reader* self, uint32_t example, char tag) noexcept nogil:
    """Append an Example as a field with that tag. Of a name that comes twice, the last counts."""
    cdef const JsonNode* node = &self.document.nodes[example]
    cdef uint32_t at = example + 1
    cdef uint32_t _i
    cdef size_t size
    cdef char* to
    if node.kind != JSON_OBJECT:
        status_set(self.status, INVALID_ARGUMENT, "Example must be JSON object but got JSON ")
        status_add(self.status, json_type_name(node.kind))
        return INVALID_ARGUMENT
    self.features.size = 0
    for _i in range(node.size):
        if read_feature(self, json_text(&self.document.nodes[at]), at + 1) != OK:
            return self.status.code
        at = json_next(self.document, at + 1)
    size = field_size(self.features.size) if self.features.size else 0
    if buffer_reserve(&self.examples, field_size(size)) != 0:
        return request_without_memory(self.status)
    to = self.examples.data + self.examples.size
    to[0] = tag
    to = put_varint(to + 1, size)
    if size:
        to[0] = FIRST_TAG
        to = put_bytes(to + 1, Bytes(self.features.data, self.features.size))
    self.examples.size = <size_t>(to - self.examples.data)
    return OK


cdef int read_feature(Reader* self, Bytes name, uint32_t content) noexcept nogil:
    """A feature with the value at `content`, or the values of the list that is there."""
    cdef const JsonNode* node = &self.document.nodes[content]
    cdef uint32_t at = content + 1
    cdef uint32_t _i
    self.kind = NONE
    self.values.size = 0
    if node.kind != JSON_ARRAY:
        if add_value(self, name, content) != OK:
            return self.status.code
    else:
        for _i in range(node.size):
            if add_value(self, name, at) != OK:
                return self.status.code
            at = json_next(self.document, at)
    return append_feature(self, name)


cdef int append_feature(Reader* self, Bytes name) noexcept nogil:
    """The map's entry: the name, and the Feature with its list, or without any if it had no values."""
    cdef bint is_packed = self.kind != BYTES
    cdef size_t values = field_size(self.values.size) if is_packed else self.values.size
    cdef size_t feature = field_size(values) if self.kind != NONE else 0
    cdef size_t entry = field_size(name.size) + field_size(feature)
    cdef char* at
    if buffer_reserve(&self.features, field_size(entry)) != 0:
        return request_without_memory(self.status)
    at = self.features.data + self.features.size
    at[0] = FIRST_TAG
    at = put_varint(at + 1, entry)
    at[0] = FIRST_TAG
    at = put_bytes(at + 1, name)
    at[0] = SECOND_TAG
    at = put_varint(at + 1, feature)
    self.features.size = <size_t>(at - self.features.data)
    if self.kind == NONE:
        return OK
    at[0] = <char>(self.kind << 3 | LENGTH_DELIMITED)
    at = put_varint(at + 1, values)
    if is_packed:
        at[0] = FIRST_TAG
        at = put_varint(at + 1, self.values.size)
    self.features.size = <size_t>(at - self.features.data)
    return appended(self, buffer_append(&self.features, self.values.data, self.values.size))


cdef int appended(Reader* self, int result) noexcept nogil:
    return OK if result == 0 else request_without_memory(self.status)


cdef int add_value(Reader* self, Bytes name, uint32_t at) noexcept nogil:
    """One value more, which must be of the kind of those before it."""
    cdef const JsonNode* node = &self.document.nodes[at]
    cdef float real
    if node.kind == JSON_DOUBLE:
        if not is_of(self, name, FLOATS):
            return INVALID_ARGUMENT
        real = json_float(self.document, node)
        return appended(self, buffer_append(&self.values, &real, sizeof(real)))
    if node.kind == JSON_INT or node.kind == JSON_UINT:
        if not is_of(self, name, INTEGERS):
            return INVALID_ARGUMENT
        if node.kind == JSON_UINT and node.value.uint_ > LARGEST_INTEGER:
            wrong_feature(self, name, " has uint64_t element. Only int64_t is supported.")
            return INVALID_ARGUMENT
        return add_integer(self, node.value.uint_)
    if node.kind == JSON_TRUE or node.kind == JSON_FALSE:
        return add_integer(self, node.kind == JSON_TRUE) if is_of(self, name, INTEGERS) else INVALID_ARGUMENT
    if node.kind == JSON_STRING:
        if not is_of(self, name, BYTES):
            return INVALID_ARGUMENT
        return appended(self, append_field(&self.values, FIRST_TAG, json_text(node)))
    if json_is_base64(self.document, at):
        if not is_of(self, name, BYTES):
            return INVALID_ARGUMENT
        return json_append_base64(&self.values, FIRST_TAG, self.document, at, self.status)
    wrong_feature(self, name, " has element with unexpected JSON type: ")
    status_add(self.status, json_type_name(node.kind))
    return INVALID_ARGUMENT


cdef int add_integer(Reader* self, uint64_t value) noexcept nogil:
    cdef char[LONGEST_VARINT] varint
    cdef char* end = put_varint(varint, value)
    return appended(self, buffer_append(&self.values, <const char*>varint, <size_t>(end - <char*>varint)))


cdef bint is_of(Reader* self, Bytes name, int kind) noexcept nogil:
    """Whether the feature has no values of another kind; else that is the error."""
    if self.kind == NONE:
        self.kind = kind
    if self.kind == kind:
        return True
    status_set(self.status, INVALID_ARGUMENT, "Unexpected element type in feature: ")
    status_add_bytes(self.status, name)
    status_add(self.status, " expecting type: ")
    status_add(
        self.status, "bytes" if self.kind == BYTES else "float" if self.kind == FLOATS else "int64")
    return False


cdef void wrong_feature(Reader* self, Bytes name, const char* text) noexcept nogil:
    status_set(self.status, INVALID_ARGUMENT, "Feature: ")
    status_add_bytes(self.status, name)
    status_add(self.status, text)


# ---- for Python --------------------------------------------------------------------------------------

def read_inference(body: bytes, model: str = "", version: int | None = None, label: str = "") -> bytes:
    """The ClassificationRequest, or RegressionRequest, of a body on the wire. ServingError if it is wrong."""
    cdef JsonDocument document
    cdef Status status
    cdef Buffer wire
    cdef RequestSpec spec
    cdef bytes model_name = model.encode()
    cdef bytes label_name = label.encode()
    spec = RequestSpec(
        view_of(model_name), version is not None, version or 0, view_of(label_name), Bytes(NULL, 0))
    json_document_init(&document)
    status_init(&status)
    buffer_init(&wire)
    try:
        if (json_document_parse(&document, body, len(body), &status) != OK
                or json_document_signature_name(&document, &spec.signature_name, &status) != OK
                or json_read_inference(
                    &document, &spec, &wire, &status) != OK):
            raise status_error(&status)
        return wire.data[:wire.size]
    finally:
        json_document_free(&document)
        status_free(&status)
        buffer_free(&wire)


cdef Bytes view_of(bytes data):
    return Bytes(PyBytes_AS_STRING(data), <size_t>len(data))
