"""What a call of Classify, Regress or MultiInference runs: signatures, outputs, and the examples for all.

The order of checks, codes and texts are those of TensorFlow Serving's servables/tensorflow/
{classifier,regressor,multi_inference}.cc.
"""

from tfsrv._buffer cimport Bytes, bytes_compare, bytes_equal
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_request cimport TaskView
from tfsrv._session cimport Session, session_find
from tfsrv._signature cimport InferenceUse, Signature, SignatureInput
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    NO_REASON,
    OK,
    SIGNATURE_NOT_FOUND,
    UNIMPLEMENTED,
    status_set,
)
from tfsrv._tf cimport DT_STRING
from tfsrv.handlers._call_plan cimport (
    InferenceTask,
    Plan,
    plan_charge,
    plan_lay_out,
    plan_take_input,
)
from tfsrv.handlers._inference_errors cimport (
    tell_not_strings,
    tell_text_and_name,
    tell_wrong_kind,
)
from tfsrv.handlers._inference_write cimport write_inference, write_multi_inference

cdef Bytes METHOD_CLASSIFY = Bytes(b"tensorflow/serving/classify", 27)
cdef Bytes METHOD_REGRESS = Bytes(b"tensorflow/serving/regress", 26)


cdef int plan_classify(const Settings* settings, Call* call) noexcept nogil:
    """Plan a ClassificationRequest. Returns the status' code."""
    return plan_one(settings, call, False)


cdef int plan_regress(const Settings* settings, Call* call) noexcept nogil:
    """Plan a RegressionRequest. Returns the status' code."""
    return plan_one(settings, call, True)


cdef int check_classify(const Settings* settings, Call* call) noexcept nogil:
    """Whether the servable classifies with the signature asked for. Returns the status' code."""
    return check_one(settings, call, False)


cdef int check_regress(const Settings* settings, Call* call) noexcept nogil:
    """Whether the servable regresses with the signature asked for. Returns the status' code."""
    return check_one(settings, call, True)


cdef int check_one(const Settings* settings, Call* call, bint is_regression) noexcept nogil:
    """Set `call.signature`, or the status; returns its code."""
    cdef Bytes name = model_spec_signature(&call.view.spec)
    cdef Signature* signature = session_find(<Session*>call.servable.impl, name)
    if signature == NULL:
        return tell_text_and_name(
            &call.status, INVALID_ARGUMENT, SIGNATURE_NOT_FOUND, "No signature was found with the name: ", name)
    call.signature = signature
    if use_of(signature, is_regression).counters != NULL:
        call.counters = use_of(signature, is_regression).counters
    return check_use(settings, call, signature, is_regression)


cdef int plan_one(const Settings* settings, Call* call, bint is_regression) noexcept nogil:
    cdef Plan* plan
    if check_one(settings, call, is_regression) != OK:
        return call.status.code
    plan = plan_lay_out(call, 1)
    if plan == NULL:
        return call.status.code
    plan.write = write_inference
    want(
        call, &plan.tasks[0], <Signature*>call.signature, NULL, is_regression,
        model_spec_signature(&call.view.spec))
    return take_examples(settings, call, plan)


cdef inline InferenceUse* use_of(Signature* signature, bint is_regression) noexcept nogil:
    return &signature.regress if is_regression else &signature.classify


cdef int check_use(
    const Settings* settings, Call* call, Signature* signature, bint is_regression
) noexcept nogil:
    """Whether the signature can be used so. Returns the status' code."""
    cdef InferenceUse* use = use_of(signature, is_regression)
    if settings.checks_method_name and not bytes_equal(
        signature.method_name, METHOD_REGRESS if is_regression else METHOD_CLASSIFY
    ):
        return tell_wrong_kind(&call.status, signature.method_name, is_regression)
    if use.refusal.data != NULL:
        return tell_text_and_name(&call.status, INVALID_ARGUMENT, INVALID_INPUT, "", use.refusal)
    if signature.broken:
        return tell_text_and_name(
            &call.status, FAILED_PRECONDITION, NO_REASON, "", signature.broken_reason)
    return OK


