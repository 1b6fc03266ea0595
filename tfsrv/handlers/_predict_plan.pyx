"""What a call runs: its tensors and outputs matched with the signature's.

The order of checks, codes and texts are TensorFlow Serving's: predict_util.cc (PreProcessPrediction)
and TensorFlow's cc/saved_model/util.cc (GetInputValues).
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._buffer cimport Bytes, bytes_compare
from tfsrv._call cimport Call, call_charge, call_scratch
from tfsrv._predict_request cimport (
    PredictView,
    TensorView,
    predict_view_bytes,
    predict_view_find,
)
from tfsrv._predict_response cimport TensorData, wire_write_predict
from tfsrv._signature cimport Signature, SignatureInput
from tfsrv._status cimport OK, RESOURCE_EXHAUSTED, status_set
from tfsrv._tensor cimport MAX_RANK, tensor_release, tensor_view_bytes, tensor_view_parses
from tfsrv._tf cimport TF_Tensor
from tfsrv.handlers._predict_errors cimport (
    tell_bad_tensor,
    tell_missing_input,
    tell_output_twice,
    tell_unknown_input,
    tell_unknown_output,
    tell_wrong_size,
)

cdef Bytes DEFAULT_SIGNATURE = Bytes(b"serving_default", 15)


cdef int plan_make(Call* call, bint as_content, size_t max_message_bytes) noexcept nogil:
    """Match the request's inputs and outputs with the signature's. Returns the status' code."""
    cdef Signature* signature = <Signature*>call.signature
    cdef PredictView* view = &call.view
    cdef Plan* plan = plan_lay_out(call, 0)
    cdef int i, used = 0
    cdef SignatureInput* input
    if plan == NULL:
        return call.status.code
    plan.write = write_predict
    plan.splices = True
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


cdef int plan_take_input(
    Call* call, Plan* plan, int input, const TensorView* view, size_t max_message_bytes
) noexcept nogil:
    """Take a tensor of the request for an input of the signature. Returns the status' code."""
    cdef int64_t size = tensor_view_bytes(&call.view, view)
    if size < 0:
        return tell_bad_tensor(&call.status, (<Signature*>call.signature).inputs[input].alias)
    if <size_t>size > max_message_bytes - <size_t>plan.input_bytes:
        # The repeat rule lets a request of 40 bytes ask for gigabytes.
        return status_set(
            &call.status, RESOURCE_EXHAUSTED,
            "The request's tensors are larger than a message may be.")
    plan.views[input] = view
    plan.input_bytes += size
    return OK


cdef int plan_charge(Call* call, Plan* plan) noexcept nogil:
    """Charge what running it takes to the in-flight budget. Returns the status' code."""
    if not call_charge(call, plan.input_bytes + <int64_t>predict_view_bytes(&call.view)):
        return status_set(&call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
    return OK


cdef Plan* plan_lay_out(Call* call, int tasks_size) noexcept nogil:
    """An empty plan for the call's signature in its scratch memory; NULL, and the status says why."""
    cdef size_t inputs = <size_t>(<Signature*>call.signature).inputs_size
    cdef size_t outputs = <size_t>(<Signature*>call.signature).outputs_size  # a longer filter names one twice
    cdef size_t tasks = <size_t>tasks_size * sizeof(InferenceTask)
    cdef size_t per_output = sizeof(TF_Tensor*) + sizeof(TensorData) + MAX_RANK * sizeof(int64_t) + sizeof(int)
    cdef char* at = <char*>call_scratch(
        call,
        sizeof(Plan) + tasks + inputs * (sizeof(TensorView*) + sizeof(TF_Tensor*)) + outputs * per_output)
    cdef Plan* plan = <Plan*>at
    if at == NULL:
        status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        return NULL
    at += sizeof(Plan)
    plan.as_content = False
    plan.splices = False
    plan.input_bytes = 0
    plan.tasks_size = tasks_size
    plan.tasks = <InferenceTask*>at
    at += tasks
    plan.dims = <int64_t*>at
    at += outputs * MAX_RANK * sizeof(int64_t)
    plan.outputs = <TensorData*>at
    at += outputs * sizeof(TensorData)
    plan.views = <const TensorView**>at
    at += inputs * sizeof(TensorView*)
    plan.feeds = <TF_Tensor**>at
    at += inputs * sizeof(TF_Tensor*)
    plan.fetched = <TF_Tensor**>at
    at += outputs * sizeof(TF_Tensor*)
    call.wanted = <int*>at
    call.wanted_size = 0
    memset(<void*>plan.feeds, 0, (inputs + outputs) * sizeof(TF_Tensor*))
    return plan


cdef int write_predict(Call* call, Plan* plan) noexcept nogil:
    """The PredictResponse."""
    cdef Bytes signature_name = call.view.spec.signature_name
    if signature_name.size == 0:
        signature_name = DEFAULT_SIGNATURE
    return wire_write_predict(
        &call.response, plan.outputs, call.wanted_size, call.view.spec.name, call.servable.version,
        signature_name, plan.as_content, SPLICE_FROM, tensor_release)


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


cdef int plan_check_tensors(Call* call) noexcept nogil:
    """Tell of a tensor that does not parse, as TensorFlow Serving does before it looks at outputs.

    Makes none: a few bytes can stand for gigabytes, and nobody will run them.
    """
    cdef Signature* signature = <Signature*>call.signature
    cdef Plan* plan = <Plan*>call.scratch
    cdef int i
    for i in range(signature.inputs_size):
        if plan.views[i] != NULL and not tensor_view_parses(&call.view, plan.views[i]):
            return tell_bad_tensor(&call.status, signature.inputs[i].alias)
    return OK
