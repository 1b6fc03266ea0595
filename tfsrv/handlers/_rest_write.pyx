"""Answers to REST calls, in the form that the client wants: JSON, protobuf, or numpy's files.

They are packed here, too, where that pays: this is the thread that ran the model, not the loop's unless the
call was small enough for it.
"""

from tfsrv._gzip cimport GZIP_OK, gzip_deflate_message
from tfsrv._inference_response cimport wire_write_inference
from tfsrv._json_response cimport (
    JsonModelSpec,
    json_write_classify,
    json_write_predict,
    json_write_regress,
)
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._npy_predict cimport npy_write_predict
from tfsrv._predict_response cimport wire_write_predict
from tfsrv._rest_call cimport FORM_JSON, FORM_NPY, FORM_NPZ, FORM_PROTOBUF
from tfsrv._tensor cimport tensor_release
from tfsrv._wire_format cimport WIRE_NO_MEMORY, WIRE_OK
from tfsrv.handlers._call_plan cimport SPLICE_FROM

cdef enum:
    PACK_FROM = 1024        # bytes; what is smaller fits into a packet anyway

cdef size_t NEVER = <size_t>-1


cdef bint rest_splices(const Call* call) noexcept nogil:
    """Whether the answer can take long values over as they lie there."""
    return call.rest.answer_form != FORM_JSON and not call.rest.accepts_gzip


cdef JsonModelSpec spec_of(const Call* call) noexcept nogil:
    cdef JsonModelSpec spec
    spec.name = call.view.spec.name
    spec.version = call.servable.version
    spec.signature_name = model_spec_signature(&call.view.spec)
    return spec


cdef int rest_write_predict(
    Call* call, TensorData* outputs, int outputs_size, bint as_content, bint may_splice
) noexcept nogil:
    """Append the answer to `call.response`. A WireResult, or the call's status says more.

    With `may_splice` the outputs' holders are tensors of TensorFlow that may be taken over.
    """
    cdef JsonModelSpec spec = spec_of(call)
    cdef size_t splice_from = <size_t>SPLICE_FROM if may_splice else NEVER
    cdef int result
    if call.rest.any_form and call.rest.answer_form == FORM_NPY and outputs_size != 1:
        call.rest.answer_form = FORM_NPZ
    if call.rest.answer_form == FORM_JSON:
        result = json_write_predict(
            &call.response.head, outputs, outputs_size, call.rest.in_rows, call.rest.pretty,
            &spec if call.rest.tells_spec else NULL, &call.status)
    elif call.rest.answer_form == FORM_PROTOBUF:
        result = wire_write_predict(
            &call.response, outputs, outputs_size, spec.name, spec.version, spec.signature_name, as_content,
            splice_from, tensor_release)
    else:
        result = npy_write_predict(
            &call.response, outputs, outputs_size, call.rest.answer_form == FORM_NPZ, splice_from,
            tensor_release, &call.status)
    return pack(call) if result == WIRE_OK else result


cdef int rest_write_inference(Call* call, const InferenceAnswer* answer) noexcept nogil:
    """Append the answer to `call.response`. A WireResult, or the call's status says more."""
    cdef JsonModelSpec spec = spec_of(call)
    cdef const JsonModelSpec* told = &spec if call.rest.tells_spec else NULL
    cdef int result
    if call.rest.answer_form == FORM_PROTOBUF:
        result = wire_write_inference(&call.response, answer, spec.name, spec.version)
    elif answer.is_regression:
        result = json_write_regress(&call.response.head, answer, call.rest.pretty, told, &call.status)
    else:
        result = json_write_classify(&call.response.head, answer, call.rest.pretty, told, &call.status)
    return pack(call) if result == WIRE_OK else result


cdef int pack(Call* call) noexcept nogil:
    """Pack the answer, if the client takes it so and it is worth it. A WireResult."""
    if not call.rest.accepts_gzip or (
        call.response.head.size < PACK_FROM and call.response.splices_size == 0
    ):
        return WIRE_OK
    if gzip_deflate_message(&call.response) != GZIP_OK:
        return WIRE_NO_MEMORY
    call.rest.sends_gzip = True
    return WIRE_OK
