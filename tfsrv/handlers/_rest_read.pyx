"""Bodies of REST calls, made the gRPC requests that they stand for.

A body is opened, which tells the signature that it is for; its inputs are looked up; and it is read.
What comes of it replaces the body in Call.request. Nothing else knows that the call came by REST, until
its answer is written (_rest_write).

The path says which servable: what a body in protobuf says of that is left out.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from tfsrv._buffer cimport (
    Buffer,
    buffer_append,
    buffer_free,
    buffer_init,
    bytes_equal,
)
from tfsrv._call cimport call_charge, call_give_back
from tfsrv._gzip cimport GZIP_NO_MEMORY, GZIP_OK, GZIP_TOO_BIG, gzip_inflate_charged
from tfsrv._json_document cimport (
    json_document_free,
    json_document_init,
    json_document_parse,
)
from tfsrv._json_inference_request cimport json_read_inference
from tfsrv._json_predict_request cimport json_read_predict
from tfsrv._json_quick cimport QUICK_NOT, json_quick_open, json_quick_read
from tfsrv._json_request cimport json_document_signature_name
from tfsrv._model_spec cimport (
    ModelSpecView,
    RequestSpec,
    default_signature,
    model_spec_read,
    request_put_spec,
)
from tfsrv._npy_predict cimport npy_read_predict
from tfsrv._npz cimport npz_unpacked_bytes
from tfsrv._rest_call cimport (
    FORM_JSON,
    FORM_NPY,
    FORM_NPZ,
    REST_PREDICT,
    rest_label,
    rest_name,
    rest_prefix_size,
    rest_signature,
)
from tfsrv._status cimport (
    INTERNAL,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    OK,
    RESOURCE_EXHAUSTED,
    SIGNATURE_NOT_FOUND,
    status_add,
    status_add_bytes,
    status_set,
)
from tfsrv._wire_format cimport (
    LENGTH_DELIMITED,
    WIRE_BAD,
    WIRE_NO_MEMORY,
    WIRE_OK,
    WIRE_TOO_BIG,
    Cursor,
    read_bytes,
    read_tag,
    skip_value,
)

cdef enum:
    MOST_UNPACKED = 100 << 20   # bytes that gzip may unpack to; TensorFlow Serving's util/gzip_zlib.h has it, too
    DOCUMENT_BYTES = 16     # that reading JSON may take for each byte of the body, besides what it becomes
    CHARGED_FROM = 65536    # bytes of a body from which that is charged


cdef void rest_set_spec(Call* call) noexcept nogil:
    """Say in the call's view which servable its path names."""
    cdef const char* request = call.request.data
    memset(&call.view.spec, 0, sizeof(ModelSpecView))
    call.view.spec.present = True
    call.view.spec.name = rest_name(&call.rest, request)
    call.view.spec.has_version = call.rest.has_version
    call.view.spec.version = call.rest.version
    call.view.spec.has_version_label = call.rest.label_size > 0
    call.view.spec.version_label = rest_label(&call.rest, request)


cdef RequestSpec spec_of(const Call* call, Bytes signature_name) noexcept nogil:
    cdef RequestSpec spec
    spec.name = rest_name(&call.rest, call.request.data)
    spec.has_version = call.rest.has_version
    spec.version = call.rest.version
    spec.label = rest_label(&call.rest, call.request.data)
    spec.signature_name = signature_name
    return spec


# ---- opening --------------------------------------------------------------------------------------------

cdef int rest_open(Call* call, RestBody* body, size_t most_bytes) noexcept nogil:
    """Find out which signature the body is for. Returns the status' code; rest_close is due in any case.

    With the status of a call whose servable was not found this looks only for what is told before that:
    that the body is no JSON.
    """
    memset(body, 0, sizeof(RestBody))
    json_document_init(&body.document)
    if call.rest.gzipped and inflate(call, most_bytes) != OK:
        return call.status.code
    if call.rest.body_form == FORM_JSON:
        body.is_quick = call.status.code == OK and call.rest.verb == REST_PREDICT and json_quick_open(
            call.body, &body.signature_name, &body.values)
        if not body.is_quick and open_document(call, body) != OK:
            return call.status.code
    name_signature(call, body)
    return call.status.code


