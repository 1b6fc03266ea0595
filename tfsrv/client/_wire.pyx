"""A PredictRequest from arrays, and arrays from a PredictResponse.

The other direction of what the server's modules do, with their readers: an entry of the map
`outputs` of a response looks like one of `inputs` of a request, and what a TensorProto stands for
is said by _tensor_values. Nothing here is asked by the server.

Numbers are sent as tensor_content, one copy of the array's memory whatever its layout and byte
order; strings as string_val. What comes back is copied once too, into arrays that belong to the
caller and may be written to. Much of either is copied without the GIL.
"""

from collections.abc import Iterable, Mapping

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBUF_WRITE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from tfsrv._buffer cimport Bytes
from tfsrv._model_spec cimport model_spec_read
from tfsrv._predict_request cimport (
    FEW_INPUTS,
    PredictView,
    TensorView,
    drop_replaced_inputs,
    predict_view_free,
    predict_view_init,
    read_input,
)
from tfsrv._tensor_proto cimport STRING_VAL
from tfsrv._tensor_values cimport count_elements, expanded_bytes, read_strings, read_values
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    VARINT,
    WIRE_BAD,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_RARE,
    Cursor,
    put_bytes,
    put_varint,
    read_bytes,
    read_tag,
    skip_unknown,
    varint_size,
)

import numpy

from tfsrv.client.dtypes import UnknownTypeError, data_type, numpy_type
from tfsrv.client.values import as_array
from tfsrv.errors import Code, ServingError

cdef enum:
    DT_STRING = 7           # as in tensorflow/core/framework/types.proto
    MUCH = 65536            # bytes; less is copied faster than the GIL is let go and taken again
    LEAST_LIMIT = 1 << 30   # bytes of the arrays of an answer, see read_predict_response
    EXPANSION = 64          # times the answer's bytes
    STRING_BYTES = 64       # of a bytes object and its place in a list and in an array

cdef dict _known_types = {}     # DataType by numpy's type; only of numbers, whose types are few
cdef dict _known_numbers = {}   # numpy's type by DataType
cdef type _ndarray = numpy.ndarray


# ---- out ------------------------------------------------------------------------------------------


cdef class _Input:
    """One array on its way into a request: measured, then written."""

    cdef bytes alias
    cdef object array
    cdef tuple shape            # as measured: whoever has the array may give it another one
    cdef int dtype
    cdef Py_buffer memory       # of numbers in C order and the machine's byte order
    cdef bint has_memory
    cdef list texts             # of strings
    cdef size_t values_size     # of tensor_content, or of all the string_val
    cdef size_t shape_size      # of the TensorShapeProto
    cdef size_t tensor_size     # of the TensorProto

    def __dealloc__(self):
        if self.has_memory:
            PyBuffer_Release(&self.memory)

    cdef int measure(self) except -1:
        cdef size_t size = 0
        cdef int64_t dim
        self.shape = self.array.shape
        self.shape_size = 0
        for dim in self.shape:
            size = 1 + varint_size(<uint64_t>dim)
            self.shape_size += 2 + size  # a Dim is shorter than 128 bytes
        if self.dtype == DT_STRING:
            self.measure_strings()
            size = self.values_size
        else:
            self.measure_numbers()
            size = block_size(self.values_size) if self.values_size else 0
        self.tensor_size = 1 + varint_size(<uint64_t>self.dtype) + block_size(self.shape_size) + size
        return 0

    cdef int measure_numbers(self) except -1:
        cdef object array = self.array
        if array.flags.c_contiguous and array.dtype.isnative and array.dtype.kind in "fiub?c":
            try:
                PyObject_GetBuffer(array, &self.memory, PyBUF_SIMPLE)
            except ValueError:  # types that are not numpy's own have no buffers
                pass
            else:
                self.has_memory = True
                self.values_size = <size_t>self.memory.len
                return 0
        self.array = array.view()  # whose shape nobody else can change
        self.values_size = <size_t>array.nbytes
        return 0

    cdef int measure_strings(self) except -1:
        cdef list texts = self.array.reshape(-1).tolist()
        cdef Py_ssize_t i
        self.values_size = 0
        for i in range(len(texts)):
            text = texts[i]
            if isinstance(text, str):
                text = texts[i] = (<str>text).encode()
            elif not isinstance(text, bytes):
                raise TypeError(f"an element is no string but a {type(text).__name__}")
            self.values_size += block_size(<size_t>PyBytes_GET_SIZE(text))
        self.texts = texts
        return 0

    cdef size_t entry_size(self):
        return block_size(<size_t>len(self.alias)) + block_size(self.tensor_size)

    cdef char* write(self, char* at) except NULL:
        cdef int64_t dim
        at = put_head(at, 2, self.entry_size())
        at = put_text(at, 1, self.alias)
        at = put_head(at, 2, self.tensor_size)
        at[0] = 1 << 3 | VARINT
        at = put_varint(at + 1, <uint64_t>self.dtype)
        at = put_head(at, 2, self.shape_size)
        for dim in self.shape:
            at = put_head(at, 2, 1 + varint_size(<uint64_t>dim))
            at[0] = 1 << 3 | VARINT
            at = put_varint(at + 1, <uint64_t>dim)
        if self.dtype == DT_STRING:
            for text in self.texts:
                at = put_text(at, STRING_VAL, <bytes>text)
            return at
        if self.values_size == 0:
            return at
        at = put_head(at, 4, self.values_size)
        self.write_numbers(at)
        return at + self.values_size

    cdef int write_numbers(self, char* at) except -1:
        if not self.has_memory:
            memory = PyMemoryView_FromMemory(at, <Py_ssize_t>self.values_size, PyBUF_WRITE)
            native = self.array.dtype.newbyteorder("=")
            numpy.frombuffer(memory, native).reshape(self.array.shape)[...] = self.array
        elif self.values_size < MUCH:
            memcpy(at, self.memory.buf, self.values_size)
        else:
            with nogil:
                memcpy(at, self.memory.buf, self.values_size)
        return 0


