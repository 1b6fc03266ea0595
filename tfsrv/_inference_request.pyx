"""Requests for Classify, Regress and MultiInference, as a Predict of one string tensor.

The input "inputs" of a PredictView becomes a vector of serialized tf.Examples, which nobody parses
before the graph does. An ExampleList has its examples in field 1, a TensorProto its strings in field 8,
and a tag of either is one byte: so the list is made a TensorProto's by changing a byte of each example in
place, and nothing is copied. Where there is a context, each example becomes the context followed by the
example, which is what merging two messages means in protobuf's wire format: a feature of the example comes
later, and wins. That is one copy, into memory of the view.

Reading accepts and refuses what Python protobuf (upb) accepts and refuses, but for the insides of examples
and contexts. Messages: tensorflow_serving/apis/{classification,regression,inference,input}.proto.

`parse_inference_request` is the reader's face for Python.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from tfsrv._buffer cimport Bytes, block_reserve
from tfsrv._model_spec cimport ModelSpecView, model_spec_read
from tfsrv._predict_request cimport (
    TaskView,
    TensorView,
    predict_view_clear,
    predict_view_free,
    predict_view_init,
    view_add_body,
    view_grow,
)
from tfsrv._tensor_proto cimport STRING_VAL
from tfsrv._tensor_values cimport view_description
from tfsrv._wire_format cimport (
    LARGEST_LENGTH,
    LENGTH_DELIMITED,
    WIRE_BAD,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_RARE,
    WIRE_TOO_BIG,
    Cursor,
    field_size,
    put_varint,
    read_bytes,
    read_string,
    read_tag,
    skip_unknown,
)

from tfsrv.errors import Code, ServingError

cdef enum:
    DT_STRING = 7
    EXAMPLES_TAG = 1 << 3 | LENGTH_DELIMITED    # of both kinds of lists
    CONTEXT_TAG = 2 << 3 | LENGTH_DELIMITED
    STRINGS_TAG = STRING_VAL << 3 | LENGTH_DELIMITED

cdef Bytes INPUTS = Bytes(b"inputs", 6)


# An Input while it is read; the lists of examples are the view's `bodies`.
cdef struct InputReader:
    PredictView* view
    int kind                # the field of the oneof that came last; 0: none
    size_t examples_size
    size_t examples_bytes
    size_t contexts_size
    size_t contexts_bytes   # of all contexts, which merge into one


cdef int wire_read_inference(char* data, size_t size, PredictView* view) noexcept nogil:
    """Read a ClassificationRequest or a RegressionRequest, which look the same. A WireResult.

    `view` points into `data` from then on, which is changed if the result is WIRE_OK: it must not be read
    again. Without any example the view has no input. With `unjoined_bytes`, the input has no values yet:
    see examples_join.
    """
    return read_request(data, size, view, False)


cdef int wire_read_multi_inference(char* data, size_t size, PredictView* view) noexcept nogil:
    """Read a MultiInferenceRequest; else as wire_read_inference.

    The view's `spec` is that of the first task: which servable it is for.
    """
    cdef int result = read_request(data, size, view, True)
    if view.tasks_size > 0:
        view.spec = view.tasks[0].spec
    # Without a task, or without a spec in it, TensorFlow Serving looks for the model of an empty spec.
    view.spec.present = True
    return result


cdef int read_request(char* data, size_t size, PredictView* view, bint has_tasks) noexcept nogil:
    """Any of them: an Input, and before it one ModelSpec or any number of tasks."""
    cdef InputReader reader
    cdef Cursor at = <Cursor>data
    cdef Cursor end = at + size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result
    begin(&reader, view)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED):  # model_spec or tasks
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = read_task(view, part) if has_tasks else model_spec_read(&view.spec, part)
        elif tag == (2 << 3 | LENGTH_DELIMITED):  # input
            at = read_bytes(at, end, &part)
            result = read_input(&reader, part) if at != NULL else WIRE_BAD
        else:
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    return finish(&reader)


cdef void begin(InputReader* reader, PredictView* view) noexcept nogil:
    predict_view_clear(view)
    memset(reader, 0, sizeof(InputReader))
    reader.view = view


cdef int read_task(PredictView* view, Bytes message) noexcept nogil:
    """One InferenceTask."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef Bytes part
    cdef TaskView* task
    cdef int result
    if view.tasks_size == view.tasks_capacity and view_grow(
            <void**>&view.tasks, &view.tasks_capacity, sizeof(TaskView)) != WIRE_OK:
        return WIRE_NO_MEMORY
    task = &view.tasks[view.tasks_size]
    view.tasks_size += 1
    memset(task, 0, sizeof(TaskView))
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED):  # model_spec
            at = read_bytes(at, end, &part)
            result = model_spec_read(&task.spec, part) if at != NULL else WIRE_BAD
        elif tag == (2 << 3 | LENGTH_DELIMITED):  # method_name
            at = read_string(at, end, &task.method_name)
            result = WIRE_OK if at != NULL else WIRE_BAD
        else:
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    return WIRE_OK


