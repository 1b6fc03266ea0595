"""A ModelSpec on protobuf's wire format, read and written without the GIL.

Reading accepts and refuses what Python protobuf (upb) accepts and refuses, and merges repeated
occurrences as it does.
"""

from libc.stdint cimport uint32_t, uint64_t

from tfsrv._buffer cimport buffer_reserve
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    LONGEST_VARINT,
    VARINT,
    WIRE_BAD,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_TOO_BIG,
    Cursor,
    field_size,
    put_bytes,
    put_varint,
    read_bytes,
    read_string,
    read_tag,
    read_varint,
    skip_unknown,
    varint_size,
)


cdef int model_spec_read(ModelSpecView* spec, Bytes message) noexcept nogil:
    """One occurrence of a ModelSpec, merged into `spec`. A WireResult."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result
    spec.present = True
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED):
            at = read_string(at, end, &spec.name)
        elif tag == (3 << 3 | LENGTH_DELIMITED):
            at = read_string(at, end, &spec.signature_name)
        elif tag == (2 << 3 | LENGTH_DELIMITED):  # of version and label the last one counts
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            spec.has_version = True
            spec.has_version_label = False
            spec.version_label.size = 0
            result = read_int64_value(part, &spec.version)
            if result != WIRE_OK:
                return result
        elif tag == (4 << 3 | LENGTH_DELIMITED):
            at = read_string(at, end, &spec.version_label)
            spec.has_version_label = True
            spec.has_version = False
            spec.version = 0  # a version that comes yet starts from nothing
        else:
            result = skip_unknown(&at, end, tag)
            if result != WIRE_OK:
                return result
        if at == NULL:
            return WIRE_BAD
    return WIRE_OK


cdef int read_int64_value(Bytes message, int64_t* value) noexcept nogil:
    """A google.protobuf.Int64Value, merged into `value`."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef int result
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | VARINT):
            at = read_varint(at, end, <uint64_t*>value)
            if at == NULL:
                return WIRE_BAD
        else:
            result = skip_unknown(&at, end, tag)
            if result != WIRE_OK:
                return result
    return WIRE_OK


cdef int request_put_spec(Buffer* wire, const RequestSpec* spec) noexcept nogil:
    """Append the ModelSpec, field 1 of every request. WIRE_OK, WIRE_TOO_BIG or WIRE_NO_MEMORY."""
    cdef size_t version_bytes = 1 + varint_size(<uint64_t>spec.version)
    cdef size_t size = 0
    cdef char* at
    if spec.name.size:
        size += field_size(spec.name.size)
    if spec.has_version:
        size += field_size(version_bytes)
    elif spec.label.size:
        size += field_size(spec.label.size)
    if spec.signature_name.size:
        size += field_size(spec.signature_name.size)
    if size > <size_t>LARGEST_LENGTH:
        return WIRE_TOO_BIG
    if buffer_reserve(wire, 1 + LONGEST_VARINT + size) != 0:
        return WIRE_NO_MEMORY
    at = wire.data + wire.size
    at[0] = 1 << 3 | LENGTH_DELIMITED
    at = put_varint(at + 1, size)
    if spec.name.size:
        at[0] = 1 << 3 | LENGTH_DELIMITED
        at = put_bytes(at + 1, spec.name)
    if spec.has_version:  # an Int64Value
        at[0] = 2 << 3 | LENGTH_DELIMITED
        at = put_varint(at + 1, version_bytes)
        at[0] = 1 << 3 | VARINT
        at = put_varint(at + 1, <uint64_t>spec.version)
    elif spec.label.size:
        at[0] = 4 << 3 | LENGTH_DELIMITED
        at = put_bytes(at + 1, spec.label)
    if spec.signature_name.size:
        at[0] = 3 << 3 | LENGTH_DELIMITED
        at = put_bytes(at + 1, spec.signature_name)
    wire.size = <size_t>(at - wire.data)
    return WIRE_OK


cdef inline size_t version_size(int64_t version) noexcept nogil:
    """Bytes of an Int64Value's fields."""
    return 1 + varint_size(<uint64_t>version) if version else 0


cdef size_t model_spec_size(Bytes name, int64_t version, Bytes signature_name) noexcept nogil:
    """Bytes that model_spec_put writes."""
    cdef size_t size = field_size(version_size(version))
    if name.size:
        size += field_size(name.size)
    if signature_name.size:
        size += field_size(signature_name.size)
    return size


cdef char* model_spec_put(
    char* at, Bytes name, int64_t version, Bytes signature_name
) noexcept nogil:
    """The fields of an answer's ModelSpec; what is behind them is the result."""
    if name.size:
        at[0] = 1 << 3 | LENGTH_DELIMITED
        at = put_bytes(at + 1, name)
    at[0] = 2 << 3 | LENGTH_DELIMITED  # version, an Int64Value
    at = put_varint(at + 1, version_size(version))
    if version:
        at[0] = 1 << 3 | VARINT
        at = put_varint(at + 1, <uint64_t>version)
    if signature_name.size:
        at[0] = 3 << 3 | LENGTH_DELIMITED
        at = put_bytes(at + 1, signature_name)
    return at