cdef void name_signature(const Call* call, RestBody* body) noexcept nogil:
    """Take the signature of the query, if the body names none."""
    if body.signature_name.size == 0:
        body.signature_name = rest_signature(&call.rest, call.request.data)


cdef int rest_open_exactly(Call* call, RestBody* body) noexcept nogil:
    """Find out again which signature a body is for that the quick reader does not read to its end.

    It may name one behind its values. Returns the status' code.
    """
    body.is_quick = False
    if open_document(call, body) == OK:
        name_signature(call, body)
    return call.status.code


cdef int inflate(Call* call, size_t most_bytes) noexcept nogil:
    cdef Buffer inflated
    cdef size_t prefix = rest_prefix_size(&call.rest)
    cdef int result
    buffer_init(&inflated)
    result = GZIP_NO_MEMORY
    if buffer_append(&inflated, call.request.data, prefix) == 0:
        result = gzip_inflate_charged(
            call.body, &inflated, min(most_bytes, <size_t>MOST_UNPACKED), call)
    if result != GZIP_OK:
        buffer_free(&inflated)
        if result == GZIP_TOO_BIG:
            return status_set(&call.status, INVALID_ARGUMENT, "The body is too large once it is unpacked.")
        if result == GZIP_NO_MEMORY:
            return tell_no_room(call)
        if call.rest.body_form == FORM_JSON:  # TensorFlow Serving takes it for empty
            return status_set(&call.status, INVALID_ARGUMENT, "JSON Parse error: The document is empty")
        return status_set(&call.status, INVALID_ARGUMENT, "The body is not valid gzip.")
    take_request(call, &inflated, prefix)
    call.rest.gzipped = False
    rest_set_spec(call)
    return OK


cdef void take_request(Call* call, Buffer* request, size_t prefix) noexcept nogil:
    """Replace Call.request; the body begins behind so many bytes of it."""
    buffer_free(&call.request)
    call.request = request[0]
    call.body = Bytes(call.request.data + prefix, call.request.size - prefix)


cdef int open_document(Call* call, RestBody* body) noexcept nogil:
    """Parse JSON, and charge what that takes while it is there."""
    cdef int before = call.status.code
    cdef int64_t charge = <int64_t>call.body.size * DOCUMENT_BYTES
    if call.body.size >= CHARGED_FROM:
        if not call_charge(call, charge):
            return tell_no_room(call)
        body.charged_bytes = charge
    body.has_document = True
    if json_document_parse(&body.document, call.body.data, call.body.size, &call.status) != OK:
        return call.status.code
    call.status.code = before  # a document that can be read says OK; the text is there still
    if before != OK:
        return before
    return json_document_signature_name(&body.document, &body.signature_name, &call.status)


cdef void rest_close(Call* call, RestBody* body) noexcept nogil:
    """Free what opening took."""
    json_document_free(&body.document)
    if body.charged_bytes:
        call_give_back(call, body.charged_bytes)


# ---- reading --------------------------------------------------------------------------------------------

cdef int rest_read_predict(
    Call* call, RestBody* body, const InputType* inputs, int inputs_size, size_t most_bytes
) noexcept nogil:
    """Make a PredictRequest of the body, which was opened. Returns the status' code, or REST_OTHER_SIGNATURE.

    `inputs` are those of the signature that the body is for. With REST_OTHER_SIGNATURE it has turned out to
    be for another one; it is to be read with that one's.
    """
    cdef RequestSpec spec = spec_of(call, body.signature_name)
    cdef Buffer wire
    cdef int result
    buffer_init(&wire)
    if call.rest.body_form == FORM_NPZ:
        body.charged_bytes = <int64_t>npz_unpacked_bytes(call.body)  # a few bytes may stand for many
        if not call_charge(call, body.charged_bytes):
            body.charged_bytes = 0
            return tell_no_room(call)
    if call.rest.body_form == FORM_NPY or call.rest.body_form == FORM_NPZ:
        result = npy_read_predict(
            call.body, call.rest.body_form == FORM_NPZ, inputs, inputs_size, &spec, most_bytes, &wire,
            &call.status)
        return take_wire(call, &wire, result)
    if body.is_quick:
        result = json_quick_read(
            body.values, call.body.data + call.body.size, inputs, inputs_size, &spec, &wire,
            &call.rest.in_rows)
        if result != QUICK_NOT:
            return take_wire(call, &wire, result)
        wire.size = 0
        if rest_open_exactly(call, body) != OK or not bytes_equal(body.signature_name, spec.signature_name):
            buffer_free(&wire)
            return REST_OTHER_SIGNATURE if call.status.code == OK else call.status.code
    result = json_read_predict(
        &body.document, inputs, inputs_size, &spec, &wire, &call.rest.in_rows, &call.status)
    return take_wire(call, &wire, result)


