"""REST calls to SavedModels, made gRPC ones: bodies are read by the signatures that they are for.

What is told first follows TensorFlow Serving: that a body is no JSON, then that there is no such model,
then what is wrong with it (model_servers/http_rest_api_handler.cc, util/json_tensor.cc).
"""

from libc.stdlib cimport free, malloc

from tfsrv._buffer cimport Bytes
from tfsrv._input_types cimport InputType
from tfsrv._model_spec cimport default_signature
from tfsrv._rest_call cimport FORM_JSON, FORM_PROTOBUF
from tfsrv._session cimport Session, session_find
from tfsrv._signature cimport Signature
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    OK,
    RESOURCE_EXHAUSTED,
    status_add_bytes,
    status_set,
)
from tfsrv.handlers._rest_read cimport (
    FEW_INPUT_TYPES,
    REST_OTHER_SIGNATURE,
    RestBody,
    rest_close,
    rest_open,
    rest_open_exactly,
    rest_read_inference,
    rest_read_predict,
    rest_read_protobuf,
    rest_tell_no_signature,
)


cdef int rest_transcode_predict(Call* call, size_t most_bytes) noexcept nogil:
    """Make a PredictRequest of the body. Returns the status' code. See Steps.transcode."""
    cdef RestBody body
    if rest_open(call, &body, most_bytes) == OK and call.servable != NULL:
        if call.rest.body_form == FORM_PROTOBUF:
            rest_read_protobuf(call)
        else:
            read_predict(call, &body, most_bytes)
    rest_close(call, &body)
    return call.status.code


cdef int rest_transcode_inference(Call* call, size_t most_bytes) noexcept nogil:
    """Make a ClassificationRequest or RegressionRequest of the body. See Steps.transcode."""
    cdef RestBody body
    if rest_open(call, &body, most_bytes) == OK and call.servable != NULL:
        if call.rest.body_form == FORM_PROTOBUF:
            rest_read_protobuf(call)
        elif call.rest.body_form == FORM_JSON:
            rest_read_inference(call, &body)
    rest_close(call, &body)
    return call.status.code


cdef void read_predict(Call* call, RestBody* body, size_t most_bytes) noexcept nogil:
    """Read a body by the inputs of the signature that it is for."""
    if read_for_signature(call, body, most_bytes) == REST_OTHER_SIGNATURE:
        call.rest.counters = NULL
        read_for_signature(call, body, most_bytes)


cdef int read_for_signature(Call* call, RestBody* body, size_t most_bytes) noexcept nogil:
    """Read a body by the inputs of the signature that it seems to be for.

    Returns the status' code, or REST_OTHER_SIGNATURE.
    """
    cdef Bytes name = body.signature_name if body.signature_name.size else default_signature()
    cdef Signature* signature = session_find(<Session*>call.servable.impl, name)
    cdef InputType[16] few  # FEW_INPUT_TYPES
    cdef InputType* inputs = few
    cdef int i, result
    if (signature == NULL or signature.broken) and body.is_quick:
        return REST_OTHER_SIGNATURE if rest_open_exactly(call, body) == OK else call.status.code
    if signature == NULL:
        return rest_tell_no_signature(call, name)
    call.rest.counters = signature.counters  # the loop may look at the call's own meanwhile
    # TensorFlow Serving looks for inputs first: it says that __saved_model_init_op has none.
    if signature.broken and (signature.inputs_size or call.rest.body_form != FORM_JSON):
        status_set(&call.status, FAILED_PRECONDITION, "")
        status_add_bytes(&call.status, signature.broken_reason)
        return FAILED_PRECONDITION
    if signature.inputs_size > FEW_INPUT_TYPES:
        inputs = <InputType*>malloc(<size_t>signature.inputs_size * sizeof(InputType))
        if inputs == NULL:
            return status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
    for i in range(signature.inputs_size):
        inputs[i] = InputType(signature.inputs[i].alias, signature.inputs[i].dtype)
    result = rest_read_predict(call, body, inputs, signature.inputs_size, most_bytes)
    if inputs != few:
        free(inputs)
    return result