cdef void want(
    Call* call, InferenceTask* task, Signature* signature, const int* places, bint is_regression, Bytes name
) noexcept nogil:
    """Have the outputs fetched that the task needs; `places`: where they are in the joint signature."""
    cdef InferenceUse* use = use_of(signature, is_regression)
    task.signature_name = name
    task.is_regression = is_regression
    task.labels = want_output(call, use.labels, places)
    task.scores = want_output(call, use.scores, places)


cdef int want_output(Call* call, int output, const int* places) noexcept nogil:
    """Index of an output of the signature among those wanted, added if need be; -1 for none."""
    cdef int i
    if output < 0:
        return -1
    if places != NULL:
        output = places[output]
    for i in range(call.wanted_size):
        if call.wanted[i] == output:
            return i
    call.wanted[call.wanted_size] = output
    call.wanted_size += 1
    return call.wanted_size - 1


cdef int take_examples(const Settings* settings, Call* call, Plan* plan) noexcept nogil:
    """Feed the examples to every input of the signature. Returns the status' code."""
    cdef int i
    if call.view.inputs_size == 0:
        return tell_empty(call)
    count_examples(call)
    for i in range((<Signature*>call.signature).inputs_size):
        if plan_take_input(call, plan, i, &call.view.inputs[0], settings.max_message_bytes) != OK:
            return call.status.code
    return plan_charge(call, plan)


cdef void count_examples(Call* call) noexcept nogil:
    """Have the Examples of a request that has some counted when it is answered."""
    call.examples = call.view.dims[call.view.inputs[0].dims_start]


cdef int tell_empty(Call* call) noexcept nogil:
    status_set(&call.status, INVALID_ARGUMENT, "Input is empty.")
    call.status.reason = INVALID_INPUT
    return INVALID_ARGUMENT


# ---- several signatures at once ----------------------------------------------------------------------

cdef int check_multi_inference(const Settings* settings, Call* call) noexcept nogil:
    """Whether the servable can do all tasks. Returns the status' code."""
    cdef Session* session = <Session*>call.servable.impl
    cdef int i
    if session.multi_counters != NULL:
        call.counters = session.multi_counters
    for i in range(call.view.tasks_size):
        if check_task(settings, call, session, i) != OK:
            return call.status.code
    return OK


cdef int plan_multi_inference(const Settings* settings, Call* call) noexcept nogil:
    """Plan a MultiInferenceRequest: all of its tasks in one run. Returns the status' code."""
    cdef Session* session = <Session*>call.servable.impl
    cdef Signature* signature
    cdef Plan* plan
    cdef int i
    if check_multi_inference(settings, call) != OK:
        return call.status.code
    tasks_are_checked(call)
    if call.view.inputs_size == 0:
        return tell_empty(call)
    signature = task_signature(session, call, 0)
    if call.view.tasks_size > 1:
        if check_inputs(call, session) != OK:
            return call.status.code
        signature = session.joint  # there is one: these have been found fit for it at load
    call.signature = signature
    plan = plan_lay_out(call, call.view.tasks_size)
    if plan == NULL:
        return call.status.code
    plan.write = write_multi_inference
    for i in range(call.view.tasks_size):
        want_task(call, plan, session, i)
    return take_examples(settings, call, plan)


