"""Answers of Classify, Regress and MultiInference, from outputs that are checked first.

The checks, their order, codes and texts are those of TensorFlow Serving's servables/tensorflow/
classifier.cc (PostProcessClassificationResult) and regressor.cc (PostProcessRegressionResult).
"""

from libc.stdlib cimport free, malloc

from tfsrv._inference_response cimport (
    InferenceAnswer,
    wire_write_inference,
    wire_write_multi_inference,
)
from tfsrv._predict_response cimport TensorData
from tfsrv._status cimport OK
from tfsrv._tf cimport DT_FLOAT, DT_STRING
from tfsrv._wire_format cimport WIRE_BAD, WIRE_NO_MEMORY
from tfsrv.handlers._inference_errors cimport (
    tell_two_sizes,
    tell_wrong_dtype,
    tell_wrong_shape,
)
from tfsrv.handlers._rest_write cimport rest_write_inference


cdef int write_inference(Call* call, Plan* plan) noexcept nogil:
    """The ClassificationResponse or RegressionResponse. See Plan.write."""
    return inference_write_one(call, plan.outputs, plan.tasks)


cdef int write_multi_inference(Call* call, Plan* plan) noexcept nogil:
    """The MultiInferenceResponse. See Plan.write."""
    return inference_write_all(call, plan.outputs, plan.tasks, plan.tasks_size)


cdef int inference_write_one(
    Call* call, const TensorData* outputs, const InferenceTask* task
) noexcept nogil:
    """Append the answer to a request with one task. A WireResult, or the call's status says more."""
    cdef InferenceAnswer answer
    if make_answer(call, outputs, task, &answer) != OK:
        return WIRE_BAD
    if call.rest.verb:
        return rest_write_inference(call, &answer)
    return wire_write_inference(&call.response, &answer, call.view.spec.name, call.servable.version)


cdef int inference_write_all(
    Call* call, const TensorData* outputs, const InferenceTask* tasks, int size
) noexcept nogil:
    """Append the answer to a MultiInferenceRequest. A WireResult, or the call's status says more."""
    cdef InferenceAnswer* answers = <InferenceAnswer*>malloc(<size_t>size * sizeof(InferenceAnswer))
    cdef int result = WIRE_BAD
    cdef bint good = True
    cdef int i
    if answers == NULL:
        return WIRE_NO_MEMORY
    for i in range(size):
        good = good and make_answer(call, outputs, &tasks[i], &answers[i]) == OK
    if good:
        result = wire_write_multi_inference(
            &call.response, answers, size, call.view.spec.name, call.servable.version)
    free(answers)
    return result


cdef int make_answer(
    Call* call, const TensorData* outputs, const InferenceTask* task, InferenceAnswer* answer
) noexcept nogil:
    """Look at the outputs of one task. Returns the status' code."""
    cdef int code
    answer.signature_name = task.signature_name
    answer.is_regression = task.is_regression
    answer.rows = call.view.dims[0]
    answer.width = 1
    answer.classes = &outputs[task.labels] if task.labels >= 0 else NULL
    answer.scores = &outputs[task.scores] if task.scores >= 0 else NULL
    code = check_regression(call, answer) if task.is_regression else check_classification(call, answer)
    if code != OK:
        call.view.spec.signature_name = task.signature_name  # of several tasks it is about this one
    return code


cdef int check_classification(Call* call, InferenceAnswer* answer) noexcept nogil:
    cdef const TensorData* classes = answer.classes
    cdef const TensorData* scores = answer.scores
    if classes != NULL:
        if classes.rank != 2:
            return tell_wrong_shape(
                &call.status, "Expected Tensor shape: [batch_size num_classes] but got ", classes)
        if classes.dtype != DT_STRING:
            return tell_wrong_dtype(
                &call.status, "Expected classes Tensor of DT_STRING. Got: ", classes.dtype)
        if classes.dims[0] != answer.rows:
            return tell_two_sizes(
                &call.status, "Expected classes output batch size of ", answer.rows, ". Got: ", classes.dims[0])
        answer.width = classes.dims[1]
    if scores != NULL:
        if scores.rank != 2:
            return tell_wrong_shape(
                &call.status, "Expected Tensor shape: [batch_size num_classes] but got ", scores)
        if scores.dtype != DT_FLOAT:
            return tell_wrong_dtype(
                &call.status, "Expected scores Tensor of DT_FLOAT. Got: ", scores.dtype)
        if scores.dims[0] != answer.rows:
            return tell_two_sizes(
                &call.status, "Expected scores output batch size of ", answer.rows, ". Got: ", scores.dims[0])
        if classes != NULL and classes.dims[1] != scores.dims[1]:
            return tell_two_sizes(
                &call.status, "Tensors class and score should match in dim_size(1). Got ",
                classes.dims[1], " vs. ", scores.dims[1])
        answer.width = scores.dims[1]
    return OK


cdef int check_regression(Call* call, InferenceAnswer* answer) noexcept nogil:
    cdef const TensorData* values = answer.scores
    if values.rank != 1 and (values.rank != 2 or values.dims[1] != 1):
        return tell_wrong_shape(
            &call.status,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got ", values)
    if values.dims[0] != answer.rows:
        return tell_two_sizes(
            &call.status, "Input batch size did not match output batch size: ", answer.rows, " vs. ",
            values.dims[0])
    if values.dtype != DT_FLOAT:
        return tell_wrong_dtype(&call.status, "Expected output Tensor of DT_FLOAT.  Got: ", values.dtype)
    return OK
