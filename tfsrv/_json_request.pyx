"""What the JSON bodies of all methods share: their signature's name, binary strings, and the model's name.

The rules and texts are those of TensorFlow Serving's util/json_tensor.cc.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memmove

from tfsrv._buffer cimport buffer_reserve, bytes_equal
from tfsrv._json_description cimport json_status_add_value
from tfsrv._json_document cimport (
    JSON_ARRAY,
    JSON_FALSE,
    JSON_NULL,
    JSON_OBJECT,
    JSON_STRING,
    JSON_TRUE,
    json_find_member,
    json_text,
)
from tfsrv._json_text cimport base64_room, json_get_base64
from tfsrv._status cimport INVALID_ARGUMENT, OK, RESOURCE_EXHAUSTED, status_add, status_set
from tfsrv._wire_format cimport (
    LONGEST_TAG,
    is_utf8,
    put_bytes,
    put_varint,
)


cdef int request_without_memory(Status* status) noexcept nogil:
    return status_set(status, RESOURCE_EXHAUSTED, "There is no memory for the request")


cdef int request_too_large(Status* status) noexcept nogil:
    """What cannot be a protobuf message: more than 2 GiB."""
    return status_set(status, RESOURCE_EXHAUSTED, "The values of the request are too large")


cdef int json_document_signature_name(
    const JsonDocument* document, Bytes* name, Status* status
) noexcept nogil:
    """Which signature a request asks for: empty if it names none. The code of `status`.

    The root must be an object, and its first "signature_name" a string. The name lives as long as the
    document and its body.
    """
    cdef uint32_t at
    status.code = OK
    name[0] = Bytes(b"", 0)
    if document.nodes[0].kind != JSON_OBJECT:
        status_set(status, INVALID_ARGUMENT, "JSON Value: ")
        json_status_add_value(status, document, 0)
        status_add(status, " Is not object")
        return INVALID_ARGUMENT
    at = json_find_member(document, 0, Bytes(b"signature_name", 14))
    if at == 0:
        return OK
    # A name that is not UTF-8 is none of a signature, and cannot stand in a protobuf message.
    if document.nodes[at].kind != JSON_STRING or not is_utf8(json_text(&document.nodes[at])):
        status_set(status, INVALID_ARGUMENT, "JSON Value: ")
        json_status_add_value(status, document, 0)
        status_add(status, " not formatted correctly. 'signature_name' key must be a string value.")
        return INVALID_ARGUMENT
    name[0] = json_text(&document.nodes[at])
    return OK


cdef bint json_is_base64(const JsonDocument* document, uint32_t at) noexcept nogil:
    """Whether a value is an object of one member "b64" that is a string: it stands for bytes."""
    return (document.nodes[at].kind == JSON_OBJECT and document.nodes[at].size == 1
            and document.nodes[at + 2].kind == JSON_STRING
            and bytes_equal(json_text(&document.nodes[at + 1]), Bytes(b"b64", 3)))


cdef int json_append_base64(
    Buffer* out, char tag, const JsonDocument* document, uint32_t at, Status* status
) noexcept nogil:
    """Append a length-delimited field of the bytes that a json_is_base64 stands for. The code of `status`."""
    cdef Bytes text = json_text(&document.nodes[at + 2])
    cdef Py_ssize_t size
    cdef char* start
    cdef char* value
    if buffer_reserve(out, 1 + LONGEST_TAG + base64_room(text.size)) != 0:
        return request_without_memory(status)
    start = out.data + out.size
    size = json_get_base64(text, start + 1 + LONGEST_TAG)
    if size < 0:
        return status_set(status, INVALID_ARGUMENT, "Unable to base64 decode")
    start[0] = tag
    value = put_varint(start + 1, <uint64_t>size)
    memmove(value, start + 1 + LONGEST_TAG, <size_t>size)
    out.size += <size_t>(value - start + size)
    return OK


cdef int append_field(Buffer* out, char tag, Bytes value) noexcept nogil:
    """Append a length-delimited field with a tag of one byte. 0, or -1 without memory."""
    if buffer_reserve(out, 1 + LONGEST_TAG + value.size) != 0:
        return -1
    out.data[out.size] = tag
    out.size = <size_t>(put_bytes(out.data + out.size + 1, value) - out.data)
    return 0


cdef const char* json_type_name(int kind) noexcept nogil:
    """What errors call a kind of value."""
    if kind == JSON_NULL:
        return "Null"
    if kind == JSON_FALSE:
        return "False"
    if kind == JSON_TRUE:
        return "True"
    if kind == JSON_OBJECT:
        return "Object"
    if kind == JSON_ARRAY:
        return "Array"
    if kind == JSON_STRING:
        return "String"
    return "Number"
