"""Classify, Regress and MultiInference on servables that are written in Python.

A servable's predict() is asked as Predict would ask it, with the examples as `inputs`, an array of bytes,
once for each task. What it returns as `classes` and `scores`, or as `outputs`, is the answer if it fits:
the same rules as for the outputs of a SavedModel, with the same codes and texts. So are the rules for
signatures, where the servable has `signature_defs`.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from tfsrv._arrays cimport plain_arrays, plain_arrays_bytes, write_tensors
from tfsrv._buffer cimport Bytes
from tfsrv._inference_signature cimport inference_refusal
from tfsrv._message cimport Message
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_response cimport TensorData
from tfsrv._rest_call cimport FORM_PROTOBUF
from tfsrv._status cimport INVALID_ARGUMENT, OK, SIGNATURE_NOT_FOUND, status_set
from tfsrv._wire_format cimport WIRE_NO_MEMORY, WIRE_OK, WIRE_TOO_BIG
from tfsrv.handlers._call_plan cimport InferenceTask
from tfsrv.handlers._call_run cimport run_is_wanted
from tfsrv.handlers._inference_errors cimport tell_text_and_name, tell_wrong_kind
from tfsrv.handlers._inference_plan cimport (
    check_task_method,
    check_task_names,
    count_examples,
    is_regression_task,
    task_signature_name,
    tasks_are_checked,
    tell_empty,
    tell_unknown_task,
)
from tfsrv.handlers._inference_write cimport inference_write_all, inference_write_one
from tfsrv.handlers._rest_read cimport RestBody, rest_read_inference, rest_read_protobuf
from tfsrv.handlers._predict_python cimport LONGEST_NAME, chosen, text_of

from tfsrv.errors import Code, ServingError

cdef enum:
    MOST_TASKS = 256    # of a request; a servable without signatures takes any name for one


cdef class InferenceAnswering(PythonAnswering):
    """What the three have in common."""

    cdef int read_body(self, PythonTurn turn, RestBody* body, object signature_defs) except -1:
        cdef Call* call = turn.call
        cdef int code
        with nogil:
            if call.rest.body_form == FORM_PROTOBUF:
                code = rest_read_protobuf(call)
            else:
                code = rest_read_inference(call, body)
        return code

    cdef int check_use(self, Call* call, signature_def, bint is_regression) except -1:
        """Whether a signature of the servable's can be used so. The status' code, or ServingError."""
        cdef bytes method_name = signature_def.method_name.encode()
        cdef str wanted = "tensorflow/serving/regress" if is_regression else "tensorflow/serving/classify"
        cdef str refusal
        if self.checks_method_name and signature_def.method_name != wanted:
            return tell_wrong_kind(
                &call.status, Bytes(<const char*>method_name, <size_t>len(method_name)), is_regression)
        refusal = inference_refusal(signature_def, is_regression)
        if refusal:
            raise ServingError(Code.INVALID_ARGUMENT, refusal)
        return OK

    cdef list ask(self, PythonTurn turn, servable, str signature_name, bint is_regression):
        """What one task is answered with: pairs of alias and array, those that there are."""
        cdef list aliases = ["outputs"] if is_regression else ["classes", "scores"]
        cdef dict returned
        turn.make_inputs()
        returned = chosen(turn.ask(servable, signature_name, ()), [])
        turn.drop_inputs()
        found = [(alias, returned[alias]) for alias in aliases if alias in returned]
        if not found:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                'The servable returned no "outputs".' if is_regression
                else 'The servable returned neither "classes" nor "scores".')
        return found

    cdef int write(self, PythonTurn turn, list tasks, bint is_multi) except -1:
        """Answer with tasks: triples of the signature's name as bytes, whether it is a regression, and pairs
        as ask() gives them. Returns the status' code."""
        cdef Call* call = turn.call
        cdef list plain, named = []
        cdef int64_t copies = 0
        cdef Answer answer
        cdef int result
        turn.outputs = {
            (at, alias): array for at, (_, _, arrays) in enumerate(tasks) for alias, array in arrays
        }
        plain = [plain_arrays(dict(arrays)) for _, _, arrays in tasks]
        for arrays in plain:
            copies += plain_arrays_bytes(arrays)
        turn.begin_answer(copies)
        answer.call = call
        answer.is_multi = is_multi
        answer.size = <int>len(tasks)
        answer.code = OK
        answer.tasks = <InferenceTask*>calloc(<size_t>len(tasks), sizeof(InferenceTask))
        if answer.tasks == NULL:
            raise MemoryError
        try:
            for at, (name, is_regression, _) in enumerate(tasks):
                set_task(&answer.tasks[<int>at], name, is_regression, plain[at], <int>len(named))
                named += plain[at].items()
            result = write_tensors(&call.response, named, False, True, write_answer, &answer)
        finally:
            free(answer.tasks)
        if answer.code != OK:
            return answer.code
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result == WIRE_TOO_BIG:
            raise ServingError(Code.INTERNAL, "The response is larger than a message may be.")
        if result != WIRE_OK:
            raise ServingError(Code.INTERNAL, "An output changed while the response was written.")
        turn.end_answer(copies)
        return OK