cdef int read_input(InputReader* reader, Bytes message) noexcept nogil:
    """One occurrence of an Input. Of the two kinds of lists the last one counts, with all of its own."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED) or tag == (2 << 3 | LENGTH_DELIMITED):
            at = read_bytes(at, end, &part)
            result = read_list(reader, <int>(tag >> 3), part) if at != NULL else WIRE_BAD
        else:
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    return WIRE_OK


cdef int read_list(InputReader* reader, int kind, Bytes message) noexcept nogil:
    """One occurrence of an ExampleList (kind 1) or an ExampleListWithContext (kind 2)."""
    cdef PredictView* view = reader.view
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result
    if kind != reader.kind:
        memset(reader, 0, sizeof(InputReader))
        reader.view = view
        reader.kind = kind
        view.bodies_used = 0
    if view_add_body(view, message) != WIRE_OK:
        return WIRE_NO_MEMORY
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == EXAMPLES_TAG:
            at = read_bytes(at, end, &part)
            reader.examples_size += 1
            reader.examples_bytes += part.size if at != NULL else 0
        elif tag == CONTEXT_TAG and kind == 2:
            at = read_bytes(at, end, &part)
            reader.contexts_size += 1
            reader.contexts_bytes += part.size if at != NULL else 0
        elif tag == STRINGS_TAG:  # an unknown field that would be taken for an example
            return WIRE_RARE
        else:
            result = skip_unknown(&at, end, tag)
            if result != WIRE_OK:
                return result
        if at == NULL:
            return WIRE_BAD
    return WIRE_OK


cdef int finish(InputReader* reader) noexcept nogil:
    """Make the input of what was read."""
    cdef PredictView* view = reader.view
    cdef TensorView* tensor
    if reader.examples_size == 0:
        return WIRE_OK
    if view.inputs_capacity == 0 and view_grow(
            <void**>&view.inputs, &view.inputs_capacity, sizeof(TensorView)) != WIRE_OK:
        return WIRE_NO_MEMORY
    if view.dims_capacity == 0 and view_grow(
            <void**>&view.dims, &view.dims_capacity, sizeof(long long)) != WIRE_OK:
        return WIRE_NO_MEMORY
    view.dims[0] = <long long>reader.examples_size
    view.dims_size = 1
    tensor = view.inputs
    memset(tensor, 0, sizeof(TensorView))
    tensor.alias = INPUTS
    tensor.dtype = DT_STRING
    tensor.rank = 1
    tensor.bodies_size = view.bodies_used
    tensor.values_size = <long long>reader.examples_size
    view.inputs_size = 1
    if reader.contexts_bytes:
        return measure_joined(reader)
    mark_examples(view)
    return WIRE_OK


cdef void mark_examples(PredictView* view) noexcept nogil:
    """Give the examples the tag of a TensorProto's strings: the lists were checked when they were read."""
    cdef Cursor at
    cdef Cursor end
    cdef unsigned char* tag_at
    cdef uint32_t tag = 0
    cdef int i
    for i in range(view.bodies_used):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while at < end:
            tag_at = <unsigned char*>at
            at = read_tag(at, end, &tag)
            if at == NULL or skip_unknown(&at, end, tag) != WIRE_OK:
                break
            if tag == EXAMPLES_TAG:
                # A tag may be written in more bytes than it needs: the high bit says so, and stays.
                tag_at[0] = (tag_at[0] & 0x80) | STRINGS_TAG


cdef int measure_joined(InputReader* reader) noexcept nogil:
    """Set `unjoined_bytes`: of a TensorProto's strings, each with the context before it."""
    cdef PredictView* view = reader.view
    cdef Cursor at
    cdef Cursor end
    cdef Bytes example
    cdef int i
    for i in range(view.bodies_used):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while next_part(&at, end, EXAMPLES_TAG, &example):
            # Of 2^31 bytes there are fewer than 2^30 examples: that cannot overflow.
            view.unjoined_bytes += field_size(reader.contexts_bytes + example.size)
            if reader.contexts_bytes + example.size > LARGEST_LENGTH:
                return WIRE_TOO_BIG
    return WIRE_OK


