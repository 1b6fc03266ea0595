"""Answers a serialized PredictRequest in one call: for warming up, tools and tests.

The serving path does the same in pieces, without the GIL and with all checks.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from tfsrv._buffer cimport Bytes, bytes_compare
from tfsrv._message cimport Message, message_free, message_init, message_read, message_seal
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_request cimport (
    PredictView,
    predict_view_free,
    predict_view_init,
    wire_read_predict,
)
from tfsrv._predict_response cimport TensorData, wire_write_predict
from tfsrv._session cimport (
    IN_CALLERS_THREAD,
    ON_RUN_POOL,
    SavedModelSession,
    session_find,
    session_run,
)
from tfsrv._signature cimport Signature, text_of, zeroed
from tfsrv._status cimport (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    NOT_FOUND,
    UNIMPLEMENTED,
    Status,
    status_error,
    status_free,
    status_init,
)
from tfsrv._tensor cimport MAX_RANK, tensor_data, tensor_from_view
from tfsrv._tf cimport TF_Tensor, api
from tfsrv._wire_format cimport WIRE_NO_MEMORY, WIRE_OK, WIRE_RARE

from tfsrv.errors import ServingError


def run(
    session: SavedModelSession,
    request: bytes,
    *,
    in_callers_thread: bool = True,
    timeout_ms: int = 0,
) -> bytes:
    """Answer a serialized PredictRequest with a serialized PredictResponse.

    Signature, inputs and output filter come from the request. `timeout_ms` stops the run only
    where TensorFlow heeds it, on its own pool. A ServingError tells what went wrong.
    """
    cdef _Run made = _Run.__new__(_Run)
    return made.answer(session, request, in_callers_thread, timeout_ms)


def run_repeatedly(session: SavedModelSession, request: bytes, times: int) -> float:
    """Run a serialized PredictRequest so often in this thread; the CPU seconds that all runs took.

    Its tensors are made once, and what comes out is freed: that is what TensorFlow itself costs. Raises as
    run() does.
    """
    cdef _Run made = _Run.__new__(_Run)
    return made.repeat(session, request, times)


cdef double thread_seconds() noexcept nogil:
    """CPU time of this thread."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef class _Run:
    """One run: owns all that it needs, and frees it with itself."""

    cdef PredictView view
    cdef Message message
    cdef Status status
    cdef TF_Tensor** inputs     # inputs_size of them; those in `made` belong to it
    cdef bint* made
    cdef TF_Tensor** outputs    # outputs_size of them, owned
    cdef TensorData* datas      # views of `outputs`
    cdef int64_t* dims          # MAX_RANK for each output
    cdef int* wanted            # indexes of outputs, from the output filter
    cdef int inputs_size
    cdef int outputs_size

    def __cinit__(self):
        predict_view_init(&self.view)
        message_init(&self.message)
        status_init(&self.status)

    def __dealloc__(self):
        cdef int i
        message_free(&self.message)
        predict_view_free(&self.view)
        status_free(&self.status)
        for i in range(self.inputs_size):
            if self.made[i]:
                api.DeleteTensor(self.inputs[i])
        for i in range(self.outputs_size):
            if self.outputs[i] != NULL:
                api.DeleteTensor(self.outputs[i])
        free(self.inputs)
        free(self.made)
        free(self.outputs)
        free(self.datas)
        free(self.dims)
        free(self.wanted)

    cdef bytes answer(
        self, SavedModelSession owner, bytes request, bint in_callers_thread, int64_t timeout_ms
    ):
        cdef Signature* signature = self.prepare(owner, request)
        cdef Bytes name = signature.name
        cdef int count = self.outputs_size
        cdef int result
        cdef int i
        self.run(owner, signature, in_callers_thread, timeout_ms)
        for i in range(count):
            self.datas[i].alias = signature.outputs[
                self.wanted[i] if self.view.output_filter_size else i].alias
            if tensor_data(self.outputs[i], self.dims + i * MAX_RANK, &self.datas[i]) != 0:
                raise ServingError(UNIMPLEMENTED, "An output is of a kind that cannot be sent")
        result = wire_write_predict(
            &self.message, self.datas, count, self.view.spec.name, owner.version, name, False, 0,
            NULL)
        if result == WIRE_NO_MEMORY:
            raise MemoryError
        if result != WIRE_OK:
            raise ServingError(UNIMPLEMENTED, "The outputs are more than a message can carry")
        message_seal(&self.message)
        answer = bytearray(self.message.left)
        message_read(&self.message, answer, len(answer))
        return bytes(answer)

    cdef Signature* prepare(self, SavedModelSession owner, bytes request) except NULL:
        """Read the request, and make its tensors."""
        cdef Signature* signature
        cdef Bytes name
        cdef int result = wire_read_predict(request, len(request), &self.view)
        if result == WIRE_RARE:
            raise ServingError(UNIMPLEMENTED, "The request has tensors of a rare kind")
        if result != WIRE_OK:
            raise ServingError(INVALID_ARGUMENT, "Not a PredictRequest")
        name = model_spec_signature(&self.view.spec)
        signature = session_find(&owner.session, name)
        if signature == NULL:
            raise ServingError(NOT_FOUND, f'There is no signature "{text_of(name)}"')
        if signature.broken:
            raise ServingError(FAILED_PRECONDITION, text_of(signature.broken_reason))
        self.take_inputs(signature)
        self.take_wanted(signature)
        return signature

    cdef int run(
        self, SavedModelSession owner, Signature* signature, bint in_callers_thread, int64_t timeout_ms
    ) except -1:
        with nogil:
            session_run(
                &owner.session, signature, self.inputs, self.wanted, self.view.output_filter_size,
                self.outputs, IN_CALLERS_THREAD if in_callers_thread else ON_RUN_POOL, timeout_ms,
                &self.status)
        if self.status.code != 0:
            raise status_error(&self.status)
        return 0

    cdef double repeat(self, SavedModelSession owner, bytes request, int times) except -1:
        cdef Signature* signature = self.prepare(owner, request)
        cdef double began = thread_seconds()
        cdef int _turn, i
        for _turn in range(times):
            self.run(owner, signature, True, 0)
            for i in range(self.outputs_size):
                api.DeleteTensor(self.outputs[i])
                self.outputs[i] = NULL
        return thread_seconds() - began

    cdef int take_inputs(self, Signature* signature) except -1:
        cdef int i
        cdef int j
        self.inputs = <TF_Tensor**>zeroed(signature.inputs_size, sizeof(TF_Tensor*))
        self.made = <bint*>zeroed(signature.inputs_size, sizeof(bint))
        self.inputs_size = signature.inputs_size
        for i in range(signature.inputs_size):
            self.inputs[i] = signature.inputs[i].default_value
            for j in range(self.view.inputs_size):
                if bytes_compare(self.view.inputs[j].alias, signature.inputs[i].alias) == 0:
                    self.inputs[i] = NULL
                    if tensor_from_view(&self.view, &self.view.inputs[j], &self.inputs[i]) != 0:
                        raise ServingError(INVALID_ARGUMENT, "An input is no tensor")
                    self.made[i] = True
                    break
            if self.inputs[i] == NULL:
                missing = text_of(signature.inputs[i].alias)
                raise ServingError(INVALID_ARGUMENT, f'The input "{missing}" is missing')
        return 0

    cdef int take_wanted(self, Signature* signature) except -1:
        """Fill `wanted` from the output filter; the number of outputs to come."""
        cdef int filtered = self.view.output_filter_size
        cdef int count = filtered if filtered else signature.outputs_size
        cdef int i
        cdef int j
        self.wanted = <int*>zeroed(count, sizeof(int))
        self.outputs = <TF_Tensor**>zeroed(count, sizeof(TF_Tensor*))
        self.datas = <TensorData*>zeroed(count, sizeof(TensorData))
        self.dims = <int64_t*>zeroed(<size_t>count * MAX_RANK, sizeof(int64_t))
        self.outputs_size = count
        for i in range(filtered):
            self.wanted[i] = -1
            for j in range(signature.outputs_size):
                if bytes_compare(self.view.output_filter[i], signature.outputs[j].alias) == 0:
                    self.wanted[i] = j
            if self.wanted[i] < 0:
                unknown = text_of(self.view.output_filter[i])
                raise ServingError(INVALID_ARGUMENT, f'There is no output "{unknown}"')
        return count
