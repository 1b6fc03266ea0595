"""TF_Tensors of requests and answers.

Making one copies the request's bytes once, into aligned memory of ours. That memory goes back in
the tensor's deallocator and nowhere else: outputs and variables of a session may share it long
after the feed was deleted, and TensorFlow calls the deallocator on any of its threads.

Everything is checked before TensorFlow sees it, because its C API aborts the process for a
negative dim, a rank of 255, or a product of dims that overflows.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MAX, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from tfsrv._buffer cimport Bytes
from tfsrv._memory cimport Block, memory_give, memory_take
from tfsrv._message cimport (
    Message,
    message_free,
    message_init,
    message_read,
    message_seal,
)
from tfsrv._predict_request cimport predict_view_free, predict_view_init, wire_read_predict
from tfsrv._predict_response cimport wire_write_predict
from tfsrv._tensor_proto cimport STRING_VAL, dtype_bytes, dtype_field
from tfsrv._tensor_values cimport (
    count_elements,
    expanded_bytes,
    read_strings,
    read_values,
    values_parse,
)
from tfsrv._tf cimport DT_FLOAT8_E5M2, DT_STRING, api
from tfsrv._tstring cimport TString, tstring_free, tstring_get, tstring_set
from tfsrv._wire_format cimport WIRE_OK

from tfsrv._tf import open_library
from tfsrv.errors import Code, ServingError

cdef enum:
    MADE = 0
    INVALID = -1
    NO_MEMORY = -2


cdef size_t dtype_size(int dtype) noexcept nogil:
    """Bytes of one element in memory, a TString's for DT_STRING; 0 for what cannot be sent."""
    return dtype_bytes(dtype)


