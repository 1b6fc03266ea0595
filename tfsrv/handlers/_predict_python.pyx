"""Methods on servables that are written in Python: objects with a method predict().

See core/predict_servable.py for what they are. The request has been read and its servable found
by the time it comes here; a thread of PythonThreads makes numpy arrays of the inputs, calls
predict(), writes the response and completes the call, exactly as a worker does: a call whose
deadline passes is answered by its loop at once, and taken out of the queue, or comes back here
later. Nothing of the servable is looked at in the loop's thread: its attributes may be properties
that take long. What limits requests to SavedModels limits these, too.

What is particular to a method is in a PythonAnswering; that of Predict is here, with _predict's codes
and texts.
"""

import logging
import threading
from collections.abc import Mapping

from cpython.ref cimport Py_INCREF
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc

from tfsrv._arrays cimport (
    array_bytes,
    arrays_of_view,
    let_go_of_strings,
    plain_arrays,
    plain_arrays_bytes,
    write_arrays,
    write_tensors,
)
from tfsrv._buffer cimport Bytes, buffer_append
from tfsrv._call cimport (
    Call,
    call_charge,
    call_give_back,
    call_is_abandoned,
    call_release_servable,
    call_set_error,
)
from tfsrv._call_loop cimport call_complete
from tfsrv._clock cimport now_ns
from tfsrv._counters cimport counters_of
from tfsrv._input_types cimport InputType
from tfsrv._message cimport Message, message_clear, message_seal
from tfsrv._method cimport STARTED_DONE, STARTED_RUNNING, Method
from tfsrv._model_spec cimport model_spec_signature
from tfsrv._predict_request cimport (
    PredictView,
    predict_view_bytes,
    predict_view_drop_joined,
)
from tfsrv._predict_response cimport TensorData
from tfsrv._rest_call cimport FORM_PROTOBUF
from tfsrv._status cimport (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    INVALID_ARGUMENT,
    INVALID_INPUT,
    OK,
    QUEUE_FULL,
    RESOURCE_EXHAUSTED,
    RUN_FAILED,
    UNAVAILABLE,
    status_clear,
    status_error,
    status_set,
)
from tfsrv._wire_format cimport WIRE_NO_MEMORY, WIRE_OK, WIRE_RARE
from tfsrv.handlers._predict_errors cimport tell_bad_tensor, tell_unknown_signature
from tfsrv.handlers._rest_read cimport (
    REST_OTHER_SIGNATURE,
    rest_close,
    rest_open,
    rest_open_exactly,
    rest_read_predict,
    rest_read_protobuf,
    rest_tell_no_signature,
)
from tfsrv.handlers._rest_write cimport rest_write_predict
from tfsrv.handlers._session_method cimport Settings, session_read

from tfsrv.core.damped_log import DampedLog
from tfsrv.errors import Code, ServingError
from tfsrv.handlers.python_threads import PythonThreads

cdef enum:
    OBJECT_BYTES = 256      # what an array or a name takes besides its data
    SLICE = 1024            # names that are made while the GIL is held


# ---- the loop's thread ---------------------------------------------------------------------------

cdef int start_in_python(void* predictor, Call* call) noexcept with gil:
    """Check a call that has been read and holds its servable, and let a thread run it.

    A Started, as from a Method's `start`. `predictor` is a PythonPredictor.
    """
    cdef int started
    try:
        started = (<PythonPredictor>predictor).start(call)
    except BaseException as error:
        tell(call, error)
        started = STARTED_DONE
    if started == STARTED_DONE:
        call_release_servable(call)
    return started


cdef void forget(Call* call) noexcept:
    """Nobody waits for the call any more: take it out of the queue, with all that it holds."""
    cdef PythonTurn request = <PythonTurn>call.turn
    try:
        if request.predictor.threads.withdraw(request.name, request.version, request):
            request.drop()
    except BaseException as error:
        logging.getLogger("tfsrv").error("a request cannot be withdrawn: %s", describe(error))