cdef inline size_t block_size(size_t content) noexcept nogil:
    """Bytes of a field of that content: a tag of one byte, its length, itself."""
    return 1 + varint_size(content) + content


cdef inline char* put_head(char* at, int field, size_t size) noexcept nogil:
    at[0] = <char>(field << 3 | LENGTH_DELIMITED)
    return put_varint(at + 1, size)


cdef inline char* put_text(char* at, int field, bytes text) noexcept:
    at[0] = <char>(field << 3 | LENGTH_DELIMITED)
    return put_bytes(at + 1, Bytes(PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text)))


cdef int known_type(object dtype) except -1:
    """dtypes.data_type, remembered."""
    found = _known_types.get(dtype)
    if found is not None:
        return found
    found = data_type(dtype)
    if found != DT_STRING:
        _known_types[dtype] = found
    return found


cdef _Input input_of(str alias, object value):
    cdef _Input input = _Input.__new__(_Input)
    try:
        input.array = value if type(value) is _ndarray else as_array(value)
        input.alias = alias.encode()
        input.dtype = known_type(input.array.dtype)
        input.measure()
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"input {alias!r}: {error}") from None
    return input


cdef bytes model_spec_of(str name, str signature_name, object version, object version_label):
    """A serialized ModelSpec."""
    cdef bytearray spec = bytearray()
    add_text(spec, 1, name.encode())
    if version is not None:
        if version_label is not None:
            raise ValueError("give either a version or a label, not both")
        if not INT64_MIN <= version <= INT64_MAX:
            raise ValueError(f"version {version} has more than 64 bits")
        add_text(spec, 2, int64_value(version))
    if signature_name:
        add_text(spec, 3, signature_name.encode())
    if version_label is not None:
        add_text(spec, 4, version_label.encode())
    return bytes(spec)


cdef bytes int64_value(int64_t value):
    """A serialized google.protobuf.Int64Value."""
    cdef char written[11]
    written[0] = 1 << 3 | VARINT
    return written[:put_varint(&written[1], <uint64_t>value) - written]


cdef int add_text(bytearray message, int field, bytes text) except -1:
    cdef char head[11]
    message += head[:put_head(head, field, <size_t>len(text)) - head]
    message += text
    return 0


def write_predict_request(
    model_name: str,
    inputs: Mapping[str, object],
    signature_name: str = "",
    version: int | None = None,
    version_label: str | None = None,
    output_filter: Iterable[str] = (),
) -> bytes:
    """A serialized PredictRequest. `inputs` maps aliases to whatever values.as_array takes.

    TypeError or ValueError, with the alias, for an input that a TensorProto cannot carry;
    ValueError for a request that is larger than a protobuf message can be.
    """
    cdef bytes spec = model_spec_of(model_name, signature_name, version, version_label)
    cdef list made = []
    cdef list names = []
    cdef size_t size = block_size(<size_t>len(spec))
    cdef _Input input
    cdef bytes name
    cdef bytes request
    cdef char* at
    for alias, value in inputs.items():
        input = input_of(alias, value)
        size += block_size(input.entry_size())
        made.append(input)
    for wanted in output_filter:
        name = (<str?>wanted).encode()
        size += block_size(<size_t>len(name))
        names.append(name)
    if size > LARGEST_LENGTH:
        raise ValueError(f"a request of {size} bytes is larger than a protobuf message can be")
    request = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    at = put_text(PyBytes_AS_STRING(request), 1, spec)
    for input in made:
        at = input.write(at)
    for name in names:
        at = put_text(at, 3, name)
    assert at == PyBytes_AS_STRING(request) + size
    return request


# ---- in -------------------------------------------------------------------------------------------


