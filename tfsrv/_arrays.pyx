"""A request's tensors as numpy arrays, and numpy arrays as a response.

For servables written in Python. What a TensorProto stands for is said by _tensor_values, how one
is written by _predict_response; here is what lies between them and numpy. Strings are arrays of
objects, the elements bytes.

Numbers are converted without the GIL, strings in slices between which it is let go, so that the
thread that answers all other requests never waits for long. numpy is imported by the first
request that needs it: a server of SavedModels alone does without.
"""

import sys
from collections.abc import Mapping

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, malloc

from tfsrv._message cimport message_free, message_init, message_read, message_seal
from tfsrv._predict_request cimport predict_view_free, predict_view_init, wire_read_predict
from tfsrv._predict_response cimport TensorData, wire_write_predict
from tfsrv._tensor cimport tensor_view_bytes
from tfsrv._tensor_proto cimport (
    HALF_VAL,
    INT64_VAL,
    INT_VAL,
    STRING_VAL,
    UINT32_VAL,
    UINT64_VAL,
    dtype_field,
)
from tfsrv._tensor_values cimport count_elements, read_strings, read_values
from tfsrv._tstring cimport TSTRING_VIEW, TString
from tfsrv._wire_format cimport LARGEST_LENGTH, WIRE_NO_MEMORY, WIRE_OK

from tfsrv import _proto
from tfsrv.errors import Code, ServingError

cdef enum:
    DT_STRING = 7           # as in tensorflow/core/framework/types.proto
    SLICE = 1024            # strings that are made or looked at while the GIL is held
    STRING_OBJECT_BYTES = 32    # of a bytes object and its place in an array, beyond a TString's 24
    STRING_BYTES = 32           # of a TString and a place in a list, for each string that is written
    STRING_LEAST = 2            # bytes of the empty string in a message

# numpy's type by DataType. It has none for bfloat16, float8 and the quantized ones.
cdef dict NUMPY_TYPES = {
    1: "f4", 2: "f8", 3: "i4", 4: "u1", 5: "i2", 6: "i1", DT_STRING: "O", 8: "c8", 9: "i8",
    10: "?", 17: "u2", 18: "c16", 19: "f2", 22: "u4", 23: "u8",
}
# Fields whose numbers take more or fewer bytes as they are larger or smaller.
cdef frozenset MEASURED = frozenset((INT_VAL, INT64_VAL, UINT32_VAL, UINT64_VAL, HALF_VAL))
# DataType by kind and size of numpy's type.
cdef dict DATA_TYPES = {
    ("f", 4): 1, ("f", 8): 2, ("i", 4): 3, ("u", 1): 4, ("i", 2): 5, ("i", 1): 6, ("c", 8): 8,
    ("i", 8): 9, ("b", 1): 10, ("u", 2): 17, ("c", 16): 18, ("f", 2): 19, ("u", 4): 22,
    ("u", 8): 23,
}


# ---- tensors in ---------------------------------------------------------------------------------

cdef int64_t array_bytes(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """Memory that the array of an input takes, so that it can be refused before.

    As _tensor.tensor_view_bytes: INT64_MAX is more than can be told, -1 a tensor that cannot be
    made.
    """
    cdef int64_t size = tensor_view_bytes(view, tensor)
    cdef int64_t elements
    if size < 0 or tensor.dtype != DT_STRING:
        return size
    elements = count_elements(view, tensor)
    if elements > (INT64_MAX - size) // STRING_OBJECT_BYTES:
        return INT64_MAX
    return size + elements * STRING_OBJECT_BYTES


cdef dict arrays_of_view(const PredictView* view):
    """All inputs of a request, by alias; new arrays that may be written to.

    What they take was found bearable before, by array_bytes. ServingError (INVALID_ARGUMENT) for
    a tensor that cannot be read, or that numpy has no array for.
    """
    cdef dict arrays = {}
    cdef const TensorView* tensor
    cdef str alias
    cdef int i
    for i in range(view.inputs_size):
        tensor = &view.inputs[i]
        alias = text_of(tensor.alias)
        arrays[alias] = array_of_view(view, tensor, alias)
    return arrays


cdef object array_of_view(const PredictView* view, const TensorView* tensor, str alias):
    cdef int64_t elements = count_elements(view, tensor)
    cdef object array
    cdef int result
    if tensor_view_bytes(view, tensor) < 0:
        raise bad_tensor(alias)
    array = empty_array(view, tensor, alias)
    if dtype_field(tensor.dtype) == STRING_VAL:
        result = fill_strings(view, tensor, elements, array)
    else:
        result = fill_numbers(view, tensor, elements, array)
    if result != 0:
        raise bad_tensor(alias)
    return array


cdef object bad_tensor(str alias):
    return ServingError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}")