cdef int rest_read_inference(Call* call, RestBody* body) noexcept nogil:
    """Make a ClassificationRequest or RegressionRequest of the body. Returns the status' code."""
    cdef RequestSpec spec = spec_of(call, body.signature_name)
    cdef Buffer wire
    cdef int result
    buffer_init(&wire)
    result = json_read_inference(
        &body.document, &spec, &wire, &call.status)
    return take_wire(call, &wire, result)


cdef int rest_read_protobuf(Call* call) noexcept nogil:
    """Put the servable of the path into a request in protobuf. Returns the status' code.

    All three requests have their ModelSpec in field 1. What it says of a signature stays.
    """
    cdef ModelSpecView named
    cdef RequestSpec spec
    cdef Cursor at = <Cursor>call.body.data
    cdef Cursor end = at + call.body.size
    cdef Cursor begin
    cdef Buffer wire
    cdef Bytes part
    cdef uint32_t tag
    cdef int result = WIRE_OK
    buffer_init(&wire)
    memset(&named, 0, sizeof(ModelSpecView))
    while at < end and result == WIRE_OK:
        begin = at
        at = read_tag(at, end, &tag)
        if at != NULL and tag == (1 << 3 | LENGTH_DELIMITED):
            at = read_bytes(at, end, &part)
            result = model_spec_read(&named, part) if at != NULL else WIRE_BAD
            if result > 0:  # it has fields that nobody knows
                result = WIRE_OK
        elif at != NULL:
            at = skip_value(at, end, tag)
            if at != NULL:
                result = WIRE_OK if buffer_append(&wire, <const char*>begin, <size_t>(at - begin)) == 0 \
                    else WIRE_NO_MEMORY
        if at == NULL:
            result = WIRE_BAD
    if result == WIRE_OK:
        spec = spec_of(call, named.signature_name)
        if spec.signature_name.size == 0:
            spec.signature_name = rest_signature(&call.rest, call.request.data)
        result = request_put_spec(&wire, &spec)
    if result == WIRE_BAD:
        status_set(&call.status, INVALID_ARGUMENT, "The body is not the request that it should be, in protobuf.")
        call.status.reason = INVALID_INPUT
    return take_wire(call, &wire, result)


cdef int take_wire(Call* call, Buffer* wire, int result) noexcept nogil:
    """Replace the body by what it became, if `result` is WIRE_OK. Returns the status' code."""
    if result == WIRE_OK and call.status.code == OK:
        if not call_charge(call, <int64_t>wire.size):
            tell_no_room(call)
        else:
            take_request(call, wire, 0)
            memset(&call.view.spec, 0, sizeof(ModelSpecView))  # it was in the body that is gone
            call.rest.transcoded = True
            return OK
    elif call.status.code == OK:
        if result == WIRE_TOO_BIG:
            status_set(&call.status, RESOURCE_EXHAUSTED, "The request's tensors are larger than a message may be.")
        elif result == WIRE_NO_MEMORY:
            tell_no_room(call)
        else:
            status_set(&call.status, INTERNAL, "The body cannot be read.")
    buffer_free(wire)
    return call.status.code


# ---- texts ----------------------------------------------------------------------------------------------

cdef int tell_no_room(Call* call) noexcept nogil:
    return status_set(
        &call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")


cdef int rest_tell_no_signature(Call* call, Bytes name) noexcept nogil:
    """As TensorFlow Serving's http_rest_api_handler.cc (GetInfoMap)."""
    status_set(&call.status, INVALID_ARGUMENT, 'Serving signature name: "')
    status_add_bytes(&call.status, name if name.size else default_signature())
    status_add(&call.status, '" not found in signature def')
    call.status.reason = SIGNATURE_NOT_FOUND
    return INVALID_ARGUMENT
