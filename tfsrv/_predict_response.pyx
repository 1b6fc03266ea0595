"""PredictResponse out, straight on protobuf's wire format.

Appends the fields as TensorFlow's Tensor::AsProtoField and AsProtoTensorContent would.

`write_predict_response` is the writer's face for Python.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport (
    int8_t,
    int16_t,
    int32_t,
    uint8_t,
    uint16_t,
    uint32_t,
    uint64_t,
)
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from tfsrv._buffer cimport buffer_reserve
from tfsrv._message cimport (
    message_free,
    message_init,
    message_read,
    message_seal,
    message_splice,
)
from tfsrv._model_spec cimport model_spec_put, model_spec_size
from tfsrv._tensor_proto cimport (
    BOOL_VAL,
    DCOMPLEX_VAL,
    DOUBLE_VAL,
    FLOAT8_VAL,
    FLOAT_VAL,
    HALF_VAL,
    INT64_VAL,
    INT_VAL,
    SCOMPLEX_VAL,
    STRING_VAL,
    UINT32_VAL,
    UINT64_VAL,
    dtype_bytes,
    dtype_field,
)
from tfsrv._tstring cimport TString, tstring_free, tstring_get, tstring_set
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    LONGEST_VARINT,
    VARINT,
    WIRE_BAD,
    WIRE_CHANGED,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_TOO_BIG,
    field_size,
    put_bytes,
    put_varint,
    varint_size,
)

from tfsrv.errors import Code, ServingError

ctypedef fused integer:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef inline size_t varints_size(const integer* values, int64_t count) noexcept nogil:
    """Bytes that put_varints writes. Negative numbers take ten, as in every protobuf."""
    cdef size_t size = 0
    cdef int64_t i
    for i in range(count):
        size += varint_size(<uint64_t><int64_t>values[i])
    return size


cdef inline char* put_varints(
    char* at, const char* end, const integer* values, int64_t count
) noexcept nogil:
    """NULL if they do not end where they were measured to: they have changed since."""
    cdef uint64_t value
    cdef int64_t i
    for i in range(count):
        value = <uint64_t><int64_t>values[i]
        if end - at < LONGEST_VARINT and varint_size(value) > <size_t>(end - at):
            return NULL
        at = put_varint(at, value)
    return at if at == end else NULL


cdef size_t values_size(const TensorData* tensor, int field, size_t unit) noexcept nogil:
    """Bytes of the values of a numeric tensor, packed."""
    if field == INT64_VAL:
        return varints_size(<const int64_t*>tensor.data, tensor.elements)
    if field == UINT64_VAL:
        return varints_size(<const uint64_t*>tensor.data, tensor.elements)
    if field == UINT32_VAL:
        return varints_size(<const uint32_t*>tensor.data, tensor.elements)
    if field == HALF_VAL:
        return varints_size(<const uint16_t*>tensor.data, tensor.elements)
    if field != INT_VAL:
        return tensor.size  # floats, complex and float8 as in memory; a bool is a byte in both
    if unit == 4:
        return varints_size(<const int32_t*>tensor.data, tensor.elements)
    if is_signed(tensor.dtype):
        if unit == 2:
            return varints_size(<const int16_t*>tensor.data, tensor.elements)
        return varints_size(<const int8_t*>tensor.data, tensor.elements)
    if unit == 2:
        return varints_size(<const uint16_t*>tensor.data, tensor.elements)
    return varints_size(<const uint8_t*>tensor.data, tensor.elements)


cdef char* put_values(
    char* at, const char* end, const TensorData* tensor, int field, size_t unit
) noexcept nogil:
    """What values_size measured, up to `end`. NULL if it has changed since."""
    cdef const uint8_t* flags
    cdef int64_t i
    if field == INT64_VAL:
        return put_varints(at, end, <const int64_t*>tensor.data, tensor.elements)
    if field == UINT64_VAL:
        return put_varints(at, end, <const uint64_t*>tensor.data, tensor.elements)
    if field == UINT32_VAL:
        return put_varints(at, end, <const uint32_t*>tensor.data, tensor.elements)
    if field == HALF_VAL:
        return put_varints(at, end, <const uint16_t*>tensor.data, tensor.elements)
    if field == BOOL_VAL:
        flags = <const uint8_t*>tensor.data
        for i in range(tensor.elements):
            at[i] = flags[i] != 0
        return at + tensor.elements
    if field != INT_VAL:
        memcpy(at, tensor.data, tensor.size)
        return at + tensor.size
    if unit == 4:
        return put_varints(at, end, <const int32_t*>tensor.data, tensor.elements)
    if is_signed(tensor.dtype):
        if unit == 2:
            return put_varints(at, end, <const int16_t*>tensor.data, tensor.elements)
        return put_varints(at, end, <const int8_t*>tensor.data, tensor.elements)
    if unit == 2:
        return put_varints(at, end, <const uint16_t*>tensor.data, tensor.elements)
    return put_varints(at, end, <const uint8_t*>tensor.data, tensor.elements)


cdef inline bint is_signed(int dtype) noexcept nogil:
    """Of the dtypes of int_val with one or two bytes."""
    return dtype in (5, 6, 11, 15)  # int16, int8, qint8, qint16


cdef bint wire_splices(int dtype, bint as_content) noexcept nogil:
    """Whether long values of the dtype leave from where they lie, if they have a holder."""
    return same_bytes_on_wire(dtype_field(dtype), as_content)


cdef inline bint same_bytes_on_wire(int field, bint as_content) noexcept nogil:
    """Whether the packed values are the tensor's memory, byte by byte."""
    if as_content:
        return field != STRING_VAL
    return field in (FLOAT_VAL, DOUBLE_VAL, SCOMPLEX_VAL, DCOMPLEX_VAL, FLOAT8_VAL)


