"""PredictRequest in, straight from protobuf's wire format.

Reading makes a view: strings, contents and packed values stay where they stand in the request,
so large tensors cost nothing here. It accepts and refuses what Python protobuf (upb) accepts
and refuses, and merges repeated occurrences as it does; see
https://protobuf.dev/programming-guides/encoding#last-one-wins. Fields that no ordinary client
sends are left to Python protobuf (WIRE_RARE).

`_tensor_values.parse_predict_request` is the reader's face for Python.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memset

from tfsrv._buffer cimport bytes_compare, bytes_equal
from tfsrv._model_spec cimport ModelSpecView, model_spec_read
from tfsrv._tensor_proto cimport (
    FLOAT8_VAL,
    MAX_RANK,
    RESOURCE_HANDLE_VAL,
    VARIANT_VAL,
    dtype_field,
    next_values,
    read_values_of,
    value_field,
)
from tfsrv._wire_format cimport (
    LENGTH_DELIMITED,
    VARINT,
    WIRE_BAD,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_RARE,
    Cursor,
    read_bytes,
    read_string,
    read_tag,
    read_varint,
    skip_unknown,
)

cdef enum:
    LARGEST_ARRAY = 8 * 1024 * 1024  # bytes; 80,000 inputs: a request of more is no request


cdef void predict_view_init(PredictView* view) noexcept nogil:
    memset(view, 0, sizeof(PredictView))


cdef void predict_view_clear(PredictView* view) noexcept nogil:
    """Forget the request. Arrays that an ordinary request needs stay for the next one."""
    memset(&view.spec, 0, sizeof(ModelSpecView))
    view.inputs_size = 0
    view.output_filter_size = 0
    view.dims_size = 0
    view.bodies_used = 0
    view.tasks_size = 0
    view.unjoined_bytes = 0
    shrink(<void**>&view.inputs, &view.inputs_capacity, sizeof(TensorView))
    shrink(<void**>&view.output_filter, &view.output_filter_capacity, sizeof(Bytes))
    shrink(<void**>&view.dims, &view.dims_capacity, sizeof(int64_t))
    shrink(<void**>&view.bodies, &view.bodies_capacity, sizeof(Bytes))
    shrink(<void**>&view.tasks, &view.tasks_capacity, sizeof(TaskView))
    predict_view_drop_joined(view)


cdef void predict_view_drop_joined(PredictView* view) noexcept nogil:
    """Free what examples took that were joined with a context, if it is much. They are gone then."""
    if view.joined_capacity > WIRE_KEPT_BYTES:
        free(view.joined)
        view.joined = NULL
        view.joined_capacity = 0


cdef size_t predict_view_bytes(const PredictView* view) noexcept nogil:
    """Memory of arrays that an ordinary request does not need, but for `joined`: that is told before it is made.

    Those of a request that is nothing but entries and dims take 15 times its size.
    """
    return (
        beyond_kept(<size_t>view.inputs_capacity * sizeof(TensorView))
        + beyond_kept(<size_t>view.output_filter_capacity * sizeof(Bytes))
        + beyond_kept(<size_t>view.dims_capacity * sizeof(int64_t))
        + beyond_kept(<size_t>view.bodies_capacity * sizeof(Bytes))
        + beyond_kept(<size_t>view.tasks_capacity * sizeof(TaskView))
    )


cdef inline size_t beyond_kept(size_t size) noexcept nogil:
    return size if size > WIRE_KEPT_BYTES else 0


cdef void predict_view_free(PredictView* view) noexcept nogil:
    """Give all memory back; the view is empty and usable afterwards."""
    free(view.inputs)
    free(view.output_filter)
    free(view.dims)
    free(view.bodies)
    free(view.tasks)
    free(view.joined)
    predict_view_init(view)


cdef inline void shrink(void** array, int* capacity, size_t item) noexcept nogil:
    if <size_t>capacity[0] * item > WIRE_KEPT_BYTES:
        free(array[0])
        array[0] = NULL
        capacity[0] = 0


cdef int view_grow(void** array, int* capacity, size_t item) noexcept nogil:
    """Room for one item more at least. WIRE_OK or WIRE_NO_MEMORY."""
    cdef size_t wanted = <size_t>capacity[0] + (capacity[0] >> 1) + 8
    cdef void* grown
    if wanted * item > LARGEST_ARRAY:
        return WIRE_NO_MEMORY
    grown = realloc(array[0], wanted * item)
    if grown == NULL:
        return WIRE_NO_MEMORY
    array[0] = grown
    capacity[0] = <int>wanted
    return WIRE_OK


cdef int view_add_body(PredictView* view, Bytes body) noexcept nogil:
    """One more place where values of a tensor stand. WIRE_OK or WIRE_NO_MEMORY."""
    if view.bodies_used == view.bodies_capacity and view_grow(
            <void**>&view.bodies, &view.bodies_capacity, sizeof(Bytes)) != WIRE_OK:
        return WIRE_NO_MEMORY
    view.bodies[view.bodies_used] = body
    view.bodies_used += 1
    return WIRE_OK


cdef int wire_read_predict(const char* data, size_t size, PredictView* view) noexcept nogil:
    """Read a PredictRequest into `view`, which points into `data` from then on.

    A WireResult. Whatever it is, the view may be cleared, freed or read into again.
    """
    cdef Cursor at = <Cursor>data
    cdef Cursor end = at + size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result
    predict_view_clear(view)
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED):  # model_spec
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = model_spec_read(&view.spec, part)
        elif tag == (2 << 3 | LENGTH_DELIMITED):  # inputs
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = read_input(view, part)
        elif tag == (3 << 3 | LENGTH_DELIMITED):  # output_filter
            at = read_string(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = add_output(view, part)
        elif tag == (5 << 3 | LENGTH_DELIMITED) or tag == (7 << 3 | LENGTH_DELIMITED):
            return WIRE_RARE  # predict_streamed_options, request_options
        else:  # client_id is among these: it means nothing to a server
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    if view.inputs_size > FEW_INPUTS:
        drop_replaced_inputs(view)
    return WIRE_OK


cdef inline int add_output(PredictView* view, Bytes alias) noexcept nogil:
    if view.output_filter_size == view.output_filter_capacity and view_grow(
            <void**>&view.output_filter, &view.output_filter_capacity, sizeof(Bytes)) != WIRE_OK:
        return WIRE_NO_MEMORY
    view.output_filter[view.output_filter_size] = alias
    view.output_filter_size += 1
    return WIRE_OK


cdef int read_input(PredictView* view, Bytes message) noexcept nogil:
    """One entry of the map `inputs`."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef Bytes part
    cdef int result
    cdef bint unknown = False
    cdef bint dtype_came_late = False
    cdef TensorView* tensor
    if view.inputs_size == view.inputs_capacity and make_room_for_input(view) != WIRE_OK:
        return WIRE_NO_MEMORY
    tensor = &view.inputs[view.inputs_size]
    memset(tensor, 0, sizeof(TensorView))
    tensor.dims_start = view.dims_size
    tensor.bodies_start = view.bodies_used
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | LENGTH_DELIMITED):
            at = read_string(at, end, &tensor.alias)
            if at == NULL:
                return WIRE_BAD
            continue
        if tag == (2 << 3 | LENGTH_DELIMITED):
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = read_tensor(view, tensor, part, &dtype_came_late)
        else:
            unknown = True
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    if unknown:  # protobuf keeps such an entry as an unknown field of the whole: not in the map
        view.dims_size = tensor.dims_start
        view.bodies_used = tensor.bodies_start
        return WIRE_OK
    if dtype_came_late:
        find_values(view, tensor)
    if view.inputs_size < FEW_INPUTS:  # up to here equal keys are looked for one by one
        replace_or_add(view)
    else:
        view.inputs_size += 1
    return WIRE_OK