cdef object empty_array(const PredictView* view, const TensorView* tensor, str alias):
    """An array of the tensor's type and shape, its elements not set."""
    import numpy

    cdef int i
    kind = NUMPY_TYPES.get(tensor.dtype)
    if kind is None:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"The servable cannot take {type_name(tensor.dtype)}, for which numpy has no type: {alias}")
    shape = tuple([view.dims[tensor.dims_start + i] for i in range(tensor.rank)])
    try:
        return numpy.empty(shape, kind)
    except ValueError as error:  # more dimensions, or larger ones, than numpy's arrays have
        raise ServingError(
            Code.INVALID_ARGUMENT, f"tensor parsing error: {alias} ({error})") from None


cdef str type_name(int dtype):
    values = _proto.pool().FindEnumTypeByName("tensorflow.DataType").values_by_number
    return values[dtype].name if dtype in values else f"data type {dtype}"


cdef int fill_numbers(
    const PredictView* view, const TensorView* tensor, int64_t elements, object array
) except -2:
    """0, or -1 when the tensor's content is none."""
    cdef Py_buffer memory
    cdef int result
    PyObject_GetBuffer(array, &memory, PyBUF_SIMPLE | PyBUF_WRITABLE)
    with nogil:
        result = read_values(view, tensor, memory.buf, elements)
    PyBuffer_Release(&memory)
    return result


cdef struct Slice:
    # Strings on their way into an array: collected without the GIL, stored with it.
    void* array             # borrowed; one-dimensional
    void* last              # bytes object of `last_text`, one reference, or NULL
    Bytes last_text
    int64_t begin           # index of texts[0]
    int size
    bint failed             # without memory
    Bytes texts[SLICE]


cdef int fill_strings(
    const PredictView* view, const TensorView* tensor, int64_t elements, object array
) except -2:
    """0, or -1 when the tensor's content is no list of so many strings."""
    cdef Slice* slice
    cdef object flat = array.reshape(-1)
    cdef object last
    cdef int result
    slice = <Slice*>calloc(1, sizeof(Slice))
    if slice == NULL:
        raise MemoryError
    slice.array = <void*>flat
    with nogil:
        result = read_strings(view, tensor, elements, collect, slice)
    if result == 0:
        result = store(slice)
    if slice.last != NULL:
        last = <object>slice.last
        Py_DECREF(last)  # the slice's reference
    failed = slice.failed
    free(slice)
    if failed:
        raise MemoryError
    return result


cdef int collect(void* arg, int64_t index, Bytes text) noexcept nogil:
    cdef Slice* slice = <Slice*>arg
    if slice.size == SLICE:
        with gil:
            if store(slice) != 0:
                return -1
    slice.texts[slice.size] = text
    slice.size += 1
    return 0


cdef int store(Slice* slice) noexcept:
    """Make objects of what was collected. A text that is repeated is one object."""
    cdef object flat = <object>slice.array
    cdef object text = b"" if slice.last == NULL else <object>slice.last
    cdef object last
    cdef list made = []
    cdef int i
    try:
        for i in range(slice.size):
            if (
                slice.last == NULL
                or slice.texts[i].data != slice.last_text.data
                or slice.texts[i].size != slice.last_text.size
            ):
                text = bytes_of(slice.texts[i])
                if slice.last != NULL:
                    last = <object>slice.last
                    Py_DECREF(last)  # the slice's reference
                Py_INCREF(text)  # the slice's reference
                slice.last = <void*>text
                slice.last_text = slice.texts[i]
            made.append(text)
        flat[slice.begin:slice.begin + slice.size] = made
    except BaseException:
        slice.failed = True
        return -1
    slice.begin += slice.size
    slice.size = 0
    return 0