cdef size_t strings_size(const TensorData* tensor, bint as_content) noexcept nogil:
    """Bytes of all strings: lengths and texts, with a tag for each unless it is content."""
    cdef const TString* strings = <const TString*>tensor.data
    cdef size_t size = 0
    cdef size_t text
    cdef int64_t i
    for i in range(tensor.elements):
        text = tstring_get(&strings[i]).size
        size += varint_size(text) + text
    return size if as_content else size + <size_t>tensor.elements


cdef char* put_strings(char* at, const char* end, const TensorData* tensor, bint as_content) noexcept nogil:
    """As string_val, or as TensorFlow's EncodeStringList: all lengths, then all texts.

    Up to `end`, where they were measured to end. NULL if they have changed since.
    """
    cdef const TString* strings = <const TString*>tensor.data
    cdef Bytes text
    cdef int64_t i
    for i in range(tensor.elements):
        text = tstring_get(&strings[i])
        if as_content:
            if varint_size(text.size) > <size_t>(end - at):
                return NULL
            at = put_varint(at, text.size)
        else:
            if field_size(text.size) > <size_t>(end - at):
                return NULL
            at[0] = STRING_VAL << 3 | LENGTH_DELIMITED
            at = put_bytes(at + 1, text)
    if as_content:
        for i in range(tensor.elements):
            text = tstring_get(&strings[i])
            if text.size > <size_t>(end - at):
                return NULL
            if text.size:
                memcpy(at, text.data, text.size)
            at += text.size
    return at if at == end else NULL


cdef size_t shape_size(const TensorData* tensor) noexcept nogil:
    cdef size_t size = 0
    cdef int i
    for i in range(tensor.rank):
        size += 2 + (1 + varint_size(<uint64_t>tensor.dims[i]) if tensor.dims[i] else 0)
    return size


cdef char* put_shape(char* at, const TensorData* tensor) noexcept nogil:
    cdef int i
    for i in range(tensor.rank):
        at[0] = 2 << 3 | LENGTH_DELIMITED  # dim
        if tensor.dims[i]:
            at[1] = <char>(1 + varint_size(<uint64_t>tensor.dims[i]))
            at[2] = 1 << 3 | VARINT  # size
            at = put_varint(at + 3, <uint64_t>tensor.dims[i])
        else:
            at[1] = 0
            at += 2
    return at