cdef inline void replace_or_add(PredictView* view) noexcept nogil:
    """Take the entry behind the last one in: in the place of one of the same key, or as new."""
    cdef TensorView* added = &view.inputs[view.inputs_size]
    cdef int i
    for i in range(view.inputs_size):
        if bytes_equal(view.inputs[i].alias, added.alias):
            view.inputs[i] = added[0]
            return
    view.inputs_size += 1


cdef int make_room_for_input(PredictView* view) noexcept nogil:
    if view.inputs_size > FEW_INPUTS:  # replaced entries must not pile up
        drop_replaced_inputs(view)
        if view.inputs_size < view.inputs_capacity >> 1:
            return WIRE_OK
    return view_grow(<void**>&view.inputs, &view.inputs_capacity, sizeof(TensorView))


cdef void drop_replaced_inputs(PredictView* view) noexcept nogil:
    """Of entries with the same key keep the last. Sorts, so that many cost n log n."""
    cdef int i
    cdef int kept = 0
    qsort(view.inputs, view.inputs_size, sizeof(TensorView), compare_inputs)
    for i in range(view.inputs_size):
        if i + 1 == view.inputs_size or not bytes_equal(
                view.inputs[i].alias, view.inputs[i + 1].alias):
            view.inputs[kept] = view.inputs[i]
            kept += 1
    view.inputs_size = kept


cdef int compare_inputs(const void* a, const void* b) noexcept nogil:
    """By key, then as they came: a later one has more bodies before it, or is the first that has.

    Two that are equal even so have no body: they are equal in all.
    """
    cdef const TensorView* one = <const TensorView*>a
    cdef const TensorView* other = <const TensorView*>b
    cdef int order = bytes_compare(one.alias, other.alias)
    if order == 0:
        order = one.bodies_start - other.bodies_start
    if order == 0:
        order = one.bodies_size - other.bodies_size
    return order