cdef bytes bytes_of(Bytes text):
    return PyBytes_FromStringAndSize(text.data, <Py_ssize_t>text.size) if text.size else b""


cdef str text_of(Bytes text):
    return bytes_of(text).decode()


# ---- the GIL --------------------------------------------------------------------------------------

cdef void let_others_run() noexcept:
    """Let the GIL go, if somebody wants it."""
    with nogil:
        pass


cdef int let_go_of_strings(dict arrays) except -1:
    """Empty the dict, and free the strings in it a slice at a time: many take long.

    Only what nobody else has: a dict or an array that somebody has kept is not touched.
    """
    cdef int64_t begin
    if (<PyObject*>arrays).ob_refcnt > 1:
        return 0
    while arrays:
        array = arrays.popitem()[1]
        # Only we have it, and it is no view, so that nothing has its elements but it.
        if (<PyObject*>array).ob_refcnt == 1 and is_own_array_of_objects(array):
            flat = array.flat
            for begin in range(0, array.size, SLICE):
                flat[begin:begin + SLICE] = None
                let_others_run()
            del flat
    return 0


cdef bint is_own_array_of_objects(object array) except -1:
    return (
        type(array).__module__ == "numpy" and array.dtype.kind == "O" and array.base is None
        and array.ndim > 0 and array.flags.writeable
    )


# ---- arrays out ---------------------------------------------------------------------------------

cdef object TOO_LARGE = "The response is larger than a message may be."


cdef dict plain_arrays(dict outputs):
    """The arrays of a servable as write_arrays takes them: views that nobody else has.

    Nobody else can set their shape or type, and none is of a subclass, whose shapes may follow
    rules of their own. ServingError (INTERNAL) for one that a TensorProto cannot carry.
    """
    import numpy

    cdef dict plain = {}
    masked = sys.modules.get("numpy.ma")  # imported by numpy when somebody wants it
    for alias, array in outputs.items():
        if masked is not None and isinstance(array, masked.MaskedArray):
            raise ServingError(
                Code.INTERNAL,
                f"The servable's output {alias} is a masked array, and a TensorProto cannot carry"
                " a mask: call filled() on it")
        plain[alias] = numpy.asarray(array).view()
        if data_type(plain[alias]) < 0:
            raise ServingError(
                Code.INTERNAL,
                f"The servable's output {alias} has a type that a TensorProto cannot carry:"
                f" {plain[alias].dtype}")
    return plain


cdef int data_type(object array) except? -1:
    """The DataType that an array is written as; -1 when there is none."""
    kind = array.dtype.kind
    return DT_STRING if kind in "OSU" else DATA_TYPES.get((kind, array.dtype.itemsize), -1)


cdef int64_t plain_arrays_bytes(dict plain) except -1:
    """Memory that write_arrays takes for copies of the arrays, besides the message.

    Told from types and shapes, so that what is too much can be refused before it is copied: an
    array may be of any size and yet take no memory, as numpy.broadcast_to(x, (2**60,)) does.
    ServingError (INTERNAL) for what is larger than a message may be.
    """
    cdef int64_t total = 0
    cdef int64_t room = <int64_t>LARGEST_LENGTH
    cdef int64_t size, elements
    for array in plain.values():
        size = array.nbytes
        elements = array.size
        if data_type(array) == DT_STRING:
            room -= min(elements, <int64_t>LARGEST_LENGTH) * STRING_LEAST
            total += min(elements, <int64_t>LARGEST_LENGTH) * STRING_BYTES
            if array.dtype.kind == "O":
                size = 0  # its strings are there
        else:
            room -= min(size, <int64_t>LARGEST_LENGTH + 1)
        if room < 0:
            raise ServingError(Code.INTERNAL, TOO_LARGE)
        total += min(size, <int64_t>LARGEST_LENGTH)  # more strings than that are refused on the way
    return total