cdef class PythonPredictor:
    """Runs requests on Python servables, on the threads given. Any number of loops may use it."""

    def __init__(
        self,
        threads: PythonThreads,
        answering: PythonAnswering,
        *,
        max_message_bytes: int = 2**31 - 1,
    ) -> None:
        self.threads = threads
        self.answering = answering
        self.max_message_bytes = max_message_bytes
        self.failures = DampedLog(logging.getLogger("tfsrv"))
        self.failures_lock = threading.Lock()

    cdef int start(self, Call* call) except -1:
        """Hand the call over. The servable is not looked at here: who knows what its attributes do."""
        cdef PythonTurn request
        cdef Bytes signature_name = model_spec_signature(&call.view.spec)
        if signature_name.size > LONGEST_NAME:
            self.answering.refuse_signature(call, signature_name)
            return STARTED_DONE
        request = PythonTurn.__new__(PythonTurn)
        request.call = call
        request.predictor = self
        request.name = text_of(call.servable.name)
        request.version = <uintptr_t>call.servable
        request.count("")
        if not request.submit():
            status_set(
                &call.status, UNAVAILABLE,
                "The server is stopping." if self.threads.is_stopped
                else "The queue of the servable is full; try again.")
            if not self.threads.is_stopped:
                call.status.reason = QUEUE_FULL
            return STARTED_DONE
        Py_INCREF(request)  # the call's reference, given back in call_finish()
        call.turn = <void*>request
        call.forget = forget
        return STARTED_RUNNING

    cdef int log_failure(self, str text, error) except -1:
        """With a traceback the first time. `text` has no part that a client could vary."""
        with self.failures_lock:
            self.failures.problem("predict", text, error)
        return 0


# ---- a thread of Python ---------------------------------------------------------------------------