cdef int read_tensor(
    PredictView* view, TensorView* tensor, Bytes message, bint* dtype_came_late
) noexcept nogil:
    """One occurrence of a TensorProto, merged into `tensor`."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef uint64_t value
    cdef Bytes part
    cdef size_t count
    cdef int field
    cdef int result
    cdef int own_field = dtype_field(tensor.dtype)
    cdef bint values_seen = tensor.bodies_size > 0
    if message.size == 0:
        return WIRE_OK
    if view_add_body(view, message) != WIRE_OK:
        return WIRE_NO_MEMORY
    tensor.bodies_size += 1
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        field = value_field(tag)
        if field:
            at = read_values_of(field, at, end, tag, &part, &count)
            if at == NULL:
                return WIRE_BAD
            values_seen = True
            if field == own_field:
                note_values(tensor, field, part, count)
        elif tag == (1 << 3 | VARINT):
            at = read_varint(at, end, &value)
            if at == NULL:
                return WIRE_BAD
            if tensor.dtype != <int>value:
                tensor.dtype = <int>value
                own_field = dtype_field(tensor.dtype)
                dtype_came_late[0] |= values_seen
        elif tag == (2 << 3 | LENGTH_DELIMITED):
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = read_shape(view, tensor, part)
            if result != WIRE_OK:
                return result
        elif tag == (4 << 3 | LENGTH_DELIMITED):
            at = read_bytes(at, end, &tensor.content)
            if at == NULL:
                return WIRE_BAD
        elif (tag == (RESOURCE_HANDLE_VAL << 3 | LENGTH_DELIMITED)
                or tag == (VARIANT_VAL << 3 | LENGTH_DELIMITED)):
            return WIRE_RARE
        else:  # version_number is among these
            result = skip_unknown(&at, end, tag)
            if result != WIRE_OK:
                return result
    return WIRE_OK


cdef int read_shape(PredictView* view, TensorView* tensor, Bytes message) noexcept nogil:
    """One occurrence of a TensorShapeProto: its dims come behind those already there."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef uint64_t value
    cdef Bytes part
    cdef int64_t size
    cdef int result
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (2 << 3 | LENGTH_DELIMITED):
            at = read_bytes(at, end, &part)
            if at == NULL:
                return WIRE_BAD
            result = read_dim(part, &size)
            if result == WIRE_OK:
                result = add_dim(view, tensor, size)
        elif tag == (3 << 3 | VARINT):
            at = read_varint(at, end, &value)
            if at == NULL:
                return WIRE_BAD
            tensor.unknown_rank = value != 0
            result = WIRE_OK
        else:
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    return WIRE_OK


cdef inline int add_dim(PredictView* view, TensorView* tensor, int64_t size) noexcept nogil:
    if tensor.rank > MAX_RANK:
        return WIRE_OK  # one too many is as bad as thousands
    if view.dims_size == view.dims_capacity and view_grow(
            <void**>&view.dims, &view.dims_capacity, sizeof(int64_t)) != WIRE_OK:
        return WIRE_NO_MEMORY
    view.dims[view.dims_size] = size
    view.dims_size += 1
    tensor.rank += 1
    return WIRE_OK


cdef int read_dim(Bytes message, int64_t* size) noexcept nogil:
    """A TensorShapeProto.Dim."""
    cdef Cursor at = <Cursor>message.data
    cdef Cursor end = at + message.size
    cdef uint32_t tag
    cdef Bytes name
    cdef int result
    size[0] = 0
    while at < end:
        at = read_tag(at, end, &tag)
        if at == NULL:
            return WIRE_BAD
        if tag == (1 << 3 | VARINT):
            at = read_varint(at, end, <uint64_t*>size)
            result = WIRE_OK if at != NULL else WIRE_BAD
        elif tag == (2 << 3 | LENGTH_DELIMITED):
            at = read_string(at, end, &name)
            result = WIRE_OK if at != NULL else WIRE_BAD
        else:
            result = skip_unknown(&at, end, tag)
        if result != WIRE_OK:
            return result
    return WIRE_OK


cdef void note_values(TensorView* tensor, int field, Bytes part, size_t count) noexcept nogil:
    """Count values of the dtype's own field; remember where they stand if in one place."""
    if field == FLOAT8_VAL:  # not repeated: the last one wins
        tensor.values_size = count
        tensor.run = part
    elif count:
        if tensor.values_size == 0:
            tensor.run = part
        else:
            tensor.run.data = NULL
        tensor.values_size += count


cdef void find_values(const PredictView* view, TensorView* tensor) noexcept nogil:
    """Count once more: the dtype came after values, so they were those of another field."""
    cdef int own_field = dtype_field(tensor.dtype)
    cdef Cursor at
    cdef Cursor end
    cdef Bytes part
    cdef size_t count
    cdef int i
    tensor.values_size = 0
    tensor.run.data = NULL
    tensor.run.size = 0
    if own_field == 0:
        return
    for i in range(tensor.bodies_start, tensor.bodies_start + tensor.bodies_size):
        at = <Cursor>view.bodies[i].data
        end = at + view.bodies[i].size
        while next_values(own_field, &at, end, &part, &count):
            note_values(tensor, own_field, part, count)