cdef int check_inputs(Call* call, const Session* session) noexcept nogil:
    """Whether all tasks, which were checked, take strings. Returns the status' code.

    The first input that does not is told, in the order of names, in which TensorFlow Serving feeds them.
    """
    cdef SignatureInput* wrong = NULL
    cdef SignatureInput* input
    cdef int before = 0
    cdef int i, j
    for i in range(call.view.tasks_size):
        input = &task_signature(session, call, i).inputs[0]
        if input.dtype != DT_STRING and (
            wrong == NULL or bytes_compare(input.tensor_name, wrong.tensor_name) < 0
        ):
            wrong = input
    if wrong == NULL:
        return OK
    for i in range(call.view.tasks_size):
        input = &task_signature(session, call, i).inputs[0]
        if bytes_compare(input.tensor_name, wrong.tensor_name) < 0:
            before += 1
            for j in range(i):
                if bytes_equal(task_signature(session, call, j).inputs[0].tensor_name, input.tensor_name):
                    before -= 1  # it is fed once
                    break
    return tell_not_strings(&call.status, before, wrong.dtype)


cdef inline Signature* task_signature(const Session* session, const Call* call, int index) noexcept nogil:
    return session_find(<Session*>session, task_signature_name(call, index))


cdef Bytes task_signature_name(const Call* call, int index) noexcept nogil:
    """The name of a task's signature, which may be the default's."""
    return model_spec_signature(&call.view.tasks[index].spec)


cdef bint is_regression_task(const Call* call, int index) noexcept nogil:
    """Of a task whose method check_task_method has found good."""
    return bytes_equal(call.view.tasks[index].method_name, METHOD_REGRESS)


cdef int check_task(const Settings* settings, Call* call, Session* session, int index) noexcept nogil:
    """Whether a task can be done with those before it. Returns the status' code.

    All before it were checked, so they have different signatures, of which a model has not so many.
    """
    cdef Signature* signature
    if check_task_names(call, index) != OK:
        return call.status.code
    signature = task_signature(session, call, index)
    if signature == NULL:
        return tell_unknown_task(call, task_signature_name(call, index))
    if check_task_method(call, index) != OK:
        return call.status.code
    return check_use(settings, call, signature, is_regression_task(call, index))


cdef int check_task_names(Call* call, int index) noexcept nogil:
    """Whether a task has the model of the first one, and a signature of its own. The status' code."""
    cdef TaskView* tasks = call.view.tasks
    cdef Bytes name = task_signature_name(call, index)
    cdef int i
    call.view.spec.signature_name = name  # an error is about this one
    if tasks[index].spec.name.size == 0:
        return status_set(&call.status, INVALID_ARGUMENT, "Found ModelSpec with an empty model name.")
    if not bytes_equal(tasks[index].spec.name, tasks[0].spec.name):
        return status_set(
            &call.status, INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    for i in range(index):
        if bytes_equal(task_signature_name(call, i), name):
            return tell_text_and_name(
                &call.status, INVALID_ARGUMENT, INVALID_INPUT, "Duplicate evaluation of signature: ", name)
    return OK


cdef void tasks_are_checked(Call* call) noexcept nogil:
    """What goes wrong from here on is about no task more than about the others."""
    if call.view.tasks_size > 1:
        call.view.spec.signature_name = Bytes(NULL, 0)
        call.view.spec.present = False  # or no name would stand for the default one


cdef int tell_unknown_task(Call* call, Bytes name) noexcept nogil:
    """That there is no signature of that name for a task. The status' code."""
    return tell_text_and_name(
        &call.status, INVALID_ARGUMENT, SIGNATURE_NOT_FOUND,
        "Requested signature not found in model graph: ", name)


cdef int check_task_method(Call* call, int index) noexcept nogil:
    """Whether a task is to classify or to regress. The status' code."""
    if is_regression_task(call, index) or bytes_equal(call.view.tasks[index].method_name, METHOD_CLASSIFY):
        return OK
    return tell_text_and_name(
        &call.status, UNIMPLEMENTED, INVALID_INPUT, "Unsupported signature method_name: ",
        call.view.tasks[index].method_name)


cdef void want_task(Call* call, Plan* plan, Session* session, int index) noexcept nogil:
    cdef Signature* signature = task_signature(session, call, index)
    want(
        call, &plan.tasks[index], signature,
        NULL if call.signature == signature else signature.joint_outputs,
        is_regression_task(call, index), task_signature_name(call, index))
