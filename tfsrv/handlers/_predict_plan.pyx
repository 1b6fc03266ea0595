"""What a Predict call runs: its tensors and outputs matched with the signature's.

The order of checks, codes and texts are TensorFlow Serving's: predict_util.cc (PreProcessPrediction)
and TensorFlow's cc/saved_model/util.cc (GetInputValues).
"""

from tfsrv._buffer cimport Bytes, bytes_compare
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_request cimport PredictView, predict_view_find
from tfsrv._predict_response cimport wire_write_predict
from tfsrv._signature cimport Signature, SignatureInput
from tfsrv._status cimport OK
from tfsrv._tensor cimport tensor_release
from tfsrv.handlers._call_plan cimport (
    SPLICE_FROM,
    Plan,
    plan_charge,
    plan_check_tensors,
    plan_lay_out,
    plan_take_input,
)
from tfsrv.handlers._predict_errors cimport (
    tell_missing_input,
    tell_output_twice,
    tell_unknown_input,
    tell_unknown_output,
    tell_wrong_size,
)
from tfsrv.handlers._rest_write cimport rest_splices, rest_write_predict

cdef int predict_plan(Call* call, bint as_content, size_t max_message_bytes) noexcept nogil:
    """Match the request's inputs and outputs with the signature's. Returns the status' code."""
    cdef Signature* signature = <Signature*>call.signature
    cdef PredictView* view = &call.view
    cdef Plan* plan = plan_lay_out(call, 0)
    cdef int i, used = 0
    cdef SignatureInput* input
    if plan == NULL:
        return call.status.code
    plan.write = write_predict
    plan.splices = call.rest.verb == 0 or rest_splices(call)
    plan.as_content = as_content
    if view.inputs_size > signature.inputs_size or (
        view.inputs_size < signature.inputs_size and signature.defaults_size == 0
    ):
        return tell_wrong_size(&call.status, view, signature)
    for i in range(signature.inputs_size):
        input = &signature.inputs[i]
        plan.views[i] = predict_view_find(view, input.alias)
        if plan.views[i] == NULL:
            if input.default_value == NULL:
                return tell_missing_input(&call.status, view, signature, input)
            continue
        used += 1
        if plan_take_input(call, plan, i, plan.views[i], max_message_bytes) != OK:
            return call.status.code
    if used != view.inputs_size:
        return tell_unknown_input(&call.status, view, signature)
    if find_outputs(call) != OK:
        return call.status.code
    return plan_charge(call, plan)


cdef int write_predict(Call* call, Plan* plan) noexcept nogil:
    """The PredictResponse, or what a REST client wants."""
    if call.rest.verb:
        return rest_write_predict(call, plan.outputs, call.wanted_size, plan.as_content, plan.splices)
    return wire_write_predict(
        &call.response, plan.outputs, call.wanted_size, call.view.spec.name, call.servable.version,
        model_spec_signature(&call.view.spec), plan.as_content, SPLICE_FROM, tensor_release)


cdef int find_output(const Signature* signature, Bytes alias) noexcept nogil:
    """Index of an output by alias; -1 when there is none."""
    cdef int low = 0, high = signature.outputs_size, middle, order
    while low < high:
        middle = (low + high) // 2
        order = bytes_compare(signature.outputs[middle].alias, alias)
        if order == 0:
            return middle
        if order < 0:
            low = middle + 1
        else:
            high = middle
    return -1


cdef int find_outputs(Call* call) noexcept nogil:
    """Set `call.wanted` from the output filter; an empty filter asks for all outputs."""
    cdef Signature* signature = <Signature*>call.signature
    cdef PredictView* view = &call.view
    cdef Bytes alias
    cdef int i, j, index
    for i in range(view.output_filter_size):
        alias = view.output_filter[i]
        index = find_output(signature, alias)
        if index < 0:
            if plan_check_tensors(call) != OK:
                return call.status.code
            return tell_unknown_output(&call.status, signature, alias)
        for j in range(i):  # at most as many as the signature has outputs: then one came twice
            if call.wanted[j] == index:
                if plan_check_tensors(call) != OK:
                    return call.status.code
                return tell_output_twice(&call.status, alias)
        call.wanted[i] = index
        call.wanted_size = i + 1
    if call.wanted_size == 0:
        for i in range(signature.outputs_size):
            call.wanted[i] = i
        call.wanted_size = signature.outputs_size
    return OK