cdef bint next_part(Cursor* at, Cursor end, uint32_t wanted, Bytes* part) noexcept nogil:
    """The next field with that tag of a list that was checked before; False if there are no more."""
    cdef uint32_t tag = 0
    part[0] = Bytes(NULL, 0)
    while at[0] < end:
        at[0] = read_tag(at[0], end, &tag)
        if at[0] == NULL:
            return False
        if tag == wanted:
            at[0] = read_bytes(at[0], end, part)
            return at[0] != NULL
        if skip_unknown(at, end, tag) != WIRE_OK:
            return False
    return False


cdef int examples_join(PredictView* view) noexcept nogil:
    """Put the context before each example: `unjoined_bytes` are written, which are 0 afterwards.

    WIRE_OK or WIRE_NO_MEMORY. How much that is was decided by the client: a context of a megabyte and a
    hundred thousand empty examples ask for 100 GB. The caller sees to it that there is room.
    """
    cdef size_t size = view.unjoined_bytes
    cdef char* to = <char*>block_reserve(&view.joined, &view.joined_capacity, size)
    cdef char* start = to
    cdef char* context
    cdef size_t context_size = 0
    cdef Cursor at
    cdef Cursor end
    cdef Bytes part
    cdef int i
    if size == 0:
        return WIRE_OK
    if to == NULL:
        return WIRE_NO_MEMORY
    context = NULL  # where the context stands whole: in the first example that was written
    for i in range(view.bodies_used):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while next_part(&at, end, CONTEXT_TAG, &part):
            context_size += part.size
    for i in range(view.bodies_used):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while next_part(&at, end, EXAMPLES_TAG, &part):
            to[0] = <char>STRINGS_TAG
            to = put_varint(to + 1, context_size + part.size)
            if context == NULL:
                context = to
                put_contexts(view, to)
            else:
                memcpy(to, context, context_size)
            to += context_size
            if part.size:
                memcpy(to, part.data, part.size)
                to += part.size
    view.unjoined_bytes = 0
    view.bodies[0] = Bytes(start, <size_t>(to - start))
    view.bodies_used = 1
    view.inputs[0].bodies_size = 1
    return WIRE_OK


cdef void put_contexts(const PredictView* view, char* to) noexcept nogil:
    """All contexts, one after the other, as they merge."""
    cdef Cursor at
    cdef Cursor end
    cdef Bytes part
    cdef int i
    for i in range(view.bodies_used):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while next_part(&at, end, CONTEXT_TAG, &part):
            if part.size:
                memcpy(to, part.data, part.size)
                to += part.size


# ---- the reader's face for Python ------------------------------------------------------------------

cdef dict spec_of(const ModelSpecView* spec):
    return {
        "name": spec.name.data[: spec.name.size].decode() if spec.name.size else "",
        "signature_name": (
            spec.signature_name.data[: spec.signature_name.size].decode()
            if spec.signature_name.size else ""),
        "version": spec.version if spec.has_version else None,
        "version_label": (
            spec.version_label.data[: spec.version_label.size].decode()
            if spec.has_version_label and spec.version_label.size
            else "" if spec.has_version_label else None),
    }


def parse_inference_request(data: bytes, multi: bool = False, limit: int = 1 << 30) -> dict[str, object]:
    """What a serialized ClassificationRequest, RegressionRequest or, with `multi`,
    MultiInferenceRequest asks for: as parse_predict_request, and `tasks`.

    A task is a tuple of its ModelSpec and its method_name. ServingErrors as there.
    """
    cdef bytearray copied = bytearray(data)  # it is changed
    cdef PredictView view
    cdef int result
    cdef int i
    predict_view_init(&view)
    try:
        if multi:
            result = wire_read_multi_inference(copied, len(copied), &view)
        else:
            result = wire_read_inference(copied, len(copied), &view)
        if result == WIRE_OK and view.unjoined_bytes > <size_t>limit:
            result = WIRE_TOO_BIG
        if result == WIRE_OK:
            result = examples_join(&view)
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result == WIRE_TOO_BIG:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "The examples are too large")
        if result == WIRE_RARE:
            raise ServingError(
                Code.UNIMPLEMENTED, "The request uses fields that only Python protobuf reads")
        if result != WIRE_OK:
            raise ServingError(Code.INTERNAL, "The request cannot be decoded")
        described = view_description(&view, limit)
        described["tasks"] = [
            (
                spec_of(&view.tasks[i].spec),
                view.tasks[i].method_name.data[: view.tasks[i].method_name.size].decode()
                if view.tasks[i].method_name.size else "",
            )
            for i in range(view.tasks_size)
        ]
        return described
    finally:
        predict_view_free(&view)