cdef int64_t tensor_view_bytes(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """Memory that tensor_from_view would take, so that it can be refused before.

    A tensor of few bytes can ask for much: its last value is repeated. INT64_MAX is more than
    can be told; -1 a tensor that cannot be made. Looks at no values but the lengths of strings.
    """
    return tensor.expanded_bytes if tensor.measured else expanded_bytes(view, tensor)


cdef void tensor_views_measure(PredictView* view) noexcept nogil:
    """Work out tensor_view_bytes of all inputs, for where the lengths of strings take too long."""
    cdef int i
    for i in range(view.inputs_size):
        view.inputs[i].expanded_bytes = expanded_bytes(view, &view.inputs[i])
        view.inputs[i].measured = True


cdef bint tensor_view_parses(const PredictView* view, const TensorView* tensor) noexcept nogil:
    """Whether tensor_from_view would not refuse it. Takes no memory, whatever is repeated."""
    return values_parse(view, tensor) and is_known_type(tensor.dtype)


cdef bint is_known_type(int dtype) noexcept nogil:
    """Whether this TensorFlow has the dtype, if a TensorProto can carry it."""
    return dtype < DT_FLOAT8_E5M2 or api.DataTypeSize(dtype) == 1


cdef int tensor_from_view(
    const PredictView* view, const TensorView* tensor, TF_Tensor** made
) noexcept nogil:
    """Make the tensor that a request's TensorProto stands for; it is the caller's.

    0, -1 if TensorFlow's Tensor::FromProto would refuse it, -2 when there is no memory.
    """
    cdef int64_t elements = count_elements(view, tensor)
    cdef int64_t expanded = expanded_bytes(view, tensor)
    cdef size_t size
    cdef Block block
    cdef int result
    made[0] = NULL
    if expanded < 0:
        return INVALID
    if expanded == INT64_MAX:
        return NO_MEMORY
    if not is_known_type(tensor.dtype):
        return INVALID
    size = <size_t>elements * dtype_bytes(tensor.dtype)
    block = memory_take(size)
    if block.data == NULL:
        return NO_MEMORY
    if dtype_field(tensor.dtype) == STRING_VAL:
        memset(block.data, 0, size)
        result = fill_strings(view, tensor, <TString*>block.data, elements)
        if result != MADE:
            strings_deallocator(block.data, size, block.key)
            return result
    elif read_values(view, tensor, block.data, elements) != 0:
        memory_give(block.data, block.key)
        return INVALID
    made[0] = api.NewTensor(
        tensor.dtype, view.dims + tensor.dims_start, tensor.rank, block.data, size,
        strings_deallocator if tensor.dtype == DT_STRING else numbers_deallocator, block.key)
    return MADE if made[0] != NULL else INVALID  # the deallocator has run if it is NULL


cdef void numbers_deallocator(void* data, size_t size, void* key) noexcept nogil:
    """Give back a tensor's block. Called by TensorFlow, once, on any thread."""
    memory_give(data, key)


cdef void strings_deallocator(void* data, size_t size, void* key) noexcept nogil:
    """Give back a block of strings, all of them set or zero. Called as numbers_deallocator is."""
    cdef TString* strings = <TString*>data
    cdef size_t i
    for i in range(size // sizeof(TString)):
        tstring_free(&strings[i])
    memory_give(data, key)


cdef struct Filling:
    TString* strings
    bint no_memory


cdef int fill_strings(
    const PredictView* view, const TensorView* tensor, TString* strings,
    int64_t elements
) noexcept nogil:
    """Write the strings of a tensor to zeroed memory. As tensor_from_view; all are set or empty afterwards."""
    cdef Filling filling
    filling.strings = strings
    filling.no_memory = False
    if read_strings(view, tensor, elements, store_string, &filling) != 0:
        return NO_MEMORY if filling.no_memory else INVALID
    return MADE


cdef int store_string(void* arg, int64_t index, Bytes text) noexcept nogil:
    cdef Filling* filling = <Filling*>arg
    if tstring_set(&filling.strings[index], text.data, text.size) != 0:
        filling.no_memory = True
        return -1
    return 0


cdef int tensor_data(TF_Tensor* tensor, int64_t* dims, TensorData* into) noexcept nogil:
    """Look into a tensor: all of `into` but its alias, which is left alone.

    `dims` has room for MAX_RANK. `tensor` becomes the holder. 0, or -1 for a dtype that a
    TensorProto cannot carry.
    """
    cdef int i
    into.dtype = api.TensorType(tensor)
    if dtype_field(into.dtype) == 0:
        return -1
    into.rank = api.NumDims(tensor)
    for i in range(into.rank):
        dims[i] = api.Dim(tensor, i)
    into.dims = dims
    into.elements = api.TensorElementCount(tensor)
    into.data = api.TensorData(tensor)
    into.size = api.TensorByteSize(tensor)
    into.holder = tensor
    into.taken = False
    return 0


cdef void tensor_release(void* tensor) noexcept nogil:
    """Delete a TF_Tensor: for messages that hold one."""
    api.DeleteTensor(<TF_Tensor*>tensor)


# The face for Python: for tests, and for tools that look at requests


cdef class Tensor:
    """A TF_Tensor made from a request. It is deleted with the object."""

    def __cinit__(self):
        self.tensor = NULL

    def __dealloc__(self):
        if self.tensor != NULL:
            api.DeleteTensor(self.tensor)

    @property
    def dtype(self) -> int:
        """A number of TensorFlow's DataType."""
        return api.TensorType(self.tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        cdef int i
        return tuple([api.Dim(self.tensor, i) for i in range(api.NumDims(self.tensor))])

    @property
    def address(self) -> int:
        """Where TensorFlow has its elements."""
        return <uintptr_t>api.TensorData(self.tensor)

    def values(self) -> bytes | list[bytes]:
        """Its memory, or the texts of a DT_STRING."""
        cdef const TString* strings = <const TString*>api.TensorData(self.tensor)
        cdef list texts = []
        cdef Bytes text
        cdef int64_t i
        if api.TensorType(self.tensor) != DT_STRING:
            return PyBytes_FromStringAndSize(
                <const char*>strings, <Py_ssize_t>api.TensorByteSize(self.tensor))
        for i in range(api.TensorElementCount(self.tensor)):
            text = tstring_get(&strings[i])
            texts.append(PyBytes_FromStringAndSize(text.data, <Py_ssize_t>text.size))
        return texts


cdef dict make_tensors(const PredictView* view):
    cdef const TensorView* input
    cdef Tensor tensor
    cdef str alias
    cdef int result
    cdef int i
    tensors = {}
    for i in range(view.inputs_size):
        input = &view.inputs[i]
        alias = input.alias.data[:input.alias.size].decode() if input.alias.size else ""
        tensor = Tensor()
        with nogil:
            result = tensor_from_view(view, input, &tensor.tensor)
        if result == NO_MEMORY:
            raise MemoryError
        if result != MADE:
            raise ServingError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}")
        tensors[alias] = tensor
    return tensors


def tensors_of_request(data: bytes) -> dict[str, Tensor]:
    """The inputs of a serialized PredictRequest as tensors. Opens TensorFlow if it is not open.

    ServingError INTERNAL if it cannot be decoded, INVALID_ARGUMENT for a bad tensor.
    """
    cdef PredictView view
    open_library()
    predict_view_init(&view)
    try:
        if wire_read_predict(data, len(data), &view) != WIRE_OK:
            raise ServingError(Code.INTERNAL, "The request cannot be decoded")
        return make_tensors(&view)
    finally:
        predict_view_free(&view)


def echo_request(data: bytes, as_content: bool = False, splice_from: int = 65536) -> bytes:
    """A PredictResponse whose outputs are the request's inputs, each having been a TF_Tensor."""
    cdef Message message
    cdef list aliases = []
    cdef list tensors = []
    cdef Tensor tensor
    cdef TensorData* outputs
    cdef int64_t* dims
    cdef Bytes nothing
    cdef bytes answer
    cdef int result
    cdef Py_ssize_t i
    for alias, made in tensors_of_request(data).items():
        aliases.append(alias.encode())
        tensors.append(made)
    nothing.data = NULL
    nothing.size = 0
    message_init(&message)
    outputs = <TensorData*>calloc(len(tensors) + 1, sizeof(TensorData))
    dims = <int64_t*>calloc(len(tensors) + 1, MAX_RANK * sizeof(int64_t))
    try:
        if outputs == NULL or dims == NULL:
            raise MemoryError
        for i, tensor in enumerate(tensors):
            outputs[i].alias.data = PyBytes_AS_STRING(aliases[i])
            outputs[i].alias.size = len(aliases[i])
            tensor_data(tensor.tensor, dims + i * MAX_RANK, &outputs[i])
        result = wire_write_predict(
            &message, outputs, <int>len(tensors), nothing, 0, nothing, as_content, splice_from,
            tensor_release)
        for i, tensor in enumerate(tensors):
            if outputs[i].taken:
                tensor.tensor = NULL  # the message's now
        if result != WIRE_OK:
            raise ServingError(Code.INTERNAL, "The answer cannot be written")
        message_seal(&message)
        answer = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>message.left)
        message_read(&message, PyBytes_AS_STRING(answer), message.left)
        return answer
    finally:
        message_free(&message)
        free(outputs)
        free(dims)
