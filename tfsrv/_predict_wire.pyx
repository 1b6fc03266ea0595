"""A PredictRequest, written piece by piece while its values are being decoded from another form.

What REST clients send becomes the bytes that a gRPC client would have sent, so that all that follows
is the same for both. An input's values come before its shape, which is known last, and a length that is
not known yet gets the five bytes that any length of a message fits in: protobuf's varints may be longer
than they need to be.

    request_put_spec(wire, &spec)           # see _model_spec
    request_begin_input(wire, alias, DT_FLOAT, &mark)
    request_begin_content(wire, &mark)
    ...                                     # append values, as they lie in memory
    request_end_content(wire, &mark)        # of strings: request_put_string for each instead
    request_end_input(wire, &mark, dims, rank)

All return a WireResult: WIRE_OK, WIRE_NO_MEMORY, or WIRE_TOO_BIG beyond what a message can be.
"""

from libc.stdint cimport uint64_t

from tfsrv._buffer cimport buffer_append, buffer_reserve
from tfsrv._tensor_proto cimport STRING_VAL
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    LONGEST_VARINT,
    VARINT,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_TOO_BIG,
    field_size,
    put_bytes,
    put_varint,
    varint_size,
)

cdef enum:
    LENGTH_BYTES = 5        # of a length that is filled in later
    ALIGNMENT = 8           # bytes


cdef int begin_length(Buffer* wire, char tag, size_t* place) noexcept nogil:
    if buffer_append(wire, &tag, 1) != 0 or buffer_reserve(wire, LENGTH_BYTES) != 0:
        return WIRE_NO_MEMORY
    place[0] = wire.size
    wire.size += LENGTH_BYTES
    return WIRE_OK


cdef int end_length(Buffer* wire, size_t place) noexcept nogil:
    """Fill in the length of what was appended since."""
    cdef size_t size = wire.size - place - LENGTH_BYTES
    cdef int i
    if size > <size_t>LARGEST_LENGTH:
        return WIRE_TOO_BIG
    for i in range(LENGTH_BYTES):
        wire.data[place + <size_t>i] = <char>(size & 0x7F | (0x80 if i < LENGTH_BYTES - 1 else 0))
        size >>= 7
    return WIRE_OK


cdef int request_begin_input(Buffer* wire, Bytes alias, int dtype, InputMark* mark) noexcept nogil:
    """Begin an entry of `inputs`; its values come next.

    Those of a tensor_content will be aligned to eight bytes, if `wire` has the request from its start.
    """
    cdef size_t padding
    cdef char* at
    mark.content = 0
    if begin_length(wire, 2 << 3 | LENGTH_DELIMITED, &mark.entry) != WIRE_OK:
        return WIRE_NO_MEMORY
    if alias.size > <size_t>LARGEST_LENGTH:
        return WIRE_TOO_BIG
    if buffer_reserve(wire, field_size(alias.size)) != 0:
        return WIRE_NO_MEMORY
    at = wire.data + wire.size
    at[0] = 1 << 3 | LENGTH_DELIMITED
    wire.size = <size_t>(put_bytes(at + 1, alias) - wire.data)
    if begin_length(wire, 2 << 3 | LENGTH_DELIMITED, &mark.tensor) != WIRE_OK:
        return WIRE_NO_MEMORY
    if buffer_reserve(wire, 1 + LONGEST_VARINT) != 0:
        return WIRE_NO_MEMORY
    at = wire.data + wire.size
    at[0] = 1 << 3 | VARINT
    # One byte is the least, and behind it come content's tag and length.
    padding = (ALIGNMENT - (wire.size + 2 + 1 + LENGTH_BYTES) % ALIGNMENT) % ALIGNMENT
    at += 1
    at[0] = <char>dtype  # all known ones are below 128
    while padding > 0:
        at[0] = <char>(at[0] | 0x80)
        at[1] = 0
        at += 1
        padding -= 1
    wire.size = <size_t>(at + 1 - wire.data)
    return WIRE_OK


cdef int request_begin_content(Buffer* wire, InputMark* mark) noexcept nogil:
    """Begin tensor_content: values as they lie in memory."""
    return begin_length(wire, 4 << 3 | LENGTH_DELIMITED, &mark.content)


cdef int request_end_content(Buffer* wire, const InputMark* mark) noexcept nogil:
    return end_length(wire, mark.content)


cdef int request_put_string(Buffer* wire, Bytes value) noexcept nogil:
    """One more string of a tensor of them."""
    cdef char* at
    if value.size > <size_t>LARGEST_LENGTH:
        return WIRE_TOO_BIG
    if buffer_reserve(wire, field_size(value.size)) != 0:
        return WIRE_NO_MEMORY
    at = wire.data + wire.size
    at[0] = STRING_VAL << 3 | LENGTH_DELIMITED
    wire.size = <size_t>(put_bytes(at + 1, value) - wire.data)
    return WIRE_OK


cdef int request_end_input(
    Buffer* wire, const InputMark* mark, const int64_t* dims, int rank
) noexcept nogil:
    """Write the shape, and fill in the lengths."""
    cdef size_t shape
    cdef char* at
    cdef int i
    if begin_length(wire, 2 << 3 | LENGTH_DELIMITED, &shape) != WIRE_OK:
        return WIRE_NO_MEMORY
    if buffer_reserve(wire, <size_t>rank * (3 + LONGEST_VARINT)) != 0:
        return WIRE_NO_MEMORY
    for i in range(rank):
        at = wire.data + wire.size
        at[0] = 2 << 3 | LENGTH_DELIMITED
        at[1] = <char>(1 + varint_size(<uint64_t>dims[i]))
        at[2] = 1 << 3 | VARINT
        wire.size = <size_t>(put_varint(at + 3, <uint64_t>dims[i]) - wire.data)
    if (
        end_length(wire, shape) != WIRE_OK or end_length(wire, mark.tensor) != WIRE_OK
        or end_length(wire, mark.entry) != WIRE_OK
    ):
        return WIRE_TOO_BIG
    return WIRE_OK