# What write_answer is told. Everything is borrowed.
cdef struct Answer:
    Call* call
    InferenceTask* tasks
    int size
    bint is_multi
    int code            # of the call's status, if that was set to an error


cdef int set_task(
    InferenceTask* task, bytes name, bint is_regression, dict arrays, int place
) except -1:
    """A task, whose arrays stand one after the other from `place` on."""
    task.signature_name = Bytes(<const char*>name, <size_t>len(name))
    task.is_regression = is_regression
    task.labels = task.scores = -1
    for alias in arrays:
        if alias == "classes":
            task.labels = place
        else:
            task.scores = place
        place += 1
    return 0


cdef int write_answer(Message* message, TensorData* tensors, int size, void* arg) noexcept nogil:
    """See write_tensors_fn; `message` is the call's response."""
    cdef Answer* answer = <Answer*>arg
    cdef int result
    # Until the answer is there the status is an error, which stands for no other.
    status_set(&answer.call.status, OK, "")
    if answer.is_multi:
        result = inference_write_all(answer.call, tensors, answer.tasks, answer.size)
    else:
        result = inference_write_one(answer.call, tensors, answer.tasks)
    answer.code = answer.call.status.code
    return result


cdef class OneAnswering(InferenceAnswering):
    """Classify's or Regress's."""

    def __init__(self, *, is_regression: bool, signature_method_name_check: bool = False) -> None:
        self.method = "Regress" if is_regression else "Classify"
        self.is_regression = is_regression
        self.checks_method_name = signature_method_name_check

    cdef int refuse_signature(self, Call* call, Bytes name) except -1:
        return tell_text_and_name(
            &call.status, INVALID_ARGUMENT, SIGNATURE_NOT_FOUND, "No signature was found with the name: ", name)

    cdef int respond(self, PythonTurn turn, object servable, object signature_defs) except -1:
        cdef Call* call = turn.call
        cdef Bytes name = model_spec_signature(&call.view.spec)
        cdef str signature_name = text_of(name)
        if signature_defs is not None:
            if signature_name not in signature_defs:
                return self.refuse_signature(call, name)
            turn.count(signature_name)
            if self.check_use(call, signature_defs[signature_name], self.is_regression) != OK:
                return call.status.code
        if call.view.inputs_size == 0:
            return tell_empty(call)
        count_examples(call)
        if turn.charge_inputs() != OK:
            return call.status.code
        arrays = self.ask(turn, servable, signature_name, self.is_regression)
        return self.write(turn, [(signature_name.encode(), self.is_regression, arrays)], False)


cdef class MultiAnswering(InferenceAnswering):
    """MultiInference's."""

    def __init__(self, *, signature_method_name_check: bool = False) -> None:
        self.method = "MultiInference"
        self.checks_method_name = signature_method_name_check

    cdef int refuse_signature(self, Call* call, Bytes name) except -1:
        return tell_unknown_task(call, name)

    cdef int respond(self, PythonTurn turn, object servable, object signature_defs) except -1:
        cdef Call* call = turn.call
        cdef list tasks = []
        cdef int i
        cdef bint is_regression
        if self.check(call, signature_defs) != OK:
            return call.status.code
        if call.view.inputs_size == 0:
            return tell_empty(call)
        count_examples(call)
        if turn.charge_inputs() != OK:  # of one task at a time
            return call.status.code
        for i in range(call.view.tasks_size):
            if i > 0 and not run_is_wanted(call):
                return call.status.code
            is_regression = is_regression_task(call, i)
            signature_name = text_of(task_signature_name(call, i))
            arrays = self.ask(turn, servable, signature_name, is_regression)
            tasks.append((signature_name.encode(), is_regression, arrays))
        return self.write(turn, tasks, True)

    cdef int check(self, Call* call, signature_defs) except -1:
        """Whether the tasks can be done. The status' code, or ServingError."""
        cdef Bytes name
        cdef int i
        if call.view.tasks_size > MOST_TASKS:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"The request has more than {MOST_TASKS} tasks.")
        for i in range(call.view.tasks_size):
            name = task_signature_name(call, i)
            if check_task_names(call, i) != OK:
                return call.status.code
            if name.size > LONGEST_NAME or (
                signature_defs is not None and text_of(name) not in signature_defs
            ):
                return tell_unknown_task(call, name)
            if check_task_method(call, i) != OK:
                return call.status.code
            if signature_defs is not None and self.check_use(
                call, signature_defs[text_of(name)], is_regression_task(call, i)
            ) != OK:
                return call.status.code
        tasks_are_checked(call)
        return OK