cdef int write_output(
    Message* message, TensorData* tensor, bint as_content, size_t splice_from, size_t room,
    void (*release)(void* holder) noexcept nogil
) noexcept nogil:
    """One entry of the map `outputs`, of at most `room` bytes."""
    cdef int field = dtype_field(tensor.dtype)
    cdef size_t unit = dtype_bytes(tensor.dtype)
    cdef bint has_values = tensor.elements > 0
    cdef bint tagged_one_by_one = field == STRING_VAL and not as_content
    cdef int values_field = 4 if as_content else field  # 4: tensor_content
    cdef size_t shape = shape_size(tensor)
    cdef size_t values = 0
    cdef size_t body = 1 + varint_size(<uint64_t>tensor.dtype) + field_size(shape)
    cdef size_t entry
    cdef size_t in_head
    cdef bint spliced
    cdef char* at
    if field == 0 or tensor.size != <size_t>tensor.elements * unit:
        return WIRE_BAD
    if has_values:
        if field == STRING_VAL:
            values = strings_size(tensor, as_content)
        else:
            values = tensor.size if as_content else values_size(tensor, field, unit)
        if tagged_one_by_one:
            body += values
        else:
            body += varint_size(values_field << 3) + varint_size(values) + values
    spliced = (
        has_values and release != NULL and tensor.holder != NULL and values >= splice_from
        and same_bytes_on_wire(field, as_content)
    )
    entry = field_size(tensor.alias.size) + field_size(body)
    in_head = field_size(entry) - (values if spliced else 0)
    if field_size(entry) > room:
        return WIRE_TOO_BIG
    if buffer_reserve(&message.head, in_head) != 0:
        return WIRE_NO_MEMORY
    at = message.head.data + message.head.size
    at[0] = 1 << 3 | LENGTH_DELIMITED  # outputs
    at = put_varint(at + 1, entry)
    at[0] = 1 << 3 | LENGTH_DELIMITED  # key
    at = put_bytes(at + 1, tensor.alias)
    at[0] = 2 << 3 | LENGTH_DELIMITED  # value
    at = put_varint(at + 1, body)
    at[0] = 1 << 3 | VARINT  # dtype
    at = put_varint(at + 1, <uint64_t>tensor.dtype)
    at[0] = 2 << 3 | LENGTH_DELIMITED  # tensor_shape
    at = put_varint(at + 1, shape)
    at = put_shape(at, tensor)
    if has_values:
        if not tagged_one_by_one:
            at = put_varint(at, values_field << 3 | LENGTH_DELIMITED)
            at = put_varint(at, values)
        if field == STRING_VAL:
            at = put_strings(at, at + values, tensor, as_content)
        elif as_content and not spliced:
            memcpy(at, tensor.data, values)
        elif not spliced:
            at = put_values(at, at + values, tensor, field, unit)
        if at == NULL:
            return WIRE_CHANGED
    message.head.size += in_head
    if spliced:
        if message_splice(
                message, <const char*>tensor.data, values, tensor.holder, release) != 0:
            return WIRE_NO_MEMORY
        tensor.taken = True
    return WIRE_OK


cdef int wire_write_predict(
    Message* message, TensorData* outputs, int outputs_size, Bytes model_name, int64_t version,
    Bytes signature_name, bint as_content, size_t splice_from,
    void (*release)(void* holder) noexcept nogil
) noexcept nogil:
    """Append a PredictResponse to `message`.

    Values of `splice_from` bytes or more that lie in memory as they go on the wire are not
    copied: the message takes the tensor's holder over (`taken` is set) and gives it to
    `release`. Without `release` everything is copied.

    A WireResult: WIRE_BAD for a dtype that a TensorProto cannot carry, WIRE_CHANGED for values that
    are not any more what was measured: tensors may share memory with variables of the model, which
    TensorFlow writes in place. Nothing is written beyond what was. If it is not WIRE_OK the message
    is of no use: clear it, which releases the holders taken so far.
    """
    cdef size_t room = LARGEST_LENGTH
    cdef size_t spec_size = model_spec_size(model_name, version, signature_name)
    cdef size_t written
    cdef char* at
    cdef int i
    cdef int result
    if field_size(spec_size) > room:
        return WIRE_TOO_BIG
    room -= field_size(spec_size)
    for i in range(outputs_size):
        written = message.head.size
        result = write_output(message, &outputs[i], as_content, splice_from, room, release)
        if result != WIRE_OK:
            return result
        room -= message.head.size - written
        if outputs[i].taken:
            room -= outputs[i].size
    if buffer_reserve(&message.head, field_size(spec_size)) != 0:
        return WIRE_NO_MEMORY
    at = message.head.data + message.head.size
    at[0] = 2 << 3 | LENGTH_DELIMITED  # model_spec
    at = model_spec_put(put_varint(at + 1, spec_size), model_name, version, signature_name)
    message.head.size = at - message.head.data
    return WIRE_OK