cdef class _Output:
    """One array to be written, and what its TensorData points to."""

    cdef TensorData data
    cdef bytes alias
    cdef int64_t* dims          # owned
    cdef Py_buffer memory       # of the array of numbers
    cdef bint has_memory
    cdef TString* strings       # owned; views into `texts`
    cdef list texts
    cdef size_t texts_size      # of these and of those of the outputs before

    def __dealloc__(self):
        free(self.dims)
        free(self.strings)
        if self.has_memory:
            PyBuffer_Release(&self.memory)

    cdef int set_shape(self, str alias, object array, int dtype) except -1:
        cdef tuple shape = array.shape
        cdef Py_ssize_t i
        self.alias = alias.encode()
        self.dims = <int64_t*>malloc((len(shape) + 1) * sizeof(int64_t))
        if self.dims == NULL:
            raise MemoryError
        for i in range(len(shape)):
            self.dims[i] = shape[i]
        self.data.alias = Bytes(PyBytes_AS_STRING(self.alias), <size_t>len(self.alias))
        self.data.dtype = dtype
        self.data.rank = <int>len(shape)
        self.data.dims = self.dims
        self.data.elements = array.size
        return 0

    cdef int set_numbers(self, object array) except -1:
        PyObject_GetBuffer(array, &self.memory, PyBUF_SIMPLE)
        self.has_memory = True
        self.data.data = self.memory.buf
        self.data.size = <size_t>self.memory.len
        return 0

    cdef int set_strings(self, object array) except -1:
        cdef int64_t begin
        cdef int64_t elements = self.data.elements
        cdef object flat = array.flat  # of whatever layout, a slice of it is a copy
        self.texts = []
        self.strings = <TString*>calloc(<size_t>elements + 1, sizeof(TString))
        if self.strings == NULL:
            raise MemoryError
        for begin in range(0, elements, SLICE):
            self.add_strings(flat[begin:min(begin + SLICE, elements)].tolist())
            let_others_run()
        self.data.data = self.strings
        self.data.size = <size_t>elements * sizeof(TString)
        return 0

    cdef int add_strings(self, list values) except -1:
        cdef TString* string
        cdef bytes text = None
        cdef object last = None
        for value in values:
            if value is not last or text is None:  # one that is repeated needs one copy only
                text = self.text_of_element(value)
                last = value
            self.texts_size += <size_t>len(text)
            if self.texts_size > LARGEST_LENGTH:
                raise ServingError(Code.INTERNAL, TOO_LARGE)
            string = &self.strings[len(self.texts)]
            string.size = <size_t>len(text) << 2 | TSTRING_VIEW
            string.capacity = <size_t>PyBytes_AS_STRING(text)  # where a view has its pointer
            string.text = NULL
            self.texts.append(text)
        return 0

    cdef bytes text_of_element(self, value):
        if isinstance(value, str):
            return (<str>value).encode()
        if isinstance(value, bytes):
            return bytes(value)
        raise ServingError(
            Code.INTERNAL,
            f"The servable's output {self.alias.decode()} has an element that is no string:"
            f" {type(value).__name__}")

    cdef int let_go(self) except -1:
        """Free the strings, a slice at a time."""
        if self.texts is not None:
            self.data.data = NULL  # whose views they were
            while self.texts:
                del self.texts[-SLICE:]
                let_others_run()
        return 0


cdef _Output output_of(str alias, object array, bint copies, size_t texts_size):
    """The array as the writer wants it: in C order, in the machine's byte order."""
    import numpy

    cdef _Output output = _Output.__new__(_Output)
    cdef int dtype = data_type(array)
    output.texts_size = texts_size
    output.set_shape(alias, array, dtype)
    if dtype == DT_STRING:
        output.set_strings(array)
        return output
    output.set_numbers(
        numpy.array(array, array.dtype.newbyteorder("="), order="C", copy=True if copies else None))
    return output


