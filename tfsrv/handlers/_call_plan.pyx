"""What a call runs: the signature's tensors, and where those of the request are.

Each method makes the plan in its own way (`_predict_plan`, `_inference_plan`); whoever runs the call,
alone or with others, goes by it.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from tfsrv._call cimport Call, call_charge, call_scratch
from tfsrv._predict_request cimport TensorView, predict_view_bytes
from tfsrv._predict_response cimport TensorData
from tfsrv._signature cimport Signature
from tfsrv._status cimport OK, RESOURCE_EXHAUSTED, status_set
from tfsrv._tensor cimport MAX_RANK, tensor_view_bytes, tensor_view_parses
from tfsrv._tf cimport TF_Tensor
from tfsrv.handlers._predict_errors cimport tell_bad_tensor


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