cdef class PythonTurn:

    cdef bint submit(self) except -1:
        """Hand it to the threads. Without success the call is the loop's still."""
        cdef bint taken = False
        try:
            taken = self.predictor.threads.submit(self.name, self.version, self)
        finally:
            if not taken:
                self.call = NULL
        return taken

    def run(self) -> None:
        cdef Call* call = self.call
        if call_is_abandoned(call):
            status_set(&call.status, CANCELLED, "CANCELLED")
        elif call.deadline_ns != 0 and call.deadline_ns <= now_ns():
            status_set(&call.status, DEADLINE_EXCEEDED, "Deadline Exceeded")
        else:
            self.answer()
        self.complete()

    def drop(self) -> None:
        status_set(&self.call.status, CANCELLED, "CANCELLED")
        self.complete()

    cdef void complete(self) noexcept:
        cdef Call* call = self.call
        self.call = NULL
        with nogil:
            predict_view_drop_joined(&call.view)  # here, for it takes long if it is long
        call_complete(call)

    cdef void answer(self) noexcept:
        """Set the status, and the response if that is OK. All that was made on the way is gone."""
        cdef Call* call = self.call
        # An error until the response is there: nothing that goes wrong makes it an answer.
        status_set(&call.status, INTERNAL, "The request failed.")
        try:
            self.respond()
        except BaseException as error:
            tell(call, error)
        if call.status.code != OK:
            message_clear(&call.response)
        self.let_go()

    cdef int respond(self) except -1:
        """Set the status, by exception or not. Returns its code."""
        cdef object servable = <object>self.call.servable.object
        cdef PythonAnswering answering = self.predictor.answering
        if not callable(getattr(servable, "predict", None)):
            raise ServingError(
                Code.FAILED_PRECONDITION, f"The servable cannot answer {answering.method}.")
        signature_defs = getattr(servable, "signature_defs", None)
        if self.call.rest.verb and self.read_rest(signature_defs) != OK:
            return self.call.status.code
        return answering.respond(self, servable, signature_defs)

    cdef int read_rest(self, signature_defs) except -1:
        """Make the body of a REST call the request that `call.view` has. Returns the status' code."""
        cdef Call* call = self.call
        cdef const Settings* settings = <const Settings*>(<Method>call.method).context
        cdef size_t most_bytes = self.predictor.max_message_bytes
        cdef RestBody body
        cdef int code
        status_clear(&call.status)
        with nogil:
            code = rest_open(call, &body, most_bytes)
        try:
            if code == OK:
                code = self.predictor.answering.read_body(self, &body, signature_defs)
        finally:
            with nogil:
                rest_close(call, &body)
        if code != OK:
            return code
        with nogil:
            if session_read(settings, call) == WIRE_RARE:
                status_set(&call.status, INVALID_ARGUMENT, "The request cannot be read.")
        if call.status.code == OK:
            status_set(&call.status, INTERNAL, "The request failed.")  # until there is an answer
            return OK
        return call.status.code

    cdef void let_go(self) noexcept:
        """Free the arrays. By now neither the servable's frames nor an exception have them."""
        cdef dict outputs = self.outputs
        self.outputs = None
        self.drop_inputs()
        try:
            if outputs is not None:
                let_go_of_strings(outputs)
        except BaseException:
            pass  # they go all at once

    cdef int count(self, str signature_name) except -1:
        """Count the call among those of a signature, "" for none.

        Of a name that a client made up there must be no counters: they would live for ever.
        """
        self.call.counters = counters_of(
            self.name, self.call.servable.version, signature_name, self.predictor.answering.method)
        return 0

    cdef int charge_inputs(self) except -1:
        """Charge what make_inputs takes, or set the status; returns its code."""
        cdef int code
        with nogil:
            code = charge_arrays(self.call, self.predictor.max_message_bytes)
        return code

    cdef int make_inputs(self) except -1:
        """Set `inputs`, which are charged: the request's, in new arrays."""
        self.inputs = arrays_of_view(&self.call.view)
        return 0

    cdef void drop_inputs(self) noexcept:
        cdef dict inputs = self.inputs
        self.inputs = None
        try:
            if inputs is not None:
                let_go_of_strings(inputs)
        except BaseException:
            pass  # they go all at once

    cdef object ask(self, servable, str signature_name, tuple wanted):
        """What the servable says to `inputs`. What it raises by mistake is logged."""
        cdef Call* call = self.call
        cdef int64_t begun_ns = now_ns()
        cdef str method = self.predictor.answering.method
        if call.run_start_ns == 0:
            call.run_start_ns = begun_ns
        try:
            return servable.predict(signature_name, self.inputs, wanted)
        except (ServingError, MemoryError):
            raise
        except BaseException as error:
            self.predictor.log_failure(
                f"{method} on {self.name} version {call.servable.version}"
                f" raised {type(error).__name__}", error)
            raise
        finally:
            call.run_ns += now_ns() - begun_ns

    cdef int begin_answer(self, int64_t copies) except -1:
        """Room for the response, which is to be written next; until then its copies count, too."""
        charge_answer(self.call, copies)
        if buffer_append(&self.call.response.head, b"\0\0\0\0\0\0\0\0", self.call.headroom) != 0:
            raise MemoryError
        return 0

    cdef int end_answer(self, int64_t copies) except -1:
        """The response is there: seal it, and the call has been answered."""
        call_give_back(self.call, copies)
        message_seal(&self.call.response)
        charge_answer(self.call, <int64_t>self.call.response.left)
        status_clear(&self.call.status)
        return 0


# ---- Predict ----------------------------------------------------------------------------------------

cdef class PythonAnswering:

    cdef int refuse_signature(self, Call* call, Bytes name) except -1:
        """Set the status of a request for a signature that there is not; returns its code."""
        raise NotImplementedError

    cdef int read_body(self, PythonTurn turn, RestBody* body, object signature_defs) except -1:
        """Make the body of a REST call, which is open, a gRPC request. Returns the status' code."""
        raise NotImplementedError

    cdef int respond(self, PythonTurn turn, object servable, object signature_defs) except -1:
        """Answer `turn.call`: set its status, by exception or not. Returns the code.

        On a thread of Python. `servable` has a predict(); `signature_defs` may be None.
        """
        raise NotImplementedError