cdef struct Head:
    # What a PredictResponse has besides its tensors.
    Bytes model_name
    int64_t version
    Bytes signature_name
    bint as_content


cdef int write_arrays(
    Message* message, dict plain, Bytes model_name, int64_t version, Bytes signature_name,
    bint as_content
) except -1:
    """Append a PredictResponse with the arrays of plain_arrays, by alias, to `message`.

    plain_arrays_bytes has found them bearable before. Whatever others do to the arrays' memory
    meanwhile, the response is well-formed; values that change may be torn. ServingError (INTERNAL)
    for strings that are none and for a response that is too large; the message is of no use then.
    """
    cdef Head head = Head(model_name, version, signature_name, as_content)
    cdef int result = write_tensors(
        message, list(plain.items()), as_content, False, write_predict_response, &head)
    if result == WIRE_NO_MEMORY:
        raise MemoryError
    if result != WIRE_OK:
        raise ServingError(Code.INTERNAL, TOO_LARGE)
    return 0


cdef int write_predict_response(
    Message* message, TensorData* tensors, int size, void* arg
) noexcept nogil:
    cdef Head* head = <Head*>arg
    return wire_write_predict(
        message, tensors, size, head.model_name, head.version, head.signature_name,
        head.as_content, 0, NULL)


cdef int write_tensors(
    Message* message, list named, bint as_content, bint copies_all, write_tensors_fn write, void* arg
) except? -1:
    """Have `write` append a response with arrays of plain_arrays to `message`; its WireResult.

    `named` has an alias and an array for each. What is measured before it is written must not
    change in between: it is copied. Without `copies_all` that is what a TensorProto does not hold as
    it lies in memory.
    """
    cdef list made = []
    cdef _Output output
    cdef size_t texts_size = 0
    try:
        for alias, array in named:
            is_measured = not as_content and dtype_field(data_type(array)) in MEASURED
            output = output_of(alias, array, copies_all or is_measured, texts_size)
            texts_size = output.texts_size
            made.append(output)
        return write_outputs(message, made, write, arg)
    finally:
        for output in made:
            output.let_go()


cdef int write_outputs(Message* message, list made, write_tensors_fn write, void* arg) except? -1:
    cdef TensorData* data = <TensorData*>malloc((<size_t>len(made) + 1) * sizeof(TensorData))
    cdef int size = <int>len(made)
    cdef int result
    cdef int i
    if data == NULL:
        raise MemoryError
    for i in range(size):
        data[i] = (<_Output>made[i]).data
    with nogil:
        result = write(message, data, size, arg)
    free(data)
    return result


# ---- what Python sees: for tests, and for tools ---------------------------------------------------

def arrays_of_request(data: bytes) -> dict[str, object]:
    """The inputs of a serialized PredictRequest.

    ServingError INTERNAL if it cannot be decoded, INVALID_ARGUMENT for a bad tensor. Looks at no
    limit: a tensor of few bytes may ask for much.
    """
    cdef PredictView view
    predict_view_init(&view)
    try:
        if wire_read_predict(data, len(data), &view) != WIRE_OK:
            raise ServingError(Code.INTERNAL, "The request cannot be decoded")
        return arrays_of_view(&view)
    finally:
        predict_view_free(&view)


def write_response(
    outputs: Mapping[str, object],
    model_name: str = "",
    version: int = 0,
    signature_name: str = "",
    as_content: bool = False,
) -> bytes:
    """A serialized PredictResponse. ServingError INTERNAL for what it cannot carry."""
    cdef Message message
    cdef bytes name = model_name.encode()
    cdef bytes signature = signature_name.encode()
    cdef dict arrays = plain_arrays(dict(outputs))
    message_init(&message)
    try:
        plain_arrays_bytes(arrays)
        write_arrays(
            &message, arrays, Bytes(PyBytes_AS_STRING(name), <size_t>len(name)), version,
            Bytes(PyBytes_AS_STRING(signature), <size_t>len(signature)), as_content)
        message_seal(&message)
        answer = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>message.left)
        message_read(&message, PyBytes_AS_STRING(answer), message.left)
        return answer
    finally:
        message_free(&message)