cdef int read_response(const char* data, size_t size, PredictView* view) noexcept nogil:
    """Read a PredictResponse as if its outputs were the inputs of a request. A WireResult."""
    cdef Cursor at = <Cursor>data
    cdef Cursor end = at + size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result = WIRE_OK
    while at < end and result == WIRE_OK:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED):  # outputs
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = read_input(view, part)
        elif tag == (2 << 3 | LENGTH_DELIMITED):  # model_spec
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = model_spec_read(&view.spec, part)
        else:
            result = skip_unknown(&at, end, tag)
    if result == WIRE_OK and view.inputs_size > FEW_INPUTS:
        drop_replaced_inputs(view)
    return result


cdef object known_number(int dtype):
    """dtypes.numpy_type, remembered."""
    found = _known_numbers.get(dtype)
    if found is None:
        found = _known_numbers[dtype] = numpy_type(dtype)
    return found


cdef int append_text(void* arg, int64_t index, Bytes value) noexcept nogil:
    with gil:
        try:
            (<list>arg).append(value.data[:value.size] if value.size else b"")
        except MemoryError:
            return -1
    return 0


cdef object array_of(const PredictView* view, const TensorView* tensor, str alias):
    """A new array. UnknownTypeError, or ValueError for one that cannot be."""
    cdef int64_t elements = count_elements(view, tensor)
    cdef list texts = []
    cdef int i
    dtype = known_number(tensor.dtype)
    shape = tuple([view.dims[tensor.dims_start + i] for i in range(tensor.rank)])
    if tensor.dtype == DT_STRING:
        if read_strings(view, tensor, elements, append_text, <void*>texts) != 0:
            raise ValueError("its content is no list of so many strings")
        array = numpy.empty(shape, dtype)
        array.reshape(-1)[:] = texts
        return array
    array = numpy.empty(shape, dtype)
    # Types that are not numpy's own have no buffers: their bits are filled in.
    bits = array if dtype.isbuiltin == 1 else array.view(f"u{dtype.itemsize}")
    if fill(view, tensor, elements, bits) != 0:
        raise ValueError("its content is not as long as its shape says, or is none")
    return array


cdef int fill(
    const PredictView* view, const TensorView* tensor, int64_t elements, object array
) except -2:
    cdef Py_buffer memory
    cdef int result
    PyObject_GetBuffer(array, &memory, PyBUF_SIMPLE | PyBUF_WRITABLE)
    if memory.len < MUCH:
        result = read_values(view, tensor, memory.buf, elements)
    else:
        with nogil:
            result = read_values(view, tensor, memory.buf, elements)
    PyBuffer_Release(&memory)
    return result


cdef int64_t memory_of(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """Bytes that the array will take; -1 if there can be none, INT64_MAX for too many to count."""
    cdef int64_t size = expanded_bytes(view, tensor)
    cdef int64_t elements = count_elements(view, tensor)
    if size >= 0 and tensor.dtype == DT_STRING:
        if elements > (INT64_MAX - size) // STRING_BYTES:
            return INT64_MAX
        size += elements * STRING_BYTES
    return size


cdef dict arrays_of(const PredictView* view, int64_t most_bytes):
    cdef const TensorView* tensor
    cdef int64_t room = most_bytes
    cdef int64_t size
    cdef dict arrays = {}
    cdef int i
    for i in range(view.inputs_size):
        tensor = &view.inputs[i]
        alias = text_of(tensor.alias)
        size = memory_of(view, tensor)
        if size > room:
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"The response's outputs would take more than {most_bytes} bytes: {alias}")
        room -= max(size, 0)
        try:
            # Which dtypes there are is asked first, to tell one that has no arrays by its name.
            known_number(tensor.dtype)
            if size < 0:
                raise ValueError("its shape, or the size of its content, is impossible")
            arrays[alias] = array_of(view, tensor, alias)
        except (UnknownTypeError, ValueError) as error:
            raise ServingError(
                Code.INTERNAL, f"The response's output {alias} cannot be read: {error}") from None
    return arrays


cdef str text_of(Bytes text):
    return text.data[:text.size].decode() if text.size else ""


def read_predict_response(
    data: bytes, most_bytes: int = 0
) -> tuple[dict[str, object], str, int, str]:
    """The outputs of a serialized PredictResponse, and its model's name, version and signature.

    Each output is a new array; strings are arrays of objects, the elements bytes. A few bytes
    may stand for a large tensor, whose last value repeats: arrays of more than `most_bytes`
    together are refused, by default 64 times what `data` takes, and at least 1 GiB.

    ServingError: INTERNAL if it cannot be read, RESOURCE_EXHAUSTED for arrays too large.
    """
    cdef PredictView view
    cdef int result
    if most_bytes == 0:
        most_bytes = max(<int64_t>len(data) * EXPANSION, <int64_t>LEAST_LIMIT)
    predict_view_init(&view)
    try:
        result = read_response(data, <size_t>len(data), &view)
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result == WIRE_RARE:
            raise ServingError(
                Code.INTERNAL, "The response has fields that no array can be made of")
        if result != WIRE_OK:
            raise ServingError(Code.INTERNAL, "The response cannot be decoded")
        return (
            arrays_of(&view, most_bytes), text_of(view.spec.name), view.spec.version,
            text_of(view.spec.signature_name))
    finally:
        predict_view_free(&view)