cdef class PredictAnswering(PythonAnswering):
    """Predict's."""

    def __init__(self, *, serialization_as_tensor_content: bool = False) -> None:
        self.method = "Predict"
        self.as_content = serialization_as_tensor_content

    cdef int refuse_signature(self, Call* call, Bytes name) except -1:
        return tell_unknown_signature(&call.status, name)

    cdef int read_body(self, PythonTurn turn, RestBody* body, object signature_defs) except -1:
        cdef Call* call = turn.call
        cdef int code
        if call.rest.body_form == FORM_PROTOBUF:
            with nogil:
                code = rest_read_protobuf(call)
            return code
        if signature_defs is None:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "The servable has no signature_defs, which say of what types its inputs are:"
                " it takes protobuf only.")
        code = self.read_for_signature(turn, body, signature_defs)
        if code == REST_OTHER_SIGNATURE:
            code = self.read_for_signature(turn, body, signature_defs)
        return code

    cdef int read_for_signature(self, PythonTurn turn, RestBody* body, signature_defs) except -1:
        """Read a body by the inputs of the signature that it seems to be for.

        Returns the status' code, or REST_OTHER_SIGNATURE.
        """
        cdef Call* call = turn.call
        cdef size_t most_bytes = turn.predictor.max_message_bytes
        cdef bytes names
        cdef list aliases
        cdef InputType* inputs
        cdef int size
        cdef int code
        name = text_of(body.signature_name) or "serving_default"
        if name not in signature_defs and body.is_quick:
            with nogil:
                code = rest_open_exactly(call, body)
            return REST_OTHER_SIGNATURE if code == OK else code
        if name not in signature_defs:
            return rest_tell_no_signature(call, body.signature_name)
        turn.count(name)
        known = signature_defs[name].inputs
        aliases = sorted(known)  # once: who has written the servable may change them meanwhile
        size = <int>len(aliases)
        names = "".join(aliases).encode()
        inputs = <InputType*>malloc(<size_t>(size + 1) * sizeof(InputType))
        if inputs == NULL:
            raise MemoryError
        try:
            set_inputs(inputs, aliases, names, known)
            with nogil:
                code = rest_read_predict(call, body, inputs, size, most_bytes)
        finally:
            free(inputs)
        return code

    cdef int respond(self, PythonTurn turn, object servable, object signature_defs) except -1:
        cdef Call* call = turn.call
        cdef Bytes name = model_spec_signature(&call.view.spec)
        cdef str signature_name = text_of(name)
        cdef list wanted
        if signature_defs is not None:
            if signature_name not in signature_defs:
                return tell_unknown_signature(&call.status, name)
            turn.count(signature_name)
        if turn.charge_inputs() != OK:
            return call.status.code
        turn.make_inputs()
        wanted = output_filter_of(&call.view)
        if signature_defs is not None:
            check_outputs(wanted, signature_defs[signature_name].outputs)
        turn.outputs = chosen(turn.ask(servable, signature_name, tuple(wanted)), wanted)
        self.write(turn, plain_arrays(turn.outputs), name)
        return OK

    cdef int write(self, PythonTurn turn, dict outputs, Bytes signature_name) except -1:
        cdef Call* call = turn.call
        cdef int64_t copies = plain_arrays_bytes(outputs)
        turn.begin_answer(copies)
        if call.rest.verb:
            write_rest(call, outputs)
            return turn.end_answer(copies)
        write_arrays(
            &call.response, outputs, call.view.spec.name, call.servable.version, signature_name,
            self.as_content)
        return turn.end_answer(copies)


cdef int set_inputs(InputType* inputs, list aliases, bytes names, known) except -1:
    """The inputs of a signature by their aliases, which `names` has without anything between."""
    cdef const char* at = PyBytes_AS_STRING(names)
    cdef int i = 0
    for alias in aliases:
        size = len(alias.encode())
        inputs[i] = InputType(Bytes(at, <size_t>size), known[alias].dtype)
        at += <size_t>size
        i += 1
    return 0


cdef int write_rest(Call* call, dict outputs) except -1:
    """Write the answer to a REST call."""
    cdef int result
    status_clear(&call.status)  # what the writer says of an output is all that can be wrong
    result = write_tensors(&call.response, list(outputs.items()), False, True, write_rest_outputs, call)
    if call.status.code != OK:
        raise status_error(&call.status)
    if result == WIRE_NO_MEMORY:
        raise MemoryError
    if result != WIRE_OK:
        raise ServingError(Code.INTERNAL, "The response is larger than a message may be.")
    return 0