# The writer's face for Python


cdef void release_object(void* holder) noexcept nogil:
    with gil:
        Py_DECREF(<object>holder)  # the message's reference


cdef Bytes bytes_of(bytes text):
    cdef Bytes view
    view.data = PyBytes_AS_STRING(text)
    view.size = len(text)
    return view


cdef int fill_strings(TString* strings, list texts) except -1:
    cdef bytes text
    cdef Py_ssize_t i
    for i, text in enumerate(texts):
        if tstring_set(&strings[i], PyBytes_AS_STRING(text), len(text)) != 0:
            raise MemoryError
    return 0


cdef class OutputTensor:
    """One tensor to be written, with the memory that its TensorData points to; for faces of writers."""

    def __cinit__(self, str alias, int dtype, tuple shape, values):
        cdef int64_t elements = 1
        cdef Py_ssize_t i
        self.alias = alias.encode()
        self.values = values
        self.dims = <int64_t*>calloc(len(shape) + 1, sizeof(int64_t))
        if self.dims == NULL:
            raise MemoryError
        for i in range(len(shape)):
            self.dims[i] = shape[i]
            elements *= shape[i]
        self.data.alias = bytes_of(self.alias)
        self.data.dtype = dtype
        self.data.rank = <int>len(shape)
        self.data.dims = self.dims
        self.data.elements = elements
        if isinstance(values, bytes):
            self.data.data = PyBytes_AS_STRING(values)
            self.data.size = len(values)
            self.data.holder = <void*>values
        else:
            self.strings = <TString*>calloc(len(values) + 1, sizeof(TString))
            if self.strings == NULL:
                raise MemoryError
            fill_strings(self.strings, values)
            self.data.data = self.strings
            self.data.size = len(values) * sizeof(TString)

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.strings != NULL:
            for i in range(<Py_ssize_t>(self.data.size // sizeof(TString))):
                tstring_free(&self.strings[i])
        free(self.strings)
        free(self.dims)


cdef bytes take_message(Message* message):
    """All bytes of a message."""
    cdef bytes text
    message_seal(message)
    text = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>message.left)
    message_read(message, PyBytes_AS_STRING(text), message.left)
    return text


def write_predict_response(
    outputs: list[tuple[str, int, tuple[int, ...], bytes | list[bytes]]],
    model_name: str,
    version: int,
    signature_name: str,
    as_content: bool = False,
    splice_from: int = 65536,
) -> bytes:
    """A serialized PredictResponse.

    An output is its alias, its dtype (a number of TensorFlow's DataType), its shape, and its
    values as they lie in memory, or a list of bytes for DT_STRING. ServingError INTERNAL if a
    TensorProto cannot carry one, RESOURCE_EXHAUSTED if they are too much for one message.
    """
    cdef Message message
    cdef TensorData* tensors = <TensorData*>calloc(len(outputs) + 1, sizeof(TensorData))
    cdef list owners = [OutputTensor(*output) for output in outputs]
    cdef bytes name = model_name.encode()
    cdef bytes signature = signature_name.encode()
    cdef int result
    cdef Py_ssize_t i
    cdef OutputTensor owner
    if tensors == NULL:
        raise MemoryError
    message_init(&message)
    try:
        for i, owner in enumerate(owners):
            tensors[i] = owner.data
        result = wire_write_predict(
            &message, tensors, <int>len(owners), bytes_of(name), version, bytes_of(signature),
            as_content, splice_from, release_object)
        for i in range(len(owners)):
            if tensors[i].taken:
                Py_INCREF(<object>tensors[i].holder)  # the message's reference
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result == WIRE_TOO_BIG:
            raise ServingError(
                Code.RESOURCE_EXHAUSTED, "The response is longer than a protobuf message can be")
        if result != WIRE_OK:
            raise ServingError(Code.INTERNAL, "An output cannot be sent as a TensorProto")
        return take_message(&message)
    finally:
        message_free(&message)
        free(tensors)
