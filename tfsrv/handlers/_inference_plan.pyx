"""What a call of Classify, Regress or MultiInference runs: signatures, outputs, and the examples for all.

The order of checks, codes and texts are those of TensorFlow Serving's servables/tensorflow/
{classifier,regressor,multi_inference}.cc.
"""

from tfsrv._buffer cimport Bytes, bytes_equal
from tfsrv._predict_request cimport TaskView
from tfsrv._session cimport Session, session_find
from tfsrv._signature cimport InferenceUse, Signature
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    OK,
    UNIMPLEMENTED,
    status_set,
)
from tfsrv.handlers._inference_errors cimport (
    tell_not_strings,
    tell_text_and_name,
    tell_wrong_kind,
)
from tfsrv.handlers._inference_write cimport write_inference, write_multi_inference
from tfsrv.handlers._predict_plan cimport (
    InferenceTask,
    Plan,
    plan_charge,
    plan_lay_out,
    plan_take_input,
)

cdef Bytes DEFAULT_SIGNATURE = Bytes(b"serving_default", 15)
cdef Bytes METHOD_CLASSIFY = Bytes(b"tensorflow/serving/classify", 27)
cdef Bytes METHOD_REGRESS = Bytes(b"tensorflow/serving/regress", 26)


cdef int plan_classify(const Settings* settings, Call* call) noexcept nogil:
    """Plan a ClassificationRequest. Returns the status' code."""
    return plan_one(settings, call, False)


cdef int plan_regress(const Settings* settings, Call* call) noexcept nogil:
    """Plan a RegressionRequest. Returns the status' code."""
    return plan_one(settings, call, True)


cdef int plan_one(const Settings* settings, Call* call, bint is_regression) noexcept nogil:
    cdef Bytes name = effective(call.view.spec.signature_name)
    cdef Signature* signature = session_find(<Session*>call.servable.impl, name)
    cdef Plan* plan
    if signature == NULL:
        return tell_text_and_name(
            &call.status, INVALID_ARGUMENT, "No signature was found with the name: ", name)
    call.signature = signature
    if use_of(signature, is_regression).counters != NULL:
        call.counters = use_of(signature, is_regression).counters
    if check_use(settings, call, signature, is_regression) != OK:
        return call.status.code
    plan = plan_lay_out(call, 1)
    if plan == NULL:
        return call.status.code
    plan.write = write_inference
    want(call, &plan.tasks[0], signature, NULL, is_regression, name)
    return take_examples(settings, call, plan)


cdef inline Bytes effective(Bytes signature_name) noexcept nogil:
    return signature_name if signature_name.size else DEFAULT_SIGNATURE


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
        return tell_wrong_kind(&call.status, signature, is_regression)
    if use.refusal.data != NULL:
        return tell_text_and_name(&call.status, INVALID_ARGUMENT, "", use.refusal)
    if signature.broken:
        return tell_text_and_name(&call.status, FAILED_PRECONDITION, "", signature.broken_reason)
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
        return status_set(&call.status, INVALID_ARGUMENT, "Input is empty.")
    for i in range((<Signature*>call.signature).inputs_size):
        if plan_take_input(call, plan, i, &call.view.inputs[0], settings.max_message_bytes) != OK:
            return call.status.code
    return plan_charge(call, plan)


# ---- several signatures at once ----------------------------------------------------------------------

cdef int plan_multi_inference(const Settings* settings, Call* call) noexcept nogil:
    """Plan a MultiInferenceRequest: all of its tasks in one run. Returns the status' code."""
    cdef Session* session = <Session*>call.servable.impl
    cdef Signature* signature
    cdef Plan* plan
    cdef int i
    if session.multi_counters != NULL:
        call.counters = session.multi_counters
    for i in range(call.view.tasks_size):
        if check_task(settings, call, session, i) != OK:
            return call.status.code
    signature = task_signature(session, &call.view.tasks[0])
    if call.view.tasks_size > 1:
        for i in range(call.view.tasks_size):
            signature = task_signature(session, &call.view.tasks[i])
            if signature.joint_outputs == NULL:
                return tell_not_strings(&call.status, signature.inputs[0].dtype)
        signature = session.joint
    call.signature = signature
    plan = plan_lay_out(call, call.view.tasks_size)
    if plan == NULL:
        return call.status.code
    plan.write = write_multi_inference
    for i in range(call.view.tasks_size):
        want_task(call, plan, session, i)
    return take_examples(settings, call, plan)


cdef inline Signature* task_signature(Session* session, const TaskView* task) noexcept nogil:
    return session_find(session, effective(task.spec.signature_name))


cdef inline bint is_regression_task(const TaskView* task) noexcept nogil:
    return bytes_equal(task.method_name, METHOD_REGRESS)


cdef int check_task(const Settings* settings, Call* call, Session* session, int index) noexcept nogil:
    """Whether a task can be done with those before it. Returns the status' code.

    All before it were checked, so they have different signatures, of which a model has not so many.
    """
    cdef TaskView* tasks = call.view.tasks
    cdef TaskView* task = &tasks[index]
    cdef Bytes name = effective(task.spec.signature_name)
    cdef Signature* signature
    cdef int i
    if task.spec.name.size == 0:
        return status_set(&call.status, INVALID_ARGUMENT, "Found ModelSpec with an empty model name.")
    if not bytes_equal(task.spec.name, tasks[0].spec.name):
        return status_set(
            &call.status, INVALID_ARGUMENT,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    for i in range(index):
        if bytes_equal(effective(tasks[i].spec.signature_name), name):
            return tell_text_and_name(
                &call.status, INVALID_ARGUMENT, "Duplicate evaluation of signature: ", name)
    signature = session_find(session, name)
    if signature == NULL:
        return tell_text_and_name(
            &call.status, INVALID_ARGUMENT, "Requested signature not found in model graph: ", name)
    if not is_regression_task(task) and not bytes_equal(task.method_name, METHOD_CLASSIFY):
        return tell_text_and_name(
            &call.status, UNIMPLEMENTED, "Unsupported signature method_name: ", task.method_name)
    return check_use(settings, call, signature, is_regression_task(task))


cdef void want_task(Call* call, Plan* plan, Session* session, int index) noexcept nogil:
    cdef TaskView* task = &call.view.tasks[index]
    cdef Signature* signature = task_signature(session, task)
    want(
        call, &plan.tasks[index], signature,
        NULL if call.signature == signature else signature.joint_outputs,
        is_regression_task(task), effective(task.spec.signature_name))