cdef int write_rest_outputs(Message* message, TensorData* tensors, int size, void* arg) noexcept nogil:
    """See write_tensors_fn; `message` is the call's response."""
    return rest_write_predict(<Call*>arg, tensors, size, False, False)


# ---- inputs -----------------------------------------------------------------------------------------

cdef int charge_arrays(Call* call, size_t max_message_bytes) noexcept nogil:
    """Charge what the request becomes to the call. Else sets the status; returns its code."""
    cdef PredictView* view = &call.view
    cdef int64_t total = 0
    cdef int64_t size
    cdef int i
    for i in range(view.inputs_size):
        if view.inputs[i].alias.size > LONGEST_NAME:
            return status_set(
                &call.status, INVALID_ARGUMENT, "The name of an input is longer than 64 KiB.")
        size = array_bytes(view, &view.inputs[i])
        if size < 0:
            return tell_bad_tensor(&call.status, view.inputs[i].alias)
        if <size_t>size > max_message_bytes - <size_t>total:
            # The repeat rule lets a request of 40 bytes ask for gigabytes.
            return status_set(
                &call.status, RESOURCE_EXHAUSTED,
                "The request's tensors are larger than a message may be.")
        total += size
    for i in range(view.output_filter_size):
        if view.output_filter[i].size > LONGEST_NAME:
            return status_set(
                &call.status, INVALID_ARGUMENT, "The name of an output is longer than 64 KiB.")
    total += <int64_t>predict_view_bytes(view)
    total += (view.inputs_size + view.output_filter_size) * <int64_t>OBJECT_BYTES
    if not call_charge(call, total):
        return status_set(
            &call.status, RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
    return OK


cdef int charge_answer(Call* call, int64_t bytes) except -1:
    if not call_charge(call, bytes):
        raise ServingError(
            Code.RESOURCE_EXHAUSTED, "Too many bytes are in flight (--max_in_flight_bytes).")
    return 0


cdef list output_filter_of(const PredictView* view):
    cdef list wanted = []
    cdef int i
    for i in range(view.output_filter_size):
        wanted.append(text_of(view.output_filter[i]))
        if i % SLICE == SLICE - 1:
            with nogil:
                pass  # let the GIL go, if somebody wants it
    return wanted


# ---- outputs ----------------------------------------------------------------------------------------

cdef int check_outputs(list wanted, known) except -1:
    """Refuse an output filter that names an output twice, or one that is not in `known`."""
    cdef set seen = set()
    for alias in wanted:
        if alias not in known:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias}"
                f" Outputs expected to be in the set {{{','.join(sorted(known))}}}.")
        if alias in seen:
            raise ServingError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return 0


cdef dict chosen(returned, list wanted):
    """The outputs that were asked for, by alias, of those that predict() returned."""
    import numpy

    if not isinstance(returned, Mapping):
        raise ServingError(
            Code.INTERNAL,
            f"The servable returned no mapping of arrays, but {type(returned).__name__}")
    for alias, array in returned.items():
        if not isinstance(alias, str) or not isinstance(array, (numpy.ndarray, numpy.generic)):
            raise ServingError(
                Code.INTERNAL,
                f"The servable's output {alias!r} is no array, but {type(array).__name__}")
    check_outputs(wanted, returned)
    return {alias: returned[alias] for alias in wanted or returned}


# ---- texts ------------------------------------------------------------------------------------------

cdef str text_of(Bytes text):
    return text.data[:text.size].decode() if text.size else ""


cdef void tell(Call* call, error) noexcept:
    """Set the status that an exception stands for; never OK, whatever is wrong with it."""
    status_set(&call.status, INTERNAL, "The request failed.")
    try:
        if isinstance(error, ServingError):
            call_set_error(call, error.code or INTERNAL, str(error.message))
        elif isinstance(error, MemoryError):
            status_set(&call.status, RESOURCE_EXHAUSTED, "out of memory")
        else:
            call_set_error(call, INTERNAL, describe(error))
        if call.run_start_ns:
            call.status.reason = RUN_FAILED
        elif call.status.code == INVALID_ARGUMENT:
            call.status.reason = INVALID_INPUT
    except BaseException:
        pass  # the status above says so


cdef str describe(error):
    """Type and message of an exception, whatever its own str() does."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return str(type(error).__name__)
